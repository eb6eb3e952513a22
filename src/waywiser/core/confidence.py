"""How sure a model was of what it said: the mean log-probability of the tokens of its visible answer.

Natural logarithms, as providers give them: 0 is certainty, -0.7 one in two, -2.3 one in ten. It tells hesitation, not
truth: a model may be sure of what is wrong. What is normal differs from model to model and from kind to kind of step,
so a bound is best read off the receipts, which note the mean of every answer that was looked at.

Two things rest on it: `min_logprob`, a check that a whole reply must pass, and `cut_unsure`, which stops an answer
while it streams. Both see only what the provider told. A reply that comes without log-probabilities passes: taking
it for a bad one would make a missing field an outage, and send every such step a tier up for nothing the model did.
It passes with a note in the receipt, and `waywiser check` names beforehand the models that give none.

What providers tell differs. Most leave temperature out of it (llama.cpp's server also the grammar: the first token of
an answer that a schema forced may look like a bad guess). Some tell nothing of tool calls. Beside tools in a stream
the question is only asked of hosts known to allow it, since llama.cpp's server refuses the whole call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from waywiser.core.calls import Call, Reply
from waywiser.core.policy import Policy, UnsureRule
from waywiser.core.steps import StepKind

MIN_LOGPROB = "min_logprob"
LEAST = -20.0
"""No token counts for less. Providers write -9999 for "very unlikely", and one such token would drown all others."""

UNCHECKED = "confidence not checked: no log-probabilities"
"""The note of an attempt that the policy wanted to judge by its confidence, and could not."""


def min_logprob(bound: float) -> str:
    """The check, as a step rule names it, that the mean log-probability is at least `bound`."""
    return f"{MIN_LOGPROB}={bound!r}"


def bound_of(check: str) -> float | None:
    """The bound of a `min_logprob` check; None for any other check."""
    name, _, bound = check.partition("=")
    return float(bound) if name == MIN_LOGPROB else None


def needed(policy: Policy, kind: StepKind, *, streamed: bool) -> bool:
    """Whether the policy looks at the confidence of a step of this kind. A stream can be cut, a whole reply not."""
    checked = any(check.startswith(MIN_LOGPROB) for check in policy.step_rule(kind).accept)
    return checked or (streamed and policy.fallback.cut_unsure is not None)


def mean(logprobs: Sequence[float]) -> float:
    """The mean of what the tokens count for. Raises `ZeroDivisionError` where there is none."""
    return sum([LEAST if one < LEAST else one if one < 0 else 0.0 for one in logprobs]) / len(logprobs)


def unsure(reply: Reply, bound: float) -> str:
    """Say that a reply lies below the bound; empty for one that does not, or whose confidence nobody told."""
    if not reply.logprobs or (found := mean(reply.logprobs)) >= bound:
        return ""
    return f"the mean log-probability is {found:.2f} over {len(reply.logprobs)} tokens"


def handed_on(call: Call, reply: Reply) -> Reply:
    """The reply as its caller gets it: noted with its confidence, where the policy wanted to know it.

    Log-probabilities that only the policy asked for stay here. `call` is the outbound one.
    """
    if call.settings.confidence:
        note = f"mean_logprob={mean(reply.logprobs):.2f}" if reply.logprobs else UNCHECKED
        reply = replace(reply, notes=(*reply.notes, note))
    return replace(reply, logprobs=()) if reply.logprobs and call.settings.logprobs is None else reply


class Doubt:
    """Watches a running answer: is the mean of the newest tokens below the bound? One object per answer."""

    __slots__ = ("_below", "_sum", "_window")

    def __init__(self, rule: UnsureRule) -> None:
        self._below = rule.below
        self._window: deque[float] = deque(maxlen=rule.over)
        self._sum = 0.0

    def feed(self, logprobs: Sequence[float]) -> str:
        """Take the log-probabilities of the next piece; say that the answer should be cut, empty to go on.

        Before the window is full nothing is said: the first words of an answer are a poor sample.
        """
        window = self._window
        for logprob in logprobs:
            if len(window) == window.maxlen:
                self._sum -= window[0]
            window.append(min(max(logprob, LEAST), 0.0))
            self._sum += window[-1]
            if len(window) == window.maxlen and self._sum < self._below * len(window):
                return f"the mean log-probability fell to {self._sum / len(window):.2f} over {len(window)} tokens"
        return ""
