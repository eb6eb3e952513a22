"""What one agent was seen to do in a situation, learned while its session runs, and from one session to the next.

After every step the *surprise* (1 for a tool call, 0 for text, less the probability that was expected) shifts the
expectation wherever the agent is in the same situation again: an online logistic regression over situation names, one
pass, one step size for each level (Bottou, "Online learning and stochastic approximations", 1998). A session learns
fast and is forgotten; what holds for every session of an agent is learned slowly, in `Agents`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Final

from waywiser.classifier.step_features import Progress

STEP_SIZES: Final = (0.2, 0.3, 0.3)
"""For the session as a whole, for turns against results, for the tool just used."""
AGENT_STEP_SIZES: Final = (0.02, 0.05, 0.05)
"""The same for what outlives a session."""
TRUST: Final = 0.8
"""How much of what agents in general do is believed of one not met before: agents differ, the trees are too sure."""
_MOST: Final = 64
_UNDER_WAY: Final = 32
_STRANGER: Final[Mapping[str, float]] = {}


class Habits:
    """Shifts of the logit of a tool call, by situation. At most `_MOST`; more than that and all are forgotten.

    `known` holds the shifts that earlier sessions of the agent taught. They stay as they are while the session runs,
    so that what is said of a step hangs on its own session and on where that began, not on what ran beside it.
    """

    __slots__ = ("_known", "_shifts")

    def __init__(self, known: Mapping[str, float] = _STRANGER) -> None:
        self._known = known
        self._shifts: dict[str, float] = {}

    def chance(self, expected: float, where: Sequence[str]) -> float:
        """Return the probability of a tool call, from the logit for agents in general and this agent's habits."""
        shifts = sum(self._shifts.get(name, 0.0) + self._known.get(name, 0.0) for name in where)
        return squash(TRUST * expected + shifts)

    def learn(self, expected: float, where: Sequence[str], *, called: bool) -> float:
        """Take note of one step and return the surprise; `expected` is the logit for agents in general."""
        surprise = called - self.chance(expected, where)
        _shift(self._shifts, where, STEP_SIZES, surprise)
        return surprise


class _Agent:
    """What one agent is known for, and its sessions under way: where each is, and the surprise if it ends there."""

    __slots__ = ("shifts", "under_way")

    def __init__(self) -> None:
        self.shifts: dict[str, float] = {}
        self.under_way: OrderedDict[int, tuple[Sequence[str], float]] = OrderedDict()


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
        known = self._agents.get(agent)
        return Habits(dict(known.shifts) if known is not None else _STRANGER)

    def expect(self, agent: bytes, session: int, where: Sequence[str], chance: float) -> None:
        """Take note of a coming step, a tool call with probability `chance`, before it is known what it is."""
        known = self._known(agent)
        known.under_way[session] = (where, -chance)
        known.under_way.move_to_end(session)
        while len(known.under_way) > _UNDER_WAY:
            _, (ended, surprise) = known.under_way.popitem(last=False)
            _shift(known.shifts, ended, AGENT_STEP_SIZES, surprise)

    def learn(self, agent: bytes, session: int, where: Sequence[str], surprise: float) -> None:
        """Take note of what a step was: where the agent stood, and how surprising to the session what it did was."""
        known = self._known(agent)
        known.under_way.pop(session, None)
        _shift(known.shifts, where, AGENT_STEP_SIZES, surprise)

    def _known(self, agent: bytes) -> _Agent:
        known = self._agents.get(agent)
        if known is None:
            known = self._agents[agent] = _Agent()
            while len(self._agents) > self._limit:
                self._agents.popitem(last=False)
        self._agents.move_to_end(agent)
        return known


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
