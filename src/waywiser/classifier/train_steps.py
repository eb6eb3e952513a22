"""Trains the heads for agent steps, from recorded sessions and verified steps. scikit-learn is for training only.

Everything is deterministic: the same rows and the same seed give the same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier import step_card
from waywiser.classifier.fit import calibration_error
from waywiser.classifier.glimpses import Glimpses
from waywiser.classifier.habits import Agents, Habits, Moment, situations, unusual, usual
from waywiser.classifier.recordings import LabelledStep, Recording, read_sessions, read_steps
from waywiser.classifier.step_features import FEATURES, Progress
from waywiser.classifier.steps import agent_of
from waywiser.classifier.trees import Forest
from waywiser.classifier.work_features import FEATURES as WORK_FEATURES
from waywiser.classifier.work_features import Signs, work_features
from waywiser.core.messages import Role
from waywiser.errors import ConfigError, Place, Problem

Rows: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Names: TypeAlias = npt.NDArray[np.str_]
Arrays: TypeAlias = dict[str, npt.NDArray[np.generic]]

_ODD_WEIGHT: Final = 0.5
"""Weight of sessions that say little of others: a scaffold walks a chart by tool calls, or the agent mostly fails."""
_SELDOM: Final = 1 / 3
_FOLDS: Final = 4


@dataclass(frozen=True)
class Decisions:
    """Every step of recorded sessions as a row: what could be seen before it, and what the agent then did.

    `wrote` is true of a tool call that changes something, `asked` of a text that closes with a question. `agents`
    says of every session which agent it is of (`agent_of`).
    """

    features: Rows
    called: Flags
    wrote: Flags
    asked: Flags
    session: npt.NDArray[np.int64]
    agents: tuple[bytes, ...]
    situations: tuple[tuple[str, str, str], ...]
    source: Names
    model: Names
    domain: Names
    task: Names
    weight: Doubles

    def folds(self, seed: int, count: int = _FOLDS) -> npt.NDArray[np.int64]:
        """Return a fold for each row; rows of one task share it."""
        names, places = np.unique(self.task, return_inverse=True)
        drawn: npt.NDArray[np.int64] = np.random.default_rng(seed).permutation(len(names))[places] % count
        return drawn


@dataclass(frozen=True)
class Kinds:
    """The fitted trees: a tool call or not; given a call, a write or not; given a text, a question or not.

    `usual` says what features are usual among the rows of the fit (`habits.usual`).
    """

    calls: Forest
    writes: Forest
    asks: Forest
    usual: Rows

    def arrays(self) -> Arrays:
        """Return what is stored."""
        trees = {**self.calls.arrays("calls_"), **self.writes.arrays("writes_"), **self.asks.arrays("asks_")}
        return {**trees, "usual": self.usual}


def train_steps(data: Path, seed: int) -> tuple[Arrays, str]:
    """Train from the sets below `data`; return the arrays to store and the figures for the card, in Markdown.

    Raises `ConfigError` when there are no recorded sessions. Without verified steps the written prior stands alone.
    """
    sessions = read_sessions(data / "trajectories")
    steps = read_steps(data / "steps")
    table = decisions(sessions)
    if len(table.called) < 200 or table.called.all() or not table.called.any():
        raise ConfigError(Problem(Place(str(data / "trajectories")), "too few recorded steps to learn from"))
    everything = np.ones(len(table.called), dtype=bool)
    kinds = fit_kinds(table, everything, seed)
    instances = len({(step.source, step.instance) for step in steps})
    card = step_card.kinds(kind_figures(table, seed)) + step_card.work(work_figures(steps, seed), len(steps), instances)
    return {**kinds.arrays(), "work": fit_work(steps)}, card


def decisions(sessions: Sequence[Recording]) -> Decisions:
    """Replay sessions and note every step but scripted greetings."""
    features: list[list[float]] = []
    done: list[tuple[bool, bool, bool]] = []
    where: list[tuple[str, str, str]] = []
    owner: list[int] = []
    seen = Glimpses()
    for number, session in enumerate(sessions):
        progress = Progress()
        for message in session.messages:
            look = seen.of(message)
            if message.role is Role.ASSISTANT and progress.turns:
                features.append(progress.features())
                done.append((bool(look.names), "write" in look.kinds, look.asks and not look.names))
                where.append(situations(progress))
                owner.append(number)
            progress.add(look)
    won: dict[tuple[str, str], list[bool]] = {}
    for session in sessions:
        won.setdefault((session.source, session.model), []).append(session.success)
    seldom = {agent for agent, results in won.items() if sum(results) < _SELDOM * len(results)}
    odd = [
        (session.source, session.model) in seldom
        or any("steer" in seen.of(message).kinds for message in session.messages)
        for session in sessions
    ]
    called, wrote, asked = np.array(done, dtype=bool).reshape(-1, 3).T
    return Decisions(
        np.array(features, dtype=np.float32).reshape(-1, len(FEATURES)),
        called,
        wrote,
        asked,
        np.array(owner, dtype=np.int64),
        tuple(agent_of(session.messages, ()) for session in sessions),
        tuple(where),
        source=np.array([sessions[at].source for at in owner]),
        model=np.array([sessions[at].model for at in owner]),
        domain=np.array([sessions[at].domain for at in owner]),
        task=np.array([sessions[at].task for at in owner]),
        weight=np.array([_ODD_WEIGHT if odd[at] else 1.0 for at in owner]),
    )


def fit_kinds(table: Decisions, rows: Flags, seed: int) -> Kinds:
    """Fit the trees on the chosen rows."""
    return Kinds(
        _forest(table, rows, table.called, seed, 2),
        _forest(table, rows & table.called, table.wrote, seed, 1),
        _forest(table, rows & ~table.called, table.asked, seed, 1),
        usual(table.features[rows]),
    )


def adapted(table: Decisions, rows: Flags, expected: Doubles, unlike: Doubles, seed: int | None = None) -> Doubles:
    """Return the probability of a tool call for the chosen rows, each session's agent learned as it goes.

    `expected` and `unlike` (see `unusual`) are of every row of the table. With `seed` the sessions come in an order
    drawn by it, and what an agent did in those before counts as well.
    """
    places = np.flatnonzero(rows)
    sessions = np.unique(table.session[places])
    agents = Agents() if seed is not None else None
    if seed is not None:
        sessions = np.random.default_rng(seed).permutation(sessions)
    begins = np.searchsorted(table.session[places], sessions)
    ends = np.searchsorted(table.session[places], sessions, side="right")
    chances = np.zeros(len(places))
    for session, begin, end in zip(sessions.tolist(), begins.tolist(), ends.tolist(), strict=True):
        agent = table.agents[session]
        habits = agents.habits(agent) if agents is not None else Habits()
        for order in range(begin, end):
            at = int(places[order])
            moment = Moment(float(expected[at]), table.situations[at], unlike[at])
            chances[order] = habits.chance(moment)
            surprise = habits.learn(moment, called=bool(table.called[at]))
            if agents is not None:
                agents.expect(agent, session, moment, float(chances[order]))
                if order < end - 1:  # nobody sees what the last step was: nothing is asked after it
                    agents.learn(agent, session, moment, surprise)
    return chances


def _forest(table: Decisions, rows: Flags, truth: Flags, seed: int, copies: int) -> Forest:
    """Fit boosted trees, `copies` times from other seeds, and flatten them; their logits are averaged."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415

    nodes: list[tuple[int, float, int, int, float]] = []
    roots: list[int] = []
    bias, deepest = 0.0, 1
    for copy in range(copies):
        machine = HistGradientBoostingClassifier(
            max_iter=120,
            learning_rate=0.05,
            max_leaf_nodes=10,
            min_samples_leaf=80 if rows.sum() > 4000 else 20,
            l2_regularization=10,
            max_features=0.3,
            early_stopping=False,
            random_state=seed + copy,
        )
        with threadpool_limits(1):  # the same sums in the same order, whatever the machine is busy with
            machine.fit(table.features[rows], truth[rows], sample_weight=table.weight[rows])
        bias += float(machine._baseline_prediction[0, 0]) / copies  # noqa: SLF001 - nowhere public
        for (tree,) in machine._predictors:  # noqa: SLF001 - as above
            first = len(nodes)
            roots.append(first)
            for place, node in enumerate(tree.nodes):
                deepest = max(deepest, int(node["depth"]))
                if node["is_leaf"]:
                    nodes.append((0, float("inf"), first + place, first + place, float(node["value"]) / copies))
                else:
                    left, right = first + int(node["left"]), first + int(node["right"])
                    nodes.append((int(node["feature_idx"]), float(node["num_threshold"]), left, right, 0.0))
    feature, threshold, left_of, right_of, value = zip(*nodes, strict=True)
    return Forest(
        np.array(feature, np.int32),
        np.array(threshold, np.float32),
        np.array(left_of, np.int32),
        np.array(right_of, np.int32),
        np.array(value, np.float32),
        np.array(roots, np.int32),
        np.array([bias], np.float32),
        np.array([deepest], np.int32),
    )


