"""How a model has been doing: a circuit (closed, open, half-open) and exponentially weighted error rate and latency.

A circuit opens after `TRIP_AFTER` failures in a row, or when more than half of the recent calls failed. After a rest
one probe may pass; a good one closes it, a failed one makes it rest for a share of what the outage has lasted so far.
So a provider that is back is found out after at most that share of the time it was away (a rest that doubles finds it
out as late as it was away), and one that is long away is asked four times a minute.

What was measured is believed less the older it is: a model that is avoided because it failed or was slow is not called,
so nothing but time could ever clear its name.

How long is too long is a running 0.95 quantile of what calls took, by stochastic approximation (Robbins and Monro,
1951) on its logarithm: it rises by `exp(0.95 g)` with a call that took longer and falls by `exp(-0.05 g)` with one that
did not. So in the long run 5% of calls take longer, whatever their distribution and wherever it moves; and as it asks
only "longer or not", a call that was dropped on the way teaches it as much as one that was waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp

from waywiser.core.calls import FailureKind

TRIP_AFTER = 4
TRIP_RATE = 0.5
ALPHA = 0.2
REST_S = 2.0
REST_MAX_S = 15.0
REST_SHARE = 0.2
"""After a failed probe a circuit rests for this share of the outage, and between `REST_S` and `REST_MAX_S`."""
HALF_LIFE_S = 30.0
"""After so long without a call, what is known of a model counts for half."""
PROBE_LEASE_S = 30.0
"""A probe that has not come back after so long is given up, and another may pass."""
STRAGGLER_S = 1.0
"""A call that began so long before the probe is not the probe. A circuit rests longer, and clocks differ by less."""
SLOW_SHARE = 0.05
"""The share of calls that take longer than what is believed to be long."""
HEDGE_AFTER_CALLS = 20
"""So many calls must have been timed before it is believed how long is too long."""
LEAST_GAIN = 0.1
FIRST_GAINS = 4.0
"""The n-th step of the quantile has the gain `max(LEAST_GAIN, FIRST_GAINS / n)`: wide at first, then on the watch."""

BLAMED = frozenset(
    {
        FailureKind.RATE_LIMITED,
        FailureKind.OVERLOADED,
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.MALFORMED,
        FailureKind.CUT_SHORT,
        FailureKind.UNAUTHORISED,
        FailureKind.UNKNOWN,
    }
)
"""Failures that say something about the model's health. The others say something about the request."""


class Circuit(StrEnum):
    """The state of a model's circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one model. `open_until_s` 0: closed. `probing_s` is when the running probe was let through.

    `opened_s` is when its latest outage began, `healed_s` when that ended, `failing_s` when its first failure in a row
    was noted, `noted_s` when its last call ended (0: not known).

    `latency_s` and `first_token_s` are weighted means of whole answers and of the first pieces of streams, `slow_s` and
    `slow_first_s` their 0.95 quantiles; `timed` and `timed_first` say how many calls taught them.
    """

    calls: int = 0
    error_rate: float = 0.0
    latency_s: float = 0.0
    first_token_s: float = 0.0
    slow_s: float = 0.0
    slow_first_s: float = 0.0
    timed: int = 0
    timed_first: int = 0
    failures_in_a_row: int = 0
    open_until_s: float = 0.0
    opened_s: float = 0.0
    healed_s: float = 0.0
    failing_s: float = 0.0
    probing_s: float = 0.0
    noted_s: float = 0.0

    def admits(self, now_s: float) -> bool:
        """Whether a call would be let through at `now_s`: the circuit is closed, or a probe is due."""
        circuit = self.circuit(now_s)
        return circuit is Circuit.CLOSED or (circuit is Circuit.HALF_OPEN and now_s - self.probing_s >= PROBE_LEASE_S)

    def errors(self, now_s: float) -> float:
        """The error rate as far as it still counts. A circuit that is due a probe starts afresh, or none would pass."""
        return 0.0 if self.circuit(now_s) is Circuit.HALF_OPEN else self.error_rate * self.weight(now_s)

    def latency(self, now_s: float, prior_s: float) -> float:
        """The latency in seconds as far as it still counts, leaning on `prior_s`."""
        return prior_s + (self.latency_s - prior_s) * self.weight(now_s) if self.latency_s else prior_s

    def first_token(self, now_s: float, prior_s: float) -> float:
        """Like `latency`, of the first piece of a stream."""
        return prior_s + (self.first_token_s - prior_s) * self.weight(now_s) if self.first_token_s else prior_s

    def patience_s(self, first: bool) -> float | None:
        """How long an answer (`first`: its first piece) may take before it is slow; None until enough were timed."""
        slow_s, timed = (self.slow_first_s, self.timed_first) if first else (self.slow_s, self.timed)
        return slow_s if timed >= HEDGE_AFTER_CALLS else None

    def weight(self, now_s: float) -> float:
        """What was measured counts for so much at `now_s`, 0..1."""
        return 0.5 ** (max(now_s - self.noted_s, 0.0) / HALF_LIFE_S) if self.noted_s else 1.0

    def circuit(self, now_s: float) -> Circuit:
        """The state of the circuit at `now_s`."""
        if not self.open_until_s:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self.open_until_s else Circuit.HALF_OPEN


