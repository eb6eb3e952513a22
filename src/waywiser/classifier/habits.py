"""What one agent was seen to do, learned while its session runs, and from one session to the next.

After every step the *surprise* (1 for a tool call, 0 for text, less the probability that was expected) shifts the
expectation wherever the agent is in the same situation again: an online logistic regression over situation names, one
pass, one step size for each level (Bottou, "Online learning and stochastic approximations", 1998). A session learns
fast and is forgotten. What holds for every session of an agent is learned slowly, in `Agents`, and there the features
of the step are regressed on as well: over many sessions there is enough to see.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier.step_features import Progress

Doubles: TypeAlias = npt.NDArray[np.float64]

STEP_SIZES: Final = (0.2, 0.3, 0.3)
"""For the session as a whole, for turns against results, for the tool just used."""
AGENT_STEP_SIZES: Final = (0.02, 0.05, 0.05)
"""The same for what outlives a session."""
FEATURE_STEP_SIZE: Final = 0.002
"""For each feature of the step, beside what is usual. Half and twice as much does about as well, not five times."""
TRUST: Final = 0.8
"""How much of what agents in general do is believed of one not met before: agents differ, the trees are too sure."""
_MOST: Final = 64
_UNDER_WAY: Final = 32
_FAR: Final = 3.0
_LEAST_SPREAD: Final = 0.05


@dataclass(frozen=True, slots=True)
class Moment:
    """A coming step as it looks before it is taken.

    `expected` is the logit of a tool call for agents in general, `where` the situations (one for each of `STEP_SIZES`),
    `unusual` what `unusual()` says of its features.
    """

    expected: float
    where: tuple[str, str, str]
    unusual: Doubles


def usual(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean of each column and how far it spreads: (2, columns)."""
    return np.stack((features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)))


def unusual(features: npt.NDArray[np.float32], common: npt.NDArray[np.float32], expected: Doubles) -> Doubles:
    """Return how far each feature is from the usual, in spreads, `_FAR` at most; then what was expected."""
    far = np.clip((features - common[0]) / common[1], -_FAR, _FAR)
    return np.hstack((far, expected[:, None]))


class Known:
    """What the sessions of an agent taught: shifts by situation (at most `_MOST`), weights of what is unusual."""

    __slots__ = ("shifts", "weights")

    def __init__(self, shifts: dict[str, float] | None = None, weights: Doubles | None = None) -> None:
        self.shifts = shifts or {}
        self.weights = weights

    def copy(self) -> Known:
        """Return what is known now; later lessons don't change it."""
        return Known(dict(self.shifts), self.weights)

    def shift(self, moment: Moment) -> float:
        """Return by how much this agent's logit of a tool call differs from what it is for agents in general."""
        by_features = float(self.weights @ moment.unusual) if self.weights is not None else 0.0
        return by_features + sum(self.shifts.get(name, 0.0) for name in moment.where)

    def learn(self, moment: Moment, surprise: float) -> None:
        """Take note of one step, slowly."""
        _shift(self.shifts, moment.where, AGENT_STEP_SIZES, surprise)
        lesson = FEATURE_STEP_SIZE * surprise * moment.unusual
        self.weights = lesson if self.weights is None else self.weights + lesson  # a new array: copies keep theirs


class Habits:
    """Shifts of the logit of a tool call, by situation. At most `_MOST`; more than that and all are forgotten.

    `known` is what earlier sessions of the agent taught. It stays as it is while the session runs, so that what is
    said of a step hangs on its own session and on where that began, not on what ran beside it.
    """

    __slots__ = ("_known", "_shifts")

    def __init__(self, known: Known | None = None) -> None:
        self._known = known
        self._shifts: dict[str, float] = {}

    @property
    def known(self) -> bool:
        """Whether earlier sessions of the agent were seen."""
        return self._known is not None

    def chance(self, moment: Moment) -> float:
        """Return the probability of a tool call, from the logit for agents in general and this agent's habits."""
        known = self._known.shift(moment) if self._known is not None else 0.0
        here = sum(self._shifts.get(name, 0.0) for name in moment.where)
        return squash(TRUST * moment.expected + known + here)

    def learn(self, moment: Moment, *, called: bool) -> float:
        """Take note of one step and return the surprise."""
        surprise = called - self.chance(moment)
        _shift(self._shifts, moment.where, STEP_SIZES, surprise)
        return surprise


class _Agent:
    """One agent: what it is known for, and its sessions under way with the surprise if they end where they are."""

    __slots__ = ("known", "under_way")

    def __init__(self) -> None:
        self.known = Known()
        self.under_way: OrderedDict[int, tuple[Moment, float]] = OrderedDict()


class Agents:
    """What agents were seen to do in all their sessions. Holds the `limit` agents that were seen last.

    A call is always followed by one more step, an answer may be the last: nobody says that a session is over. So a
    session that has stood still while `_UNDER_WAY` others of its agent went on is taken to have ended in an answer.
    Left out, answers would hardly be learned at all.

    Who reproduces decisions, as a backtest does, goes without: there every session must be judged alone.
    """

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._agents: OrderedDict[bytes, _Agent] = OrderedDict()

    def habits(self, agent: bytes) -> Habits:
        """Return what a session of this agent begins with."""
        found = self._agents.get(agent)
        return Habits(found.known.copy() if found is not None else None)

    def expect(self, agent: bytes, session: int, moment: Moment, chance: float) -> None:
        """Take note of a coming step, a tool call with probability `chance`, before it is known what it is."""
        found = self._found(agent)
        found.under_way[session] = (moment, -chance)
        found.under_way.move_to_end(session)
        while len(found.under_way) > _UNDER_WAY:
            _, (ended, surprise) = found.under_way.popitem(last=False)
            found.known.learn(ended, surprise)

    def learn(self, agent: bytes, session: int, moment: Moment, surprise: float) -> None:
        """Take note of what a step was, by how surprising to its session what the agent did was."""
        found = self._found(agent)
        found.under_way.pop(session, None)
        found.known.learn(moment, surprise)

    def _found(self, agent: bytes) -> _Agent:
        found = self._agents.get(agent)
        if found is None:
            found = self._agents[agent] = _Agent()
            while len(self._agents) > self._limit:
                self._agents.popitem(last=False)
        self._agents.move_to_end(agent)
        return found


def _shift(shifts: dict[str, float], where: Sequence[str], sizes: Sequence[float], surprise: float) -> None:
    if len(shifts) >= _MOST:
        shifts.clear()
    for name, size in zip(where, sizes, strict=True):
        shifts[name] = shifts.get(name, 0.0) + size * surprise


def situations(progress: Progress) -> tuple[str, str, str]:
    """Name the situations an agent is in, widest first: one for each of `STEP_SIZES`."""
    return "", "result" if progress.after_result else "turn", f"tool {progress.habit()}"


def squash(value: float) -> float:
    """Turn a logit into a probability."""
    return 1 / (1 + exp(-min(max(value, -30.0), 30.0)))


def logit(chance: float) -> float:
    """Turn a probability into a logit, away from the ends."""
    chance = min(max(chance, 1e-4), 1 - 1e-4)
    return log(chance / (1 - chance))
