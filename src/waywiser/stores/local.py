"""The half that the memory and the SQLite store share: one lock, one way to wait, and both faces of every method.

A subclass implements the operations (`_open`, `_reserve`, …) once, as plain functions that either finish at once or
raise `Busy`. `_turns` tries such an operation and yields how long to wait before the next try; the blocking face
sleeps that long, the async face awaits it. An event loop is never blocked by the lock.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

from waywiser.core.budget import Amounts, Claim, Hold, Scope, Shortfall, Standing
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.errors import StoreError

T = TypeVar("T")

FIRST_PAUSE_S = 0.0002
LONGEST_PAUSE_S = 0.02


class Busy(Exception):  # noqa: N818 - not an error: somebody else is writing
    """The operation did nothing, because another process holds the write lock. Try again."""


class LocalStore(ABC):
    """A store whose operations take microseconds, so that async callers may run them inline."""

    def __init__(self, busy_timeout_s: float) -> None:
        self._lock = threading.Lock()
        self._busy_timeout_s = busy_timeout_s

    def open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Read a session: its trail, the standing of each scope, and what steps of `policy` have cost so far."""
        return self._now(partial(self._open, session, path, now_s, policy))

    async def aopen(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Like `open`, for an event loop."""
        return await self._soon(partial(self._open, session, path, now_s, policy))

    def reserve(self, claim: Claim) -> Hold | Shortfall:
        """Set money aside in every scope of the claim, or in none. A live hold of the same id is returned as it is.

        Raises `StoreError` for an id that is settled already.
        """
        return self._now(partial(self._reserve, claim))

    async def areserve(self, claim: Claim) -> Hold | Shortfall:
        """Like `reserve`, for an event loop."""
        return await self._soon(partial(self._reserve, claim))

    def settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Replace a hold by what was used, append the step, keep the receipt; return the standings of the path."""
        return self._now(partial(self._settle, settlement))

    async def asettle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Like `settle`, for an event loop."""
        return await self._soon(partial(self._settle, settlement))

    def record(self, receipt: Receipt) -> None:
        """Keep a receipt. One that is kept already is replaced."""
        self._now(partial(self._record, receipt))

    async def arecord(self, receipt: Receipt) -> None:
        """Like `record`, for an event loop."""
        await self._soon(partial(self._record, receipt))

    def receipt(self, receipt_id: str) -> Receipt | None:
        """Find a receipt by its id or by an unambiguous prefix of it."""
        return self._now(partial(self._receipt, receipt_id))

    def receipts(self, session: str) -> Sequence[Receipt]:
        """Return a session's receipts, oldest first."""
        return self._now(partial(self._receipts, session))

    def grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Add to what a scope on a session's path may use beyond its limits: a person's answer to an empty budget.

        `once` names the answer: granted again under the same name, it adds nothing.
        """
        return self._now(partial(self._grant, session, scope, more, now_s, once))

    async def agrant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Like `grant`, for an event loop."""
        return await self._soon(partial(self._grant, session, scope, more, now_s, once))

    def spends(self, tenant: str | None = None, session: str | None = None) -> Sequence[Spend]:
        """Return who spent what, dearest first; of one tenant or one session if named."""
        rows = self._now(partial(self._spends, tenant, session))
        return sorted(rows, key=lambda row: (-row.used.nanos, row.session, row.agent, row.kind, row.tier, row.model))

    def holds(self, now_s: float) -> Sequence[Outstanding]:
        """Return the holds that are neither settled nor expired, the first to expire first."""
        return self._now(partial(self._outstanding, now_s))

    def refusals(self, tenant: str | None = None, session: str | None = None) -> Sequence[Refusal]:
        """Return what was refused and why, newest first; of one tenant or one session if named."""
        rows = self._now(partial(self._refusals, tenant, session))
        return sorted(rows, key=lambda row: (-row.last_s, row.session, row.agent, row.kind, row.code))

    def forget(self, before_s: float) -> int:
        """Drop sessions and accounts that nobody has touched since `before_s`. Returns how many sessions."""
        return self._now(partial(self._forget, before_s))

    def _turns(self, operation: Callable[[], T], wait_s: float) -> Generator[float, None, T]:
        """Try an operation until it is done; yield how long to wait in between. `wait_s` is for the lock alone."""
        deadline_s = time.monotonic() + self._busy_timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            if self._lock.acquire(timeout=wait_s) if wait_s else self._lock.acquire(blocking=False):
                try:
                    return operation()
                except Busy:
                    pass
                finally:
                    self._lock.release()
            if time.monotonic() >= deadline_s:
                raise StoreError(f"{self} was busy for {self._busy_timeout_s:g} s")
            # Half of the pause is chance: writers that met once do not meet again at the next try.
            yield pause_s * (0.5 + random.random())  # noqa: S311 - no secret hangs on it
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)

    def _now(self, operation: Callable[[], T]) -> T:
        turns = self._turns(operation, self._busy_timeout_s)
        try:
            while True:
                time.sleep(next(turns))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _soon(self, operation: Callable[[], T]) -> T:
        turns = self._turns(operation, 0.0)
        try:
            while True:  # noqa: ASYNC110 - another process cannot set an event
                await asyncio.sleep(next(turns))
        except StopIteration as done:
            result: T = done.value
            return result

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    @abstractmethod
    def _open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str) -> Opened: ...

    @abstractmethod
    def _reserve(self, claim: Claim) -> Hold | Shortfall: ...

    @abstractmethod
    def _settle(self, settlement: Settlement) -> tuple[Standing, ...]: ...

    @abstractmethod
    def _record(self, receipt: Receipt) -> None: ...

    @abstractmethod
    def _receipt(self, receipt_id: str) -> Receipt | None: ...

    @abstractmethod
    def _receipts(self, session: str) -> Sequence[Receipt]: ...

    @abstractmethod
    def _grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str) -> Standing: ...

    @abstractmethod
    def _spends(self, tenant: str | None, session: str | None) -> Sequence[Spend]: ...

    @abstractmethod
    def _outstanding(self, now_s: float) -> Sequence[Outstanding]: ...

    @abstractmethod
    def _refusals(self, tenant: str | None, session: str | None) -> Sequence[Refusal]: ...

    @abstractmethod
    def _forget(self, before_s: float) -> int: ...
