"""`next_move()`: the one place that decides what happens after a call failed.

| failure          | here again        | otherwise                                   |
|------------------|-------------------|---------------------------------------------|
| rate_limited     | only as last hope | the next model (waits `Retry-After`)        |
| overloaded       | only as last hope | the next model                              |
| timeout          | only as last hope | the next model                              |
| connection       | once              | the next model                              |
| malformed        | once              | the next model                              |
| cut_short        | once              | the next model                              |
| unknown          | once              | the next model                              |
| context_too_long | never             | the next model with more room               |
| refused          | never             | the next model of another family            |
| unauthorised     | never             | the next model of another provider          |
| invalid_request  | never             | the next model                              |
| not_accepted     | never             | the tier the policy escalates to, or above  |

A wait before trying the same model again has full jitter: uniform in 0..min(8, 0.25·2^n) seconds, and never less than
what `Retry-After` says (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from waywiser.core.calls import Failure, FailureKind
from waywiser.core.policy import FallbackRule
from waywiser.core.scoring import Candidate

BASE_S = 0.25
CAP_S = 8.0

_HERE_AGAIN = frozenset({FailureKind.CONNECTION, FailureKind.MALFORMED, FailureKind.CUT_SHORT, FailureKind.UNKNOWN})
_LAST_HOPE = frozenset({FailureKind.RATE_LIMITED, FailureKind.OVERLOADED, FailureKind.TIMEOUT, *_HERE_AGAIN})


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt that failed: which rung of the ladder, and how."""

    index: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Try:
    """Send to the rung `index` of the ladder, after waiting `delay_s`."""

    index: int
    delay_s: float
    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt makes sense."""

    why: str


Move: TypeAlias = Try | GiveUp


def next_move(
    rule: FallbackRule,
    ladder: Sequence[Candidate],
    tried: Sequence[Tried],
    *,
    escalate_rank: int,
    left_s: float,
    jitter: float,
) -> Move:
    """Decide what follows the last of `tried`.

    `left_s` is what the deadline leaves, `jitter` a uniform random number in 0..1, `escalate_rank` the lowest rank a
    reply that was not accepted escalates to.
    """
    last = tried[-1]
    kind = last.failure.kind
    if len(tried) >= rule.attempts:
        return GiveUp(f"{len(tried)} of {rule.attempts} attempts made")
    if left_s <= 0:
        return GiveUp(f"the deadline of {rule.deadline_s:g} s has passed")
    at_this = sum(entry.index == last.index for entry in tried)
    wait = _backoff(at_this, last.failure.retry_after_s, jitter)
    if kind in _HERE_AGAIN and at_this == 1 and wait < left_s and (kind is not FailureKind.CONNECTION or wait < 1):
        fresh = _next(ladder, tried, kind, escalate_rank)
        if fresh is None or kind in {FailureKind.MALFORMED, FailureKind.CONNECTION}:
            return Try(last.index, wait, f"{kind}: once more")
    fresh = _next(ladder, tried, kind, escalate_rank)
    if fresh is not None:
        return Try(fresh, 0.0, f"{kind}: {ladder[fresh].model.name} next")
    return _last_hope(ladder, tried, left_s, jitter) or GiveUp(f"{kind}: no candidate is left")


def _backoff(attempt: int, retry_after_s: float | None, jitter: float) -> float:
    return max(retry_after_s or 0.0, jitter * min(CAP_S, BASE_S * 2.0**attempt))


def _next(ladder: Sequence[Candidate], tried: Sequence[Tried], kind: FailureKind, escalate_rank: int) -> int | None:
    """Find the first rung not tried yet that the failure does not speak against."""
    used = {entry.index for entry in tried}
    failed = ladder[tried[-1].index].model
    for index, candidate in enumerate(ladder):
        model = candidate.model
        if index in used:
            continue
        if kind is FailureKind.CONTEXT_TOO_LONG and model.context_tokens <= failed.context_tokens:
            continue
        if kind in {FailureKind.REFUSED, FailureKind.UNAUTHORISED} and model.provider == failed.provider:
            continue
        if kind is FailureKind.NOT_ACCEPTED and candidate.rank < escalate_rank:
            continue
        return index
    return None


def _last_hope(ladder: Sequence[Candidate], tried: Sequence[Tried], left_s: float, jitter: float) -> Try | None:
    """Try again the rung that can soonest be tried again, if any of them failed in a way that passes."""
    newest = {entry.index: entry for entry in tried}
    hopes = []
    for index, entry in newest.items():
        if entry.failure.kind in _LAST_HOPE:
            count = sum(other.index == index for other in tried)
            hopes.append((_backoff(count, entry.failure.retry_after_s, jitter), index, entry.failure.kind))
    if not hopes:
        return None
    wait, index, kind = min(hopes)
    return Try(index, wait, f"{kind}: {ladder[index].model.name} again") if wait < left_s else None