def admit(health: Health, now_s: float, probe_lease_s: float = PROBE_LEASE_S) -> Health | None:
    """Let a call through: the health to store, or None when the circuit is open or its one probe is under way."""
    match health.circuit(now_s):
        case Circuit.CLOSED:
            return health
        case Circuit.HALF_OPEN if now_s - health.probing_s >= probe_lease_s:
            return replace(health, probing_s=now_s)
        case _:
            return None


def succeeded(health: Health, took_s: float, *, now_s: float, first_s: float | None = None) -> Health:
    """Note a good answer: the circuit closes. A model that was given up and is well again starts with a clean slate.

    `first_s` is how long the first piece of a stream took. An answer from before the present failures began, of which
    another process tells late, says nothing against them.
    """
    known = health.weight(now_s)
    noted = Health(
        health.calls + 1,
        0.0 if health.open_until_s else health.error_rate * known * (1 - ALPHA),
        _mean(health.latency_s, took_s, 1 - (1 - ALPHA) * known),
        health.first_token_s,
        _slow(health.slow_s, health.timed, took_s, longer=took_s > health.slow_s),
        health.slow_first_s,
        health.timed + 1,
        health.timed_first,
        opened_s=health.opened_s,
        healed_s=now_s if health.open_until_s else health.healed_s,
        failing_s=health.failing_s,
        noted_s=now_s,
    )
    if health.failures_in_a_row and now_s < health.failing_s:
        noted = replace(
            noted,
            error_rate=health.error_rate,
            failures_in_a_row=health.failures_in_a_row,
            open_until_s=health.open_until_s,
            healed_s=health.healed_s,
            probing_s=health.probing_s,
            noted_s=health.noted_s,
        )
    if first_s is None:
        return noted
    return _first_piece(noted, first_s, _gain(health, now_s), longer=first_s > health.slow_first_s)


def outrun(health: Health, waited_s: float, first: bool, now_s: float) -> Health:
    """Note a call that was dropped because another one answered first: it would have taken at least `waited_s`.

    `first` says that nothing of it had come. It was too slow, which is no failure; a probe ends without a verdict.
    """
    gain = _gain(health, now_s)
    noted = replace(
        health,
        calls=health.calls + 1,
        latency_s=max(_mean(health.latency_s, waited_s, gain), health.latency_s),
        probing_s=_still_probing(health, now_s - waited_s),
        noted_s=now_s,
    )
    if first:
        noted = _first_piece(noted, max(waited_s, health.first_token_s), gain, longer=True)
    if first and waited_s <= health.slow_s:
        return noted  # nobody knows whether the whole would have been slow
    return replace(noted, slow_s=_slow(health.slow_s, health.timed, waited_s, longer=True), timed=health.timed + 1)


