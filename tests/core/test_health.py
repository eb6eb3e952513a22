from __future__ import annotations

from itertools import pairwise

import pytest

from waywiser.core.calls import FailureKind
from waywiser.core.health import (
    HALF_LIFE_S,
    REST_MAX_S,
    REST_S,
    REST_SHARE,
    TRIP_AFTER,
    Circuit,
    Health,
    admit,
    failed,
    succeeded,
)

NOW_S = 1_800_000_000.0


def broken(times: int = TRIP_AFTER, health: Health | None = None) -> Health:
    health = health or Health()
    for _ in range(times):
        health = failed(health, FailureKind.OVERLOADED, NOW_S)
    return health


def test_it_opens_after_failures_in_a_row_and_within_five() -> None:
    assert TRIP_AFTER <= 5
    assert broken(TRIP_AFTER - 1).circuit(NOW_S) is Circuit.CLOSED
    assert broken().circuit(NOW_S) is Circuit.OPEN
    assert admit(broken(), NOW_S) is None


def test_one_probe_passes_and_a_good_one_closes_the_circuit() -> None:
    later = NOW_S + REST_S
    assert broken().circuit(later) is Circuit.HALF_OPEN
    probing = admit(broken(), later)
    assert probing is not None
    assert admit(probing, later + 1) is None
    healed = succeeded(probing, 0.5, now_s=NOW_S)
    assert healed.circuit(later + 1) is Circuit.CLOSED
    assert admit(healed, later + 1) is healed


def test_a_probe_that_was_lost_is_given_out_again() -> None:
    probing = admit(broken(), NOW_S + REST_S)
    assert probing is not None
    assert admit(probing, NOW_S + REST_S + 30.0) is not None


def probes(outage_s: float) -> list[float]:
    """When a model that is dead for so long is probed, the good one last: seconds after the circuit opened."""
    health, asked = broken(), []
    while health.open_until_s:
        now = health.open_until_s
        asked.append(now - NOW_S)
        probing = admit(health, now)
        assert probing is not None
        dead = now - NOW_S < outage_s
        health = failed(probing, FailureKind.TIMEOUT, now) if dead else succeeded(probing, 0.5, now_s=now)
    return asked


@pytest.mark.parametrize("outage_s", [1.0, 5.0, 12.5, 20.0, 33.0, 61.0, 240.0, 3600.0])
def test_a_model_that_is_back_is_found_out_after_a_fifth_of_its_outage(outage_s: float) -> None:
    asked = probes(outage_s)
    assert 0 <= asked[-1] - outage_s <= max(REST_S, min(REST_SHARE * outage_s, REST_MAX_S)) + 1e-6


def test_a_model_that_is_long_away_is_seldom_asked() -> None:
    asked = probes(3600.0)
    assert all(later - earlier >= REST_S for earlier, later in pairwise(asked))
    assert len([at for at in asked if at > 1800]) <= 1800 / REST_MAX_S + 1
    assert len(asked) < 3600 / REST_MAX_S + 20


def test_a_model_that_fails_again_as_soon_as_it_healed_rests_longer() -> None:
    health, now, rests = Health(), NOW_S, []
    for _ in range(12):
        for _ in range(TRIP_AFTER):
            health = failed(health, FailureKind.OVERLOADED, now)
        rests.append(health.open_until_s - now)
        now = health.open_until_s
        probing = admit(health, now)
        assert probing is not None
        health = succeeded(probing, 0.5, now_s=now)
    assert rests[0] == REST_S
    assert rests[-1] > 2 * REST_S
    long_ago = now + 10 * REST_MAX_S
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.OVERLOADED, long_ago)
    assert health.open_until_s == long_ago + REST_S


def test_many_calls_that_fail_together_open_it_once() -> None:
    together = broken(16)
    assert together.open_until_s == NOW_S + REST_S
    assert together.failing_s == together.opened_s == NOW_S


@pytest.mark.parametrize("kind", [FailureKind.INVALID_REQUEST, FailureKind.REFUSED, FailureKind.NOT_ACCEPTED])
def test_what_blames_the_request_leaves_the_circuit_alone(kind: FailureKind) -> None:
    health = Health()
    for _ in range(50):
        health = failed(health, kind, NOW_S)
    assert health == Health()


def test_an_answer_from_before_the_failures_that_is_told_late_does_not_end_them() -> None:
    health = failed(Health(), FailureKind.OVERLOADED, NOW_S)
    early, late = (succeeded(health, 0.5, now_s=NOW_S + lag) for lag in (-0.1, 0.1))
    assert (early.failures_in_a_row, late.failures_in_a_row) == (1, 0)
    assert early.latency_s == late.latency_s == 0.5
    assert succeeded(broken(), 0.5, now_s=NOW_S - 0.1).circuit(NOW_S) is Circuit.OPEN


def test_retry_after_holds_the_circuit_open() -> None:
    health = failed(broken(TRIP_AFTER - 1), FailureKind.RATE_LIMITED, NOW_S, retry_after_s=20.0)
    assert health.circuit(NOW_S + 19) is Circuit.OPEN
    probing = admit(health, NOW_S + 20)
    assert probing is not None
    again = failed(probing, FailureKind.RATE_LIMITED, NOW_S + 20, retry_after_s=30.0)
    assert again.circuit(NOW_S + 49) is Circuit.OPEN


def test_an_old_slowness_does_not_outlive_its_end() -> None:
    slow = succeeded(Health(), 9.0, now_s=NOW_S)
    at_once = succeeded(slow, 1.0, now_s=NOW_S)
    later = succeeded(slow, 1.0, now_s=NOW_S + 4 * HALF_LIFE_S)
    assert at_once.latency_s == pytest.approx(7.4)
    assert later.latency_s == pytest.approx(1.4)


def test_latency_and_error_rate_follow_the_newest() -> None:
    health = succeeded(Health(), 1.0, now_s=NOW_S)
    for _ in range(40):
        health = succeeded(health, 3.0, now_s=NOW_S)
    assert health.latency_s == pytest.approx(3.0, abs=0.01)
    worse = failed(health, FailureKind.TIMEOUT, NOW_S)
    assert 0 < worse.error_rate < 1
    assert succeeded(worse, 1.0, now_s=NOW_S).error_rate < worse.error_rate


def test_time_forgives_a_model_that_is_no_longer_asked() -> None:
    health = Health()
    for number in range(3):
        health = failed(health, FailureKind.OVERLOADED, 100.0 + number)
    assert health.errors(102.0) == health.error_rate > 0.4
    assert health.errors(102.0 + HALF_LIFE_S) == pytest.approx(health.error_rate / 2)
    slow = succeeded(Health(), 9.0, now_s=100.0)
    assert slow.latency(100.0, 1.0) == 9.0
    assert slow.latency(100.0 + HALF_LIFE_S, 1.0) == pytest.approx(5.0)
    assert slow.latency(100.0 + 100 * HALF_LIFE_S, 1.0) == pytest.approx(1.0)
    assert Health().latency(100.0, 1.5) == 1.5


def test_a_circuit_that_is_due_a_probe_is_not_held_against_its_model() -> None:
    health = Health()
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.CONNECTION, 100.0)
    assert not health.admits(101.0)
    assert health.errors(101.0) > 0.5
    due = health.open_until_s
    assert health.admits(due)
    assert health.errors(due) == 0.0
    probing = admit(health, due)
    assert probing is not None
    assert not probing.admits(due + 1)
    well = succeeded(probing, 0.5, now_s=due + 1)
    assert (well.error_rate, well.open_until_s) == (0.0, 0.0)
