"""The Messages codec: blocks, signatures, cache marks, events."""

# ruff: noqa: E501 - tables of wire data read best one row a line

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import (
    File,
    Image,
    Message,
    Opaque,
    Role,
    Text,
    Thinking,
    ToolCall,
    assistant,
    system,
    tool_result,
    user,
)
from waywiser.core.models import Model
from waywiser.upstream.anthropic_replies import MessageDecoder, decode_message
from waywiser.upstream.anthropic_wire import AnthropicCodec
from waywiser.upstream.reading import Reading

MODEL = Model(
    "anthropic/claude", api="anthropic", remote="claude", base_url="https://api.anthropic.com", max_output_tokens=77
)
LOOKUP = Tool("lookup", "Find an order", '{"type":"object","properties":{"id":{"type":"string"}}}')
MARK = {"type": "ephemeral"}


def sent(call: Call, model: Model = MODEL, codec: AnthropicCodec | None = None) -> dict[str, Any]:
    return json.loads((codec or AnthropicCodec()).request(model, call, "key", stream=False).body)


@pytest.mark.parametrize(
    "base", ["https://api.anthropic.com", "https://api.anthropic.com/v1", "https://api.anthropic.com/v1/"]
)
def test_the_request_line_and_headers(base: str) -> None:
    request = AnthropicCodec().request(replace(MODEL, base_url=base), Call("1", (user("hi"),)), "key", stream=True)
    assert request.url == "https://api.anthropic.com/v1/messages"
    assert request.headers == {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "x-api-key": "key",
    }
    assert json.loads(request.body) == {
        "model": "claude", "max_tokens": 77, "stream": True, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }  # fmt: skip


def test_a_history_with_everything() -> None:
    history = (
        system("be brief"),
        system("be kind"),
        Message(Role.USER, (Text("look: "), Image("data:image/png;base64,AA=="), Image("https://x/y.png"), File("application/pdf", "https://x/a.pdf", name="a"))),
        Message(Role.ASSISTANT, (Thinking("hm", "SIG"), Thinking("", "DATA", redacted=True), Text("let me see")), (ToolCall("c1", "lookup", '{"id":"1"}'), ToolCall("c2", "lookup", "{oops")), model="anthropic/claude"),
        tool_result("c1", "found"),
        tool_result("c2", "no", is_error=True),
        user("and?"),
        Message(Role.ASSISTANT, (Text(" "), Opaque("anthropic", '{"type":"server_tool_use","id":"s"}'))),
    )  # fmt: skip
    body = sent(Call("1", history, (LOOKUP,)))
    assert body["system"] == [{"type": "text", "text": "be brief"}, {"type": "text", "text": "be kind"}]
    assert body["tools"] == [
        {"name": "lookup", "description": "Find an order", "input_schema": json.loads(LOOKUP.parameters)}
    ]
    assert body["messages"] == [
        {"role": "user", "content": [
            {"type": "text", "text": "look: "},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}, "title": "a"},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "SIG"},
            {"type": "redacted_thinking", "data": "DATA"},
            {"type": "text", "text": "let me see"},
            {"type": "tool_use", "id": "c1", "name": "lookup", "input": {"id": "1"}},
            {"type": "tool_use", "id": "c2", "name": "lookup", "input": {"unreadable_arguments": "{oops"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "found"}]},
            {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "no"}], "is_error": True},
            {"type": "text", "text": "and?"},
        ]},
        {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s"}]},
    ]  # fmt: skip


def test_a_signature_goes_to_nobody_but_its_author() -> None:
    turn = Message(Role.ASSISTANT, (Thinking("hm", "SIG"), Text("yes")), model="anthropic/claude")
    codec = AnthropicCodec()
    call = Call("1", (user("hi"), turn, user("more")))
    assert "SIG" in json.dumps(sent(call, codec=codec))
    assert "SIG" not in json.dumps(sent(call, replace(MODEL, name="anthropic/other"), codec))
    unsigned = replace(turn, parts=(Thinking("hm"), Text("yes")))
    assert "thinking" not in json.dumps(sent(Call("1", (user("hi"), unsigned))))