def kind_figures(table: Decisions, seed: int) -> list[step_card.KindFigure]:
    """Measure the kind head on rows it was not trained on: another domain, other tasks, each source left out."""
    found = []
    retail, airline = table.domain == "retail", table.domain == "airline"
    trials = [("retail to airline", retail, airline)] if retail.any() and airline.any() else []
    sources = sorted(set(table.source.tolist())) if len(set(table.source.tolist())) > 1 else []
    trials += [(f"all but {name}", table.source != name, table.source == name) for name in sources]
    for name, inside, outside in trials:
        expected = _forest(table, inside, table.called, seed, 2).logits(table.features)
        unlike = unusual(table.features, usual(table.features[inside]), expected)
        found.append(measure(name, table, outside, expected, unlike, seed))
    folds = table.folds(seed)
    expected, unlike = np.zeros(len(table.called)), np.zeros((len(table.called), len(FEATURES) + 1))
    for fold in range(_FOLDS):
        inside, outside = folds != fold, folds == fold
        expected[outside] = _forest(table, inside, table.called, seed, 1).logits(table.features[outside])
        common = usual(table.features[inside])
        unlike[outside] = unusual(table.features[outside], common, expected[outside])
    for domain in np.unique(table.domain):
        rows = table.domain == domain
        found.append(measure(f"{domain}, other tasks", table, rows, expected, unlike, seed))
    return found


