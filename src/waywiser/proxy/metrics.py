"""Counters and histograms in Prometheus' text format, by hand: a dozen numbers need no library.

Label sets are bounded by what the policies and our own code name: nothing that a client chose is ever a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from waywiser.core.receipt import Receipt

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
KIND = "text/plain; version=0.0.4; charset=utf-8"


class _Histogram:
    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class Metrics:
    """What one worker has seen. One event loop uses it, so nothing is locked."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.streams = 0
        self._requests: dict[tuple[str, int], int] = defaultdict(int)
        self._refused: dict[str, int] = defaultdict(int)
        self._steps: dict[tuple[str, str, str], int] = defaultdict(int)
        self._tokens: dict[tuple[str, str], int] = defaultdict(int)
        self._nanos: dict[str, int] = defaultdict(int)
        self._attempts: dict[tuple[str, str], int] = defaultdict(int)
        self._took: dict[str, _Histogram] = defaultdict(_Histogram)
        self._first: dict[str, _Histogram] = defaultdict(_Histogram)

    def request(self, surface: str, status: int, seconds: float) -> None:
        """Note a finished request; status 499 is a client that went away."""
        self._requests[surface, status] += 1
        self._took[surface].add(seconds)

    def refused(self, code: str) -> None:
        """Note a request that was not answered, by the stable code of its error."""
        self._refused[code] += 1

    def first_chunk(self, surface: str, seconds: float) -> None:
        """Note how long the first piece of a stream took."""
        self._first[surface].add(seconds)

    def receipt(self, receipt: Receipt) -> None:
        """Note what a call came to."""
        self._steps[receipt.kind, receipt.tier, receipt.model] += 1
        self._nanos[receipt.tier] += receipt.cost_nanos
        self._tokens["input", receipt.tier] += receipt.usage.input_tokens
        self._tokens["output", receipt.tier] += receipt.usage.output_tokens
        for attempt in receipt.attempts:
            self._attempts[attempt.model, attempt.failure or "answered"] += 1

    def text(self, worker: int) -> bytes:
        """Write everything; `worker` tells the workers of one port apart."""
        lines: list[str] = []

        def family(name: str, kind: str, about: str, rows: Iterable[tuple[str, float]]) -> None:
            lines.extend((f"# HELP waywiser_{name} {about}", f"# TYPE waywiser_{name} {kind}"))
            lines.extend(f'waywiser_{name}{{worker="{worker}"{labels}}} {value:g}' for labels, value in rows)

        family("in_flight", "gauge", "Requests being answered.", [("", self.in_flight)])
        family("open_streams", "gauge", "Streams being sent.", [("", self.streams)])
        family(
            "requests_total",
            "counter",
            "Requests by surface and status; 499: the client went away.",
            [(_labels(surface=surface, status=status), count) for (surface, status), count in self._requests.items()],
        )
        family(
            "errors_total",
            "counter",
            "Requests that were not answered, by code.",
            [(_labels(code=code), count) for code, count in self._refused.items()],
        )
        family(
            "steps_total",
            "counter",
            "Calls by kind, tier and model.",
            [(_labels(kind=kind, tier=tier, model=model), count) for (kind, tier, model), count in self._steps.items()],
        )
        family(
            "attempts_total",
            "counter",
            "Requests to providers by model and outcome.",
            [(_labels(model=model, outcome=outcome), count) for (model, outcome), count in self._attempts.items()],
        )
        family(
            "tokens_total",
            "counter",
            "Tokens by direction and tier.",
            [(_labels(direction=way, tier=tier), count) for (way, tier), count in self._tokens.items()],
        )
        family(
            "cost_usd_total",
            "counter",
            "What calls cost, in USD, by tier.",
            [(_labels(tier=tier), nanos / 1e9) for tier, nanos in self._nanos.items()],
        )
        for name, about, histograms in (
            ("request_seconds", "How long requests took.", self._took),
            ("first_chunk_seconds", "How long the first piece of a stream took.", self._first),
        ):
            lines.extend((f"# HELP waywiser_{name} {about}", f"# TYPE waywiser_{name} histogram"))
            for surface, histogram in histograms.items():
                lines.extend(_rows(f"waywiser_{name}", f'worker="{worker}",surface="{surface}"', histogram))
        return "\n".join((*lines, "")).encode()


def _rows(name: str, labels: str, histogram: _Histogram) -> Iterable[str]:
    seen = 0
    for limit, count in zip((*BUCKETS_S, "+Inf"), histogram.counts, strict=True):
        seen += count
        yield f'{name}_bucket{{{labels},le="{limit}"}} {seen}'
    yield f"{name}_sum{{{labels}}} {histogram.total_s:.6f}"
    yield f"{name}_count{{{labels}}} {seen}"


def _labels(**values: object) -> str:
    escaped = {name: str(value).replace("\\", "\\\\").replace('"', '\\"') for name, value in values.items()}
    return "".join(f',{name}="{value}"' for name, value in escaped.items())
