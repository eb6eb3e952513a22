"""What a kind of step has cost on a model: a small, mergeable sketch of a distribution that forgets slowly.

Values fall into buckets whose bounds grow by `2 ** 0.25`; a quantile is interpolated inside its bucket, so it is off by
19% at the most (one bucket), and by half of that as a rule. There are at most `BUCKETS` of them. Each new
value makes the older ones weigh `DECAY` times what they did, so about the newest 1/(1-DECAY) = 200 values count.
(The bucketing is that of DDSketch, Masson, Rim and Lee 2019; the decay is the plain exponential one.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log2

PER_OCTAVE = 4
BUCKETS = 192
DECAY = 0.995
LEAST_WEIGHT = 1e-3
LARGEST_UNIT = 1e3


@dataclass(frozen=True, slots=True)
class Sketch:
    """Weights by bucket, and how many values were ever seen. Bucket 0 holds zero; bucket b ends at 2 ** (b / 4).

    `unit` is what the next value weighs: it grows, instead of all older weights shrinking at each step.
    """

    count: int = 0
    weights: Mapping[int, float] = field(default_factory=dict)
    unit: float = 1.0

    def added(self, value: int) -> Sketch:
        """Return the sketch with one more value (nano-dollars or tokens; below zero counts as zero)."""
        bucket = bucket_of(value)
        weights = {**self.weights, bucket: self.weights.get(bucket, 0.0) + self.unit}
        grown = Sketch(self.count + 1, weights, self.unit / DECAY)
        return grown if grown.unit < LARGEST_UNIT else grown.merged(Sketch())

    def merged(self, newer: Sketch) -> Sketch:
        """Return this sketch with a newer one on top: ours decays by as many values as the newer one has seen.

        The result has the unit 1, and has lost the buckets that no longer weigh anything.
        """
        faded = DECAY**newer.count / self.unit
        weights = {bucket: weight * faded for bucket, weight in self.weights.items() if weight * faded >= LEAST_WEIGHT}
        for bucket, weight in newer.weights.items():
            weights[bucket] = weights.get(bucket, 0.0) + weight / newer.unit
        return Sketch(self.count + newer.count, weights)

    def quantile(self, share: float) -> int | None:
        """Return the value that `share` (0..1) of the weight lies at or below; None when nothing was seen."""
        if not self.weights:
            return None
        target = min(max(share, 0.0), 1.0) * sum(self.weights.values())
        below = 0.0
        bucket = 0
        for bucket in sorted(self.weights):
            weight = self.weights[bucket]
            if below + weight >= target:
                return _inside(bucket, (target - below) / weight)
            below += weight
        return _inside(bucket, 1.0)


def bucket_of(value: int) -> int:
    """Return the bucket a value falls into; the last one holds everything above its bound."""
    if value <= 0:
        return 0
    return min(floor(log2(value) * PER_OCTAVE) + 1, BUCKETS - 1)


def _inside(bucket: int, part: float) -> int:
    """Return the value that lies `part` (0..1) of the way through a bucket, on a logarithmic scale."""
    if bucket == 0:
        return 0
    return max(round(2 ** ((bucket - 1 + part) / PER_OCTAVE)), 1)


@dataclass(frozen=True, slots=True)
class History:
    """What steps of one kind have cost on one model under one policy: nano-dollars, and tokens of output."""

    nanos: Sketch = field(default_factory=Sketch)
    output_tokens: Sketch = field(default_factory=Sketch)

    def added(self, nanos: int, output_tokens: int) -> History:
        """Return the history with one more step."""
        return History(self.nanos.added(nanos), self.output_tokens.added(output_tokens))

    def merged(self, newer: History) -> History:
        """Return this history with a newer one on top."""
        return History(self.nanos.merged(newer.nanos), self.output_tokens.merged(newer.output_tokens))
