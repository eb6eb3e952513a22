"""How a model has been doing: a circuit (closed, open, half-open) and exponentially weighted error rate and latency.

A circuit opens after `TRIP_AFTER` failures in a row, or when more than half of the recent calls failed. It stays open
for a cool-down that doubles with each failed probe; then one probe may pass, and a good one closes it.

What was measured is believed less the older it is: a model that is avoided because it failed or was slow is not called,
so nothing but time could ever clear its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from waywiser.core.calls import FailureKind

TRIP_AFTER = 4
TRIP_RATE = 0.5
ALPHA = 0.2
COOL_DOWN_S = 2.0
COOL_DOWN_MAX_S = 60.0
HALF_LIFE_S = 30.0
"""After so long without a call, what is known of a model counts for half."""
PROBE_LEASE_S = 30.0
"""A probe that has not come back after so long is given up, and another may pass."""

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

    `noted_s` is when its last call ended (0: not known).
    """

    calls: int = 0
    error_rate: float = 0.0
    latency_s: float = 0.0
    failures_in_a_row: int = 0
    open_until_s: float = 0.0
    cool_down_s: float = COOL_DOWN_S
    probing_s: float = 0.0
    noted_s: float = 0.0

    def admits(self, now_s: float) -> bool:
        """Whether a call would be let through at `now_s`: the circuit is closed, or a probe is due."""
        circuit = self.circuit(now_s)
        return circuit is Circuit.CLOSED or (circuit is Circuit.HALF_OPEN and now_s - self.probing_s >= PROBE_LEASE_S)

    def errors(self, now_s: float) -> float:
        """The error rate as far as it still counts. A circuit that is due a probe starts afresh, or none would pass."""
        return 0.0 if self.circuit(now_s) is Circuit.HALF_OPEN else self.error_rate * self._weight(now_s)

    def latency(self, now_s: float, prior_s: float) -> float:
        """The latency in seconds as far as it still counts, leaning on `prior_s`."""
        return prior_s + (self.latency_s - prior_s) * self._weight(now_s) if self.latency_s else prior_s

    def _weight(self, now_s: float) -> float:
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


def succeeded(health: Health, took_s: float, *, now_s: float = 0.0) -> Health:
    """Note a good answer: the circuit closes. A model that was given up and is well again starts with a clean slate."""
    fresh = health.calls == 0
    return Health(
        calls=health.calls + 1,
        error_rate=0.0 if health.open_until_s else health.errors(now_s) * (1 - ALPHA),
        latency_s=took_s if fresh else health.latency_s + ALPHA * (took_s - health.latency_s),
        noted_s=now_s,
    )


def failed(health: Health, kind: FailureKind, now_s: float, retry_after_s: float | None = None) -> Health:
    """Note a failure. One that blames only the request leaves the circuit alone (and ends a probe).

    While the circuit is open, a failure without a probe belongs to a call from before: only a failed probe makes the
    cool-down longer, or sixteen calls that fail together would open it for a minute.
    """
    if kind not in BLAMED:
        return replace(health, probing_s=0.0)
    in_a_row = health.failures_in_a_row + 1
    known = health.error_rate if health.open_until_s else health.errors(now_s)
    rate = known + ALPHA * (1 - known)
    noted = replace(
        health, calls=health.calls + 1, error_rate=rate, failures_in_a_row=in_a_row, probing_s=0.0, noted_s=now_s
    )
    if health.open_until_s:
        if not health.probing_s:
            return noted
        wait = min(health.cool_down_s * 2, COOL_DOWN_MAX_S)
        return replace(noted, open_until_s=now_s + wait, cool_down_s=wait)
    if in_a_row >= TRIP_AFTER or (rate > TRIP_RATE and health.calls >= TRIP_AFTER):
        return replace(noted, open_until_s=now_s + max(health.cool_down_s, retry_after_s or 0.0))
    return noted