def dropped(health: Health, waited_s: float, first_s: float | None, now_s: float) -> Health:
    """Note a call that was dropped after `waited_s` for reasons of ours: a probe ends without a verdict.

    `first_s` is how long its first piece took, if one had come.
    """
    noted = replace(health, probing_s=_still_probing(health, now_s - waited_s))
    if first_s is None:
        return noted
    return _first_piece(noted, first_s, _gain(health, now_s), longer=first_s > health.slow_first_s)


def failed(
    health: Health, kind: FailureKind, now_s: float, retry_after_s: float | None = None, *, took_s: float = 0.0
) -> Health:
    """Note a failure, `took_s` after its call began.

    One that blames only the request leaves the circuit alone (and ends a probe).
    While the circuit is open, a failure without a probe belongs to a call from before: only a failed probe makes it
    rest again, or sixteen calls that fail together would. A model that fails again soon after it healed has the same
    outage still: it could answer one probe, but not everybody.
    """
    probing_s = _still_probing(health, now_s - took_s)
    if kind not in BLAMED:
        return replace(health, probing_s=probing_s)
    in_a_row = health.failures_in_a_row + 1
    known = health.error_rate if health.open_until_s else health.errors(now_s)
    rate = known + ALPHA * (1 - known)
    noted = replace(
        health,
        calls=health.calls + 1,
        error_rate=rate,
        failures_in_a_row=in_a_row,
        failing_s=health.failing_s if health.failures_in_a_row else now_s,
        probing_s=probing_s,
        noted_s=now_s,
    )
    if health.open_until_s:
        probe_failed = health.probing_s and not probing_s
        return replace(noted, open_until_s=_rested(noted, now_s, retry_after_s)) if probe_failed else noted
    if in_a_row >= TRIP_AFTER or (rate > TRIP_RATE and health.calls >= TRIP_AFTER):
        relapsed = health.opened_s and now_s - health.healed_s < REST_MAX_S
        noted = replace(noted, opened_s=health.opened_s if relapsed else now_s)
        return replace(noted, open_until_s=_rested(noted, now_s, retry_after_s))
    return noted


def _still_probing(health: Health, began_s: float) -> float:
    """Since when a probe is under way once a call has ended: as before, if that call had begun before the probe."""
    return health.probing_s if began_s < health.probing_s - STRAGGLER_S else 0.0


def _rested(health: Health, now_s: float, retry_after_s: float | None) -> float:
    rest_s = min(max(REST_SHARE * (now_s - health.opened_s), REST_S), REST_MAX_S)
    return now_s + max(rest_s, retry_after_s or 0.0)


def _first_piece(health: Health, first_s: float, gain: float, *, longer: bool) -> Health:
    return replace(
        health,
        first_token_s=_mean(health.first_token_s, first_s, gain),
        slow_first_s=_slow(health.slow_first_s, health.timed_first, first_s, longer=longer),
        timed_first=health.timed_first + 1,
    )


def _gain(health: Health, now_s: float) -> float:
    """How much a new measurement counts: the more the older what is known, or an old slowness would outlive its end."""
    return 1 - (1 - ALPHA) * health.weight(now_s)


def _mean(mean_s: float, took_s: float, gain: float) -> float:
    return mean_s + gain * (took_s - mean_s) if mean_s else took_s


def _slow(slow_s: float, timed: int, took_s: float, *, longer: bool) -> float:
    """Move a 0.95 quantile one step. It begins with the longest of the first calls.

    The longest of 20 is exceeded by one in 21 of what follows, whatever the distribution; and it needs no gain that
    would throw a steady model's quantile far above what it takes.
    """
    if timed < HEDGE_AFTER_CALLS or not slow_s:
        return max(slow_s, took_s)
    gain = max(LEAST_GAIN, FIRST_GAINS / (timed + 1))
    return slow_s * exp(gain * ((1 - SLOW_SHARE) if longer else -SLOW_SHARE))
