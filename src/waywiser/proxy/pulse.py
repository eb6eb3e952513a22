"""Signs of life: a stream that has said nothing for a while says so, since proxies drop connections that are silent.

Steps that nobody reads are held back until they are whole, so their streams can be silent for long. The first sign
sends the head of the answer; an error that comes after it is told within the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from waywiser.proxy.http import Pairs, Request

PULSE_S = 15.0


class Pulse:
    """Sends a comment whenever `PULSE_S` seconds have passed without a piece. Use it around the reading of a stream."""

    __slots__ = ("_headers", "_last_s", "_loop", "_request", "_task", "_timer")

    def __init__(self, request: Request, headers: Callable[[], Pairs]) -> None:
        self._request = request
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(PULSE_S, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def beat(self) -> None:
        """Note that a piece is sent."""
        self._last_s = self._loop.time()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._last_s
        if silent_s >= PULSE_S and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._sign())
            self.beat()
        self._timer = self._loop.call_later(max(PULSE_S - silent_s, PULSE_S / 4), self._look)

    async def _sign(self) -> None:
        if not self._request.started:
            await self._request.begin_stream(self._headers())
        await self._request.piece(b": waiting\n\n")
