"""Everything the pipeline asks of the outside world. `core/flow.py` yields these; a driver performs them.

Each effect names the type of its result: `Effect[T]` is answered by a `T`. Time and chance come in with the results.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from waywiser.core.budget import Claim, Hold, Scope, Shortfall, Standing
from waywiser.core.calls import Call, Chunk, Failure, Outcome, Reply
from waywiser.core.classification import Classification, Head
from waywiser.core.health import Health
from waywiser.core.models import Model
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.session import Settlement
from waywiser.core.trail import Trail

T = TypeVar("T")


class Effect(Generic[T]):
    """Something the driver is asked to do; it answers with a `T`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when a call begins. `tokens` maps each encoding of the policy's models to the prompt's length.

    `costs` tells what a (kind, model) has cost so far, in nano-dollars.
    """

    trail: Trail
    standings: tuple[Standing, ...]
    tokens: Mapping[str, int]
    health: Mapping[str, Health]
    costs: Mapping[tuple[str, str], History] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open(Effect[Situation]):
    """Read the session, count the prompt, look at the models' health: one round trip to the store."""

    call: Call
    path: tuple[Scope, ...]
    policy: str
    encodings: frozenset[str]
    now_s: float


@dataclass(frozen=True, slots=True)
class Classify(Effect[Classification | None]):
    """Ask heads of the classifier about a call, for a ladder of `rungs` tiers. None where there is no classifier."""

    call: Call
    rungs: int
    heads: frozenset[Head]


@dataclass(frozen=True, slots=True)
class Reserve(Effect[Hold | Shortfall]):
    """Set money aside."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Sent:
    """What a send came to, when it began and ended, and a fresh random number in 0..1 for the next wait."""

    outcome: Outcome
    started_s: float
    ended_s: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Send(Effect[Sent]):
    """Send a call to a model and wait for the whole answer."""

    model: Model
    call: Call
    timeout_s: float


@dataclass(frozen=True, slots=True)
class StartStream(Effect[float]):
    """Send a call to a model; its pieces are pulled one by one. Answered with the time it began."""

    model: Model
    call: Call
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pulled:
    """The next piece of the running stream; None is its end."""

    item: Chunk | Failure | None
    now_s: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Pull(Effect[Pulled]):
    """Wait for the next piece of the running stream."""


@dataclass(frozen=True, slots=True)
class StopStream(Effect[None]):
    """Drop the running stream: the provider is told to stop."""


@dataclass(frozen=True, slots=True)
class Begin(Effect[float]):
    """Send a call beside others, without waiting for what comes of it. Answered with the time it began.

    `lane` names the request; `stream` asks for the answer in pieces.
    """

    lane: int
    model: Model
    call: Call
    timeout_s: float
    stream: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """Which request was the first to be heard of: None where none was in time.

    `outcome` is what it came to; None is a stream that has begun to speak.
    """

    lane: int | None
    outcome: Outcome | None
    now_s: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Wait(Effect[Heard]):
    """Wait, for `patience_s` at most (None: as long as it takes), until one of the requests begun is heard of."""

    patience_s: float | None


@dataclass(frozen=True, slots=True)
class Drop(Effect["Outcome | None"]):
    """Give a request up that another one has outrun. The answer is what it had come to by then, too late to be heard.

    None: nothing yet, or a stream that goes on.
    """

    lane: int


@dataclass(frozen=True, slots=True)
class Follow(Effect[float]):
    """Make the stream of this request the running one; what it has said is pulled first. Answered as `Begin` was."""

    lane: int


@dataclass(frozen=True, slots=True)
class Emit(Effect[None]):
    """Hand a piece of the answer to the caller, who is streaming."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Check(Effect[str]):
    """Examine a reply against the named checks; the answer says what is wrong, empty when it may be used."""

    call: Call
    reply: Reply
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settle(Effect[tuple[Standing, ...]]):
    """Replace a hold by what was used, append the step, keep the receipt: one round trip."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Record(Effect[None]):
    """Keep the receipt of a call that made no step."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Sleep(Effect[Pulled]):
    """Wait. The answer is the new time and a fresh random number, with no item."""

    seconds: float


class Moment:
    """What time it is, and what chance says, as far as the pipeline knows: as the newest result told it."""

    __slots__ = ("jitter", "now_s")

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.jitter = 0.5

    def is_that_of(self, told: Sent | Pulled | Heard) -> None:
        """Take over what a result says of time and chance."""
        self.now_s = told.ended_s if isinstance(told, Sent) else told.now_s
        self.jitter = told.jitter

    def sleep(self, seconds: float) -> Generator[Effect[object], object, None]:
        """Wait."""
        self.is_that_of((yield from perform(Sleep(seconds))))


def perform(effect: Effect[T]) -> Generator[Effect[object], object, T]:
    """Have an effect performed and hand back its result, typed. Used with `yield from`."""
    result: T = yield effect  # type: ignore[assignment,misc]  # the driver keeps the promise of Effect[T]
    return result
