"""Adding up: one policy's sessions into totals, two policies' into a comparison. Constant memory but for the samples.

Intervals are 95% percentile bootstraps over sessions (Efron 1979), with a fixed seed: the same input gives the same
interval. For ratios whole sessions are drawn, numerator and denominator together.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waywiser.replay.recording import Problem
from waywiser.replay.result import SessionResult, Spent

DRAWS = 1000
SEED = 20
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
PROBLEMS_NAMED = 20
NANOS = 1e9
COLUMNS = ("kind", "tier", "model")

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Problems:
    """What could not be replayed: how much of it, and the first of each by name."""

    dropped: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    named: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Take one in."""
        if problem.dropped:
            self.dropped[problem.why] += 1
            return
        self.broken += 1
        if len(self.named) < PROBLEMS_NAMED:
            self.named.append(problem)


@dataclass(slots=True)
class Totals:
    """Sums over the sessions of one policy. `costs` and `tops` keep a number for each session, for the distribution.

    `tenants_limited` tells that the policy limits what a tenant may spend over all of its sessions.
    """

    policy: str
    tenants_limited: bool = False
    sessions: int = 0
    calls: int = 0
    made: int = 0
    cost: int = 0
    top: int = 0
    top_made: int = 0
    saved: int = 0
    switches: int = 0
    cold: int = 0
    reveals: int = 0
    changed: int = 0
    estimated: int = 0
    untimed: int = 0
    recorded: int = 0
    recorded_sessions: int = 0
    priced_sessions: int = 0
    cost_where_recorded: int = 0
    successes: int = 0
    judged: int = 0
    spent: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    stopped: Counter[str] = field(default_factory=Counter)
    stopped_successes: Counter[str] = field(default_factory=Counter)
    stopped_failures: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    unknown_models: Counter[str] = field(default_factory=Counter)
    reproduced: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    costs: array[float] = field(default_factory=lambda: array("d"))
    tops: array[float] = field(default_factory=lambda: array("d"))

    def add(self, result: SessionResult) -> None:
        """Take a session in."""
        self.sessions += 1
        self.formats[result.format] += 1
        for name in ("calls", "made", "switches", "reveals", "changed", "estimated"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.cost += result.cost_nanos
        self.top += result.top_nanos
        self.top_made += result.top_made_nanos
        self.saved += result.saved_nanos
        self.cold += result.cold_nanos
        self.untimed += not result.timed
        if result.recorded_nanos is not None:
            self.recorded += result.recorded_nanos
            self.recorded_sessions += 1
            self.priced_sessions += result.priced
            self.cost_where_recorded += result.cost_nanos
        if result.success is not None:
            self.judged += 1
            self.successes += result.success
        for one in result.spent:
            calls, nanos = self.spent.get((one.kind, one.tier, one.model), (0, 0))
            self.spent[one.kind, one.tier, one.model] = (calls + one.calls, nanos + one.nanos)
        if result.stopped is not None:
            self.stopped[result.stopped.by] += 1
            self.stopped_successes[result.stopped.by] += result.success is True
            self.stopped_failures[result.stopped.by] += result.success is False
        if result.unknown_model:
            self.unknown_models[result.unknown_model] += 1
        if result.reproduced is not None:
            check = result.reproduced
            calls, told, simulated = self.reproduced.get(check.model, (0, 0, 0))
            self.reproduced[check.model] = (
                calls + check.calls,
                told + check.recorded_nanos,
                simulated + check.simulated_nanos,
            )
        self.costs.append(result.cost_nanos / NANOS)
        self.tops.append(result.top_nanos / NANOS)

    def by(self, *columns: str) -> list[Spent]:
        """Sum what was spent by `kind`, `tier`, `model`, or several of them; the dearest first, other fields empty."""
        sums: dict[tuple[str, ...], tuple[int, int]] = {}
        for key, (calls, nanos) in self.spent.items():
            named = dict(zip(COLUMNS, key, strict=True))
            short = tuple(named[column] if column in columns else "" for column in COLUMNS)
            before = sums.get(short, (0, 0))
            sums[short] = (before[0] + calls, before[1] + nanos)
        rows = [Spent(kind, tier, model, *amounts) for (kind, tier, model), amounts in sums.items()]
        return sorted(rows, key=lambda row: (-row.nanos, row.kind, row.tier, row.model))

    def as_json(self, problems: Problems) -> dict[str, object]:
        """Write the totals as `--json` prints them. Money in USD."""
        return {
            "policy": self.policy,
            "sessions": self.sessions,
            "formats": dict(self.formats),
            "calls": self.calls,
            "calls_made": self.made,
            "recorded_cost_usd": self.recorded / NANOS if self.recorded_sessions else None,
            "cost_usd": self.cost / NANOS,
            "top_tier_cost_usd": self.top / NANOS,
            "top_tier_cost_of_calls_made_usd": self.top_made / NANOS,
            "share_of_top_tier": ratio(self.cost, self.top),
            "share_of_top_tier_95": interval(self.costs, self.tops),
            "share_of_recorded": ratio(self.cost_where_recorded, self.recorded),
            "recorded_from": {
                "file": self.recorded_sessions - self.priced_sessions,
                "catalogue": self.priced_sessions,
                "unknown": self.sessions - self.recorded_sessions,
            },
            "cost_per_session_usd": {
                "mean": ratio(sum(self.costs), self.sessions),
                "mean_95": interval(self.costs, None),
                **{f"p{round(100 * share)}": value for share, value in self.quantiles().items()},
            },
            "switches": self.switches,
            "cold_prefixes_usd": self.cold / NANOS,
            "reveals": self.reveals,
            "changed": self.changed,
            "stopped": {
                by: {
                    "sessions": count,
                    "successful": self.stopped_successes[by],
                    "unsuccessful": self.stopped_failures[by],
                }
                for by, count in sorted(self.stopped.items())
            },
            "saved_by_stopping_usd": self.saved / NANOS,
            "successful": self.successes if self.judged else None,
            "by_kind": self._rows("kind"),
            "by_tier": self._rows("tier"),
            "by_model": self._rows("model"),
            "by_kind_tier_model": self._rows(*COLUMNS),
            "reproduced": {
                model: {
                    "calls": calls,
                    "recorded_cost_usd": told / NANOS,
                    "simulated_cost_usd": simulated / NANOS,
                    "error": ratio(simulated - told, told),
                }
                for model, (calls, told, simulated) in sorted(self.reproduced.items())
            },
            "not_known": {
                "calls_without_usage": self.estimated,
                "sessions_without_times": self.untimed,
                "unknown_models": dict(self.unknown_models),
                "dropped": dict(problems.dropped),
                "broken": problems.broken,
                "problems": [{"place": one.place, "why": one.why} for one in problems.named],
            },
        }

    def _rows(self, *columns: str) -> list[dict[str, object]]:
        return [
            {**{column: getattr(row, column) for column in columns}, "calls": row.calls, "cost_usd": row.nanos / NANOS}
            for row in self.by(*columns)
        ]

    def quantiles(self) -> dict[float, float]:
        """Tell the distribution of a session's cost, in USD."""
        if not self.costs:
            return {}
        values = np.quantile(np.array(self.costs), QUANTILES)
        return dict(zip(QUANTILES, values.tolist(), strict=True))


def ratio(part: float, whole: float) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return part / whole if whole else None


def interval(parts: Sequence[float], wholes: Sequence[float] | None) -> list[float] | None:
    """Return the 95% bootstrap interval of a mean (`wholes` is None) or of a ratio of sums; None for no sessions."""
    if len(parts) < 2:
        return None
    above = np.array(parts)
    below = np.ones(len(above)) if wholes is None else np.array(wholes)
    if not below.sum():
        return None
    ratios = drawn(np.stack([above, below]))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = ratios[0] / ratios[1]
    low, high = np.nanquantile(values, (0.025, 0.975)).tolist()
    return [low, high]


def drawn(columns: Floats) -> Floats:
    """Draw sessions with replacement `DRAWS` times; return the sums of each column for each draw."""
    count = columns.shape[1]
    generator = np.random.default_rng(SEED)
    # Drawing how often each session comes up is the same as drawing sessions, in one array of bounded size.
    sums = np.empty((columns.shape[0], DRAWS))
    for draw in range(DRAWS):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)
        sums[:, draw] = columns @ weights
    return sums
