# make demo   set up and run the support desk on simulated models
# make serve-demo  set up and serve the proxy on simulated models
# make test   set up and run the tests
# make check  what CI runs beside the tests: lint, types, layers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo serve-demo test check format setup clean

$(VENV)/.base: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[langchain,proxy]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.base

setup: $(VENV)/.dev

demo: $(VENV)/.base
	@$(BIN)/python examples/support_desk/demo.py

serve-demo: $(VENV)/.base
	@$(BIN)/waywiser serve --policy policies/simulated.yaml --store :memory:

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
