"""The Messages dialect from the client's side, and round trips through both halves of the codec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Finish, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import Image, Message, Role, Text, Thinking, ToolCall, assistant, system, tool_result, user
from waywiser.core.models import Model
from waywiser.errors import BadInput
from waywiser.upstream.anthropic_inbound import EventWriter, read_call, write_reply
from waywiser.upstream.anthropic_replies import MessageDecoder, decode_message
from waywiser.upstream.anthropic_wire import AnthropicCodec
from waywiser.upstream.reading import Reading, chunks_of

MODEL = Model("anthropic/claude", api="anthropic", remote="claude", base_url="https://api.anthropic.com")
USER = {"role": "user", "content": "hi"}
ASKED = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "lookup", "input": {}}]}


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [USER]} | more


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"messages": [USER]}, "max_tokens: missing"),
        (body(messages=[]), "messages: empty"),
        (body(messages=[{"role": "system", "content": "x"}]), r"messages\[0\]\.role"),
        (body(messages=[{"role": "user"}]), r"messages\[0\]\.content: missing"),
        (
            body(messages=[{"role": "user", "content": [{"type": "text"}]}]),
            r"messages\[0\]\.content\[0\]\.text: missing",
        ),
        (
            body(messages=[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]}]),
            r"messages\[0\]\.content\[0\]\.tool_use_id: no earlier",
        ),
        (
            body(messages=[USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f"}]}]),
            r"messages\[1\]\.content\[0\]\.input: missing",
        ),
        (body(tools=[{"name": "f"}]), r"tools\[0\]\.input_schema: missing"),
        (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), r"tools\[0\]\.type"),
        (body(tool_choice={"type": "maybe"}), r"tool_choice\.type"),
        (body(temperature="hot"), "temperature"),
    ],
)
def test_bad_input_names_its_place(data: dict[str, Any], place: str) -> None:
    with pytest.raises(BadInput, match=place):
        read_call(data, "1")


def test_tool_results_become_turns_of_their_own() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "found", "is_error": True}
    call = read_call(
        body(messages=[USER, ASKED, {"role": "user", "content": [result, {"type": "text", "text": "and?"}]}]), "1"
    )
    assert call.messages[2:] == (tool_result("t1", "found", name="lookup", is_error=True), user("and?"))


TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() and bool(text.strip()))
NAMES = st.from_regex(r"[a-z_]{1,10}", fullmatch=True)


@given(
    turns=st.lists(st.tuples(TEXTS, st.lists(st.tuples(NAMES, TEXTS), max_size=3)), max_size=4),
    choice=st.sampled_from(["", "auto", "none", "required", "tool:lookup"]),
)
def test_a_history_goes_out_and_comes_in_the_same(turns: list[tuple[str, list[tuple[str, str]]]], choice: str) -> None:
    messages = [system("rules"), user("go")]
    for turn, (text, calls) in enumerate(turns):
        made = [
            ToolCall(f"c{turn}_{n}", name, json.dumps({"a": value}, separators=(",", ":"), ensure_ascii=False))
            for n, (name, value) in enumerate(calls)
        ]
        messages.append(assistant(text, made))
        messages += [tool_result(call.id, text, name=call.name, is_error=len(text) % 2 == 0) for call in made]
        messages.append(Message(Role.USER, (Text(text), Image("data:image/png;base64,AA=="), Image("https://x/y.png"))))
    tool = Tool("lookup", "Find", '{"type":"object","properties":{}}')
    settings = Settings(
        0.5,
        0.9,
        100,
        ("END",),
        tool_choice=choice,
        parallel_tool_calls=None if choice in ("", "none") else False,
        extra={"top_k": 3},
    )
    call = Call("1", tuple(messages), (tool,), ResponseFormat('{"type":"object"}'), settings, model="claude")
    request = AnthropicCodec().request(MODEL, call, "key", stream=False)
    assert read_call(json.loads(request.body), "1") == call


@given(text=TEXTS, calls=st.lists(st.tuples(NAMES, TEXTS), max_size=3), thought=st.booleans(), hidden=st.booleans())
def test_a_reply_written_for_a_client_is_read_the_same(
    text: str, calls: list[tuple[str, str]], thought: bool, hidden: bool
) -> None:
    made = tuple(
        ToolCall(f"c{n}", name, json.dumps({"a": value}, separators=(",", ":"), ensure_ascii=False))
        for n, (name, value) in enumerate(calls)
    )
    parts = (
        ((Thinking("hm", "SIG"),) if thought else ())
        + ((Thinking("", "D", redacted=True),) if hidden else ())
        + (Text(text),)
    )
    reply = Reply(parts, made, Finish.TOOL_CALLS if made else Finish.STOP, Usage(29, 5, 14, 6), "m", "r")
    assert decode_message(json.dumps(write_reply(reply, reply_id="r", model="m")).encode()) == reply
    writer = EventWriter(reply_id="r", model="m")
    events = writer.start() + [event for chunk in chunks_of(reply) for event in writer.chunk(chunk)]
    reading, assembly = Reading(MessageDecoder()), Assembly()
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    for item in [*reading.feed(data), *reading.end()]:
        assert isinstance(item, Chunk)
        assembly.feed(item)
    assert assembly.reply() == reply
    opened = [event["index"] for event in events if event["type"] == "content_block_start"]
    closed = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert opened == closed == list(range(len(opened)))
