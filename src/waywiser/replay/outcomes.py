"""What quality costs, where the outcomes of several models on the same tasks are known: a cost-success frontier.

The input is JSON: `{task: {"first_user": text, model: {"success": bool, "cost": USD}, …}, …}`. Only tasks with an
outcome of every model count (a run that ended in `agent_error` is none). Four courses are set against each other:
every model alone; the policy, which chooses a model by the first message; the cheapest that succeeds (the oracle, who
knows the outcome); and the *line*, the best that mixing single models by chance can do at a cost: what a choice has to
beat to be worth anything. Intervals are 95% bootstraps over tasks, drawn in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from waywiser.core.messages import user
from waywiser.core.policy import Policy
from waywiser.core.steps import StepKind
from waywiser.errors import BadInput
from waywiser.ports import Classifier
from waywiser.replay.totals import DRAWS, SEED

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """One course: what a task costs on average (USD), the share of successes, and the 95% intervals of both."""

    name: str
    cost: float
    success: float
    cost_95: tuple[float, float]
    success_95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frontier:
    """All courses. `gain` is the policy's success above the line at its own cost, as a share of tasks."""

    tasks: int
    left_out: int
    singles: tuple[Point, ...]
    policy: Point
    sweep: tuple[Point, ...]
    oracle: Point
    line: tuple[tuple[float, float], ...]
    sufficiency: float
    gain: float
    gain_95: tuple[float, float]

    @property
    def beats(self) -> bool:
        """Whether the policy's choice is better than mixing single models by chance, noise allowed for."""
        return self.gain_95[0] > 0

    @property
    def said(self) -> str:
        """The finding in one sentence."""
        low, high = self.gain_95
        by = f"{100 * self.gain:+.1f} points of success at the same cost ({100 * low:+.1f} to {100 * high:+.1f})"
        if self.beats:
            return f"Choosing by the first message beats the single-model line: {by}."
        if high < 0:
            return f"Choosing by the first message is worse than the single-model line: {by}."
        return f"Choosing by the first message does not beat the single-model line: {by}, which may be noise."

    def as_json(self) -> dict[str, object]:
        """Write the frontier as `--json` prints it."""
        return {
            "tasks": self.tasks,
            "tasks_left_out": self.left_out,
            "single_models": [_row(point) for point in self.singles],
            "policy": {**_row(self.policy), "sufficiency": self.sufficiency},
            "policy_by_sufficiency": [_row(point) for point in self.sweep],
            "oracle": _row(self.oracle),
            "gain_over_single_model_line": self.gain,
            "gain_95": list(self.gain_95),
            "beats_single_model_line": self.beats,
            "said": self.said,
        }


def frontier(path: Path, policy: Policy, classifier: Classifier) -> Frontier:
    """Read outcomes and set the policy's choice by the first message among the other courses. Raises `BadInput`."""
    texts, models, success, cost, left_out = _read(path)
    order = np.argsort(cost.mean(axis=0), kind="stable")
    models, success, cost = [models[index] for index in order], success[:, order], cost[:, order]
    enough = np.array([classifier.classify((user(text),), (), len(models)).sufficiency for text in texts])
    asked = policy.step_rule(StepKind.TOOL_CALL).sufficiency
    draws = _draws(len(texts))
    singles = tuple(_point(name, cost[:, index], success[:, index], draws) for index, name in enumerate(models))
    chosen = _choice(enough, asked)
    rows = np.arange(len(texts))
    picked = success[rows, chosen], cost[rows, chosen]
    sweep = tuple(
        _point(f"{asked_for:.2f}", cost[rows, pick], success[rows, pick], draws)
        for asked_for in THRESHOLDS
        for pick in [_choice(enough, asked_for)]
    )
    best = np.where(success > 0, cost, np.inf).argmin(axis=1)  # where none succeeds argmin is 0, the cheapest
    gains = np.array([_above_line(weights, cost, success, picked[1], picked[0]) for weights in draws])
    whole = np.ones(len(texts)) / len(texts)
    low, high = np.quantile(gains, (0.025, 0.975)).tolist()
    return Frontier(
        len(texts),
        left_out,
        singles,
        _point("policy", picked[1], picked[0], draws),
        sweep,
        _point("oracle", cost[rows, best], success[rows, best], draws),
        _hull(cost.mean(axis=0), success.mean(axis=0)),
        asked,
        _above_line(whole, cost, success, picked[1], picked[0]),
        (low, high),
    )


