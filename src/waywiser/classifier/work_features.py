"""What kind of work a call belongs to and how far that work is: the features that say how able a model must be.

Few and coarse on purpose. Labels of this kind are verified by running whole sessions again, so there are only some
hundreds of them anywhere; what survives another instance, another repository and another agent is the kind of work
(answering from a given text, office work with tools, repairing code), whether it has begun, and whether it is done but
for the handing in.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import log1p
from typing import Final

from waywiser.classifier.glimpses import EDGE_CHARS, edges
from waywiser.core.calls import Tool
from waywiser.core.messages import Message, Role

_TASK_MESSAGES: Final = 4
_RECENT: Final = 48
_ENOUGH_MARKS: Final = 3
_MOST_CALLS: Final = 8
_STATUS_CHARS: Final = 200

# Marks of code: what a text must contain for the mark to be possible, found many times faster than a pattern is
# tried at every place, and what must then stand there.
_EXTENSION = re.compile(r"(?<=\w)\.(?:py|js|ts|go|rs|java|c|cpp|rb|php)\b")
_MARKS = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        ("```", "```"),
        ("()", r"(?<=\w)\(\)"),
        ("def ", r"\bdef \w+\("),
        ("class ", r"\bclass \w+[(:]"),
        ("import ", r"\bimport \w"),
        *((word, rf"\b{word}\b") for word in ("repository", "codebase", "pull request", "source code")),
        *((word, rf"\b{word}\b") for word in ("unit test", "unit tests", "stack trace", "bug", "git", "api")),
        ("traceback", "traceback"),
    )
)
_HANDS = re.compile(
    r"\btool calls?\b|\btools? (?:available|availability|provided)|\bshell\b|\bbash\b|\bfunction calls?\b"
)
_EDIT = re.compile(
    r"write_text|\b(?:sed|perl) -\w*i\b|apply_patch|patch -p|\.write\(|str_replace|cat\s*<<|cat\s*>|tee \S"
    r"|\"(?:new_str|file_text|old_string)\"|>\s*\S+\.(?:py|js|ts|go|rs|java|c|cpp|rb|php)\b"
)
_DIFF = re.compile(r"\n(?:diff --git |@@ .*@@|\+\+\+ \S)")
_FAILED = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        ("traceback (most recent", ""),
        ("returncode>", r"(?<=<)returncode>[1-9]"),
        ("error", r"error\b"),
        ("exception", r"exception\b"),
        *((phrase, rf"\b{phrase}\b") for phrase in ("failed", "no such", "not found")),
        ("fatal:", r"\bfatal:"),
    )
)
_SUCCEEDED = "<returncode>0<"
_REVIEW = re.compile(r"\b(?:cat|less|sed -n|head|tail|view|read|show)\b[^|;&]{0,160}(?:patch|diff)")


class Sign:
    """What one message says of the work. Each sign is looked for when it is first asked for, in bounded time.

    `known` keeps what was found; it outlives the message, which is why the message itself is not kept.
    """

    __slots__ = ("_known", "_message")

    def __init__(self, message: Message, known: dict[str, bool]) -> None:
        self._message = message
        self._known = known

    def _once(self, name: str, look: Callable[[Message], bool]) -> bool:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = look(self._message)
        return found

    @property
    def chars(self) -> int:
        """How long it is, as far as it is read."""
        calls = sum(min(len(call.arguments), 2 * EDGE_CHARS) for call in self._message.tool_calls)
        return len(self._message.text) + calls

    @property
    def code(self) -> bool:
        """Whether it is about code: `_ENOUGH_MARKS` marks of it."""
        return self._once("code", _is_code)

    @property
    def hands(self) -> bool:
        """Whether it speaks of tools."""
        return self._once("hands", lambda message: _HANDS.search(edges(message.text).lower()) is not None)

    @property
    def edits(self) -> bool:
        """Whether it changes a file."""
        return self._once("edits", lambda message: _EDIT.search(_arguments(message)) is not None)

    @property
    def reviews(self) -> bool:
        """Whether it asks to see the change that was written down to be handed in.

        Not so `git diff` on a working tree: there the change is still to be judged, which is no small work.
        """
        return self._once("reviews", lambda message: _REVIEW.search(_arguments(message)) is not None)

    @property
    def diff(self) -> bool:
        """Whether it shows what was changed."""
        return self._once("diff", lambda message: _DIFF.search(f"\n{edges(message.text)}") is not None)

    @property
    def failed(self) -> bool:
        """Whether it reports a failure."""
        return self._once("failed", _has_failed)


def _arguments(message: Message) -> str:
    return " ".join(edges(call.arguments) for call in message.tool_calls[:_MOST_CALLS])


def _is_code(message: Message) -> bool:
    low = edges(message.text).lower()
    found = 0
    for literal, pattern in _MARKS:
        for place in _places(low, literal):
            found += pattern.match(low, place) is not None
            if found >= _ENOUGH_MARKS:
                return True
    for place in _places(low, "."):
        found += _EXTENSION.match(low, place) is not None
        if found >= _ENOUGH_MARKS:
            return True
    return False


def _has_failed(message: Message) -> bool:
    if message.is_error:
        return True
    low = edges(message.text).lower()
    if _SUCCEEDED in low[:_STATUS_CHARS]:
        return False  # a listing of code is full of errors and exceptions
    return any(pattern.match(low, place) for literal, pattern in _FAILED for place in _places(low, literal))


def _places(text: str, literal: str) -> Iterator[int]:
    """Yield where a literal stands, from left to right."""
    place = text.find(literal)
    while place >= 0:
        yield place
        place = text.find(literal, place + len(literal))


class Signs:
    """A bounded memory of signs by message digest, the oldest out first."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, dict[str, bool]] = OrderedDict()

    def of(self, message: Message) -> Sign:
        """Return what `message` says of the work: looked for once, then found by digest."""
        known = self._seen.get(message.digest)
        if known is None:
            known = self._seen[message.digest] = {}
            while len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        return Sign(message, known)


