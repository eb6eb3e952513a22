"""Deadlines for what can't be interrupted: a model call or a tool that doesn't come back.

A thread can't be stopped from outside. So where a deadline is set, each blocking leaf (one model call, one tool call)
runs in a daemon thread of its own, with the caller's context; when time is up it's left behind, and it can neither hold
up the run nor the end of the process. Coroutines are cancelled as usual. Without a deadline nothing changes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Generic, TypeVar

T = TypeVar("T")
_ENDS_AT: ContextVar[float | None] = ContextVar("waywiser_deadline", default=None)


class Late(TimeoutError):  # noqa: N818 - "Error" would say nothing more
    """The deadline of a sub-task has passed."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Everything inside must be done in so many seconds; an earlier deadline around it stays in force."""
    around = _ENDS_AT.get()
    ends_at = time.monotonic() + seconds
    token = _ENDS_AT.set(ends_at if around is None else min(ends_at, around))
    try:
        yield
    finally:
        _ENDS_AT.reset(token)


def remaining_s() -> float | None:
    """Seconds left, None without a deadline. Raises `Late` when there are none."""
    ends_at = _ENDS_AT.get()
    if ends_at is None:
        return None
    left = ends_at - time.monotonic()
    if left <= 0:
        raise Late("the deadline has passed")
    return left


def within(work: Callable[[], T]) -> T:
    """Do blocking work within the deadline, if there is one. Raises `Late`, and whatever the work raises."""
    left = remaining_s()
    if left is None:
        return work()
    outcome = _Outcome[T]()
    _start(work, outcome)
    if not outcome.done.wait(left):
        raise Late("the deadline has passed")
    return outcome.result()


async def awithin(work: Awaitable[T]) -> T:
    """Await work within the deadline, if there is one. Raises `Late`, and whatever the work raises."""
    ends_at = _ENDS_AT.get()
    if ends_at is None:
        return await work
    try:
        return await asyncio.wait_for(work, max(0.0, ends_at - time.monotonic()))
    except TimeoutError as error:
        if time.monotonic() < ends_at:
            raise  # the work's own
        raise Late("the deadline has passed") from error


async def in_thread(work: Callable[[], T]) -> T:
    """Await blocking work in a daemon thread, so that work left behind can't hold up the end of the event loop."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def finished() -> None:
        with suppress(RuntimeError):  # the loop has ended without waiting for us
            loop.call_soon_threadsafe(wake)

    outcome = _Outcome[T](finished)
    _start(work, outcome)
    await waiter
    return outcome.result()


class _Outcome(Generic[T]):
    """What comes of work in another thread."""

    def __init__(self, finished: Callable[[], None] = lambda: None) -> None:
        self.done = threading.Event()
        self.finished = finished
        self.value: list[T] = []
        self.error: BaseException | None = None

    def take(self, work: Callable[[], T]) -> None:
        try:
            self.value.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the work was asked for
            self.error = error
        self.done.set()
        self.finished()

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value[0]


def _start(work: Callable[[], T], outcome: _Outcome[T]) -> None:
    context = copy_context()
    threading.Thread(target=lambda: outcome.take(lambda: context.run(work)), daemon=True).start()
