"""The upstream that speaks HTTP: picks a codec, moves the bytes, and turns whatever happens into a value.

It never retries and never raises for trouble on the provider's side. A timeout covers connecting, the wait for the
head of the response, and each silence after it; not the whole call, which may well stream for minutes. A stream that is
closed, or a task that is cancelled, closes its connection at once, so that the provider stops working.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from http.client import HTTPException
from typing import TYPE_CHECKING

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome, Reply, Usage
from waywiser.core.models import Model
from waywiser.upstream import failures, schema_tools
from waywiser.upstream.anthropic_wire import AnthropicCodec
from waywiser.upstream.connections import ConnectionPool, Exchange, LoopSessions, Unreached, tls
from waywiser.upstream.openai_wire import OpenAICodec
from waywiser.upstream.reading import Reading, chunks_of
from waywiser.upstream.wire import Codec, Request, Unencodable, malformed

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_PIECE = 1 << 16
# aiohttp's names for "no connection came about"; by name, since importing aiohttp is left to those who need it
_UNREACHED = frozenset({
    "ConnectionTimeoutError", "ClientConnectorError", "ClientConnectorDNSError", "ClientConnectorSSLError",
    "ClientConnectorCertificateError", "ClientProxyConnectionError", "InvalidUrlClientError", "NonHttpUrlClientError",
})  # fmt: skip


def key_from_environment(model: Model) -> str:
    """Read a model's key from the environment variable that the catalogue names; empty when there is none."""
    return os.environ.get(model.key_env, "") if model.key_env else ""


@dataclass(frozen=True, slots=True)
class _Sending:
    """A call made ready: the request, what reads the answer, and what the answer must be turned into."""

    codec: Codec
    request: Request
    key: str
    original: Call | None  # the call whose tools went out as a schema, if they did


