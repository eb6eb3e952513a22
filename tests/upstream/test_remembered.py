"""What is remembered of earlier requests is what would be read again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser import BadInput
from waywiser.upstream.openai_inbound import read_call
from waywiser.upstream.remembered import Remembered

TEXTS = st.sampled_from(["", "hello", "naïve 漢字", "\ud800", "\ufffd", '{"a": 1}'])
IDS = st.sampled_from(["c1", "c2"])
CALLS = st.fixed_dictionaries(
    {
        "id": IDS,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.sampled_from(["find", "cancel"]), "arguments": TEXTS}),
    }
)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
TURNS = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "oops"]), "content": TEXTS | PARTS | st.none()}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS, "tool_calls": st.lists(CALLS, max_size=2)}),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": IDS, "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS, "name": TEXTS | st.integers()}),
    st.just(7),
)
TOOLS = st.sampled_from(
    [
        None,
        [],
        [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}],
        [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}, "strict": True}}],
        [{"type": "function", "function": {"name": ""}}],
    ]
)
SHARED = Remembered(limit_bytes=600)  # so small that it forgets, too


def told(data: dict[str, Any], remembered: Remembered | None) -> object:
    try:
        call = read_call(data, "c", remembered=remembered)
    except BadInput as error:
        return str(error)
    return call, [message.digest for message in call.messages]


@given(st.lists(TURNS, min_size=1, max_size=6), TOOLS)
def test_what_is_remembered_is_what_would_be_read(turns: list[Any], tools: Any) -> None:
    data = {"messages": turns, "tools": tools}
    assert told(data, SHARED) == told(data, None)
    assert told(data, SHARED) == told(data, None)


def test_a_turn_is_read_once() -> None:
    remembered = Remembered()
    history: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    tools = [{"type": "function", "function": {"name": "find"}}]
    first = read_call({"messages": history, "tools": tools}, "1", remembered=remembered)
    again = read_call({"messages": [*history, {"role": "user", "content": "?"}], "tools": tools}, "2", None, remembered)
    assert again.messages[0] is first.messages[0]
    assert again.tools is first.tools


def test_a_result_is_named_after_the_call_it_answers() -> None:
    remembered = Remembered()
    for name in ("find", "cancel", "find"):
        asked = {"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}}
        history = [
            {"role": "assistant", "content": None, "tool_calls": [asked]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
        ]
        call = read_call({"messages": history}, "1", remembered=remembered)
        assert call.messages[1].tool_name == name
    with pytest.raises(BadInput, match=r"messages\[0\]\.tool_call_id"):
        read_call({"messages": history[1:]}, "1", remembered=remembered)


def test_it_is_bounded() -> None:
    remembered = Remembered(limit_bytes=10_000)
    for number in range(1000):
        read_call({"messages": [{"role": "user", "content": f"{number} {'x' * 100}"}]}, "1", remembered=remembered)
    read_call({"messages": [{"role": "user", "content": "y" * 100_000}]}, "1", remembered=remembered)
    shelf = remembered._messages
    assert sum(len(key[0]) for kept in (shelf._young, shelf._old) for key in kept) <= 10_000
