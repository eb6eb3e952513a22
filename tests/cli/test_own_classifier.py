"""A policy's own classifier: trained, named in the policy, and used by every surface; what is wrong with it is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from waywiser.classifier.classifier import WEIGHTS
from waywiser.classifier.heads import load as read_weights
from waywiser.classifier.heads import save
from waywiser.cli import main
from waywiser.core.calls import Call, Origin
from waywiser.core.messages import user
from waywiser.errors import ConfigError
from waywiser.langgraph.router import Router
from waywiser.replay.checkpoint import fingerprint
from waywiser.replay.work import Order, Replayer
from waywiser.runtime import load

POLICY = """\
version: 1
name: own
tiers:
  economy: [simulated/economy]
  standard: [simulated/standard]
  premium: [simulated/premium]
steps:
  synthesis: {tier: auto, sufficiency: 0.8}
budget: {session: {usd: 1}, keep: {synthesis: 20%}}
"""
OWN = POLICY + "classifier: {weights: learned}\n"
EASY = {"id": "1", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


def receipt(number: int, chance: float, *, enough: bool) -> dict[str, object]:
    attempts = [{"tier": "economy", "failure": "" if enough else "not_accepted"}]
    return {
        "session": f"s{number}",
        "classification": {"sufficiency": [chance, 0.95, 0.99]},
        "attempts": attempts if enough else [*attempts, {"tier": "standard", "failure": ""}],
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy, its receipts and its input. The cheap tier was believed able of everything, and mostly was not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text(POLICY, "utf-8")
    (tmp_path / "own.yaml").write_text(OWN, "utf-8")
    rows = [receipt(number, 0.98 if number % 3 else 0.9, enough=number % 5 == 0) for number in range(120)]
    (tmp_path / "receipts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "calls.jsonl").write_text(json.dumps(EASY) + "\n", "utf-8")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def learn(folder: Path) -> None:
    pytest.importorskip("sklearn")
    out = str(folder / "learned")
    assert main(["train", "--receipts", "receipts.jsonl", "--policy", "plain.yaml", "--out", out]) == 0


def test_what_was_learned_decides_once_the_policy_names_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn(folder)
    said = capsys.readouterr().out
    assert "classifier: {weights:" in said
    before = told(capsys, "route", "--policy", "plain.yaml", "calls.jsonl")
    after = told(capsys, "route", "--policy", "own.yaml", "calls.jsonl")
    assert after["tier"] != before["tier"] == "economy"
    classified = told(capsys, "classify", "--policy", "own.yaml", "calls.jsonl")
    plain = told(capsys, "classify", "--policy", "plain.yaml", "calls.jsonl")
    assert classified["sufficiency"]["economy"] < 0.8 < plain["sufficiency"]["economy"]  # type: ignore[index]
    assert told(capsys, "check", "own.yaml", "--json")["ok"] is True


def test_learning_again_starts_from_the_weights_the_policy_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(folder)
    first = read_weights(folder / "learned" / "steps.npz")["belief"]
    assert main(["train", "--receipts", "receipts.jsonl", "--policy", "own.yaml", "--out", "twice"]) == 0
    assert not np.array_equal(first, read_weights(folder / "twice" / "steps.npz")["belief"])
    assert main(["train", "--receipts", "receipts.jsonl", "--policy", "plain.yaml", "--out", "once"]) == 0
    assert np.array_equal(first, read_weights(folder / "once" / "steps.npz")["belief"])


def test_every_surface_takes_the_policys_classifier(folder: Path) -> None:
    learn(folder)
    history = (user("What is the capital of France?"),)
    loaded = load("own.yaml")
    assert loaded.classifier is not None
    enough = loaded.classifier.classify(history, (), 3).sufficiency
    with Router.from_policy("own.yaml", store=":memory:") as router:
        answer = router.chat_model().invoke("What is the capital of France?")
        assert answer.response_metadata["waywiser"]["tier"] != "economy"
    replayer = Replayer(Order(("own.yaml", "plain.yaml")))
    own, shared = (one for _, one in replayer._policies)
    assert own.classify(history, (), 3).sufficiency == enough != shared.classify(history, (), 3).sufficiency


def test_a_replay_is_another_one_with_other_weights(folder: Path) -> None:
    learn(folder)
    order = Order(("own.yaml",))
    before = fingerprint(folder / "calls.jsonl", order)
    assert fingerprint(folder / "calls.jsonl", order) == before
    arrays = read_weights(folder / "learned" / "steps.npz")
    save(folder / "learned" / "steps.npz", {**arrays, "belief": np.array([2.0, 0.0])})
    assert fingerprint(folder / "calls.jsonl", order) != before


def test_the_proxy_takes_the_policys_classifier(folder: Path) -> None:
    pytest.importorskip("uvicorn")
    from waywiser.proxy.service import Options, open_service

    learn(folder)
    (folder / "plain.yaml").write_text(POLICY.replace("name: own", "name: plain"), "utf-8")
    service = open_service(Options(("own.yaml", "plain.yaml"), ":memory:"))
    call = Call("c", (user("What is the capital of France?"),), origin=Origin(session="s"))
    assert service.engines["own"].decide(call).tier != service.engines["plain"].decide(call).tier == "economy"


def _missing(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _half(folder: Path) -> None:
    (folder / "steps.npz").unlink()


def _garbage(folder: Path) -> None:
    (folder / "prompts.npz").write_bytes(b"not weights at all" * 100)


def _cut(folder: Path) -> None:
    file = folder / "prompts.npz"
    file.write_bytes(file.read_bytes()[:-5000])


def _foreign(folder: Path) -> None:
    np.savez(folder / "prompts.npz", layer1=np.zeros((3, 3)), layer2=np.zeros(3))


def _other_labels(folder: Path) -> None:
    arrays = read_weights(folder / "prompts.npz")
    columns = arrays["prompt_columns"].copy()
    columns[0] = "task:poetry"
    save(folder / "prompts.npz", {**arrays, "prompt_columns": columns})


def _swapped(folder: Path) -> None:
    shutil.copy(folder / "steps.npz", folder / "prompts.npz")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_missing, "there is no such folder"),
        (_empty, "prompts.npz: there is no such file"),
        (_half, "steps.npz: there is no such file"),
        (_garbage, "prompts.npz: it cannot be read"),
        (_cut, "prompts.npz: it cannot be read"),
        (_foreign, "prompts.npz: it is not a weights file"),
        (_other_labels, "prompts.npz: the prompt heads are for other labels"),
        (_swapped, "prompts.npz: the array 'prompt_columns' is missing"),
    ],
)
def test_weights_that_cannot_be_used_are_told_with_their_place(
    folder: Path, spoil: Callable[[Path], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(WEIGHTS, folder / "learned")
    load("own.yaml")
    spoil(folder / "learned")
    with pytest.raises(ConfigError) as caught:
        load("own.yaml")
    (problem,) = caught.value.problems
    assert (problem.place.file, problem.place.line, problem.place.column) == ("own.yaml", 10, 23)
    assert says in problem.message
    for command in (
        ["check", "own.yaml"],
        ["route", "--policy", "own.yaml", "calls.jsonl"],
        ["serve", "--policy", "own.yaml"],
    ):
        assert main(command) == 2
        assert "own.yaml:10:23: " in capsys.readouterr().err


def test_weights_stand_beside_the_policy_not_where_one_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(WEIGHTS, folder / "learned")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert load(folder / "own.yaml").weights == folder / "learned"
    (folder / "own.yaml").write_text(POLICY + f"classifier: {{weights: {folder / 'learned'}}}\n", "utf-8")
    assert load(folder / "own.yaml").weights == folder / "learned"


def test_languages_are_the_policys_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "own.yaml").write_text(POLICY + "classifier: {languages: [en, de]}\n", "utf-8")
    text = "El tren sale mañana por la mañana desde la estación central."
    (folder / "calls.jsonl").write_text(json.dumps({"id": "1", "text": text}) + "\n", "utf-8")
    assert told(capsys, "classify", "calls.jsonl")["language"] == "es"
    assert told(capsys, "classify", "--policy", "own.yaml", "calls.jsonl")["language"] != "es"


@pytest.mark.parametrize(
    ("languages", "place", "says"),
    [
        ("[en, qq]", (10, 25), "languages: Unknown language code(s): {'qq'}"),
        ("[]", (10, 25), "at least 1 item"),
        ("[English]", (10, 26), "does not have the form"),
    ],
)
def test_languages_that_nobody_knows_are_told(folder: Path, languages: str, place: tuple[int, int], says: str) -> None:
    (folder / "own.yaml").write_text(POLICY + f"classifier: {{languages: {languages}}}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load("own.yaml")
    (problem,) = caught.value.problems
    assert (problem.place.line, problem.place.column) == place
    assert says in problem.message


def test_explain_tells_what_the_classifier_saw_and_by_what_it_went(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = (
        "rules:\n  - {when: {risk: [medical]}, floor: standard}\n"
        "  - {when: {language: [de], task: [code]}, floor: premium}\n"
    )
    (folder / "own.yaml").write_text(POLICY + rules, "utf-8")
    with Router.from_policy("own.yaml", store="own.sqlite") as router, router.session("s") as session:
        router.chat_model().invoke("Can my doctor prescribe antibiotics for a virus, and is the therapy covered?")
        (receipt,) = session.receipts()
    assert main(["explain", receipt.id, "--store", "own.sqlite"]) == 0
    told = capsys.readouterr().out
    seen = next(line for line in told.splitlines() if line.startswith("  seen "))
    assert "task " in seen
    assert "risk medical (" in seen
    assert "language en (" in seen
    assert "enough with " in seen
    why = next(line for line in told.splitlines() if line.startswith("  why "))
    assert "medical “doctor”" in why
    assert "rule 1 (line 11): at least standard (risk medical)" in told


def test_explain_tells_by_what_the_kind_and_the_tier_of_an_agents_step_were_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @tool
    def get_order(order_id: str) -> str:
        """Look an order up."""
        return order_id

    (folder / "own.yaml").write_text(POLICY.replace("synthesis: {tier", "tool_call: {tier"), "utf-8")
    history = [
        HumanMessage("Why is order W1 late?"),
        AIMessage("", tool_calls=[{"id": "c1", "name": "get_order", "args": {"order_id": "W1"}}]),
        ToolMessage("Error: order W1 not found", tool_call_id="c1"),
    ]
    with Router.from_policy("own.yaml", store="own.sqlite") as router, router.session("s") as session:
        router.chat_model().bind_tools([get_order]).invoke(history)
        (receipt,) = session.receipts()
    assert main(["explain", receipt.id, "--store", "own.sqlite"]) == 0
    told = capsys.readouterr().out
    assert "kind tool_call (" in told or "kind synthesis (" in told
    for reason in ("the newest result is an error", "a tool result after 1 call in this turn", "tool turn"):
        assert reason in told


def test_a_ladder_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["classify", "--tiers", "a", "b", "--policy", "own.yaml"])
    assert "not allowed with" in capsys.readouterr().err
