"""Hedging: a second request, to another model, when the first is slower than it is in 19 calls of 20.

The first to speak wins: to answer whole, or to begin its stream. The other is dropped, and charged for what its
provider must be assumed to have done by then. How slow is too slow each model's own calls have taught
(`Health.patience_s`), so that hedging adds about one call in twenty, however slow the day (Dean and Barroso, "The Tail
at Scale", CACM 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from waywiser.core.calls import Call, Failure, Outcome, Reply, Usage
from waywiser.core.draft import InFlight
from waywiser.core.effects import Begin, Drop, Effect, Heard, Moment, Wait, perform
from waywiser.core.fallback import Tried, spare_rung
from waywiser.core.health import Health
from waywiser.core.scoring import Candidate

T = TypeVar("T")
Steps: TypeAlias = Generator[Effect[object], object, T]

OUTRUN = "outrun"
"""What the receipt calls a request that was dropped because another one was quicker."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """How long to wait for the first request, in seconds, and the rung of the ladder to ask then."""

    patience_s: float
    spare: int


@dataclass(frozen=True, slots=True)
class Runner:
    """A request of a race: its hold, the call as it leaves, how long its model may be silent."""

    flight: InFlight
    call: Call
    timeout_s: float


def hedge(
    ladder: Sequence[Candidate],
    index: int,
    tried: Sequence[Tried],
    health: Mapping[str, Health],
    *,
    stream: bool,
    now_s: float,
) -> Hedge | None:
    """How to hedge a request to rung `index`; None where its model is not known well enough or nobody can stand in."""
    known = health.get(ladder[index].model.name)
    patience = known.patience_s(first=stream) if known is not None else None
    if patience is None:
        return None
    closed = {name for name, other in health.items() if not other.admits(now_s)}
    spare = spare_rung(ladder, tried, index, closed)
    return None if spare is None else Hedge(patience, spare)


def race(
    first: Runner,
    patience_s: float,
    moment: Moment,
    *,
    stream: bool,
    spare: Callable[[], Steps[Runner | None]],
    lost: Callable[[Runner, Outcome | None], Steps[None]],
) -> Steps[tuple[Runner, Heard]]:
    """Run the race; the answer is who won it (or failed last), and what was heard of that.

    `spare` makes the second runner, if there is money and time for it. `lost` settles the runner that did not win: it
    failed, answered too late, or (None) had come to nothing yet.
    """
    yield from _begin(0, first, stream=stream)
    heard = yield from _wait(patience_s, moment)
    if heard.lane is not None:
        return first, heard
    second = yield from spare()
    if second is None:
        return first, (yield from _wait(None, moment))
    yield from _begin(1, second, stream=stream)
    heard = yield from _wait(None, moment)
    winner, other = (second, first) if heard.lane else (first, second)
    if isinstance(heard.outcome, Failure):
        yield from lost(winner, heard.outcome)
        return other, (yield from _wait(None, moment))
    late = yield from perform(Drop(0 if heard.lane else 1))
    yield from lost(other, late)
    return winner, heard


def _wait(patience_s: float | None, moment: Moment) -> Steps[Heard]:
    heard = yield from perform(Wait(patience_s))
    moment.is_that_of(heard)
    return heard


def _begin(lane: int, runner: Runner, *, stream: bool) -> Steps[None]:
    flight = runner.flight
    flight.sent = True
    flight.started_s = yield from perform(Begin(lane, flight.candidate.model, runner.call, runner.timeout_s, stream))


def outrun_usage(flight: InFlight, late: Reply | None, *, stream: bool) -> Usage:
    """What an outrun request is charged for: what it used, if it answered all the same; else what must be assumed.

    That is its prompt, and the answer it was expected to give where it answers whole: nobody can stop a provider then.
    A stream is stopped before it has said a word.
    """
    if late is not None:
        return flight.counted(late).usage
    expected = flight.candidate.expected
    if stream:
        return Usage(expected.input_tokens, estimated=True)
    output = expected.output_tokens if flight.limit is None else min(expected.output_tokens, flight.limit)
    return Usage(expected.input_tokens, output, estimated=True)
