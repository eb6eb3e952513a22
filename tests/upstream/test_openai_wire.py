"""The chat completions codec: what goes out, and what is made of what comes back."""

# ruff: noqa: E501 - tables of wire data read best one row a line

from __future__ import annotations

import json
from dataclasses import replace
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
from waywiser.upstream.openai_inbound import read_call, write_chunk, write_reply
from waywiser.upstream.openai_replies import StreamDecoder, decode_reply, decode_usage
from waywiser.upstream.openai_wire import OpenAICodec
from waywiser.upstream.reading import Reading, chunks_of
from waywiser.upstream.wire import Fragments, Unencodable

MODEL = Model("vllm/qwen", remote="qwen", base_url="http://host/v1/")
LOOKUP = Tool("lookup", "Find an order", '{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}')


def sent(call: Call, model: Model = MODEL, *, stream: bool = False, codec: OpenAICodec | None = None) -> dict[str, Any]:
    return json.loads((codec or OpenAICodec()).request(model, call, "sk-key", stream=stream).body)


def test_the_request_line_and_headers() -> None:
    request = OpenAICodec().request(
        replace(MODEL, headers=(("x-team", "a"),)), Call("1", (user("hi"),)), "sk-key", stream=False
    )
    assert request.url == "http://host/v1/chat/completions"
    assert request.headers == {"content-type": "application/json", "x-team": "a", "authorization": "Bearer sk-key"}
    assert json.loads(request.body) == {"model": "qwen", "messages": [{"role": "user", "content": "hi"}]}
    assert "authorization" not in OpenAICodec().request(MODEL, Call("1", (user("hi"),)), "", stream=False).headers


def test_a_history_with_everything() -> None:
    history = (
        system("be brief"),
        Message(Role.USER, (Text("what is "), Image("https://x/y.png", "low"), File("application/pdf", "data:application/pdf;base64,AA==", name="a.pdf"))),
        Message(Role.ASSISTANT, (Thinking("hm", "sig"), Text("let me see")), (ToolCall("c1", "lookup", '{"id": 1}'), ToolCall("c2", "lookup", ""))),
        tool_result("c1", "found"),
        tool_result("c2", "", is_error=True),
        Message(Role.USER, (File("audio/wav", "data:audio/wav;base64,BB=="), Opaque("openai", '{"type":"x","n":1}'), Opaque("anthropic", "{}"))),
    )  # fmt: skip
    assert sent(Call("1", history, (LOOKUP,)))["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [
            {"type": "text", "text": "what is "},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
        ]},
        {"role": "assistant", "content": "let me see", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "lookup", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "BB==", "format": "wav"}},
            {"type": "x", "n": 1},
        ]},
    ]  # fmt: skip


def test_settings_tools_and_structured_output() -> None:
    settings = Settings(0.5, 0.9, 100, ("END",), 7, "tool:lookup", False, 3, {"top_k": 40, "max_tokens": 5})
    call = Call("1", (user("hi"),), (LOOKUP,), ResponseFormat('{"type":"object"}', "out", strict=True), settings)
    body = sent(call, stream=True)
    del body["messages"]
    assert body == {
        "model": "qwen", "temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "stop": ["END"], "seed": 7, "logprobs": True, "top_logprobs": 3,
        "tool_choice": {"type": "function", "function": {"name": "lookup"}}, "parallel_tool_calls": False, "top_k": 40, "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "lookup", "description": "Find an order", "parameters": json.loads(LOOKUP.parameters)}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "out", "schema": {"type": "object"}, "strict": True}},
    }  # fmt: skip
    assert sent(Call("1", (user("hi"),), response_format=ResponseFormat()))["response_format"] == {
        "type": "json_object"
    }
    assert "tool_choice" not in sent(Call("1", (user("hi"),), settings=Settings(tool_choice="auto")))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://api.groq.com/openai/v1", "max_tokens"),
        ("https://notapi.openai.com.example/v1", "max_tokens"),
    ],
)
def test_the_name_of_the_token_limit(url: str, name: str) -> None:
    body = sent(Call("1", (user("hi"),), settings=Settings(max_output_tokens=9)), replace(MODEL, base_url=url))
    assert body[name] == 9
    assert len({"max_tokens", "max_completion_tokens"} & set(body)) == 1


