"""Any LangChain chat model as an upstream, for providers whose wire we do not speak.

The model is called without callbacks of its own, so that a call is traced once and its tokens are streamed once. It is
waited for as long as the HTTP client waits for a socket, also where it blocks: see `errands.py`. Its own retries should
be off (`max_retries=0`): one place decides retries, and it is not there. Structured output is asked for as the model's
own `with_structured_output` does, natively or by a tool; the reply has it as JSON text either way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

import orjson
from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableParallel, RunnableSequence

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Outcome, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Text, Thinking
from waywiser.core.models import Model
from waywiser.upstream.errands import Crowded, Errands, Overdue
from waywiser.upstream.failures import from_exception
from waywiser.upstream.langchain_config import handed_down, without_handlers
from waywiser.upstream.langchain_logprobs import asking, read_logprobs
from waywiser.upstream.langchain_messages import from_core, read_finish, read_usage, to_core

_ALONE: RunnableConfig = {"callbacks": [], "tags": ["langsmith:hidden", "nostream"]}


class LangChainUpstream:
    """Answers calls with LangChain models, by the name the policy gives them."""

    def __init__(self, models: Mapping[str, BaseChatModel]) -> None:
        self._models = models
        self._errands = {name: Errands() for name in models}
        self._say_why: set[str] = set()  # the models that have said in a stream why they stopped

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer a call whole, or not at all after `timeout_s`."""
        try:
            errand = self._errands[model.name].begin()
        except Crowded as error:
            return _crowded(error, model)
        try:
            asked = self._bound(model, call, stream=False)
            return _reply(errand.do(partial(_invoked, asked, call), timeout_s), call)
        except Overdue:
            return _overdue(f"no answer within {timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 - whatever a provider's package raises is an outcome
            return from_exception(error, now_s=time.time())
        finally:
            errand.end()

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`, for an event loop."""
        if _blocks(self._models[model.name], stream=False):
            return await self._asend_aside(model, call, timeout_s)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                with handed_down(without_handlers()):
                    message = await self._bound(model, call, stream=False).ainvoke(_history(call), _ALONE)
                return _reply(message, call)
        except Exception as error:  # noqa: BLE001 - as above
            if limit.expired():
                return _overdue(f"no answer within {timeout_s:g} s")
            return from_exception(error, now_s=time.time())

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        """Answer a call in pieces; cut when silent for `timeout_s`."""
        try:
            errand = self._errands[model.name].begin()
        except Crowded as error:
            yield _crowded(error, model)
            return
        telling = _Telling(call, model.name, self._say_why)
        pieces: Iterator[AIMessageChunk] = iter(())
        try:
            pieces = self._bound(model, call, stream=True).stream(_history(call), _ALONE)
            while (piece := errand.do(partial(_next, pieces), timeout_s)) is not None:
                yield telling.chunk(piece)
        except Overdue:
            yield telling.broken(_overdue(f"silent for {timeout_s:g} s"))
        except Exception as error:  # noqa: BLE001 - as above
            yield telling.broken(from_exception(error, now_s=time.time()))
        else:
            yield telling.end()
        finally:
            errand.end(getattr(pieces, "close", None))

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`, for an event loop."""
        if _blocks(self._models[model.name], stream=True):
            async with aclosing(self._astream_aside(model, call, timeout_s)) as items:
                async for item in items:
                    yield item
            return
        telling = _Telling(call, model.name, self._say_why)
        limit = asyncio.timeout(timeout_s)
        try:
            bound = self._bound(model, call, stream=True)
            stream = cast("AsyncGenerator[AIMessageChunk, None]", bound.astream(_history(call), _ALONE))
            async with aclosing(stream) as pieces:  # or a stream that is dropped goes on until it is collected
                while True:
                    limit = asyncio.timeout(timeout_s)
                    async with limit:
                        with handed_down(without_handlers()):
                            piece = await anext(pieces, None)
                    if piece is None:
                        break
                    yield telling.chunk(piece)
        except Exception as error:  # noqa: BLE001 - as above
            late = limit.expired()
            failure = _overdue(f"silent for {timeout_s:g} s") if late else from_exception(error, now_s=time.time())
            yield telling.broken(failure)
        else:
            yield telling.end()

    async def _asend_aside(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer with a model that only blocks: the loop's own threads are few, and waited for when the loop ends."""
        try:
            errand = self._errands[model.name].begin()
        except Crowded as error:
            return _crowded(error, model)
        try:
            asked = self._bound(model, call, stream=False)
            return _reply(await errand.ado(partial(_invoked, asked, call), timeout_s), call)
        except Overdue:
            return _overdue(f"no answer within {timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 - as above
            return from_exception(error, now_s=time.time())
        finally:
            errand.end()

    async def _astream_aside(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `_asend_aside`, in pieces."""
        try:
            errand = self._errands[model.name].begin()
        except Crowded as error:
            yield _crowded(error, model)
            return
        telling = _Telling(call, model.name, self._say_why)
        pieces: Iterator[AIMessageChunk] = iter(())
        try:
            pieces = self._bound(model, call, stream=True).stream(_history(call), _ALONE)
            while (piece := await errand.ado(partial(_next, pieces), timeout_s)) is not None:
                yield telling.chunk(piece)
        except Overdue:
            yield telling.broken(_overdue(f"silent for {timeout_s:g} s"))
        except Exception as error:  # noqa: BLE001 - as above
            yield telling.broken(from_exception(error, now_s=time.time()))
        else:
            yield telling.end()
        finally:
            errand.end(getattr(pieces, "close", None), wait_s=0.0)

    def close(self) -> None:
        """Nothing of ours to release: the models belong to whoever made them."""

    async def aclose(self) -> None:
        """Nothing of ours to release."""

    def _bound(self, model: Model, call: Call, *, stream: bool) -> Runnable[Any, Any]:
        chat, settings = self._models[model.name], call.settings
        chosen: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_output_tokens,
            "seed": settings.seed,
            "stop": list(settings.stop) or None,
        }
        kwargs = {key: value for key, value in chosen.items() if value is not None} | dict(settings.extra)
        kwargs |= asking(chat, model, call, stream=stream)
        if call.response_format is not None:
            schema = orjson.loads(call.response_format.schema or '{"type":"object"}')
            name = call.response_format.name
            own = None if call.tools else _structured(chat, {"title": name, **schema})
            if own is not None:
                return own.bind(**kwargs)
            kwargs["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        if not call.tools:
            return chat.bind(**kwargs)
        choice = settings.tool_choice.removeprefix("tool:")
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": orjson.loads(tool.parameters),
                },
            }
            for tool in call.tools
        ]
        if choice:
            kwargs["tool_choice"] = "any" if choice == "required" else choice
        return chat.bind_tools(tools, **kwargs)


def _blocks(model: BaseChatModel, *, stream: bool) -> bool:
    """Whether LangChain would have a thread of the event loop's do this, since the model has no way of its own."""

    def own(method: str) -> bool:
        return all(
            getattr(type(model), method) is not getattr(base, method) for base in (BaseChatModel, SimpleChatModel)
        )

    if own("ainvoke") or own("astream") or (stream and own("_astream")):
        return False
    return (stream and own("_stream")) or not own("_agenerate")


def _invoked(asked: Runnable[Any, Any], call: Call) -> Any:
    with handed_down(without_handlers()):
        return asked.invoke(_history(call), _ALONE)


def _next(pieces: Iterator[AIMessageChunk]) -> AIMessageChunk | None:
    with handed_down(without_handlers()):
        return next(pieces, None)


def _history(call: Call) -> list[BaseMessage]:
    return [from_core(message) for message in call.messages]


def _structured(model: BaseChatModel, schema: dict[str, Any]) -> Runnable[Any, Any] | None:
    """The model as it binds itself for output of a schema, without the parser behind it; None where it has no way."""
    try:
        made = model.with_structured_output(schema, include_raw=True)
    except NotImplementedError:
        return None
    asked = made.first if isinstance(made, RunnableSequence) else None
    return asked.steps__.get("raw") if isinstance(asked, RunnableParallel) else None


def _reply(message: Any, call: Call) -> Reply:
    seen = to_core([message])[0]
    if _in_a_tool(call) and seen.tool_calls:
        seen = replace(seen, parts=(Text(seen.tool_calls[0].arguments),), tool_calls=())
    return Reply(
        seen.parts,
        seen.tool_calls,
        _finish(message, call),
        read_usage(message),
        str(message.response_metadata.get("model_name") or ""),
        str(message.response_metadata.get("id") or message.id or ""),
        read_logprobs(message, "".join(part.text for part in seen.parts if isinstance(part, Thinking))),
    )


def _in_a_tool(call: Call) -> bool:
    """Whether a tool call of the reply can only be the structured output that was asked for."""
    return call.response_format is not None and not call.tools


def _finish(message: Any, call: Call) -> Finish:
    finish = read_finish(message)
    return Finish.STOP if finish is Finish.TOOL_CALLS and _in_a_tool(call) else finish


def _chunk(piece: AIMessageChunk, call: Call) -> Chunk:
    if _in_a_tool(call) and piece.tool_call_chunks:
        said = "".join(delta["args"] or "" for delta in piece.tool_call_chunks)
        return Chunk(text=said, logprobs=read_logprobs(piece))
    parts = to_core([AIMessage(piece.content)])[0].parts
    text = "".join(part.text for part in parts if isinstance(part, Text))
    thinking = next((part for part in parts if isinstance(part, Thinking)), None)
    return Chunk(
        text=text,
        thinking=thinking,
        tool_calls=tuple(
            ToolCallDelta(delta["index"] or 0, delta["id"] or "", delta["name"] or "", delta["args"] or "")
            for delta in piece.tool_call_chunks
        ),
        logprobs=read_logprobs(piece) if text or thinking is None else (),
    )


def _as_one_piece(whole: AIMessage) -> AIMessageChunk:
    calls = enumerate(whole.tool_calls)
    return AIMessageChunk(
        content=whole.content,
        tool_call_chunks=[
            tool_call_chunk(name=call["name"], args=orjson.dumps(call["args"]).decode(), id=call["id"], index=index)
            for index, call in calls
        ],
        response_metadata=whole.response_metadata,
        usage_metadata=whole.usage_metadata,
    )


class _Telling:
    """One stream while it is told: what was said so far, and how it ended.

    Not every provider's package says why an answer ended, so that one without a reason is not cut for that. But where a
    model has given a reason before, a text that ends without one was cut, however cleanly its connection was closed.
    """

    def __init__(self, call: Call, model: str, say_why: set[str]) -> None:
        self._call = call
        self._model = model
        self._say_why = say_why
        self._whole: AIMessageChunk | None = None
        self._said = Assembly()

    def chunk(self, piece: AIMessage) -> Chunk:
        """Take the next piece and turn it into ours. A model without streams of its own gives one whole message."""
        if not isinstance(piece, AIMessageChunk):
            piece = _as_one_piece(piece)
        self._whole = piece if self._whole is None else self._whole + piece
        chunk = _chunk(piece, self._call)
        self._said.feed(chunk)
        return chunk

    def end(self) -> Chunk | Failure:
        """Say how the answer ended, when the model has come to its end."""
        whole = self._whole
        if whole is None:
            return Failure(FailureKind.MALFORMED, "the stream had no content")
        if whole.response_metadata.get("finish_reason") or whole.response_metadata.get("stop_reason"):
            self._say_why.add(self._model)
        elif self._model in self._say_why and not whole.tool_call_chunks:
            return self.broken(Failure(FailureKind.CUT_SHORT, "the stream ended without a finish reason"))
        return Chunk(
            finish=_finish(whole, self._call),
            usage=read_usage(whole) if whole.usage_metadata else None,
            model=str(whole.response_metadata.get("model_name") or ""),
        )

    def broken(self, failure: Failure) -> Failure:
        """Say what was said before the answer broke off. Whoever has begun to answer was connected."""
        if self._whole is None:
            return failure
        kind = FailureKind.CUT_SHORT if failure.kind is FailureKind.CONNECTION else failure.kind
        told = read_usage(self._whole) if self._whole.usage_metadata else Usage(estimated=True)
        said = self._said.reply() if self._said.characters else None
        return replace(failure, kind=kind, usage=told, partial=said)


def _overdue(message: str) -> Failure:
    """A silence that was not waited for any longer. What the provider did by then may be charged."""
    return Failure(FailureKind.TIMEOUT, message, usage=Usage(estimated=True))


def _crowded(error: Crowded, model: Model) -> Failure:
    return Failure(
        FailureKind.OVERLOADED, f"{model.name} was not asked: {error}; give it a timeout of its own", sent=False
    )