def _choice(enough: Floats, asked: float) -> npt.NDArray[np.intp]:
    """Take the cheapest model that is enough with the probability asked for; the dearest where none is."""
    fits = enough >= asked
    chosen: npt.NDArray[np.intp] = np.where(fits.any(axis=1), fits.argmax(axis=1), enough.shape[1] - 1)
    return chosen


def _above_line(weights: Floats, cost: Floats, success: Floats, own_cost: Floats, own_success: Floats) -> float:
    """How far a course lies above what mixing the single models reaches at its cost."""
    line = _hull(weights @ cost, weights @ success)
    reached = np.interp(float(weights @ own_cost), [x for x, _ in line], [y for _, y in line])
    return float(weights @ own_success) - float(reached)


def _hull(costs: Floats, successes: Floats) -> tuple[tuple[float, float], ...]:
    """Return the upper hull of the single models, cheapest first; it does not fall."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(costs.tolist(), successes.tolist(), strict=True)):
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) >= 2 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return tuple(hull)


def _turns_up(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether the middle point lies on or below the line from the first to the last."""
    (x1, y1), (x2, y2), (x3, y3) = first, middle, last
    return (y2 - y1) * (x3 - x1) <= (y3 - y1) * (x2 - x1)


def _draws(tasks: int) -> list[Floats]:
    generator = np.random.default_rng(SEED)
    return [np.bincount(generator.integers(0, tasks, tasks), minlength=tasks) / tasks for _ in range(DRAWS)]


def _point(name: str, cost: Floats, success: Floats, draws: Sequence[Floats]) -> Point:
    weights = np.stack(draws)
    costs = np.quantile(weights @ cost, (0.025, 0.975)).tolist()
    successes = np.quantile(weights @ success, (0.025, 0.975)).tolist()
    return Point(name, float(cost.mean()), float(success.mean()), (costs[0], costs[1]), (successes[0], successes[1]))


def _row(point: Point) -> dict[str, object]:
    return {
        "name": point.name,
        "cost_usd": point.cost,
        "success": point.success,
        "cost_95": list(point.cost_95),
        "success_95": list(point.success_95),
    }


def _read(path: Path) -> tuple[list[str], list[str], Floats, Floats, int]:
    """Read the tasks of which every model has an outcome: first messages, models, successes, costs; count the rest."""
    try:
        data: Any = orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(row, dict) for row in data.values()):
        raise BadInput(f"{path}: expected an object of tasks, each with `first_user` and an outcome for each model")
    models = sorted({name for row in data.values() for name, cell in row.items() if isinstance(cell, dict)})
    texts, success, cost = [], [], []
    for row in data.values():
        cells = [_cell(row.get(name)) for name in models]
        if not isinstance(row.get("first_user"), str) or None in cells:
            continue
        known = [cell for cell in cells if cell is not None]
        texts.append(row["first_user"])
        success.append([good for good, _ in known])
        cost.append([usd for _, usd in known])
    if len(models) < 2 or len(texts) < 2:
        raise BadInput(f"{path}: fewer than two tasks have an outcome for each of at least two models")
    return texts, models, np.array(success), np.array(cost), len(data) - len(texts)


def _cell(raw: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if not isinstance(raw, dict) or raw.get("termination") == "agent_error":
        return None
    success, cost = raw.get("success"), raw.get("cost")
    if not isinstance(success, bool) or isinstance(cost, bool) or not isinstance(cost, int | float) or cost < 0:
        return None
    return float(success), float(cost)
