"""The public names, pinned: adding one is a decision, losing one a break."""

from __future__ import annotations

import subprocess
import sys

import pytest

import waywiser
import waywiser.testing
from waywiser.errors import WaywiserError

PUBLIC = [
    "BadInput",
    "BudgetExceeded",
    "ConfigError",
    "LoopDetected",
    "NoEligibleModel",
    "Receipt",
    "Router",
    "RoutingRefused",
    "StoreError",
    "UpstreamError",
    "WaywiserError",
]


def test_the_names_are_these_and_at_most_fifteen() -> None:
    assert sorted(waywiser.__all__) == PUBLIC
    assert len(PUBLIC) <= 15


def test_every_name_is_there_and_no_other() -> None:
    for name in waywiser.__all__:
        assert getattr(waywiser, name).__name__ == name
    assert set(PUBLIC) <= set(dir(waywiser))
    with pytest.raises(AttributeError, match="no attribute 'Routerr'"):
        waywiser.Routerr  # noqa: B018 - the access is what is tested


def test_errors_are_one_tree_and_refusals_are_not_retried() -> None:
    errors = [getattr(waywiser, name) for name in PUBLIC if name not in {"Receipt", "Router"}]
    assert all(issubclass(error, WaywiserError) for error in errors)
    codes = [error.code for error in errors]
    assert len(set(codes)) == len(codes)
    # LangGraph's RetryPolicy retries everything but a few kinds; RuntimeError is one of those.
    assert issubclass(waywiser.RoutingRefused, RuntimeError)


def test_importing_the_package_imports_nothing_slow() -> None:
    slow = ("langchain_core", "langgraph", "numpy", "httpx", "pydantic")
    code = f"import sys, waywiser; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fakes_need_neither_pytest_nor_hypothesis() -> None:
    code = "import sys, waywiser.testing; print([m for m in ('pytest', 'hypothesis') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
