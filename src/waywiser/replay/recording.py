"""What was recorded: sessions and their model calls, whatever format they were read from.

A session's turns are kept once. A call names how many of them were its prompt, so that a session of n turns takes
O(n) memory. What a recording does not tell is None: it is estimated later, and counted as estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from waywiser.core.calls import Origin, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import Message
from waywiser.core.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded model call: the prompt, what came back, and what is known of its price.

    `messages` holds at least the prompt, which is its first `length` turns. `usage` and `cost_nanos` are the
    provider's (None: not recorded); `at_s` is when the answer was there, in seconds since the epoch. `receipt` is our
    own, where the recording is one: it tells what the history it does not hold would show.
    """

    messages: Sequence[Message]
    length: int
    reply: Reply
    model: str = ""
    tools: tuple[Tool, ...] = ()
    response_format: ResponseFormat | None = None
    settings: Settings = field(default_factory=Settings)
    origin: Origin = field(default_factory=Origin)
    usage: Usage | None = None
    cost_nanos: int | None = None
    at_s: float | None = None
    receipt: Receipt | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns the model was shown."""
        return tuple(self.messages[: self.length])


@dataclass(frozen=True, slots=True)
class Session:
    """One recorded session, its calls in order. `place` is where it begins in the input (`file:line`).

    `success` is what the recording says of the outcome, None where it says nothing. `cost_nanos` is what the recording
    says of the whole, where it says nothing of single calls.
    """

    id: str
    place: str
    calls: tuple[Recorded, ...]
    task_id: str = ""
    success: bool | None = None
    cost_nanos: int | None = None
    format: str = "session"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the input that could not be replayed: where, and why. `dropped` tells it was left out on purpose."""

    place: str
    why: str
    dropped: bool = False
