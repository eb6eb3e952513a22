"""The clock of the real world."""

from __future__ import annotations

import asyncio
import os
import random
import time


class SystemClock:
    """Wall-clock time, the process's randomness, and ids that sort by time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def jitter(self) -> float:
        """Return a uniform random number in 0..1."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing

    def new_id(self) -> str:
        """Return 20 hex digits: milliseconds since the epoch, then 36 random bits."""
        return f"{time.time_ns() // 1_000_000:011x}{int.from_bytes(os.urandom(5)) >> 4:09x}"

    def sleep(self, seconds: float) -> None:
        """Wait, blocking the thread."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait, without blocking the event loop."""
        await asyncio.sleep(seconds)
