"""The health of every model, shared by all sessions of a process. The rules are in `core/health.py`."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from waywiser.core.calls import Failure
from waywiser.core.health import Health, admit, failed, outrun, succeeded


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

    def note(
        self, model: str, failure: Failure | None, took_s: float, now_s: float, first_s: float | None = None
    ) -> None:
        """Note how a call to `model` ended; no failure is a good answer, whose first piece took `first_s`."""
        with self._lock:
            known = self._known.get(model) or Health()
            if failure is None:
                self._known[model] = succeeded(known, took_s, now_s=now_s, first_s=first_s)
            else:
                self._known[model] = failed(known, failure.kind, now_s, failure.retry_after_s)

    def outrun(self, model: str, waited_s: float, first: bool, now_s: float) -> None:
        """Note that a call to `model` was dropped after `waited_s`: another model answered first."""
        with self._lock:
            self._known[model] = outrun(self._known.get(model) or Health(), waited_s, first, now_s)