def test_mistral_knows_neither_seed_nor_stream_options() -> None:
    body = sent(
        Call("1", (user("hi"),), settings=Settings(seed=7)),
        replace(MODEL, base_url="https://api.mistral.ai/v1"),
        stream=True,
    )
    assert body["random_seed"] == 7
    assert not {"seed", "stream_options"} & set(body)


GEMINI = replace(MODEL, name="google/gemini", base_url="https://generativelanguage.googleapis.com/v1beta/openai")


def test_gemini_gets_its_thought_signature_back_and_a_placeholder_for_others() -> None:
    call = {
        "id": "",
        "type": "function",
        "function": {"name": "lookup", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "SIG"}},
    }
    reply = decode_reply(json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call, call]}}]}).encode())
    assert isinstance(reply, Reply)
    assert all(made.id.startswith("call_") for made in reply.tool_calls)
    assert reply.tool_calls[0].id != reply.tool_calls[1].id
    for author, signature in (("google/gemini", "SIG"), ("openai/gpt", "skip_thought_signature_validator")):
        first, second = sent(Call("1", (user("hi"), reply.as_message(author))), GEMINI)["messages"][1]["tool_calls"]
        assert first["extra_content"] == {"google": {"thought_signature": signature}}
        assert "extra_content" not in second
    assert "extra_content" not in json.dumps(sent(Call("1", (user("hi"), reply.as_message("google/gemini")))))


def test_unsigned_thinking_goes_back_to_its_author_only() -> None:
    turn = Message(Role.ASSISTANT, (Thinking("because"), Text("yes")), model="vllm/qwen")
    assert sent(Call("1", (user("hi"), turn)))["messages"][1]["reasoning_content"] == "because"
    assert "reasoning_content" not in sent(Call("1", (user("hi"), replace(turn, model="other/x"))))["messages"][1]


def test_a_message_is_encoded_once_and_never_for_the_wrong_reader() -> None:
    codec = OpenAICodec()
    turn = Message(Role.ASSISTANT, (Thinking("because"), Text("yes")), model="vllm/qwen")
    for _ in range(3):
        sent(Call("1", (user("hi"), turn)), codec=codec)
    assert len(codec._messages) == 2
    assert (
        "reasoning_content"
        not in sent(Call("1", (user("hi"), turn)), replace(MODEL, name="a/b"), codec=codec)["messages"][1]
    )


def test_fragments_are_bounded() -> None:
    fragments = Fragments(1000)
    for n in range(50):
        fragments.get(n, lambda: b"x" * 100)
    assert len(fragments) == 10
    assert fragments.get("huge", lambda: b"x" * 5000) == b"x" * 5000
    assert len(fragments) == 10


def test_a_schema_that_is_no_json_names_its_place() -> None:
    with pytest.raises(Unencodable, match=r"tools\[1\]\.parameters"):
        sent(Call("1", (user("hi"),), (LOOKUP, Tool("bad", parameters="{"))))


def test_lone_surrogates_go_out_as_replacement_characters() -> None:
    assert sent(Call("1", (user("a\ud83db"), user("\ud83d\ude00"))))["messages"][0]["content"] == "a\ufffdb"


def whole(**message: Any) -> bytes:
    return json.dumps(
        {
            "id": "r1",
            "model": "m",
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }
    ).encode()


def test_a_plain_reply() -> None:
    assert decode_reply(whole(content="hello")) == Reply((Text("hello"),), usage=Usage(3, 2), model="m", id="r1")


def test_reasoning_under_any_name() -> None:
    for said in (
        {"reasoning_content": "hm", "content": "a"},
        {"reasoning": "hm", "content": "a"},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "a"},
            ]
        },
    ):
        reply = decode_reply(whole(**said))
        assert isinstance(reply, Reply)
        assert reply.parts == (Thinking("hm"), Text("a"))


