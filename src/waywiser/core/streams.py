"""Watching one stream: which chunks may go out at once, which are held, and when the stream is dropped.

A stream is held only while nobody is reading it: for kinds that no person reads, whose kind is sure, everything is
held until the reply is whole and accepted; for the others text goes out as it comes, and tool calls are held until
they are whole. Where the kind is not sure, the first chunk with content decides. Nobody waits for a held stream
beyond the call's deadline, however steadily it drips.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Reply, Usage
from waywiser.core.draft import InFlight
from waywiser.core.effects import Effect, Emit, Pull, StartStream, StopStream, perform
from waywiser.core.scoring import Candidate
from waywiser.core.steps import SURE, UNREAD, Step, StepKind, revealed


@dataclass(frozen=True, slots=True)
class Dropped:
    """A stream given up because its step belongs to another kind than was guessed."""

    kind: StepKind
    usage: Usage


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of a stream. `held` are the chunks not handed over yet, `emitted` whether any was."""

    outcome: Reply | Failure | Dropped
    held: tuple[Chunk, ...]
    emitted: bool
    now_s: float
    jitter: float


_LOST_AFTER_ALL = frozenset({FailureKind.CUT_SHORT, FailureKind.CONNECTION, FailureKind.TIMEOUT})
"""Failures that take nothing from an answer whose finish had come: only its usage may be missing then."""


def watch(
    call: Call, candidate: Candidate, step: Step, flight: InFlight, timeout_s: float, until_s: float, *, revealing: bool
) -> Generator[Effect[object], object, Watched]:
    """Follow one stream to its end. `revealing` drops it when its kind is not the one of `step`.

    `until_s` is when a stream nobody has seen anything of yet is given up.
    """
    assembly = flight.assembly = Assembly()
    flight.started_s = yield from perform(StartStream(candidate.model, call, timeout_s))
    hold_all = not call.stream or (step.kind in UNREAD and step.confidence >= SURE)
    held: list[Chunk] = []
    emitted = False
    tools_seen = False
    kind: StepKind | None = None
    while True:
        pulled = yield from perform(Pull())
        item = pulled.item
        if item is None or isinstance(item, Failure):
            outcome = _end(assembly, item)
            if isinstance(outcome, Failure) or not call.stream:
                held.clear()
            return Watched(outcome, tuple(held), emitted, pulled.now_s, pulled.jitter)
        assembly.feed(item)
        if not emitted and pulled.now_s >= until_s and item.finish is None:
            yield from perform(StopStream())
            late = _end(
                assembly, Failure(FailureKind.TIMEOUT, "not whole by the deadline", usage=flight.usage_so_far())
            )
            return Watched(late, (), emitted=False, now_s=pulled.now_s, jitter=pulled.jitter)
        if kind is None and (kind := revealed(item)) is not None:
            flight.first_token_s = pulled.now_s
            if revealing and kind is not step.kind:
                yield from perform(StopStream())
                return Watched(
                    Dropped(kind, flight.usage_so_far()), (), emitted=False, now_s=pulled.now_s, jitter=pulled.jitter
                )
        tools_seen = tools_seen or bool(item.tool_calls)
        if hold_all or kind is None or tools_seen:
            held.append(item)
            continue
        for chunk in (*held, item):
            emitted = True
            yield from perform(Emit(chunk))
        held.clear()


def _end(assembly: Assembly, last: Failure | None) -> Reply | Failure:
    partial = assembly.reply()
    if assembly.finish is not None and (last is None or last.kind in _LOST_AFTER_ALL):
        return partial
    if last is None:
        last = Failure(FailureKind.CUT_SHORT, "the stream ended without a finish reason")
    usage = last.usage if last.usage.input_tokens or last.usage.output_tokens else partial.usage
    begun = partial if assembly.characters else last.partial
    return replace(last, usage=usage, partial=begun)