class HttpUpstream:
    """Answers calls over HTTP, for every model whose `api` is `openai` or `anthropic`.

    `keys` finds the key of a model; `now` is the time, for `Retry-After` dates.
    """

    def __init__(
        self, keys: Callable[[Model], str] = key_from_environment, *, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._now = now
        self._codecs: Mapping[str, Codec] = {"openai": OpenAICodec(), "anthropic": AnthropicCodec()}
        self._pool = ConnectionPool()
        self._sessions = LoopSessions()

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer a call whole."""
        sending = self._prepare(model, call, stream=False)
        if isinstance(sending, Failure):
            return sending
        begun = False
        try:
            exchange = self._pool.send(sending.request, timeout_s)
            begun = True
            try:
                body = exchange.response.read()
            except BaseException:
                exchange.discard()
                raise
            exchange.release()
        except (OSError, HTTPException, ValueError) as error:
            return self._broken(error, sending, begun=begun)
        return self._outcome(sending, exchange.response.status, _lower(exchange), body)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`, for an event loop."""
        sending = self._prepare(model, call, stream=False)
        if isinstance(sending, Failure):
            return sending
        begun = False
        try:
            async with await self._post(sending, timeout_s) as response:
                begun = True
                body = await response.read()
        except Exception as error:  # noqa: BLE001 - aiohttp's tree is wide; failures.py sorts it, and keeps the unknown
            return self._broken(error, sending, begun=begun)
        return self._outcome(sending, response.status, _lowered(response), body)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        """Answer a call in pieces. The last item is a chunk with finish and usage, or a `Failure`."""
        sending = self._prepare(model, call, stream=True)
        if isinstance(sending, Failure):
            yield sending
        elif sending.original is None:
            yield from self._pieces(sending, timeout_s)
        else:
            held = schema_tools.Held(sending.original)
            for item in self._pieces(sending, timeout_s):
                yield from held.take(item)

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`, for an event loop."""
        sending = self._prepare(model, call, stream=True)
        if isinstance(sending, Failure):
            yield sending
            return
        held = schema_tools.Held(sending.original) if sending.original is not None else None
        pieces = self._apieces(sending, timeout_s)
        try:
            async for item in pieces:
                for out in (item,) if held is None else held.take(item):
                    yield out
        finally:
            await pieces.aclose()

    def close(self) -> None:
        """Close the idle connections of the blocking side."""
        self._pool.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._sessions.aclose()

    def _prepare(self, model: Model, call: Call, *, stream: bool) -> _Sending | Failure:
        codec = self._codecs.get(model.api)
        if codec is None:
            return Failure(
                FailureKind.INVALID_REQUEST, f"{model.name}: no HTTP dialect is called {model.api!r}", sent=False
            )
        key = self._keys(model)
        if model.key_env and not key:
            return Failure(
                FailureKind.UNAUTHORISED, f"{model.name}: the environment has no {model.key_env}", sent=False
            )
        original = call if schema_tools.needed(model, call) else None
        try:
            outgoing = schema_tools.as_schema(call) if original is not None else call
            return _Sending(codec, codec.request(model, outgoing, key, stream=stream), key, original)
        except Unencodable as error:
            return Failure(FailureKind.INVALID_REQUEST, str(error), sent=False)

    def _outcome(self, sending: _Sending, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        body = _unpacked(body, headers)
        if status != 200:
            return failures.from_response(status, headers, body, now_s=self._now(), secret=sending.key)
        if "html" in headers.get("content-type", ""):
            return malformed(f"the response is {headers['content-type']}, not JSON")
        outcome = sending.codec.reply(body)
        if sending.original is not None and isinstance(outcome, Reply):
            return schema_tools.as_tools(outcome, sending.original)
        return outcome

    def _broken(self, error: Exception, sending: _Sending, *, begun: bool) -> Failure:
        """Turn an exception into a failure; a connection that broke within the body cut the answer short.

        What had reached the provider by then may be charged: the usage is not zero but unknown.
        """
        failure = failures.from_exception(error, now_s=self._now(), secret=sending.key)
        if isinstance(error, Unreached) or type(error).__name__ in _UNREACHED:
            failure = replace(failure, sent=False)
        else:
            failure = replace(failure, usage=Usage(estimated=True))
        if begun and failure.kind is FailureKind.CONNECTION:
            return replace(
                failure,
                kind=FailureKind.CUT_SHORT,
                message=f"the connection broke in the middle of the answer: {failure.message}",
            )
        return failure

    def _pieces(self, sending: _Sending, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        try:
            exchange = self._pool.send(sending.request, timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            yield self._broken(error, sending, begun=False)
            return
        reading = Reading(sending.codec.decoder())
        try:
            headers = _lower(exchange)
            if not _is_stream(exchange.response.status, headers):
                try:
                    body = exchange.response.read()
                except (OSError, HTTPException) as error:
                    yield self._broken(error, sending, begun=True)
                    return
                yield from self._whole(sending, exchange.response.status, headers, body)
                return
            while not reading.over:
                try:
                    data = exchange.response.read1(_PIECE)
                except (OSError, HTTPException) as error:
                    items = reading.broken(self._broken(error, sending, begun=True))
                else:
                    items = reading.feed(data) if data else reading.end()
                if reading.over:
                    exchange.drain()
                yield from items
        finally:
            exchange.release()

    async def _apieces(self, sending: _Sending, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        try:
            response = await self._post(sending, timeout_s)
        except Exception as error:  # noqa: BLE001 - as in asend
            yield self._broken(error, sending, begun=False)
            return
        reading = Reading(sending.codec.decoder())
        try:
            if not _is_stream(response.status, _lowered(response)):
                try:
                    body = await response.read()
                except Exception as error:  # noqa: BLE001 - as in asend
                    yield self._broken(error, sending, begun=True)
                    return
                for item in self._whole(sending, response.status, _lowered(response), body):
                    yield item
                return
            while not reading.over:
                try:
                    data = await response.content.readany()
                except Exception as error:  # noqa: BLE001 - as in asend
                    items = reading.broken(self._broken(error, sending, begun=True))
                else:
                    items = reading.feed(data) if data else reading.end()
                for item in items:
                    yield item
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    def _whole(
        self, sending: _Sending, status: int, headers: Mapping[str, str], body: bytes
    ) -> Generator[Chunk | Failure, None, None]:
        """Answer a stream from a response that is none: an error, or a server that does not stream."""
        kind = headers.get("content-type", "")
        if status == 200 and "json" not in kind:
            yield malformed(f"the response is {kind}, not an event stream")
            return
        plain = _Sending(sending.codec, sending.request, sending.key, None)
        outcome = self._outcome(plain, status, headers, body)
        if isinstance(outcome, Failure):
            yield outcome
        else:
            yield from chunks_of(outcome)

    async def _post(self, sending: _Sending, timeout_s: float) -> aiohttp.ClientResponse:
        session = await self._sessions.session()
        request = sending.request
        secure = tls() if request.url.startswith("https") else True
        return await session.post(
            _parsed(request.url),
            data=request.body,
            headers=request.headers,
            timeout=_timeout(timeout_s),
            ssl=secure,
            allow_redirects=False,
        )


@lru_cache(maxsize=64)
def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp  # noqa: PLC0415 - see connections.py

    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds, sock_read=seconds)


@lru_cache(maxsize=256)
def _parsed(url: str) -> URL:
    import yarl  # noqa: PLC0415 - see connections.py

    return yarl.URL(url)


def _is_stream(status: int, headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "")
    return status == 200 and (not kind or kind.startswith("text/event-stream"))


def _lower(exchange: Exchange) -> dict[str, str]:
    return {name.lower(): value for name, value in exchange.response.getheaders()}


def _lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Unpack gzip that was sent although it was not asked for. aiohttp has done it by then, so look at the bytes."""
    if headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
        try:
            return zlib.decompress(body, wbits=31)
        except zlib.error:
            return body
    return body
