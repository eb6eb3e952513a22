"""The sketch: its error, that merging equals adding, that it forgets, and that it stays small."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.quantiles import BUCKETS, DECAY, Sketch, bucket_of

ONE_BUCKET = 2**0.25


def sketch_of(values: list[int]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch = sketch.added(value)
    return sketch


def test_an_empty_sketch_knows_nothing() -> None:
    assert Sketch().quantile(0.5) is None


@given(st.integers(1, 10**12), st.floats(0, 1))
def test_one_value_is_found_within_a_bucket(value: int, share: float) -> None:
    found = sketch_of([value] * 3).quantile(share)
    assert found is not None
    assert value / ONE_BUCKET - 1 <= found <= value * ONE_BUCKET + 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_quantiles_of_a_heavy_tail(share: float) -> None:
    rng = random.Random(7)
    values = [round(rng.lognormvariate(12, 1.5)) for _ in range(4000)]
    # What the sketch promises: the quantile of the values, each weighing DECAY ** age.
    weighed = sorted((value, DECAY**age) for age, value in enumerate(reversed(values)))
    target = share * sum(weight for _, weight in weighed)
    running = accumulate(weight for _, weight in weighed)
    value = next(value for (value, _), below in zip(weighed, running, strict=True) if below >= target)
    found = sketch_of(values).quantile(share)
    assert found is not None
    assert value / ONE_BUCKET <= found <= value * ONE_BUCKET


@given(st.lists(st.integers(0, 10**9), max_size=60), st.lists(st.integers(0, 10**9), max_size=60))
def test_merging_is_adding(first: list[int], second: list[int]) -> None:
    merged, added = sketch_of(first).merged(sketch_of(second)), sketch_of(first + second)
    assert merged.count == added.count
    assert merged.weights.keys() == added.weights.keys()
    for bucket, weight in added.weights.items():
        assert merged.weights[bucket] == pytest.approx(weight / added.unit, rel=1e-6)


def test_old_values_are_forgotten() -> None:
    sketch = sketch_of([1_000_000] * 500 + [1000] * 1500)
    found = sketch.quantile(0.99)
    assert found is not None
    assert found < 1300


def test_it_stays_small_and_finite() -> None:
    rng = random.Random(1)
    sketch = sketch_of([rng.randrange(10 ** rng.randrange(1, 30)) for _ in range(20_000)])
    assert len(sketch.weights) <= BUCKETS
    assert sketch.unit < 1e4
    assert sketch.count == 20_000
    assert sketch.quantile(1.0) is not None


def test_zero_and_less_fall_into_the_first_bucket() -> None:
    assert bucket_of(0) == bucket_of(-5) == 0
    assert sketch_of([0, 0, -1]).quantile(0.9) == 0