def test_the_authors_own_marks_are_kept_and_are_the_only_ones() -> None:
    prompt = Message(Role.SYSTEM, (Text("rules", cache=True), Text("more")))
    result = Message(Role.TOOL, (Text("found", cache=True),), tool_call_id="c1")
    history = (prompt, user("hi"), assistant("", [ToolCall("c1", "lookup", "{}")]), result)
    body = sent(Call("1", history, (LOOKUP,)), replace(MODEL, cache_ttl_s=300))
    assert body["system"] == [
        {"type": "text", "text": "rules", "cache_control": MARK},
        {"type": "text", "text": "more"},
    ]
    assert body["messages"][-1]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "c1",
            "content": [{"type": "text", "text": "found"}],
            "cache_control": MARK,
        }
    ]
    assert json.dumps(body).count("cache_control") == 2


def test_the_step_of_an_agent_marks_its_prefix_and_a_single_question_does_not() -> None:
    warm = replace(MODEL, cache_ttl_s=300)
    codec = AnthropicCodec()
    for _ in range(2):  # what is held for the next step has no mark
        body = sent(Call("1", (system("rules"), user("hi")), (LOOKUP,)), warm, codec)
        assert body["system"][-1]["cache_control"] == MARK
        assert body["messages"][-1]["content"][-1] == {"type": "text", "text": "hi", "cache_control": MARK}
    longer = sent(Call("1", (system("rules"), user("hi"), assistant("yes"), user("go")), (LOOKUP,)), warm, codec)
    assert json.dumps(longer["messages"]).count("cache_control") == 1
    assert "cache_control" not in json.dumps(sent(Call("1", (system("rules"), user("hi"))), warm, codec))
    assert "cache_control" not in json.dumps(sent(Call("1", (system("rules"), user("hi")), (LOOKUP,))))


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("tool:lookup", False, {"type": "tool", "name": "lookup", "disable_parallel_tool_use": True}),
        ("", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("", None, None),
    ],
)
def test_tool_choice(choice: str, parallel: bool | None, written: object) -> None:
    settings = Settings(tool_choice=choice, parallel_tool_calls=parallel)
    assert sent(Call("1", (user("hi"),), (LOOKUP,), settings=settings)).get("tool_choice") == written


def test_settings() -> None:
    settings = Settings(1.5, 0.9, 5, ("END",), extra={"thinking": {"type": "enabled", "budget_tokens": 1024}})
    body = sent(Call("1", (user("hi"),), (), ResponseFormat('{"type":"object"}'), settings))
    del body["messages"]
    assert body == {
        "model": "claude", "max_tokens": 5, "temperature": 1.0, "top_p": 0.9, "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }  # fmt: skip


def whole(*content: dict[str, Any], reason: str = "end_turn") -> bytes:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 7}
    return json.dumps(
        {"id": "m1", "model": "claude-x", "content": content, "stop_reason": reason, "usage": usage}
    ).encode()


def test_a_whole_message() -> None:
    server = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    reply = decode_message(
        whole(
            {"type": "thinking", "thinking": "hm", "signature": "SIG"}, {"type": "redacted_thinking", "data": "D"}, {"type": "text", "text": "a"}, server,
            {"type": "tool_use", "id": "t1", "name": "lookup", "input": {"id": "é"}}, reason="tool_use",
        )
    )  # fmt: skip
    assert isinstance(reply, Reply)
    assert reply.parts == (
        Thinking("hm", "SIG"),
        Thinking("", "D", redacted=True),
        Text("a"),
        Opaque("anthropic", json.dumps(server, separators=(",", ":"))),
    )
    assert reply.tool_calls == (ToolCall("t1", "lookup", '{"id":"é"}'),)
    assert (reply.finish, reply.usage, reply.model) == (Finish.TOOL_CALLS, Usage(130, 7, 100, 20), "claude-x")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (whole(), FailureKind.MALFORMED),
        (whole({"type": "text", "text": "no"}, reason="refusal"), FailureKind.REFUSED),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', FailureKind.OVERLOADED),
        (b"nope", FailureKind.MALFORMED),
        (b"3", FailureKind.MALFORMED),
    ],
)
def test_messages_that_are_none(body: bytes, kind: FailureKind) -> None:
    outcome = decode_message(body)
    assert isinstance(outcome, Failure)
    assert outcome.kind is kind