def measure(
    name: str, table: Decisions, rows: Flags, expected: Doubles, unlike: Doubles, seed: int
) -> step_card.KindFigure:
    """Compare what was expected of the chosen rows, habits learned on the way, with what the agents did."""
    chances, truth = adapted(table, rows, expected, unlike), table.called[rows]
    said = chances >= 0.5
    accuracy, error = _right(chances, truth)
    accuracy_known, error_known = _right(adapted(table, rows, expected, unlike, seed), truth)
    table_of = [[int((said[truth == was] == now).sum()) for now in (True, False)] for was in (True, False)]
    return step_card.KindFigure(
        name,
        len(truth),
        accuracy,
        error,
        accuracy_known,
        error_known,
        float(max(truth.mean(), 1 - truth.mean())),
        ((table_of[0][0], table_of[0][1]), (table_of[1][0], table_of[1][1])),
    )


def _right(chances: Doubles, truth: Flags) -> tuple[float, float]:
    """Return the share told right, and the calibration error of how sure it was."""
    said = chances >= 0.5
    right = said == truth
    return float(right.mean()), calibration_error(np.where(said, chances, 1 - chances), right)


def prior() -> Doubles:
    """Return what is believed before any row is seen: (3, features + 1) weights, the intercepts last.

    Answering from a given text and office work are within reach of small models; repairing code in a strange
    repository is not, at any point of the work; handing in a reviewed change is within reach of all but the smallest.
    Written by people who had seen verified steps: `benchmarks/step_sufficiency.py` counts one from other sources alone.
    """
    weights = np.zeros((3, len(WORK_FEATURES) + 1))
    weights[:, -1] = (1.7, 2.3, 3.0)
    weights[:, WORK_FEATURES.index("coding")] = (-4.0, -4.0, -4.3)
    weights[2, WORK_FEATURES.index("handing_in")] = 2.0
    return weights


