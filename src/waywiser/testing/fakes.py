"""A clock that stands still and a sink that remembers."""

from __future__ import annotations

import asyncio
import threading

from waywiser.core.receipt import Receipt

START_S = 1_800_000_000.0


class FrozenClock:
    """Time that moves only when it is told to, chance that always comes out the same, ids that count up.

    `sleep` moves the time at once and notes it in `slept`: a test sees what was waited for and waits for nothing.
    """

    def __init__(self, now_s: float = START_S, *, jitter: float = 0.5) -> None:
        self.slept: list[float] = []
        self._now_s = now_s
        self._jitter = jitter
        self._ids = 0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the epoch, as set."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now_s += seconds

    def jitter(self) -> float:
        """Return the number given for chance."""
        return self._jitter

    def new_id(self) -> str:
        """Return `id-0001`, `id-0002`, …."""
        with self._lock:
            self._ids += 1
            return f"id-{self._ids:04}"

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass without waiting."""
        self.slept.append(seconds)
        self.advance(seconds)

    async def asleep(self, seconds: float) -> None:
        """Like `sleep`; other tasks get a turn."""
        await asyncio.sleep(0)
        self.sleep(seconds)


class Recorder:
    """A sink that keeps every receipt, in the order in which calls ended."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []

    def emit(self, receipt: Receipt) -> None:
        """Keep the receipt."""
        self.receipts.append(receipt)
