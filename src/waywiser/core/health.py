"""How a model has been doing: a circuit (closed, open, half-open) and exponentially weighted error rate and latency.

A circuit opens after `TRIP_AFTER` failures in a row, or when more than half of the recent calls failed. It stays open
for a cool-down that doubles with each failed probe; then one probe may pass, and a good one closes it.
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
    """What is known of one model. `open_until_s` 0: closed. `probing_s` is when the running probe was let through."""

    calls: int = 0
    error_rate: float = 0.0
    latency_s: float = 0.0
    first_token_s: float = 0.0
    failures_in_a_row: int = 0
    open_until_s: float = 0.0
    cool_down_s: float = COOL_DOWN_S
    probing_s: float = 0.0

    def circuit(self, now_s: float) -> Circuit:
        """The state of the circuit at `now_s`."""
        if not self.open_until_s:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self.open_until_s else Circuit.HALF_OPEN


def admit(health: Health, now_s: float, probe_lease_s: float = 30.0) -> Health | None:
    """Let a call through: the health to store, or None when the circuit is open or its one probe is under way."""
    match health.circuit(now_s):
        case Circuit.CLOSED:
            return health
        case Circuit.HALF_OPEN if now_s - health.probing_s >= probe_lease_s:
            return replace(health, probing_s=now_s)
        case _:
            return None


def succeeded(health: Health, took_s: float, first_token_s: float | None = None) -> Health:
    """Note a good answer: the circuit closes."""
    fresh = health.calls == 0
    return Health(
        calls=health.calls + 1,
        error_rate=health.error_rate * (1 - ALPHA),
        latency_s=took_s if fresh else health.latency_s + ALPHA * (took_s - health.latency_s),
        first_token_s=_first_token(health, first_token_s),
    )


def failed(health: Health, kind: FailureKind, now_s: float, retry_after_s: float | None = None) -> Health:
    """Note a failure. One that blames only the request leaves the circuit alone (and ends a probe).

    While the circuit is open, a failure without a probe belongs to a call from before: only a failed probe makes the
    cool-down longer, or sixteen calls that fail together would open it for a minute.
    """
    if kind not in BLAMED:
        return replace(health, probing_s=0.0)
    in_a_row = health.failures_in_a_row + 1
    rate = health.error_rate + ALPHA * (1 - health.error_rate)
    noted = replace(health, calls=health.calls + 1, error_rate=rate, failures_in_a_row=in_a_row, probing_s=0.0)
    if health.open_until_s:
        if not health.probing_s:
            return noted
        wait = min(health.cool_down_s * 2, COOL_DOWN_MAX_S)
        return replace(noted, open_until_s=now_s + wait, cool_down_s=wait)
    if in_a_row >= TRIP_AFTER or (rate > TRIP_RATE and health.calls >= TRIP_AFTER):
        return replace(noted, open_until_s=now_s + max(health.cool_down_s, retry_after_s or 0.0))
    return noted


def _first_token(health: Health, seen: float | None) -> float:
    if seen is None:
        return health.first_token_s
    return seen if not health.first_token_s else health.first_token_s + ALPHA * (seen - health.first_token_s)
