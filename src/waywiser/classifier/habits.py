"""What one agent was seen to do in a situation, learned while its session runs.

After every step the *surprise* (1 for a tool call, 0 for text, less the probability that was expected) shifts the
expectation wherever the agent is in the same situation again: an online logistic regression over situation names, one
pass, one step size for each level (Bottou, "Online learning and stochastic approximations", 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Final

from waywiser.classifier.step_features import Progress

STEP_SIZES: Final = (0.2, 0.3, 0.3)
"""For the session as a whole, for turns against results, for the tool just used."""
TRUST: Final = 0.8
"""How much of what agents in general do is believed of one not met before: agents differ, the trees are too sure."""
_MOST: Final = 64


class Habits:
    """Shifts of the logit of a tool call, by situation. At most `_MOST`; more than that and all are forgotten."""

    __slots__ = ("_shifts",)

    def __init__(self) -> None:
        self._shifts: dict[str, float] = {}

    def chance(self, expected: float, where: Sequence[str]) -> float:
        """Return the probability of a tool call, from the logit for agents in general and this agent's habits."""
        return squash(TRUST * expected + sum(self._shifts.get(name, 0.0) for name in where))

    def learn(self, expected: float, where: Sequence[str], *, called: bool) -> None:
        """Take note of one step; `expected` is the logit for agents in general."""
        surprise = called - self.chance(expected, where)
        if len(self._shifts) >= _MOST:
            self._shifts.clear()
        for name, size in zip(where, STEP_SIZES, strict=True):
            self._shifts[name] = self._shifts.get(name, 0.0) + size * surprise


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
