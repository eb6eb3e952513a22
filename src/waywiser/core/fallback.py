"""`next_move()`: the one place that decides what happens after a call failed.

| failure          | here again        | otherwise                                   |
|------------------|-------------------|---------------------------------------------|
| rate_limited     | only as last hope | the next model                              |
| overloaded       | only as last hope | the next model                              |
| timeout          | only as last hope | the next model                              |
| connection       | once, at first    | the next model                              |
| malformed        | once, at first    | the next model                              |
| cut_short        | only as last hope | the next model                              |
| unknown          | only as last hope | the next model                              |
| context_too_long | never             | the next model with more room               |
| refused          | never             | the next model of another provider          |
| unauthorised     | never             | the next model of another provider          |
| invalid_request  | never             | the next model                              |
| not_accepted     | never             | the tier the policy escalates to, or above  |

What speaks against a model speaks against it for the whole call: no later failure of another model brings it back.
The same model on two rungs is one model.

A wait before trying the same model again has full jitter: uniform in 0..min(8, 0.25·2^n) seconds, and never less than
what `Retry-After` says (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from waywiser.core.calls import Failure, FailureKind
from waywiser.core.policy import FallbackRule
from waywiser.core.scoring import Candidate

BASE_S = 0.25
CAP_S = 8.0

_HERE_AGAIN = frozenset({FailureKind.CONNECTION, FailureKind.MALFORMED})
_LAST_HOPE = frozenset(
    {
        FailureKind.RATE_LIMITED,
        FailureKind.OVERLOADED,
        FailureKind.TIMEOUT,
        FailureKind.CUT_SHORT,
        FailureKind.UNKNOWN,
        *_HERE_AGAIN,
    }
)
HERE_AGAIN_WITHIN_S = 1.0
"""A model that asks for a longer wait than this is not worth waiting for while another one is left."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt that failed: with whom, and how."""

    candidate: Candidate
    failure: Failure

    @property
    def name(self) -> str:
        """The model's name."""
        return self.candidate.model.name


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
    made: int,
    escalate_rank: int,
    left_s: float,
    jitter: float,
) -> Move:
    """Decide what follows the last of `tried`.

    `made` is how many attempts the call has made in all, those of an earlier ladder included. One that never left (a
    circuit that was closed to it, a connection that did not come about) does not use up the chance of a fresh model.
    `left_s` is what the deadline leaves, `jitter` a uniform random number in 0..1, `escalate_rank` the lowest rank a
    reply that was not accepted escalates to.
    """
    last = tried[-1]
    kind = last.failure.kind
    if left_s <= 0:
        return GiveUp(f"the deadline of {rule.deadline_s:g} s has passed")
    if made >= rule.attempts:
        unasked = _next(ladder, tried, escalate_rank) if not last.failure.sent else None
        if unasked is None:
            return GiveUp(f"{made} of {rule.attempts} attempts made")
        return Try(unasked, 0.0, f"not asked: {ladder[unasked].model.name} next")
    if kind in _HERE_AGAIN and sum(entry.name == last.name for entry in tried) == 1:
        wait = _backoff(1, last.failure.retry_after_s, jitter)
        here = _rung(ladder, last.name)
        if here is not None and wait < min(left_s, HERE_AGAIN_WITHIN_S):
            return Try(here, wait, f"{kind}: once more")
    fresh = _next(ladder, tried, escalate_rank)
    if fresh is not None:
        return Try(fresh, 0.0, f"{kind}: {ladder[fresh].model.name} next")
    return _last_hope(ladder, tried, left_s, jitter) or GiveUp(f"{kind}: no candidate is left")


def first_rung(ladder: Sequence[Candidate], tried: Sequence[Tried]) -> int | None:
    """Find where to begin on a new ladder after failures on an earlier one: the first rung none of them rules out.

    A model that failed in a way that passes may be asked again; None when every rung is ruled out.
    """
    ruled_out = {entry.name for entry in tried if entry.failure.kind not in _LAST_HOPE}
    for index, candidate in enumerate(ladder):
        if candidate.model.name not in ruled_out and not _against(tried, candidate):
            return index
    return None


def spare_rung(ladder: Sequence[Candidate], tried: Sequence[Tried], index: int, closed: Collection[str]) -> int | None:
    """Find who could stand in for rung `index` while that is still at work: another model, of no lower a tier.

    `closed` names the models whose circuit lets nobody through.
    """
    first = ladder[index]
    used = {first.model.name, *closed, *(entry.name for entry in tried)}
    for other, candidate in enumerate(ladder):
        if candidate.model.name not in used and candidate.rank >= first.rank and not _against(tried, candidate):
            return other
    return None


def cheaper_rung(ladder: Sequence[Candidate], tried: Sequence[Tried], index: int, dear: Collection[int]) -> int | None:
    """Find the best rung that costs less than `index`, of models that have not failed and rungs that are not `dear`."""
    limit, failed = ladder[index].expected_nanos, {entry.name for entry in tried}
    for other, entry in enumerate(ladder):
        if other not in dear and entry.model.name not in failed and entry.expected_nanos < limit:
            return other
    return None


def _rung(ladder: Sequence[Candidate], name: str) -> int | None:
    return next((index for index, candidate in enumerate(ladder) if candidate.model.name == name), None)


def _backoff(attempt: int, retry_after_s: float | None, jitter: float) -> float:
    return max(retry_after_s or 0.0, jitter * min(CAP_S, BASE_S * 2.0**attempt))


def _next(ladder: Sequence[Candidate], tried: Sequence[Tried], escalate_rank: int) -> int | None:
    """Find the first rung whose model was not tried yet and that no failure so far speaks against."""
    used = {entry.name for entry in tried}
    not_accepted = tried[-1].failure.kind is FailureKind.NOT_ACCEPTED
    for index, candidate in enumerate(ladder):
        if candidate.model.name in used or (not_accepted and candidate.rank < escalate_rank):
            continue
        if not _against(tried, candidate):
            return index
    return None


def _against(tried: Sequence[Tried], candidate: Candidate) -> bool:
    """Tell whether the failure of another model speaks against this one."""
    model = candidate.model
    for entry in tried:
        failed = entry.candidate.model
        match entry.failure.kind:
            case FailureKind.CONTEXT_TOO_LONG if model.context_tokens <= failed.context_tokens:
                return True
            case FailureKind.REFUSED | FailureKind.UNAUTHORISED if model.provider == failed.provider:
                return True
    return False


def _last_hope(ladder: Sequence[Candidate], tried: Sequence[Tried], left_s: float, jitter: float) -> Try | None:
    """Try again the model that can soonest be tried again, of those that failed only in ways that pass."""
    failures: dict[str, list[Failure]] = {}
    for entry in tried:
        failures.setdefault(entry.name, []).append(entry.failure)
    hopes = []
    for name, failed in failures.items():
        index = _rung(ladder, name)
        if index is None or _against(tried, ladder[index]) or any(one.kind not in _LAST_HOPE for one in failed):
            continue
        hopes.append((_backoff(len(failed), failed[-1].retry_after_s, jitter), index, failed[-1].kind))
    if not hopes:
        return None
    wait, index, kind = min(hopes)
    return Try(index, wait, f"{kind}: {ladder[index].model.name} again") if wait < left_s else None
