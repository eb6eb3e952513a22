"""How long is too long: the running quantile of `core/health.py`, whatever the distribution and wherever it moves."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from waywiser.core.calls import FailureKind
from waywiser.core.health import (
    HEDGE_AFTER_CALLS,
    REST_S,
    TRIP_AFTER,
    Health,
    admit,
    dropped,
    failed,
    outrun,
    succeeded,
)

NOW_S = 1_800_000_000.0
CALLS = 4000

Draw = Callable[[random.Random, int], float]

DISTRIBUTIONS: dict[str, Draw] = {
    "narrow": lambda rng, _: rng.lognormvariate(0.0, 0.3),
    "wide": lambda rng, _: rng.lognormvariate(0.0, 1.0),
    "bimodal": lambda rng, _: (1.0 if rng.random() < 0.8 else 8.0) * rng.lognormvariate(0.0, 0.2),
    "rare": lambda rng, _: (1.0 if rng.random() < 0.97 else 30.0) * rng.lognormvariate(0.0, 0.1),
    "constant": lambda rng, _: 1.0 + rng.random() * 0.01,
    "three times slower": lambda rng, n: (1.0 if n < CALLS // 2 else 3.0) * rng.lognormvariate(0.0, 0.3),
    "three times faster": lambda rng, n: (3.0 if n < CALLS // 2 else 1.0) * rng.lognormvariate(0.0, 0.3),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_one_call_in_twenty_is_slower(name: str, seed: int) -> None:
    rng, health, slower = random.Random(seed), Health(), []
    for number in range(CALLS):
        took_s = DISTRIBUTIONS[name](rng, number)
        patience_s = health.patience_s(False)
        if patience_s is not None:
            slower.append(took_s > patience_s)
        health = succeeded(health, took_s, now_s=NOW_S)
    assert 0.03 < sum(slower) / len(slower) < 0.08
    assert 0.03 < sum(slower[CALLS // 2 :]) / len(slower[CALLS // 2 :]) < 0.08


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["narrow", "bimodal", "three times slower"])
def test_calls_that_are_dropped_when_they_are_slow_teach_the_same(name: str, first: bool) -> None:
    rng, health, dropped, believed = random.Random(5), Health(), 0, 0
    for number in range(CALLS):
        took_s = DISTRIBUTIONS[name](rng, number)
        patience_s = health.patience_s(first)
        believed += patience_s is not None
        if patience_s is not None and took_s > patience_s:
            dropped += 1
            health = outrun(health, patience_s * 1.01, first, NOW_S)
        else:
            health = succeeded(health, took_s, now_s=NOW_S, first_s=took_s if first else None)
    assert 0.03 < dropped / believed < 0.08


def test_a_steady_model_is_not_given_much_longer_than_it_takes() -> None:
    health = Health()
    for _ in range(500):
        health = succeeded(health, 1.0, now_s=NOW_S)
        patience_s = health.patience_s(False)
        assert patience_s is None or patience_s < 1.25


def test_it_is_believed_after_twenty_calls() -> None:
    health = Health()
    for number in range(HEDGE_AFTER_CALLS):
        assert health.patience_s(False) is None
        health = succeeded(health, 1.0 + number, now_s=NOW_S)
    assert health.patience_s(False) == 20.0
    assert health.patience_s(True) is None


def test_the_first_piece_is_measured_beside_the_whole() -> None:
    health = Health()
    for _ in range(60):
        health = succeeded(health, 4.0, now_s=NOW_S, first_s=0.5)
    assert (health.latency_s, health.first_token_s) == (4.0, 0.5)
    slow_s, slow_first_s = health.patience_s(False), health.patience_s(True)
    assert slow_s is not None
    assert slow_first_s is not None
    assert slow_s / slow_first_s == pytest.approx(8.0)
    whole = succeeded(health, 9.0, now_s=NOW_S)
    assert whole.first_token_s == 0.5
    assert whole.timed_first == health.timed_first


def test_a_call_that_was_outrun_is_slow_and_no_failure() -> None:
    health = Health()
    for _ in range(30):
        health = succeeded(health, 2.0, now_s=NOW_S, first_s=0.5)
    late = outrun(health, 1.0, True, NOW_S)
    assert late.first_token_s > health.first_token_s
    assert late.slow_first_s > health.slow_first_s
    assert late.latency_s == health.latency_s  # a whole answer takes 2 s: one that has taken 1 s says nothing of it
    assert (late.slow_s, late.timed) == (health.slow_s, health.timed)
    later = outrun(health, 5.0, False, NOW_S)
    assert later.latency_s > health.latency_s
    assert later.slow_s > health.slow_s
    assert later.first_token_s == health.first_token_s
    assert (later.error_rate, later.failures_in_a_row, later.open_until_s) == (0.0, 0, 0.0)


def test_a_probe_that_was_outrun_ends_without_a_verdict() -> None:
    health = Health()
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.OVERLOADED, NOW_S)
    due_s = NOW_S + REST_S
    probing = admit(health, due_s)
    assert probing is not None
    assert admit(probing, due_s + 1) is None
    dropped = outrun(probing, 1.0, False, due_s + 1)
    assert dropped.open_until_s == health.open_until_s
    assert admit(dropped, due_s + 1) is not None


def test_a_call_that_we_dropped_ends_its_probe_and_says_how_soon_it_began() -> None:
    health = Health()
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.OVERLOADED, NOW_S)
    due_s = NOW_S + REST_S
    probing = admit(health, due_s)
    assert probing is not None
    for first_s in (None, 0.5):
        after = dropped(probing, 1.0, first_s, due_s + 1)
        assert after.open_until_s == health.open_until_s
        assert admit(after, due_s + 1) is not None
        assert (after.first_token_s, after.latency_s) == (first_s or 0.0, 0.0)


def test_an_outage_leaves_what_is_known_of_the_pace() -> None:
    health = Health()
    for _ in range(HEDGE_AFTER_CALLS):
        health = succeeded(health, 2.0, now_s=NOW_S, first_s=0.5)
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.CONNECTION, NOW_S)
    healed = succeeded(health, 2.0, now_s=NOW_S)
    assert healed.open_until_s == 0.0
    assert healed.patience_s(False) is not None
    assert healed.patience_s(True) == 0.5


def test_a_straggler_from_before_the_probe_leaves_the_probe_alone() -> None:
    health = Health()
    for _ in range(TRIP_AFTER):
        health = failed(health, FailureKind.OVERLOADED, NOW_S)
    due_s = NOW_S + REST_S
    probing = admit(health, due_s)
    assert probing is not None
    later_s, took_s = due_s + 5, REST_S + 6  # it began before the circuit opened
    for after in (
        failed(probing, FailureKind.TIMEOUT, later_s, took_s=took_s),
        failed(probing, FailureKind.INVALID_REQUEST, later_s, took_s=took_s),
        dropped(probing, took_s, None, later_s),
        outrun(probing, took_s, False, later_s),
    ):
        assert after.open_until_s == probing.open_until_s, "the circuit does not rest again"
        assert admit(after, later_s) is None, "and no second probe passes"
    assert failed(probing, FailureKind.TIMEOUT, later_s, took_s=5).open_until_s > probing.open_until_s