def test_tool_calls_as_text_or_object() -> None:
    for arguments in ('{"id":"W1"}', {"id": "W1"}):
        reply = decode_reply(
            whole(content=None, tool_calls=[{"id": "c", "function": {"name": "lookup", "arguments": arguments}}])
        )
        assert isinstance(reply, Reply)
        assert reply.tool_calls == (ToolCall("c", "lookup", '{"id":"W1"}'),)
        assert reply.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", FailureKind.MALFORMED),
        (b"[]", FailureKind.MALFORMED),
        (b'{"choices": []}', FailureKind.MALFORMED),
        (b'{"choices": [{"message": {"content": "  "}}]}', None),
        (b'{"choices": [{"message": {"content": ""}}]}', FailureKind.MALFORMED),
        (b'{"choices": [{"message": {"refusal": "I will not"}}]}', FailureKind.REFUSED),
        (b'{"choices": [{"message": {"content": "a"}, "finish_reason": "content_filter"}]}', FailureKind.REFUSED),
        (b'{"error": {"message": "Provider returned error", "code": 502}}', FailureKind.OVERLOADED),
        (b'{"choices": [{"error": {"message": "Overloaded", "code": 529}, "finish_reason": "error", "message": {"content": "a"}}]}', FailureKind.OVERLOADED),
        (b'{"choices": {"0": 1}, "usage": 7, "model": 3}', FailureKind.MALFORMED),
    ],
)  # fmt: skip
def test_replies_that_are_none(body: bytes, kind: FailureKind | None) -> None:
    outcome = decode_reply(body)
    assert (outcome.kind if isinstance(outcome, Failure) else None) is kind


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (None, Usage(estimated=True)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 6}}, Usage(10, 4, 6)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}, Usage(10, 4, 8)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 44, "completion_tokens_details": {"reasoning_tokens": 30}}, Usage(10, 34, reasoning_tokens=30)),
        ({"prompt_tokens": 10, "completion_tokens": 34, "total_tokens": 44, "completion_tokens_details": {"reasoning_tokens": 30}}, Usage(10, 34, reasoning_tokens=30)),
        ({"prompt_tokens": "many", "completion_tokens": None}, Usage()),
    ],
)  # fmt: skip
def test_usage(raw: object, usage: Usage) -> None:
    assert decode_usage(raw) == usage


def stream(*events: object, ending: bytes = b"data: [DONE]\n\n", cut: int = 7) -> list[Chunk | Failure]:
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + ending
    reading = Reading(StreamDecoder())
    items: list[Chunk | Failure] = []
    for start in range(0, len(data), cut):
        if not reading.over:
            items += reading.feed(data[start : start + cut])
    return items + reading.end()


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"id": "r1", "model": "m", "choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def assembled(items: list[Chunk | Failure]) -> Reply:
    assembly = Assembly()
    for item in items:
        assert isinstance(item, Chunk)
        assembly.feed(item)
    return assembly.reply()


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


def test_a_stream_of_text() -> None:
    items = stream(delta(role="assistant", content=""), delta(content="he"), delta(content="llo"), delta("stop"), USAGE)
    assert assembled(items) == Reply((Text("hello"),), usage=Usage(3, 2), model="m", id="r1")
    last = items[-1]
    assert isinstance(last, Chunk)
    assert (last.finish, last.usage) == (Finish.STOP, Usage(3, 2))
    assert all(isinstance(item, Chunk) and item.finish is None for item in items[:-1])


def test_a_stream_of_parallel_tool_calls_with_and_without_indexes() -> None:
    first = {"id": "a", "function": {"name": "lookup", "arguments": '{"id"'}}
    more, second = {"function": {"arguments": ":1}"}}, {"id": "b", "function": {"name": "track", "arguments": "{}"}}
    indexed = [
        delta(tool_calls=[{"index": 0} | first]),
        delta(tool_calls=[{"index": 0} | more, {"index": 1} | second]),
        delta("tool_calls"),
    ]
    bare = [delta(tool_calls=[first]), delta(tool_calls=[more]), delta(tool_calls=[second]), delta("stop")]
    for events in (indexed, bare):
        reply = assembled(stream(*events))
        assert reply.tool_calls == (ToolCall("a", "lookup", '{"id":1}'), ToolCall("b", "track", "{}"))
        assert (reply.finish, reply.usage.estimated) == (Finish.TOOL_CALLS, True)


def test_an_emoji_cut_in_two_arrives_whole() -> None:
    ending = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\ndata: {"choices":[{"delta":{"content":"\\ude00b"},"finish_reason":"stop"}]}\n\n'
    items = stream(ending=ending)
    assert [item.text for item in items if isinstance(item, Chunk)] == ["a", "\U0001f600b", ""]


