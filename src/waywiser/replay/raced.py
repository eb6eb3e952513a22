"""Hedged calls, as a receipt tells them: who was asked beside whom, who failed, who was outrun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from waywiser.core.calls import Failure, FailureKind, Reply
from waywiser.core.effects import Begin, Heard, Wait
from waywiser.core.health import HEDGE_AFTER_CALLS, Health
from waywiser.core.hedge import OUTRUN
from waywiser.core.models import Model
from waywiser.core.receipt import Attempt, Receipt

_FAILURES = frozenset(FailureKind)


def failed_then(attempt: Attempt | None, model: Model) -> Failure | None:
    """What a provider failed with then it fails with again, as long as it is the same one that is asked."""
    if attempt is None or attempt.model != model.name or attempt.failure not in _FAILURES:
        return None
    return Failure(FailureKind(attempt.failure), attempt.detail, usage=attempt.usage)


def impatient(receipt: Receipt, known: Mapping[str, Health]) -> Mapping[str, Health]:
    """What was known of each model, and of those that had another one asked beside them, that they were slow.

    They are those still at work when the next attempt began. How long was waited for them does not matter here.
    """
    slow = {
        first.model
        for first, second in zip(receipt.attempts, receipt.attempts[1:], strict=False)
        for first, second in (sorted((first, second), key=lambda attempt: attempt.started_s),)
        if second.started_s < first.started_s + first.took_s
    }
    timed = {"timed": HEDGE_AFTER_CALLS, "timed_first": HEDGE_AFTER_CALLS}
    return {
        **known,
        **{name: replace(known.get(name, Health()), slow_s=1.0, slow_first_s=1.0, **timed) for name in slow},
    }


class Race:
    """Two requests side by side, replayed: who came back first is read off the attempts of the receipt.

    `outcome` is what the newest that came back came to, `late` what the one that was outrun had come to by then.
    """

    def __init__(self, told: Iterator[Attempt], answer: Callable[[Begin], Reply]) -> None:
        self._told = told
        self._answer = answer
        self._lanes: dict[str, Begin] = {}
        self.outcome: Reply | Failure = Reply()
        self.late: Reply | None = None

    def begin(self, asked: Begin) -> None:
        """Take a request. The first lane begins a new race."""
        if asked.lane == 0:
            self._lanes.clear()
        self._lanes[asked.model.name] = asked

    def wait(self, effect: Wait, now_s: float, jitter: float) -> Heard:
        """Nobody is in time, else nobody would have been asked beside the first; then whoever came back then."""
        if effect.patience_s is not None and len(self._lanes) == 1:
            return Heard(None, None, now_s, jitter)
        attempt = next(self._told, None)
        if attempt is not None and attempt.failure == OUTRUN:
            self._lanes.pop(attempt.model, None)
            self.late = None if attempt.usage.estimated else Reply(usage=attempt.usage)
            attempt = next(self._told, None)
        asked = self._lanes.get(attempt.model if attempt is not None else "") or next(iter(self._lanes.values()))
        self.outcome = failed_then(attempt, asked.model) or self._answer(asked)
        if isinstance(self.outcome, Failure):
            self._lanes.pop(asked.model.name)
        return Heard(asked.lane, None if asked.stream else self.outcome, now_s, jitter)