def events(blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]], reason: str = "end_turn") -> list[dict[str, Any]]:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1}
    out: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m1", "model": "claude-x", "usage": usage}},
        {"type": "ping"},
    ]
    for index, (block, deltas) in enumerate(blocks):
        out.append({"type": "content_block_start", "index": index, "content_block": block})
        out += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        out.append({"type": "content_block_stop", "index": index})
    last = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}}
    return [*out, last, {"type": "message_stop"}]


def stream(said: list[dict[str, Any]], cut: int = 11) -> list[Chunk | Failure]:
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in said).encode()
    reading = Reading(MessageDecoder())
    items: list[Chunk | Failure] = []
    for start in range(0, len(data), cut):
        if not reading.over:
            items += reading.feed(data[start : start + cut])
    return items + reading.end()


def pieces(kind: str, name: str, text: str, size: int = 3) -> list[dict[str, Any]]:
    return [{"type": kind, name: text[start : start + size]} for start in range(0, len(text), size)]


BLOCKS = [
    ({"type": "thinking", "thinking": "", "signature": ""}, [*pieces("thinking_delta", "thinking", "let me think"), {"type": "signature_delta", "signature": "SIG"}]),
    ({"type": "redacted_thinking", "data": "D"}, []),
    ({"type": "text", "text": ""}, pieces("text_delta", "text", "hello there")),
    ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, pieces("input_json_delta", "partial_json", '{"q":1}')),
    ({"type": "tool_use", "id": "t1", "name": "lookup", "input": {}}, pieces("input_json_delta", "partial_json", '{"id":"W1"}')),
    ({"type": "tool_use", "id": "t2", "name": "track", "input": {}}, []),
]  # fmt: skip


def test_a_stream_of_everything() -> None:
    assembly = Assembly()
    items = stream(events(BLOCKS, "tool_use"))
    for item in items:
        assert isinstance(item, Chunk)
        assembly.feed(item)
    reply = assembly.reply()
    assert set(reply.parts) == {Thinking("let me think", "SIG"), Thinking("", "D", redacted=True), Text("hello there")}
    assert reply.tool_calls == (ToolCall("t1", "lookup", '{"id":"W1"}'), ToolCall("t2", "track", ""))
    assert (reply.finish, reply.usage, reply.id) == (Finish.TOOL_CALLS, Usage(130, 7, 100, 20), "m1")
    last = items[-1]
    assert isinstance(last, Chunk)
    assert last.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize("kept", [6, 9, 12])
def test_a_cut_stream_keeps_what_was_said_and_what_the_prompt_cost(kept: int) -> None:
    items = stream(events(BLOCKS[2:3])[:kept])
    last = items[-1]
    if kept >= 9:  # the stop reason was there: only the goodbye is missing
        assert isinstance(last, Chunk)
        assert last.finish is Finish.STOP
        return
    assert isinstance(last, Failure)
    assert (last.kind, last.usage.input_tokens, last.usage.estimated) == (FailureKind.CUT_SHORT, 130, True)
    assert last.partial is not None
    assert "hello there".startswith(last.partial.text)


def test_an_error_in_the_stream() -> None:
    said = [*events(BLOCKS[2:3])[:5], {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]
    last = stream(said)[-1]
    assert isinstance(last, Failure)
    assert last.kind is FailureKind.OVERLOADED
    assert last.partial is not None


@given(texts=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6))
def test_turns_alternate_and_no_block_is_blank(texts: list[str]) -> None:
    history = [user("go"), *(user(text) if len(text) % 2 else assistant(text) for text in texts)]
    body = sent(Call("1", tuple(history)))
    roles = [turn["role"] for turn in body["messages"]]
    assert all(a != b for a, b in pairwise(roles))
    assert all(block["text"].strip() for turn in body["messages"] for block in turn["content"])
