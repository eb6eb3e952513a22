"""Counters and histograms in Prometheus' text format, by hand: a dozen numbers need no library.

Label sets are bounded by what the policies and our own code name: nothing that a client chose is ever a label.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter

from waywiser.core.receipt import Receipt

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
KIND = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "requests_total": ("Requests by surface and status; 499: the client went away.", ("surface", "status")),
    "errors_total": ("Requests that were not answered, by code.", ("code",)),
    "steps_total": ("Calls by kind, tier and model.", ("kind", "tier", "model")),
    "attempts_total": ("Requests to providers by model and outcome.", ("model", "outcome")),
    "tokens_total": ("Tokens by direction and tier.", ("direction", "tier")),
    "cost_usd_total": ("What calls cost, in USD, by tier.", ("tier",)),
}
_HISTOGRAMS = {
    "request_seconds": "How long requests took.",
    "first_chunk_seconds": "How long the first piece of a stream took.",
}
_UNITS = {"cost_usd_total": 1e-9}  # counted in nano-dollars: integers do not drift


class _Histogram:
    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class Metrics:
    """What the proxy has seen. One event loop uses it, so nothing is locked."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.streams = 0
        self._counts: dict[tuple[str, ...], int] = defaultdict(int)  # by a counter's name and its labels
        self._times: dict[tuple[str, str], _Histogram] = defaultdict(_Histogram)  # by name and surface

    def request(self, surface: str, status: int, seconds: float) -> None:
        """Note a finished request; status 499 is a client that went away."""
        self._counts["requests_total", surface, str(status)] += 1
        self._times["request_seconds", surface].add(seconds)

    def refused(self, code: str) -> None:
        """Note a request that was not answered, by the stable code of its error."""
        self._counts["errors_total", code] += 1

    def first_chunk(self, surface: str, seconds: float) -> None:
        """Note how long the first piece of a stream took."""
        self._times["first_chunk_seconds", surface].add(seconds)

    def receipt(self, receipt: Receipt) -> None:
        """Note what a call came to."""
        self._counts["steps_total", receipt.kind, receipt.tier, receipt.model] += 1
        self._counts["cost_usd_total", receipt.tier] += receipt.cost_nanos
        self._counts["tokens_total", "input", receipt.tier] += receipt.usage.input_tokens
        self._counts["tokens_total", "output", receipt.tier] += receipt.usage.output_tokens
        for attempt in receipt.attempts:
            self._counts["attempts_total", attempt.model, attempt.failure or "answered"] += 1

    def dump(self) -> bytes:
        """Write everything down for another worker, which takes it in with `add`."""
        times = [(*key, histogram.counts, histogram.total_s) for key, histogram in self._times.items()]
        gauges = self.in_flight, self.streams
        return json.dumps({"gauges": gauges, "counts": list(self._counts.items()), "times": times}).encode()

    def add(self, dumped: bytes, *, alive: bool) -> None:
        """Add what another worker has seen. One that is no more has nothing in flight; what it counted stays."""
        told = json.loads(dumped)
        if alive:
            self.in_flight += told["gauges"][0]
            self.streams += told["gauges"][1]
        for key, count in told["counts"]:
            self._counts[tuple(key)] += count
        for name, surface, counts, total_s in told["times"]:
            sums = self._times[name, surface]
            sums.counts = [one + other for one, other in zip(sums.counts, counts, strict=True)]
            sums.total_s += total_s

    def text(self) -> bytes:
        """Write everything as Prometheus reads it."""
        lines = [
            *_family("in_flight", "gauge", "Requests being answered.", [("", self.in_flight)]),
            *_family("open_streams", "gauge", "Streams being sent.", [("", self.streams)]),
        ]
        for name, (about, labels) in _COUNTERS.items():
            rows = [
                (_labels(zip(labels, key[1:], strict=True)), count * _UNITS.get(name, 1))
                for key, count in sorted(self._counts.items())
                if key[0] == name
            ]
            lines += _family(name, "counter", about, rows)
        for name, about in _HISTOGRAMS.items():
            lines += _family(name, "histogram", about, [])
            for (of, surface), histogram in sorted(self._times.items(), key=itemgetter(0)):
                if of == name:
                    lines += _buckets(f"waywiser_{name}", surface, histogram)
        return "\n".join((*lines, "")).encode()


def _family(name: str, kind: str, about: str, rows: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP waywiser_{name} {about}"
    yield f"# TYPE waywiser_{name} {kind}"
    for labels, value in rows:
        yield f"waywiser_{name}{labels} {value:.12g}"


def _buckets(name: str, surface: str, histogram: _Histogram) -> Iterator[str]:
    seen = 0
    for limit, count in zip((*BUCKETS_S, "+Inf"), histogram.counts, strict=True):
        seen += count
        yield f'{name}_bucket{{surface="{surface}",le="{limit}"}} {seen}'
    yield f'{name}_sum{{surface="{surface}"}} {histogram.total_s:.6f}'
    yield f'{name}_count{{surface="{surface}"}} {seen}'


def _labels(values: Iterable[tuple[str, str]]) -> str:
    escaped = ((name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
