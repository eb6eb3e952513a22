"""HTTP as the proxy needs it, straight on ASGI: a request read within limits, an answer whole or in pieces.

No framework is in between: it would cost more than routing does (a Starlette request and its middleware take longer
than the whole decision). Whoever reads too slowly, or goes away, has its work cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any, Self, TypeAlias

from waywiser.proxy.troubles import Denied

Message: TypeAlias = MutableMapping[str, Any]  # ASGI's own words: dictionaries of strings
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Pairs: TypeAlias = Iterable[tuple[str, str]]

JSON_TYPE = "application/json"
WATCH_AFTER_S = 0.02
"""Most requests are answered before anybody could have gone away: until then nobody looks."""


class Request:
    """One request: its head at once, its body when it is asked for."""

    __slots__ = ("_headers", "_receive", "_send", "method", "path", "started")

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self.started = False

    def header(self, name: bytes) -> str:
        """Return a header by its lower-case name; empty when it is not there."""
        value = self._headers.get(name)
        return value.decode("latin-1").strip() if value is not None else ""

    def headers_from(self, prefix: bytes) -> dict[str, str]:
        """Return the headers whose lower-case names begin with `prefix`, by the rest of their names."""
        return {
            name[len(prefix) :].decode("latin-1"): value.decode("latin-1").strip()
            for name, value in self._headers.items()
            if name.startswith(prefix)
        }

    async def body(self, limit: int, timeout_s: float) -> bytes:
        """Read the body. Raises `Denied` for one that is too long, too slow, or whose client has gone."""
        said = self._headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > limit:
            raise _too_long(limit)
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    body: bytes = message.get("body", b"")
                    if len(body) > limit:
                        raise _too_long(limit)
                    return body
                return await self._rest(message, limit)
        except TimeoutError:
            raise Denied(408, "request_timeout", f"the request took longer than {timeout_s:g} s to arrive") from None

    async def _rest(self, message: Message, limit: int) -> bytes:
        pieces = bytearray()
        while message["type"] == "http.request":
            pieces += message.get("body", b"")
            if len(pieces) > limit:
                raise _too_long(limit)
            if not message.get("more_body"):
                return bytes(pieces)
            message = await self._receive()
        raise ClientGone

    async def answer(self, status: int, body: bytes, headers: Pairs = (), kind: str = JSON_TYPE) -> None:
        """Send a whole answer."""
        head = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), *_encoded(headers)]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_stream(self, headers: Pairs = ()) -> None:
        """Send the head of an event stream."""
        head = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the pieces back
            *_encoded(headers),
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": head})

    async def piece(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of a stream; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    def watch(self, slow_s: float) -> Watch:
        """Watch the client while its answer is made. Use it as a context manager around everything that takes time."""
        return Watch(self._receive, slow_s)


class ClientGone(Exception):  # noqa: N818 - nobody is left to be told of an error
    """The client closed its connection before its request was whole."""


class Watch:
    """Cancels the work of a request whose client went away, or stopped reading for `slow_s` seconds.

    The work ends in `asyncio.CancelledError`, which leaving the context turns into a quiet end.
    """

    __slots__ = ("_handle", "_loop", "_receive", "_sending_since", "_slow_s", "_task", "_waiter", "gone")

    def __init__(self, receive: Receive, slow_s: float) -> None:
        self._receive = receive
        self._slow_s = slow_s
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Task[None] | None = None
        self._sending_since = 0.0
        self.gone = ""

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._handle = self._loop.call_later(WATCH_AFTER_S, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._handle.cancel()
        if self._waiter is not None:
            self._waiter.cancel()
        if self.gone and kind is asyncio.CancelledError and self._task is not None:
            return self._task.uncancel() == 0  # anything else that cancels the task still does
        return False

    def sending(self) -> None:
        """Note that a piece is about to be sent."""
        self._sending_since = self._loop.time()

    def sent(self) -> None:
        """Note that it was taken."""
        self._sending_since = 0.0

    def _begin(self) -> None:
        self._waiter = self._loop.create_task(self._wait())
        self._handle = self._loop.call_later(self._slow_s / 4, self._look)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop("the client went away")

    def _look(self) -> None:
        if self._sending_since and self._loop.time() - self._sending_since > self._slow_s:
            self._stop(f"the client read nothing for {self._slow_s:g} s")
        else:
            self._handle = self._loop.call_later(self._slow_s / 4, self._look)

    def _stop(self, why: str) -> None:
        if not self.gone and self._task is not None:
            self.gone = why
            self._task.cancel()


def _too_long(limit: int) -> Denied:
    return Denied(
        413, "request_too_large", f"body: longer than the {limit} bytes allowed", headers=(("connection", "close"),)
    )


def _encoded(headers: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
