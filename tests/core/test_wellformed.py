from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from waywiser.core.calls import Settings, Tool
from waywiser.core.messages import Message, ToolCall, assistant, system, tool_result, user
from waywiser.core.wellformed import require_order, require_wellformed
from waywiser.errors import BadInput
from waywiser.testing.pieces import LOOK_UP, a_call, a_policy

ONE, TWO = ToolCall("t1", "look_up", "{}"), ToolCall("t2", "look_up", "{}")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories"


@pytest.mark.parametrize(
    "history",
    [
        [user("hi")],
        [system("be kind"), user("hi"), assistant("", [ONE, TWO]), tool_result("t2", "b"), tool_result("t1", "a")],
        [user("hi"), assistant("", [ONE])],
        [user("hi"), assistant("", [ONE]), tool_result("t1", "a"), assistant("", [ONE]), tool_result("t1", "again")],
        [user("hi"), assistant("", [ToolCall("", "f", "{}")]), tool_result("", "ids are not every model's habit")],
    ],
)
def test_sound_histories_pass(history: list[Message]) -> None:
    require_order(history)


@pytest.mark.parametrize(
    ("history", "place"),
    [
        ([], "messages: the history is empty"),
        ([tool_result("t1", "a")], r"messages\[0\]\.tool_call_id: 't1'"),
        ([assistant("", [ONE]), tool_result("t2", "a")], r"messages\[1\]\.tool_call_id: 't2'"),
        ([assistant("", [ONE]), tool_result("t1", "a"), user("x"), tool_result("t1", "b")], r"messages\[3\]"),
        ([assistant("", [ONE, TWO]), tool_result("t1", "a")], r"messages\[0\]\.tool_calls\[1\]: the call 't2'"),
        ([user("x"), assistant("", [ONE]), assistant("so")], r"messages\[1\]\.tool_calls\[0\]: .*has no result"),
    ],
)
def test_broken_ones_are_told_with_their_place(history: list[Message], place: str) -> None:
    with pytest.raises(BadInput, match=place):
        require_order(history)


@pytest.mark.parametrize(
    ("choice", "tools", "problem"),
    [
        ("tool:gone", (LOOK_UP,), r"tool_choice: no tool 'gone' is offered \(there are look_up\)"),
        ("tool:look_up", (), r"tool_choice: no tool 'look_up' is offered \(none is\)"),
        ("required", (), "tool_choice: a tool is required, and none is offered"),
    ],
)
def test_a_tool_that_must_be_called_has_to_be_offered(choice: str, tools: tuple[Tool, ...], problem: str) -> None:
    call = a_call(tools=tools)
    with pytest.raises(BadInput, match=problem):
        require_wellformed(replace(call, settings=Settings(tool_choice=choice)), a_policy())
    for sound in ("", "auto", "none", *(("required", "tool:look_up") if tools else ())):
        require_wellformed(replace(call, settings=Settings(tool_choice=sound)), a_policy())


def test_a_model_that_is_pinned_has_to_be_in_the_policy() -> None:
    with pytest.raises(BadInput, match=r"model: 'a/smal' is in no tier of the policy; the nearest are a/small, "):
        require_wellformed(replace(a_call(), model="a/smal"), a_policy())
    for sound in ("", "a/small", "a/*"):
        require_wellformed(replace(a_call(), model=sound), a_policy())


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded sessions are not here")
def test_no_recorded_session_is_refused() -> None:
    """What real agents sent to real providers must pass, at every one of their steps."""
    with gzip.open(DATA / "tau_bench_llama_small.jsonl.gz", "rt") as lines:
        for line, _ in zip(lines, range(40), strict=False):
            history = [_message(raw) for raw in json.loads(line)["messages"]]
            for index, message in enumerate(history):
                if message.role == "assistant" and index:
                    require_order(history[:index])


def _message(raw: dict[str, object]) -> Message:
    text = str(raw.get("content") or "")
    if raw["role"] == "tool":
        return tool_result(str(raw.get("tool_call_id") or ""), text)
    if raw["role"] == "assistant":
        calls = raw.get("tool_calls") or []
        assert isinstance(calls, list)
        return assistant(text, [ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls])
    return user(text)
