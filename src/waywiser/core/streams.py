"""Watching one stream: which chunks may go out at once, which are held, and when the stream is dropped.

A stream is held only while nobody is reading it: for kinds that no person reads, whose kind is sure, everything is
held until the reply is whole and accepted; for the others text goes out as it comes, and tool calls are held until
they are whole. Where the kind is not sure, the first chunk with content decides. Nobody waits for a held stream
beyond the call's deadline, however steadily it drips. An answer that has begun to repeat itself is cut, seen or not,
and so is one whose model has lost its confidence: that is an answer not good enough, and goes on a tier higher.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Reply, Usage
from waywiser.core.confidence import Doubt
from waywiser.core.draft import InFlight
from waywiser.core.effects import Effect, Emit, Follow, Pull, StartStream, StopStream, perform
from waywiser.core.monologue import Monologue
from waywiser.core.policy import FallbackRule
from waywiser.core.resume import Seam
from waywiser.core.steps import Step, StepKind, revealed


@dataclass(frozen=True, slots=True)
class Dropped:
    """A stream given up because its step belongs to another kind than was guessed."""

    kind: StepKind
    usage: Usage


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of a stream. `held` are the chunks not handed over yet, `emitted` whether any was.

    `said` is the text that was handed over, `finished` whether a finish was.
    """

    outcome: Reply | Failure | Dropped
    held: tuple[Chunk, ...]
    emitted: bool
    now_s: float
    jitter: float
    said: str = ""
    finished: bool = False


_LOST_AFTER_ALL = frozenset({FailureKind.CUT_SHORT, FailureKind.CONNECTION, FailureKind.TIMEOUT})
"""Failures that take nothing from an answer whose finish had come: only its usage may be missing then."""


def watch(  # noqa: C901 - one loop, every way out of it
    call: Call,
    opening: StartStream | Follow,
    step: Step,
    flight: InFlight,
    until_s: float,
    *,
    revealing: bool,
    rule: FallbackRule,
    seam: Seam | None = None,
) -> Generator[Effect[object], object, Watched]:
    """Follow the stream that `opening` begins to its end. `revealing` drops it when its kind is not the one of `step`.

    `until_s` is when a stream nobody has seen anything of yet is given up. `seam` joins it to what another attempt had
    begun. `rule` says which answers are cut while they run.
    """
    assembly = flight.assembly = Assembly()
    flight.started_s = yield from perform(opening)
    hold_all = not call.stream or step.unread
    monologue = Monologue() if rule.cut_repetition else None
    doubt = Doubt(rule.cut_unsure) if rule.cut_unsure is not None else None
    held: list[Chunk] = []
    said: list[str] = []
    emitted = finished = tools_seen = False
    kind: StepKind | None = None
    while True:
        pulled = yield from perform(Pull())
        item = pulled.item
        stop: Failure | Dropped | None = None
        if item is None or isinstance(item, Failure):
            outcome = _end(assembly, item)
            if isinstance(outcome, Failure) or not call.stream:
                held.clear()
            return Watched(outcome, tuple(held), emitted, pulled.now_s, pulled.jitter, "".join(said), finished)
        if seam is not None:
            item = replace(item, text=seam.feed(item.text, last=item.finish is not None or bool(item.tool_calls)))
        assembly.feed(item)
        if kind is None and (kind := revealed(item)) is not None:
            flight.first_token_s = pulled.now_s
            if revealing and kind is not step.kind:
                stop = Dropped(kind, _used(flight, assembly))
        late = not emitted and pulled.now_s >= until_s
        if stop is None and item.finish is None and (why := _intolerable(item, monologue, doubt, late=late)):
            stop = replace(why, usage=_used(flight, assembly))
        if stop is not None:
            yield from perform(StopStream())
            ended = stop if isinstance(stop, Dropped) else _end(assembly, stop)
            return Watched(ended, (), emitted, pulled.now_s, pulled.jitter, "".join(said))
        if item.logprobs and call.settings.logprobs is None:
            item = replace(item, logprobs=())  # the policy's affair
        tools_seen = tools_seen or bool(item.tool_calls)
        if hold_all or kind is None or tools_seen:
            held.append(item)
            continue
        for chunk in (*held, item):
            emitted = True
            said.append(chunk.text)
            finished = finished or chunk.finish is not None
            yield from perform(Emit(chunk))
        held.clear()


def _used(flight: InFlight, assembly: Assembly) -> Usage:
    """What a stream that is dropped has used: no less than the tokens that were told one by one."""
    usage = flight.usage_so_far()
    return replace(usage, output_tokens=assembly.tokens) if usage.output_tokens < assembly.tokens else usage


def _intolerable(item: Chunk, monologue: Monologue | None, doubt: Doubt | None, *, late: bool) -> Failure | None:
    """Say why a stream that goes on should not."""
    if late:
        return Failure(FailureKind.TIMEOUT, "not whole by the deadline")
    if monologue is not None and monologue.feed(item.text):
        return Failure(FailureKind.CUT_SHORT, "stopped: it repeats itself")
    if doubt is not None and item.logprobs and (why := doubt.feed(item.logprobs)):
        return Failure(FailureKind.NOT_ACCEPTED, f"stopped: {why}")
    return None


def _end(assembly: Assembly, last: Failure | None) -> Reply | Failure:
    partial = assembly.reply()
    if assembly.finish is not None and (last is None or last.kind in _LOST_AFTER_ALL):
        return partial
    if last is None:
        last = Failure(FailureKind.CUT_SHORT, "the stream ended without a finish reason")
    usage, begun_at_all = last.usage, assembly.characters or assembly.usage is not None
    if begun_at_all and not (usage.input_tokens or usage.output_tokens):
        usage = partial.usage
    begun = partial if assembly.characters else last.partial
    return replace(last, usage=usage, partial=begun)
