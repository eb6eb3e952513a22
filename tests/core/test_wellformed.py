from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from waywiser.core.messages import Message, ToolCall, assistant, system, tool_result, user
from waywiser.core.wellformed import require_order
from waywiser.errors import BadInput

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
