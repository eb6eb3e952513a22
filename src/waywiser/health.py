"""The health of every model, shared by all sessions of a process. The rules are in `core/health.py`.

A store that many processes share may bring a board that they share too: `board_of`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

from waywiser.core.calls import Failure
from waywiser.core.health import Health, admit, dropped, failed, outrun, succeeded

Lesson: TypeAlias = Callable[[Health], Health]
"""What one call taught about a model: from what was known to what is known now."""


class HealthBoard:
    """What is known of each model, by name. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Health] = {}

    def snapshot(self) -> Mapping[str, Health]:
        """The health of every model that has been called."""
        return self._known.copy()

    def admit(self, model: str, now_s: float) -> bool:
        """Whether a call may go to `model` now; the one probe of a half-open circuit is given out here."""
        known = self._known.get(model)
        if known is None or not known.open_until_s:
            return True
        with self._lock:
            let = admit(self._known[model], now_s)
            if let is not None:
                self._known[model] = let
            return let is not None

    async def aadmit(self, model: str, now_s: float) -> bool:
        """Like `admit`, for an event loop: a board that others share may have to ask them."""
        return self.admit(model, now_s)

    def note(
        self, model: str, failure: Failure | None, took_s: float, now_s: float, first_s: float | None = None
    ) -> None:
        """Note how a call to `model` ended; no failure is a good answer, whose first piece took `first_s`."""
        if failure is None:
            self._learn(model, partial(succeeded, took_s=took_s, now_s=now_s, first_s=first_s))
        else:
            told = partial(failed, kind=failure.kind, retry_after_s=failure.retry_after_s)
            self._learn(model, partial(told, now_s=now_s, took_s=took_s))

    def outrun(self, model: str, waited_s: float, first: bool, now_s: float) -> None:
        """Note that a call to `model` was dropped after `waited_s`: another model answered first."""
        self._learn(model, partial(outrun, waited_s=waited_s, first=first, now_s=now_s))

    def dropped(self, model: str, waited_s: float, first_s: float | None, now_s: float) -> None:
        """Note that a call to `model` was dropped after `waited_s` by us; its first piece had come after `first_s`."""
        self._learn(model, partial(dropped, waited_s=waited_s, first_s=first_s, now_s=now_s))

    def _learn(self, model: str, lesson: Lesson) -> None:
        with self._lock:
            self._known[model] = lesson(self._known.get(model) or Health())


@runtime_checkable
class SharesHealth(Protocol):
    """A store whose processes know of each other's failures."""

    @property
    def health(self) -> HealthBoard:
        """The board that they share."""
        ...


def board_of(store: object) -> HealthBoard:
    """Return the board that the users of a store share: the store's own, or a new one for this process."""
    return store.health if isinstance(store, SharesHealth) else HealthBoard()