def test_an_announced_end_is_enough_and_a_missing_goodbye_does_no_harm() -> None:
    assert assembled(stream(delta(content="a"), delta("stop"), ending=b"")).finish is Finish.STOP


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (b"", FailureKind.CUT_SHORT),
        (b"data: [DONE]\n\n", FailureKind.CUT_SHORT),
        (b'data: {"error": {"message": "Overloaded", "code": 529}}\n\n', FailureKind.OVERLOADED),
        (b'{"error": {"message": "Rate limit", "code": 429}}\n\n', FailureKind.RATE_LIMITED),
        (b"data: {nonsense\n\n", FailureKind.MALFORMED),
        (b"<html>\n\n", FailureKind.MALFORMED),
    ],
)
def test_streams_that_end_badly_end_with_one_failure_and_what_was_said(ending: bytes, kind: FailureKind) -> None:
    items = stream(delta(content="he"), delta(content="llo"), ending=ending)
    assert [item.text for item in items if isinstance(item, Chunk)] == ["he", "llo"]
    last = items[-1]
    assert isinstance(last, Failure)
    assert last.kind is kind
    assert last.partial is not None
    assert last.partial.text == "hello"


def test_an_empty_stream_is_malformed_and_a_filtered_one_refused() -> None:
    for finish, kind in (("stop", FailureKind.MALFORMED), ("content_filter", FailureKind.REFUSED)):
        (failure,) = [
            item for item in stream(delta(role="assistant"), delta(finish), USAGE) if isinstance(item, Failure)
        ]
        assert (failure.kind, failure.usage) == (kind, Usage(3, 2))


def test_a_refusal_in_pieces() -> None:
    (failure,) = [
        item for item in stream(delta(refusal="I will"), delta("stop", refusal=" not")) if isinstance(item, Failure)
    ]
    assert (failure.kind, failure.message) == (FailureKind.REFUSED, "I will not")


TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
NAMES = st.from_regex(r"[a-z_]{1,10}", fullmatch=True)
TURNS = st.lists(
    st.tuples(TEXTS, st.lists(st.tuples(NAMES, st.dictionaries(NAMES, TEXTS, max_size=2)), max_size=3)), max_size=4
)


@given(turns=TURNS)
def test_a_history_goes_out_and_comes_in_the_same(turns: list[tuple[str, list[tuple[str, dict[str, str]]]]]) -> None:
    messages = [system("rules"), user("go")]
    for turn, (text, calls) in enumerate(turns):
        made = [ToolCall(f"c{turn}_{n}", name, json.dumps(arguments)) for n, (name, arguments) in enumerate(calls)]
        messages.append(assistant(text, made))
        messages += [tool_result(call.id, text, name=call.name) for call in made]
        messages.append(Message(Role.USER, (Text(text), Image("https://x/y.png"))))
    call = Call(
        "1",
        tuple(messages),
        (LOOKUP,),
        None,
        Settings(temperature=0.1, stop=("x",), tool_choice="required", extra={"top_k": 3}),
    )
    back = read_call(sent(call), "1")
    assert back.messages == call.messages
    assert back.settings == call.settings
    assert [(tool.name, json.loads(tool.parameters)) for tool in back.tools] == [
        ("lookup", json.loads(LOOKUP.parameters))
    ]


@given(text=TEXTS, calls=st.lists(st.tuples(NAMES, TEXTS), max_size=3), thought=st.booleans())
def test_a_reply_written_for_a_client_is_read_the_same(text: str, calls: list[tuple[str, str]], thought: bool) -> None:
    made = tuple(ToolCall(f"c{n}", name, json.dumps({"a": value})) for n, (name, value) in enumerate(calls))
    parts = ((Thinking("hm"),) if thought else ()) + (Text(text),)
    finish = Finish.TOOL_CALLS if made else Finish.STOP
    reply = Reply(parts, made, finish, Usage(9, 5, 4, 0, 1), "m", "r")
    assert decode_reply(json.dumps(write_reply(reply, reply_id="r", model="m", created=1)).encode()) == reply
    events = [event for chunk in chunks_of(reply) for event in write_chunk(chunk, reply_id="r", model="m", created=1)]
    assert assembled(stream(*events, cut=1 << 20)) == reply
