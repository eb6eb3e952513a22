"""Blocking work of other people's code, waited for no longer than agreed.

A provider's package that blocks can't be cut from outside: Python has no way to stop a thread. So its work is done in a
thread of its own, and who asked for it waits only so long. What is overdue is left behind: its thread ends by itself
when the package lets go, and does not keep the process from ending. A package that never lets go keeps its thread, so
the number left behind is bounded, and beyond it nothing new is begun until one of them has come back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

MOST_STUCK = 32
"""How many threads may be left behind. A circuit opens long before; this bounds its probes, over days."""


class Overdue(Exception):  # noqa: N818 - says what it means
    """The work was not done in time."""


class Crowded(Exception):  # noqa: N818 - as above
    """Too much earlier work never came back."""


class Errands:
    """Starts errands while no more than `most` earlier ones are stuck."""

    def __init__(self, most: int = MOST_STUCK) -> None:
        self.stuck = 0
        self._most = most
        self._lock = threading.Lock()

    def begin(self) -> Errand:
        """Start a thread for one call. Raises `Crowded`. Whoever began an errand ends it."""
        if self.stuck >= self._most:
            raise Crowded(f"{self.stuck} earlier calls were given up and still have not come back")
        return Errand(self)

    def count(self, change: int) -> None:
        """Note that a thread was left behind, or came back after all."""
        with self._lock:
            self.stuck += change


class Errand:
    """One thread that does one piece of work after another, in the context of whoever began it."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._busy = False
        # A daemon, since the interpreter waits for all others before it ends.
        threading.Thread(target=copy_context().run, args=(self._run,), name="waywiser-errand", daemon=True).start()

    def do(self, work: Callable[[], T], timeout_s: float) -> T:
        """Do the work and hand over what it returns or raises; raise `Overdue` if that takes longer than `timeout_s`.

        After `Overdue` the errand can only be ended.
        """
        results: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

        def attempt() -> None:
            try:
                results.put((work(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                results.put((None, error))

        self._busy = True
        self._work.put(attempt)
        try:
            result, error = results.get(timeout=timeout_s)
        except Empty:
            raise Overdue from None
        self._busy = False
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error it is what the work returned

    async def ado(self, work: Callable[[], T], timeout_s: float) -> T:
        """Like `do`, for an event loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def tell(how: Callable[[Any], None], what: object) -> None:
            if not done.done():  # or nobody waits any longer
                how(what)

        def attempt() -> None:
            how: Callable[[Any], None]
            what: object
            try:
                how, what = done.set_result, work()
            except BaseException as error:  # noqa: BLE001 - as above
                how, what = done.set_exception, error
            with suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(tell, how, what)

        self._busy = True
        self._work.put(attempt)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await asyncio.wait([done])
        except TimeoutError:
            raise Overdue from None
        finally:
            done.cancel() or done.exception()  # whatever comes of it later, or came just now, is not missed
        self._busy = False
        return done.result()

    def end(self, last: Callable[[], object] | None = None, wait_s: float = 1.0) -> None:
        """Do the `last` thing, wait so long for it, and let the thread go.

        What is still at work does the last thing when it comes back.
        """
        try:
            if last is not None and wait_s and not self._busy:
                final, last = last, None
                with suppress(Exception):  # nobody is left who could want to know, and the thread must end
                    self.do(final, wait_s)
        finally:
            if self._busy or last is not None:
                self._errands.count(+1)
                self._work.put(partial(self._come_back, last))
            self._work.put(None)

    def _come_back(self, last: Callable[[], object] | None) -> None:
        try:
            if last is not None:
                with suppress(Exception):
                    last()
        finally:
            self._errands.count(-1)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
