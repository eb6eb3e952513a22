"""Going on with an answer that was cut after somebody had begun to read it: on another model, from the text so far.

What a reader has seen can't be taken back, so the next model is shown the text and asked to continue it. Models like to
begin such a continuation with words that are there already; `Seam` takes those out, so that nothing is read twice.
"""

from __future__ import annotations

from dataclasses import replace

from waywiser.core.calls import Call, Failure, FailureKind, Reply
from waywiser.core.dialects import continues, dialect_of
from waywiser.core.messages import Text, assistant, user
from waywiser.core.models import Model, cost_nanos
from waywiser.core.policy import FallbackRule
from waywiser.core.scoring import Candidate

RESUMED = "resumed"
"""The note of an attempt that went on with what another had begun."""

_ASK = (
    "[note from the router] Your answer was cut off at the end of your last message. Continue it from exactly there. "
    "Repeat none of it, and say nothing about the interruption."
)
_ASK_TOKENS = 40
_LEAST_OVERLAP = 12  # a shorter overlap may well be meant
_LEAST_ALL = 4  # but who repeats all that was said, to its first letter, has begun anew
_LOOK = 48  # so much of a continuation is read before any of it goes out
_CHARACTERS_PER_TOKEN = 3
_LEAST_OUTPUT = 16

_OVER = frozenset({FailureKind.REFUSED, FailureKind.INVALID_REQUEST, FailureKind.CONTEXT_TOO_LONG})
"""Failures after which there is nothing to continue: the provider objects to the answer or to the request itself."""


def resumes(rule: FallbackRule, failure: Failure, *, finished: bool) -> bool:
    """Whether an answer of which something was shown may go on elsewhere after this failure."""
    return rule.cut_stream == "resume" and failure.kind not in _OVER and not finished


def continued(call: Call, text: str, model: Model) -> Call:
    """The call that asks `model` to go on from `text`: it stands as the assistant's last turn."""
    if not text.strip():
        return call
    dialect = dialect_of(model)
    turns = [assistant(text)]
    if dialect is None or not continues(model, dialect):
        turns.append(user(_ASK))
    return replace(call, messages=(*call.messages, *turns))


def said_tokens(text: str) -> int:
    """How many tokens a text has, rather too many than too few."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def lengthened(candidate: Candidate, text: str) -> Candidate:
    """The candidate with a prompt that is longer by what was said so far."""
    more = said_tokens(text) + _ASK_TOKENS
    usage = replace(candidate.expected, input_tokens=candidate.expected.input_tokens + more)
    return replace(candidate, expected=usage, expected_nanos=cost_nanos(candidate.model, usage))


def remaining(limit: int | None, text: str) -> int | None:
    """What is left of a limit on the answer's tokens after `text`."""
    return limit if limit is None or not text else max(limit - len(text) // _CHARACTERS_PER_TOKEN, _LEAST_OUTPUT)


def joined(text: str, reply: Reply) -> Reply:
    """The whole answer: what was said before, and the reply that went on from there."""
    if not text:
        return reply
    rest = tuple(part for part in reply.parts if not isinstance(part, Text))
    return replace(reply, parts=(*rest, Text(text + reply.text)))


class Seam:
    """Takes out of a continuation what repeats the end (or the whole) of the text before it. Feed it in order."""

    __slots__ = ("_at", "_before", "_open", "_waiting")

    def __init__(self, before: str) -> None:
        self._before = before
        self._waiting = ""
        self._at = -1
        self._open = bool(before.strip())

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Take the next piece; the answer is what may go out now. `last` lets go of everything."""
        if not self._open:
            return piece
        self._waiting += piece
        if self._at < 0:
            if len(self._waiting) < _LOOK and not last:
                return ""
            self._at = self._begin()
            if self._at < 0:
                return self._let_go(self._waiting[self._overlap() :])
        known = self._before[self._at :]
        if self._waiting.startswith(known):
            return self._let_go(self._waiting[len(known) :])
        return self._let_go(self._waiting) if last or not known.startswith(self._waiting) else ""

    def _begin(self) -> int:
        """Where the continuation begins to repeat what was said, or -1 where it doesn't."""
        return self._before.rfind(self._waiting[:_LOOK]) if len(self._waiting) >= _LOOK else -1

    def _overlap(self) -> int:
        longest = min(len(self._waiting), len(self._before))
        if longest >= _LEAST_ALL and self._waiting.startswith(self._before):
            return longest
        sizes = range(longest, _LEAST_OVERLAP - 1, -1)
        return next((size for size in sizes if self._before.endswith(self._waiting[:size])), 0)

    def _let_go(self, text: str) -> str:
        self._open, self._waiting = False, ""
        return text