FEATURES: Final = ("agentic", "coding", "begun", "edited", "handing_in", "failed", "turns", "length")
"""The names of the numbers `work_features` returns."""


def work_features(messages: Sequence[Message], tools: Sequence[Tool], seen: Signs) -> list[float]:
    """Return the numbers of `FEATURES`, in that order; the newest `_RECENT` messages and the first few are read.

    `agentic`: tools are in play. `coding`: the task, told by the first user turn, is about code and tools are in play.
    `begun`, `edited`: a tool was called, a file was changed. `handing_in`: the work is done, the change that was
    written down for handing in lies on the table. `failed`: the newest result is an error. `turns` and `length` are
    logarithms of counts.
    """
    recent = messages[-_RECENT:]
    calls = [message for message in recent if message.tool_calls]
    opening = messages[:_TASK_MESSAGES]
    task = next((message for message in opening if message.role is Role.USER), None)
    agentic = bool(tools or calls) or any(
        seen.of(message).hands for message in opening if message.role is not Role.TOOL
    )
    coding = agentic and task is not None and seen.of(task).code
    newest = seen.of(messages[-1]) if messages and messages[-1].role is Role.TOOL else None
    last_call = seen.of(calls[-1]) if calls else None
    done = newest is not None and last_call is not None and newest.diff and last_call.reviews and not last_call.edits
    edited = any(seen.of(message).edits for message in calls)
    return [
        agentic,
        coding,
        agentic and bool(calls),
        edited,
        done and edited,
        newest is not None and newest.failed and not newest.diff,
        log1p(len(calls)),
        log1p(sum(seen.of(message).chars for message in recent)) - 8.0,
    ]


def reasons(features: Sequence[float]) -> tuple[str, ...]:
    """Say in words what the features found, the most telling first."""
    agentic, coding, begun, edited, handing_in, failed, turns, _ = features
    found = []
    if handing_in:
        found.append("the work is done and reviewed")
    if failed:
        found.append("the newest result is an error")
    if coding:
        found.append("code is being repaired")
    elif agentic:
        found.append("tools are in play")
    else:
        found.append("no tools in play")
    if agentic:
        found.append(f"tool turn {round(2.718281828**turns)}" if begun else "nothing done yet")
    if edited and not handing_in:
        found.append("files were changed")
    return tuple(found)
