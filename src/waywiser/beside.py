"""Requests that run side by side, for hedging: begun without waiting, heard of in the order in which they speak.

Blocking requests run in threads of their own. A thread can't be stopped: a stream that was dropped is closed as soon as
it speaks, and a whole answer is read and forgotten, within the time its model may be silent. Neither keeps the process
from ending. On an event loop what is dropped is cancelled at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from waywiser.core.calls import Chunk, Failure, Outcome
from waywiser.core.effects import Begin, Heard
from waywiser.health import HealthBoard
from waywiser.ports import Clock, Upstream
from waywiser.tally import CIRCUIT_OPEN, Tally

Piece: TypeAlias = Chunk | Failure
Blocking: TypeAlias = Generator[Piece, None, None]
Async: TypeAlias = AsyncGenerator[Piece, None]
Rest = TypeVar("Rest")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Spoken(Generic[Rest]):
    """A stream that has said something: its first pieces, the last of which says it, and the rest."""

    head: tuple[Piece, ...]
    rest: Rest


Came: TypeAlias = Outcome | Spoken[Rest]


class _Lanes(Generic[Done]):
    """The requests under way, by lane. `Done` is what waits for one of them."""

    def __init__(self, upstreams: Mapping[str, Upstream], board: HealthBoard, clock: Clock) -> None:
        self._upstreams = upstreams
        self._board = board
        self._clock = clock
        self._running: dict[int, tuple[Begin, Tally, Done]] = {}
        self._heard: set[int] = set()

    def _unheard(self) -> list[tuple[int, Done]]:
        return [(lane, done) for lane, (_, _, done) in self._running.items() if lane not in self._heard]

    def _told(self, lane: int, came: Came[Rest]) -> Heard:
        self._heard.add(lane)
        outcome: Outcome | None
        if isinstance(came, Spoken):
            last = came.head[-1] if came.head else None
            outcome = last if isinstance(last, Failure) else None
        else:
            outcome = came
        return self._running[lane][1].heard(lane, outcome)

    def _nobody(self) -> Heard:
        return Heard(None, None, self._clock.now(), self._clock.jitter())


class Beside(_Lanes[Future[Came[Blocking]]]):
    """The requests of one call that run side by side, blocking."""

    def begin(self, asked: Begin) -> float:
        """Send a request in a thread of its own."""
        self._heard.discard(asked.lane)
        tally, done = Tally.begun(self._board, self._clock, asked.model.name), Future[Came[Blocking]]()
        self._running[asked.lane] = (asked, tally, done)
        if tally.admitted:
            work = (self._run, asked, done)
            threading.Thread(target=copy_context().run, args=work, name="waywiser-beside", daemon=True).start()
        else:
            done.set_result(Spoken((CIRCUIT_OPEN,), _empty()) if asked.stream else CIRCUIT_OPEN)
        return tally.began_s

    def wait(self, patience_s: float | None) -> Heard:
        """Wait for the first request not heard of yet. Raises what a bug of its upstream raised."""
        running = self._unheard()
        wait([done for _, done in running], patience_s, FIRST_COMPLETED)
        return next((self._told(lane, done.result()) for lane, done in running if done.done()), self._nobody())

    def drop(self, lane: int) -> None:
        """Give a request up."""
        asked, tally, done = self._running.pop(lane)
        tally.outrun(stream=asked.stream)
        done.add_done_callback(_close)

    def follow(self, lane: int) -> tuple[Tally, Blocking]:
        """Hand a stream over that was heard of; what it has said comes first."""
        _, tally, done = self._running.pop(lane)
        return tally, _followed(_spoken(done.result()))

    def close(self) -> None:
        """Give up whatever still runs."""
        while self._running:
            _, tally, done = self._running.popitem()[1]
            tally.let_go()
            done.add_done_callback(_close)

    def _run(self, asked: Begin, done: Future[Came[Blocking]]) -> None:
        try:
            upstream = self._upstreams[asked.model.api]
            if asked.stream:
                rest = upstream.stream(asked.model, asked.call, asked.timeout_s)
                done.set_result(Spoken(_head(rest), rest))
            else:
                done.set_result(upstream.send(asked.model, asked.call, asked.timeout_s))
        except BaseException as error:  # noqa: BLE001 - raised where the request is waited for
            done.set_exception(error)


class BesideAsync(_Lanes[asyncio.Future[Came[Async]]]):
    """The requests of one call that run side by side, on an event loop."""

    async def begin(self, asked: Begin) -> float:
        """Send a request in a task of its own."""
        self._heard.discard(asked.lane)
        tally = await Tally.abegun(self._board, self._clock, asked.model.name)
        done: asyncio.Future[Came[Async]]
        if tally.admitted:
            done = asyncio.ensure_future(self._run(asked))
        else:
            done = asyncio.get_running_loop().create_future()
            done.set_result(Spoken((CIRCUIT_OPEN,), _aempty()) if asked.stream else CIRCUIT_OPEN)
        self._running[asked.lane] = (asked, tally, done)
        return tally.began_s

    async def wait(self, patience_s: float | None) -> Heard:
        """Wait for the first request not heard of yet. Raises what a bug of its upstream raised."""
        running = self._unheard()
        await asyncio.wait([done for _, done in running], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        return next((self._told(lane, done.result()) for lane, done in running if done.done()), self._nobody())

    async def drop(self, lane: int) -> None:
        """Give a request up."""
        asked, tally, done = self._running.pop(lane)
        tally.outrun(stream=asked.stream)
        await self._stop(done)

    def follow(self, lane: int) -> tuple[Tally, Async]:
        """Hand a stream over that was heard of; what it has said comes first."""
        _, tally, done = self._running.pop(lane)
        return tally, _afollowed(_spoken(done.result()))

    async def close(self) -> None:
        """Give up whatever still runs."""
        while self._running:
            _, tally, done = self._running.popitem()[1]
            tally.let_go()
            await self._stop(done)

    @staticmethod
    async def _stop(done: asyncio.Future[Came[Async]]) -> None:
        done.cancel()
        await asyncio.wait([done])
        if not done.cancelled() and done.exception() is None and isinstance(came := done.result(), Spoken):
            await came.rest.aclose()

    async def _run(self, asked: Begin) -> Came[Async]:
        upstream = self._upstreams[asked.model.api]
        if not asked.stream:
            return await upstream.asend(asked.model, asked.call, asked.timeout_s)
        rest = upstream.astream(asked.model, asked.call, asked.timeout_s)
        head: list[Piece] = []
        try:
            async for piece in rest:
                head.append(piece)
                if _says(piece):
                    break
        except BaseException:
            await rest.aclose()
            raise
        return Spoken(tuple(head), rest)


def _says(piece: Piece) -> bool:
    return isinstance(piece, Failure) or bool(piece.text or piece.tool_calls or piece.thinking or piece.finish)


def _head(rest: Blocking) -> tuple[Piece, ...]:
    head = []
    for piece in rest:
        head.append(piece)
        if _says(piece):
            break
    return tuple(head)


def _spoken(came: Came[Rest]) -> Spoken[Rest]:
    if not isinstance(came, Spoken):
        raise TypeError("only a stream can be followed")
    return came


def _close(done: Future[Came[Blocking]]) -> None:
    """Close the stream that came too late; a bug of its upstream is of no interest any more."""
    if done.exception() is None and isinstance(came := done.result(), Spoken):
        came.rest.close()


def _followed(spoken: Spoken[Blocking]) -> Blocking:
    try:
        yield from spoken.head
        yield from spoken.rest
    finally:
        spoken.rest.close()


async def _afollowed(spoken: Spoken[Async]) -> Async:
    try:
        for piece in spoken.head:
            yield piece
        async for piece in spoken.rest:
            yield piece
    finally:
        await spoken.rest.aclose()


def _empty() -> Blocking:
    yield from ()


async def _aempty() -> Async:
    return
    yield
