"""Log-probabilities on the wire and from LangChain models: who is asked for them, and what is read of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Reply, Settings, Tool
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.upstream.openai_replies import StreamDecoder, decode_logprobs, decode_reply
from waywiser.upstream.openai_wire import OpenAICodec

MODEL = Model("vllm/qwen", remote="qwen", base_url="http://host/v1/")
LOOKUP = Tool("lookup", "Find an order", '{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}')


def sent(call: Call, model: Model = MODEL, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OpenAICodec().request(model, call, "sk-key", stream=stream).body)
    return body


def test_log_probabilities_are_asked_for_only_by_whoever_wants_them() -> None:
    call = Call("1", (user("hi"),))
    for settings, wanted in [
        (Settings(), {}),
        (Settings(logprobs=0), {"logprobs": True}),
        (Settings(confidence=True), {"logprobs": True, "top_logprobs": 1}),
        (Settings(logprobs=0, confidence=True), {"logprobs": True}),
    ]:
        for stream in (False, True):
            body = sent(replace(call, settings=settings), stream=stream)
            assert {name: body[name] for name in body if "logprobs" in name} == wanted


@pytest.mark.parametrize(("url", "asked"), [("http://127.0.0.1:8080/v1", False), ("https://api.openai.com/v1", True)])
def test_a_stream_with_tools_is_asked_only_where_the_host_allows_it(url: str, asked: bool) -> None:
    call = Call("1", (user("hi"),), (LOOKUP,), settings=Settings(confidence=True))
    model = replace(MODEL, base_url=url)
    assert ("logprobs" in sent(call, model, stream=True)) is asked
    assert "logprobs" in sent(call, model)
    assert "logprobs" in sent(replace(call, settings=Settings(logprobs=0)), model, stream=True), (
        "a client's own wish is passed on"
    )


def tokens(*told: tuple[str, object]) -> dict[str, Any]:
    return {"content": [{"token": token, "bytes": list(token.encode()), "logprob": logprob} for token, logprob in told]}


@pytest.mark.parametrize(
    ("raw", "thinking", "read"),
    [
        (None, "", ()),
        ({"content": None}, "", ()),
        (tokens(("a", -0.5), ("b", 0)), "", (-0.5, 0.0)),
        (tokens(("a", -0.5), ("", -3.0)), "", (-0.5,)),  # the end of the turn
        (tokens(("a", None), ("b", "x"), ("c", True), ("d", float("nan")), ("e", -1)), "", (-1.0,)),
        (tokens(("a", float("-inf")), ("b", -3.4e38)), "", (-9999.0, -9999.0)),
        (tokens(("h\u00e9", -1.0), ("m", -2.0), ("</think>", -0.1), ("so", -0.2)), "h\u00e9m", (-0.1, -0.2)),
        (tokens(("so", -0.2)), "hem", (-0.2,)),  # a server that tells the answer's tokens alone
        ({"content": [{"token": "hem", "logprob": -1.0}, {"token": "so", "logprob": -0.2}]}, "hem", (-0.2,)),
        ({"content": [{"token": "", "logprob": -1.0, "bytes": None}]}, "", (-1.0,)),
        ({"content": [{"token": "x", "logprob": -1.0, "bytes": [999]}, 7, None]}, "y", (-1.0,)),
    ],
)
def test_log_probabilities_of_the_visible_answer(raw: Any, thinking: str, read: tuple[float, ...]) -> None:
    assert decode_logprobs(raw, thinking) == read


def test_a_reply_and_a_stream_tell_the_same_log_probabilities() -> None:
    told = tokens(("hm", -3.0), ("It", -0.5), (" is", -0.25))
    body = {
        "choices": [
            {"message": {"reasoning_content": "hm", "content": "It is"}, "finish_reason": "stop", "logprobs": told}
        ]
    }
    whole = decode_reply(json.dumps(body).encode())
    decoder = StreamDecoder()
    events: list[Any] = [
        {"delta": {"reasoning_content": "hm"}, "logprobs": tokens(("hm", -3.0))},
        {"delta": {"content": "It"}, "logprobs": tokens(("It", -0.5))},
        {"delta": {"content": " is"}, "logprobs": tokens((" is", -0.25))},
        {"delta": {}, "finish_reason": "stop"},
    ]
    assembly = Assembly()
    for event in events:
        for chunk in decoder.event("", json.dumps({"choices": [event]})):
            assert isinstance(chunk, Chunk)
            assembly.feed(chunk)
    assert isinstance(whole, Reply)
    assert whole.logprobs == assembly.reply().logprobs == (-0.5, -0.25)
