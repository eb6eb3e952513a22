"""What kind of work a call belongs to and how far that work is: the features that say how able a model must be.

Few and coarse on purpose. Labels of this kind are verified by running whole sessions again, so there are only some
hundreds of them anywhere; what survives another instance, another repository and another agent is the kind of work
(answering from a given text, office work with tools, repairing code), whether it has begun, and whether it is done but
for the handing in.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p
from typing import Final

from waywiser.classifier.glimpses import edges
from waywiser.core.calls import Tool
from waywiser.core.messages import Message, Role

_TASK_MESSAGES: Final = 4
_RECENT: Final = 48
_ENOUGH_MARKS: Final = 3

_CODE = re.compile(
    r"```|traceback|\bdef \w+\(|\bclass \w+[(:]|\bimport \w+|\brepository\b|\bcodebase\b|\bpull request\b"
    r"|\bsource code\b|\bunit tests?\b|\bstack trace\b"
    r"|\b\w+\.(?:py|js|ts|go|rs|java|c|cpp|rb|php)\b|\bbug\b|\bgit\b|\bapi\b|\w\(\)"
)
_HANDS = re.compile(
    r"\btool calls?\b|\btools? (?:available|availability|provided)|\bshell\b|\bbash\b|\bfunction calls?\b"
)
_EDIT = re.compile(
    r"write_text|sed -i|apply_patch|patch -p|\.write\(|str_replace|cat\s*<<|cat\s*>|tee \S"
    r"|\"(?:new_str|file_text|old_string)\"|>\s*\S+\.(?:py|js|ts|go|rs|java|c|cpp|rb|php)\b"
)
_DIFF = re.compile(r"^diff --git |^@@ .*@@|^\+\+\+ \S", re.MULTILINE)
_FAILED = re.compile(
    r"traceback \(most recent|<returncode>[1-9]|\b[a-z]*(?:error|exception)\b|\bfailed\b"
    r"|\bno such\b|\bnot found\b|\bfatal:"
)
_REVIEW = re.compile(
    r"\b(?:cat|less|sed -n|head|view|read|show)\b[^|;&]{0,160}(?:patch|diff)|\bgit (?:diff|show|status)\b"
)


@dataclass(frozen=True, slots=True)
class Sign:
    """What one message says of the work: marks of code, and whether it edits, fails, shows or reviews a diff."""

    chars: int
    words: int
    code: int
    hands: bool
    edits: bool
    reviews: bool
    diff: bool
    failed: bool


class Signs:
    """A bounded memory of signs by message digest, the oldest out first."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, Sign] = OrderedDict()

    def of(self, message: Message) -> Sign:
        """Return what `message` says of the work: computed once, then found by digest."""
        found = self._seen.get(message.digest)
        if found is None:
            found = self._seen[message.digest] = sign(message)
            while len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        return found


def sign(message: Message) -> Sign:
    """Read one message, in bounded time whatever its length."""
    text = edges(message.text)
    low = text.lower()
    arguments = " ".join(edges(call.arguments) for call in message.tool_calls[:8])
    return Sign(
        chars=len(message.text) + len(arguments),
        words=low.count(" ") + 1,
        code=len(_CODE.findall(low)),
        hands=_HANDS.search(low) is not None,
        edits=_EDIT.search(arguments) is not None,
        reviews=_REVIEW.search(arguments) is not None,
        diff=_DIFF.search(text) is not None,
        failed=message.is_error or _FAILED.search(low) is not None,
    )


FEATURES: Final = ("agentic", "coding", "begun", "edited", "handing_in", "failed", "turns", "length")
"""The names of the numbers `work_features` returns."""


def work_features(messages: Sequence[Message], tools: Sequence[Tool], seen: Signs) -> list[float]:
    """Return the numbers of `FEATURES`, in that order; the newest `_RECENT` messages and the first few are read.

    `agentic`: tools are in play. `coding`: the task, told by the first user turn, is about code and tools are in play.
    `begun`, `edited`: a tool was called, a file was changed. `handing_in`: the work is done and reviewed, a diff lies
    on the table. `failed`: the newest result is an error. `turns` and `length` are logarithms of counts.
    """
    recent = messages[-_RECENT:]
    calls = [message for message in recent if message.tool_calls]
    opening = messages[:_TASK_MESSAGES]
    task = next((message for message in opening if message.role is Role.USER), None)
    agentic = bool(tools or calls) or any(
        seen.of(message).hands for message in opening if message.role is not Role.TOOL
    )
    marks = seen.of(task).code if task is not None else 0
    newest = seen.of(messages[-1]) if messages and messages[-1].role is Role.TOOL else None
    last_call = seen.of(calls[-1]) if calls else None
    done = newest is not None and last_call is not None and newest.diff and last_call.reviews and not last_call.edits
    edited = any(seen.of(message).edits for message in calls)
    return [
        agentic,
        agentic and marks >= _ENOUGH_MARKS,
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