def fit_work(steps: Sequence[LabelledStep]) -> Doubles:
    """Fit three logistic models, is rank 0, 1, 2 enough, drawn towards `prior`: maximum a posteriori, Newton's method.

    One prior row's worth of pull on what the prior speaks of, ten on what it is silent about: more features than that
    cannot be told from noise with a hundred rows (each costs a point or two when instances are left out).
    """
    if not steps:
        return prior()
    return _fit_rows(work_rows(steps), np.array([step.rank for step in steps]))


def _fit_rows(features: Doubles, ranks: npt.NDArray[np.int64]) -> Doubles:
    """Fit as `fit_work` says, on features already looked up."""
    weights = prior()
    pull = np.full(weights.shape[1], 10.0)
    pull[[WORK_FEATURES.index("coding"), WORK_FEATURES.index("handing_in"), -1]] = 1.0
    rows = np.hstack([features, np.ones((len(features), 1))])
    return np.array([posterior(rows, ranks <= rank, weights[rank], pull) for rank in range(3)])


def work_rows(steps: Sequence[LabelledStep]) -> Doubles:
    """Return the work features of labelled steps, a row a step."""
    seen = Signs()
    rows = [work_features(step.messages, (), seen) for step in steps]
    return np.array(rows, dtype=np.float64).reshape(-1, len(WORK_FEATURES))


def posterior(rows: Doubles, truth: Flags, mean: Doubles, pull: Doubles) -> Doubles:
    """Return the weights that are likeliest after the rows, given a normal prior of this mean and precision."""

    def loss(point: Doubles) -> float:
        scores = rows @ point
        drawn = float((pull * (point - mean) ** 2).sum() / 2)
        return float(np.logaddexp(0, np.where(truth, -scores, scores)).sum()) + drawn

    weights = mean.copy()
    for _ in range(50):
        chances = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (chances - truth) + pull * (weights - mean)
        step = np.linalg.solve((rows * (chances * (1 - chances))[:, None]).T @ rows + np.diag(pull), slope)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def work_figures(steps: Sequence[LabelledStep], seed: int) -> list[step_card.WorkFigure]:
    """Measure the sufficiency head with whole instances left out, at the thresholds a policy may ask for."""
    if not steps:
        return []
    chances = work_crossed(steps, seed)
    ranks = np.array([step.rank for step in steps])
    found = []
    for asked in (0.6, 0.7, 0.8):
        chosen = choose(chances, asked)
        found.append(step_card.WorkFigure(asked, float((chosen >= ranks).mean()), float((chosen == ranks).mean())))
    return found


def work_crossed(steps: Sequence[LabelledStep], seed: int, count: int = 5) -> Doubles:
    """Return the (rows, 3) probabilities of each step from a fit that never saw its instance."""
    names, places = np.unique([step.instance for step in steps], return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names))[places] % count
    features, ranks = work_rows(steps), np.array([step.rank for step in steps])
    chances = np.zeros((len(steps), 3))
    for fold in range(count):
        inside, outside = folds != fold, folds == fold
        chances[outside] = work_chances(_fit_rows(features[inside], ranks[inside]), features[outside])
    return chances


def work_chances(weights: Doubles, features: Doubles) -> Doubles:
    """Return the (rows, 3) probabilities that ranks 0, 1, 2 are enough; they never fall with the rank."""
    scores = np.hstack([features, np.ones((len(features), 1))]) @ weights.T
    rising: Doubles = np.maximum.accumulate(1 / (1 + np.exp(-scores)), axis=1)
    return rising


def choose(chances: Doubles, asked: float) -> npt.NDArray[np.int64]:
    """Return the cheapest rank whose probability reaches `asked`, or the top."""
    enough = chances >= asked
    cheapest: npt.NDArray[np.int64] = np.where(enough.any(axis=1), enough.argmax(axis=1), 3)
    return cheapest
