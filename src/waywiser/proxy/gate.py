"""How often and how many at once a key may call. Counted by each worker for itself: several share nothing here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waywiser.proxy.keys import Caller
from waywiser.proxy.troubles import Denied


class Gate:
    """Lets a caller's requests in at its rate; a burst of a tenth of a minute's worth may come at once."""

    def __init__(self, workers: int = 1, now: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._now = now
        self._inside: dict[str, int] = defaultdict(int)
        self._buckets: dict[str, tuple[float, float]] = {}

    @contextmanager
    def entered(self, caller: Caller) -> Iterator[None]:
        """Hold a place while a request is answered. Raises `Denied` (429) when there is none."""
        if caller.requests_per_minute is not None:
            self._take(caller.key, caller.requests_per_minute / self._workers)
        if caller.concurrent is None:
            yield
            return
        if self._inside[caller.key] >= max(caller.concurrent // self._workers, 1):
            raise _later("too many requests at once with this key", 1)
        self._inside[caller.key] += 1
        try:
            yield
        finally:
            self._inside[caller.key] -= 1

    def _take(self, key: str, a_minute: float) -> None:
        """Take a token out of the key's bucket, which fills with the time that has passed."""
        now_s, most = self._now(), max(a_minute / 10, 1.0)
        level, since_s = self._buckets.get(key, (most, now_s))
        level = min(level + (now_s - since_s) * a_minute / 60, most)
        if level < 1:
            self._buckets[key] = (level, now_s)
            raise _later("too many requests a minute with this key", (1 - level) * 60 / a_minute)
        self._buckets[key] = (level - 1, now_s)


def _later(why: str, seconds: float) -> Denied:
    return Denied(429, "rate_limit_exceeded", why, headers=(("retry-after", str(max(round(seconds + 0.5), 1))),))
