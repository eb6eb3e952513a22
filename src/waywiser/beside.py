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
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from waywiser.core.calls import Chunk, Failure, Outcome
from waywiser.core.effects import Begin, Heard
from waywiser.health import HealthBoard
from waywiser.ports import Clock, Upstream
from waywiser.tally import CIRCUIT_OPEN, CUT, Tally

Piece: TypeAlias = Chunk | Failure
Blocking: TypeAlias = Generator[Piece, None, None]
Async: TypeAlias = AsyncGenerator[Piece, None]
Rest = TypeVar("Rest")
Done = TypeVar("Done")

AHEAD = 16
"""So many pieces of a stream are read before they are asked for: changing tasks costs more than a piece does."""
STOP_S = 0.25
"""So long a request that was cancelled may take to end before it is left to itself."""


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
        return self._running[lane][1].heard(lane, _outcome(came))

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
            done.set_result(Spoken((CIRCUIT_OPEN,), told()) if asked.stream else CIRCUIT_OPEN)
        return tally.began_s

    def wait(self, patience_s: float | None) -> Heard:
        """Wait for the first request not heard of yet. Raises what a bug of its upstream raised."""
        running = self._unheard()
        wait([done for _, done in running], patience_s, FIRST_COMPLETED)
        return next((self._told(lane, done.result()) for lane, done in running if done.done()), self._nobody())

    def drop(self, lane: int) -> Outcome | None:
        """Give a request up; the answer is what it had come to."""
        asked, tally, done = self._running.pop(lane)
        late = _outcome(done.result()) if done.done() and done.exception() is None else None
        tally.outrun(late, stream=asked.stream)
        done.add_done_callback(_close)
        return late

    def follow(self, lane: int) -> tuple[Tally, Blocking]:
        """Hand a stream over that was heard of; what it has said comes first. No other one is needed any more."""
        _, tally, done = self._running.pop(lane)
        self.close()
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


class BesideAsync(_Lanes[asyncio.Future[Came["_Reader"]]]):
    """The requests of one call that run side by side, on an event loop."""

    async def begin(self, asked: Begin) -> float:
        """Send a request in a task of its own."""
        self._heard.discard(asked.lane)
        tally = await Tally.abegun(self._board, self._clock, asked.model.name)
        done: asyncio.Future[Came[_Reader]]
        if tally.admitted:
            done = asyncio.ensure_future(self._run(asked))
        else:
            done = asyncio.get_running_loop().create_future()
            done.set_result(Spoken((CIRCUIT_OPEN,), _Reader(atold())) if asked.stream else CIRCUIT_OPEN)
        self._running[asked.lane] = (asked, tally, done)
        return tally.began_s

    async def wait(self, patience_s: float | None) -> Heard:
        """Wait for the first request not heard of yet. Raises what a bug of its upstream raised."""
        running = self._unheard()
        await asyncio.wait([done for _, done in running], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        return next((self._told(lane, done.result()) for lane, done in running if done.done()), self._nobody())

    async def drop(self, lane: int) -> Outcome | None:
        """Give a request up; the answer is what it had come to."""
        asked, tally, done = self._running.pop(lane)
        good = done.done() and not done.cancelled() and done.exception() is None
        late = _outcome(done.result()) if good else None
        tally.outrun(late, stream=asked.stream)
        await _stop(done)
        return late

    async def follow(self, lane: int) -> tuple[Tally, Async]:
        """Hand a stream over that was heard of; what it has said comes first. No other one is needed any more."""
        _, tally, done = self._running.pop(lane)
        await self.close()
        return tally, _afollowed(_spoken(done.result()))

    async def close(self) -> None:
        """Give up whatever still runs. All are told to stop before any is waited for: who waits may be stopped, too."""
        running, self._running = self._running, {}
        for _, tally, done in running.values():
            tally.let_go()
            done.cancel()
        for _, _, done in running.values():
            await _stop(done)

    async def _run(self, asked: Begin) -> Came[_Reader]:
        upstream = self._upstreams[asked.model.api]
        if not asked.stream:
            return await upstream.asend(asked.model, asked.call, asked.timeout_s)
        reader = _Reader(upstream.astream(asked.model, asked.call, asked.timeout_s))
        try:
            return Spoken(await reader.head, reader)
        except BaseException:
            await reader.stop()
            raise


class _Reader:
    """Reads a stream in one task from its first piece to its last, a little ahead of whoever follows it.

    A stream may hold on to the task that reads it, by a timeout or a context that it entered: moved to another one
    after its first words it would break. `head` is what it said up to those.
    """

    def __init__(self, stream: Async) -> None:
        self.head: asyncio.Future[tuple[Piece, ...]] = asyncio.get_running_loop().create_future()
        self._ahead: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD)
        self._task = asyncio.ensure_future(self._read(stream))

    async def rest(self) -> Async:
        """What follows the head. Raises what a bug of the upstream raised."""
        while (piece := await self._ahead.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            self._room.release()
            yield piece

    async def stop(self) -> None:
        """Have the stream closed."""
        await _stop(self._task)

    async def _read(self, stream: Async) -> None:
        head: list[Piece] = []
        last: BaseException | None = None
        try:
            async with aclosing(stream):
                async for piece in stream:
                    if self.head.done():
                        await self._room.acquire()
                        self._ahead.put_nowait(piece)
                        continue
                    head.append(piece)
                    if _says(piece):
                        self.head.set_result(tuple(head))
        except Exception as error:  # noqa: BLE001 - raised where the stream is waited for
            last = error
        except BaseException as error:
            last = error
            raise
        finally:
            self._ahead.put_nowait(last)
            if not self.head.done():
                if isinstance(last, asyncio.CancelledError):
                    self.head.cancel()
                elif last is not None:
                    self.head.set_exception(last)
                else:
                    self.head.set_result(tuple(head))


async def _stop(done: asyncio.Future[Done]) -> None:
    """Cancel, and wait for the end, but not for ever: who was dropped must not hold up who was quicker."""
    done.cancel()
    await asyncio.wait([done], timeout=STOP_S)
    if not done.done():
        done.add_done_callback(_forgotten)
    elif not done.cancelled() and done.exception() is None:
        came = done.result()
        if isinstance(came, Spoken):
            await came.rest.stop()


def _forgotten(done: asyncio.Future[Done]) -> None:
    """Take note of a bug that nobody waits for any more, or asyncio would complain that nobody did."""
    if not done.cancelled():
        done.exception()


def _says(piece: Piece) -> bool:
    return isinstance(piece, Failure) or piece.says_something or piece.finish is not None


def _outcome(came: Came[Rest]) -> Outcome | None:
    """What a request came to; None for a stream that has begun to speak. One that ended without a word has failed."""
    if not isinstance(came, Spoken):
        return came
    last = came.head[-1] if came.head else None
    if last is None or not _says(last):
        return CUT
    return last if isinstance(last, Failure) else None


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


async def _afollowed(spoken: Spoken[_Reader]) -> Async:
    try:
        for piece in spoken.head:
            yield piece
        async for piece in spoken.rest.rest():
            yield piece
    finally:
        await spoken.rest.stop()


def told(*pieces: Piece) -> Blocking:
    """A stream that is told already."""
    yield from pieces


async def atold(*pieces: Piece) -> Async:
    """Like `told`, for an event loop."""
    for piece in pieces:
        yield piece
