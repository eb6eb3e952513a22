"""Log-probabilities on the wire and from LangChain models: who is asked for them, and what is read of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, Finish, Reply, Settings, Tool
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.testing.pieces import said
from waywiser.upstream.langchain_messages import chunk_message, reply_message
from waywiser.upstream.langchain_model import LangChainUpstream
from waywiser.upstream.openai_inbound import write_reply
from waywiser.upstream.openai_replies import StreamDecoder, decode_logprobs, decode_reply
from waywiser.upstream.openai_wire import OpenAICodec
from waywiser.upstream.schema_tools import Held

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


class Telling(BaseChatModel):
    """A model built like ChatOpenAI: a flag asks for log-probabilities, and what was asked is kept."""

    logprobs: bool | None = None
    top_logprobs: int | None = None
    asked: list[dict[str, Any]] = []  # noqa: RUF012 - a pydantic field

    @property
    def _llm_type(self) -> str:
        return "telling"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.asked.append(kwargs)
        info = {"logprobs": tokens(("It", -0.5), (" is", -0.25))} if kwargs.get("logprobs") is True else {}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("It is"), generation_info=info)])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        self.asked.append(kwargs)
        for token, logprob in (("It", -0.5), (" is", -0.25)):
            info = {"logprobs": tokens((token, logprob))} if kwargs.get("logprobs") is True else {}
            yield ChatGenerationChunk(message=AIMessageChunk(token), generation_info=info)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        for chunk in self._stream(messages, **kwargs):
            yield chunk


class Counting(Telling):
    """A class whose field of that name is a number, as Google's is."""

    logprobs: int | None = None  # type: ignore[assignment]


class Plain(BaseChatModel):
    """A class without the field; one that is told an argument it doesn't know would refuse the call."""

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        assert kwargs == {}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("It is"))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        assert kwargs == {}
        yield ChatGenerationChunk(message=AIMessageChunk("It is"))


async def through_langchain(chat: BaseChatModel, call: Call) -> list[tuple[float, ...]]:
    """What each of the four ways tells."""
    upstream = LangChainUpstream({MODEL.name: chat})
    streamed, astreamed = Assembly(), Assembly()
    for item in upstream.stream(MODEL, call, 5.0):
        assert isinstance(item, Chunk), item
        streamed.feed(item)
    async for item in upstream.astream(MODEL, call, 5.0):
        assert isinstance(item, Chunk), item
        astreamed.feed(item)
    replies = (
        upstream.send(MODEL, call, 5.0),
        await upstream.asend(MODEL, call, 5.0),
        streamed.reply(),
        astreamed.reply(),
    )
    assert all(isinstance(reply, Reply) and reply.text == "It is" for reply in replies)
    return [reply.logprobs for reply in replies if isinstance(reply, Reply)]


@pytest.mark.parametrize(
    ("settings", "chat", "told", "asked"),
    [
        (Settings(confidence=True), Telling(), (-0.5, -0.25), {"logprobs": True, "top_logprobs": 1}),
        (Settings(logprobs=0), Telling(), (-0.5, -0.25), {"logprobs": True}),
        (Settings(), Telling(), (), {}),
        (Settings(confidence=True), Counting(), (), {}),
        (Settings(confidence=True), Plain(), (), None),
    ],
)
def test_a_langchain_model_is_asked_where_its_class_takes_the_question(
    settings: Settings, chat: BaseChatModel, told: tuple[float, ...], asked: dict[str, Any] | None
) -> None:
    assert asyncio.run(through_langchain(chat, Call("1", (user("hi"),), settings=settings))) == [told] * 4
    if isinstance(chat, Telling):
        assert chat.asked == [asked] * 4


def test_a_langchain_stream_with_tools_is_not_asked_where_the_host_may_refuse() -> None:
    call = Call("1", (user("hi"),), (LOOKUP,), settings=Settings(confidence=True))
    whole = (-0.5, -0.25)
    assert asyncio.run(through_langchain(Telling(), call)) == [whole, whole, (), ()]


def test_what_a_caller_asked_for_reaches_it() -> None:
    reply = replace(said("It is"), logprobs=(-0.5, -0.25))
    written = write_reply(reply, reply_id="1", model="m", created=0)
    read = decode_reply(json.dumps(written).encode())
    assert isinstance(read, Reply)
    assert read.logprobs == reply.logprobs
    assert [one["logprob"] for one in reply_message(reply, {}).response_metadata["logprobs"]["content"]] == [
        -0.5,
        -0.25,
    ]
    pieces = [chunk_message(Chunk("It", logprobs=(-0.5,))), chunk_message(Chunk(" is", logprobs=(-0.25,)))]
    whole = pieces[0] + pieces[1]
    assert [one["logprob"] for one in whole.response_metadata["logprobs"]["content"]] == [-0.5, -0.25]
    assert "logprobs" not in reply_message(said("It is"), {}).response_metadata
    assert chunk_message(Chunk("It")).response_metadata == {}


@pytest.mark.parametrize(("settings", "early"), [(Settings(confidence=True), (-1.0, -2.0)), (Settings(logprobs=0), ())])
def test_a_held_stream_tells_its_log_probabilities_once(settings: Settings, early: tuple[float, ...]) -> None:
    held = Held(Call("1", (user("hi"),), (LOOKUP,), settings=settings))
    pieces = [Chunk('{"tool": "lookup", ', logprobs=(-1.0,)), Chunk('"arguments": {"id": "7"}}', logprobs=(-2.0,))]
    before = [item for piece in pieces for item in held.take(piece)]
    after = list(held.take(Chunk(finish=Finish.STOP, logprobs=(-3.0,))))
    assert not any(isinstance(item, Failure) for item in before + after)
    told = [[one for item in items if isinstance(item, Chunk) for one in item.logprobs] for items in (before, after)]
    assert tuple(told[0]) == early
    assert told[0] + told[1] == [-1.0, -2.0, -3.0]
