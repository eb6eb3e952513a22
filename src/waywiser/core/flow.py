"""The pipeline every model call goes through, as one pure generator. It yields effects and receives their results.

    open the session, decide the kind, aim, rank; then until done: reserve, send, settle, next move

The laws of this module:
- It performs nothing, reads no clock and draws no randomness: time and jitter come in with the results of effects.
- It never yields in `finally`. A driver that stops it early performs the effects that `abandon()` returns.
- Every hold it was granted is settled, by itself or through `abandon()`; every attempt is charged for what it used.
- Every call that charged anything leaves a receipt, however it ends.
- A stream that was cut is never finished: `Done` then holds a failure, whatever was emitted before.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from waywiser.core.budget import Shortfall
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome, Reply, Usage
from waywiser.core.claims import amount_text, scopes
from waywiser.core.conclude import conclude, noted, notice
from waywiser.core.confidence import handed_on, needed
from waywiser.core.draft import Draft, InFlight
from waywiser.core.effects import (
    Check,
    Effect,
    Emit,
    Follow,
    Heard,
    Moment,
    Open,
    Record,
    Send,
    Settle,
    StartStream,
    perform,
)
from waywiser.core.fallback import GiveUp, Tried, cheaper_rung, first_rung, next_move
from waywiser.core.health import Health
from waywiser.core.hedge import OUTRUN, Hedge, Runner, hedge, outrun_usage, race
from waywiser.core.judge import Bench, Judgement, as_revealed, judge, reveal
from waywiser.core.loops import carried, find_loop, hint_text, holds, next_rung
from waywiser.core.outbound import outbound
from waywiser.core.policy import LoopControl, Policy
from waywiser.core.progress import seen
from waywiser.core.purse import Purse
from waywiser.core.receipt import Receipt
from waywiser.core.resume import Seam, joined, lengthened, remaining, resumes
from waywiser.core.scoring import Candidate
from waywiser.core.session import Settlement
from waywiser.core.steps import StepKind
from waywiser.core.streams import Dropped, watch
from waywiser.core.trail import LoopState, Trail
from waywiser.core.wellformed import require_wellformed

T = TypeVar("T")
Effects: TypeAlias = Generator[Effect[object], object, T]


@dataclass(frozen=True, slots=True)
class Done:
    """How a call ended: with a reply, with a failure, or refused (a code, a sentence, what the budget lacked)."""

    receipt: Receipt
    reply: Reply | None = None
    failure: Failure | None = None
    refused: str = ""
    why: str = ""
    short: Shortfall | None = None


@dataclass(frozen=True, slots=True)
class _Landed:
    """A reply that passed its checks, and the chunks of it that are still held back."""

    flight: InFlight
    reply: Reply
    held: tuple[Chunk, ...]


class Pipeline:
    """One call on its way. `run()` is the generator; `abandon()` ends it early. Raises `BadInput` when made."""

    def __init__(self, call: Call, policy: Policy, *, now_s: float) -> None:
        require_wellformed(call, policy)
        origin = call.origin
        if not origin.kind and (kind := policy.declared(origin.node)):
            call = replace(call, origin=replace(origin, kind=kind, kind_by=f"the policy, for node {origin.node}"))
        self._call = call
        self._policy = policy
        self._moment = Moment(now_s)
        self._deadline_s = now_s + policy.fallback.deadline_s
        self._purse = Purse(policy.budget, scopes(policy.budget, call, now_s), self._deadline_s)
        self._draft = Draft(call, policy, now_s)
        self._flights: list[InFlight] = []
        self._tried: list[Tried] = []
        self._last: Settle | Record | None = None
        self._over = False
        self._concluding = ""
        self._pinned = ""
        self._said = ""
        self._finished = False
        self._loop = LoopState()
        self._health: Mapping[str, Health] = {}

    def run(self) -> Effects[Done]:
        """Run the call to its end."""
        policy = self._policy
        encodings = frozenset(model.encoding for tier in policy.tiers for model in tier.models)
        path, now_s = self._purse.path, self._moment.now_s
        situation = yield from perform(Open(self._call, path, policy.name, encodings, now_s))
        self._draft.opened(situation, path)
        self._purse.costs, self._health = situation.costs, situation.health
        stopped = self._control_loop(situation.trail)
        if stopped:
            return (yield from self._refuse("loop_detected", stopped))
        bench = Bench(policy, path, situation, now_s, self._pinned)
        judgement = yield from judge(bench, self._call)
        revealing = reveal(bench, self._call, judgement) if policy.reveal_below else None
        while True:
            self._draft.judged(revealing or judgement)
            result = yield from self._climb(revealing or judgement, revealing is not None)
            revealing = None
            if isinstance(result, Done):
                return result
            if isinstance(result, Dropped):
                judgement = as_revealed(bench, self._call, result.kind, judgement.seen)
                self._draft.reasons.append(f"revealed itself as {result.kind}")
            else:
                self._concluding = result
                self._call = conclude(self._call, result)
                judgement = yield from judge(bench, self._call)

    def preview(self, now_s: float) -> Receipt:
        """Write the receipt of a call that was decided and not sent, once `run()` has asked for its first hold."""
        return self._draft.receipt(now_s, preview=True)

    def abandon(self, now_s: float, broken: str = "") -> tuple[Settle | Record, ...]:
        """What is left to perform when the driver stops the run: the open hold to settle, the receipt to keep.

        An attempt that had reached its provider is charged for its prompt and for what had come back. `broken` says
        what went wrong below us; empty when it was the caller who stopped.
        """
        flights, self._flights = self._flights, []
        if self._last is not None:
            return (self._last,)
        if self._over or not (flights or self._draft.made):
            return ()
        settlements: list[Settlement] = []
        for flight in flights:
            if flight.settlement is None:
                used = flight.usage_so_far() if flight.sent else Usage()
                kind = FailureKind.UNKNOWN if broken else FailureKind.CUT_SHORT
                self._draft.attempted(flight, used, now_s, kind, broken or "stopped by the caller")
                flight.settlement = self._draft.settlement(flight, used, now_s, self._loop)
            settlements.append(flight.settlement)
        receipt = self._draft.receipt(now_s, refused="broken" if broken else "cancelled")
        return (*(Settle(settlement) for settlement in settlements), Record(receipt))

    def _control_loop(self, trail: Trail) -> str:
        """Look for a loop and take the next rung of the ladder; the answer is why to stop, empty to go on."""
        control = self._policy.loops or LoopControl()
        origin = self._call.origin
        coming = seen(self._call.messages, trail, control, agent=origin.agent, node=origin.node, state=origin.state)
        self._loop = carried(trail.loop, coming)
        loop = find_loop(trail, coming, control) if self._policy.loops is not None else None
        rung = ""
        if loop is not None:
            rung, self._loop = next_rung(loop, self._loop, control.ladder)
        self._draft.noticed(coming, loop, rung)
        if loop is not None and rung == "hint":
            self._call = noted(self._call, hint_text(loop))
        elif rung == "escalate":
            used = max((self._policy.rank_or(step.tier) for step in trail.steps[-1:]), default=0)
            top = len(self._policy.tiers) - 1
            self._loop = replace(self._loop, floor=self._policy.tiers[min(used + 1, top)].name)
        elif loop is not None and rung == "conclude":
            self._concluding = loop.what
            self._call = conclude(self._call, loop.what)
        self._pinned = self._loop.floor if holds(self._loop, coming) else ""
        return loop.what if loop is not None and rung == "stop" else ""

    def _climb(self, judgement: Judgement, revealing: bool) -> Effects[Done | Dropped | str]:  # noqa: C901 - one ladder, every way off it
        """Work down the ladder. The result is the end, a kind that showed itself, or why to conclude."""
        ladder = judgement.verdict.ladder
        if not ladder:
            return (yield from self._refuse("no_eligible_model", self._draft.excluded()))
        index = first_rung(ladder, self._tried)
        if index is None:
            return (yield from self._fail(self._tried[-1].failure))
        dear: set[int] = set()
        while True:
            flight = self._fly(ladder[index], judgement.step.kind)
            limit = remaining(judgement.verdict.output_limit, self._said)
            granted = yield from self._purse.reserve(self._call, flight, limit, self._moment)
            if isinstance(granted, Shortfall):
                self._flights.clear()
                dear.add(index)
                cheaper = (
                    cheaper_rung(ladder, self._tried, index, dear) if granted.what in {"nanos", "tokens"} else None
                )
                if cheaper is not None:
                    self._draft.reasons.append(f"{flight.candidate.model.name} does not fit what is left")
                    index = cheaper
                    continue
                return (yield from self._exhausted(granted))
            self._draft.held(granted)
            dropping = revealing and self._draft.made + 1 < self._policy.fallback.attempts
            outcome = yield from self._attempt(judgement, index, flight, dropping)
            if isinstance(outcome, Dropped):
                return outcome
            if isinstance(outcome, _Landed):
                return (yield from self._land(outcome))
            if self._draft.emitted and not resumes(self._policy.fallback, outcome, finished=self._finished):
                return (yield from self._fail(outcome))
            move = next_move(
                self._policy.fallback,
                ladder,
                self._tried,
                made=self._draft.made,
                escalate_rank=self._escalate_rank(judgement),
                left_s=self._deadline_s - self._moment.now_s,
                jitter=self._moment.jitter,
            )
            self._draft.reasons.append(move.why)
            if isinstance(move, GiveUp):
                return (yield from self._fail(outcome))
            if move.delay_s:
                yield from self._moment.sleep(move.delay_s)
                if self._moment.now_s >= self._deadline_s:
                    return (yield from self._fail(outcome))
            index = move.index

    def _fly(self, candidate: Candidate, kind: StepKind) -> InFlight:
        """Begin an attempt: from now on `abandon()` settles it."""
        flight = InFlight(self._draft.next_hold(), lengthened(candidate, self._said) if self._said else candidate, kind)
        self._flights.append(flight)
        return flight

    def _attempt(
        self, judgement: Judgement, index: int, flight: InFlight, revealing: bool
    ) -> Effects[_Landed | Dropped | Failure]:
        """Send once (or twice, hedged), settle, check. A reply that fails its checks is a failure, and charged."""
        before, step = self._said, judgement.step
        call, flight.notes = self._outbound(flight)
        timeout_s = self._timeout_s()
        streams = call.stream or revealing
        heard: Heard | None = None
        if hedged := None if revealing or before else self._hedged(judgement, index):
            runner, heard = yield from self._race(Runner(flight, call, timeout_s), hedged, judgement)
            flight, call = runner.flight, runner.call
        flight.sent = True
        outcome: Outcome | Dropped
        held: tuple[Chunk, ...] = ()
        if streams:
            watched = yield from watch(
                call,
                Follow(heard.lane or 0) if heard is not None else StartStream(flight.candidate.model, call, timeout_s),
                step,
                flight,
                self._deadline_s,
                revealing=revealing,
                rule=self._policy.fallback,
                seam=Seam(before) if before else None,
            )
            outcome, held = watched.outcome, watched.held
            self._moment.now_s, self._moment.jitter = watched.now_s, watched.jitter
            self._draft.emitted = self._draft.emitted or watched.emitted
            self._said, self._finished = before + watched.said, watched.finished
        elif heard is not None and heard.outcome is not None:
            outcome = heard.outcome
        else:
            sent = yield from perform(Send(flight.candidate.model, call, timeout_s))
            self._moment.is_that_of(sent)
            outcome, flight.started_s = sent.outcome, sent.started_s
        if isinstance(outcome, Reply):
            outcome = flight.reply = joined(before, flight.counted(outcome))
            if (checks := self._policy.step_rule(step.kind).accept) and not self._draft.emitted:
                wrong = yield from perform(Check(call, outcome, checks))
                if wrong:
                    outcome = Failure(FailureKind.NOT_ACCEPTED, wrong, usage=outcome.usage, partial=outcome)
        if isinstance(outcome, Reply):
            outcome = handed_on(call, outcome)
            self._draft.landed(flight, outcome, self._moment.now_s, judgement)
            return _Landed(flight, outcome, held)
        if isinstance(outcome, Dropped):
            yield from self._lost(flight, outcome.usage, "revealed", f"turned out to be {outcome.kind}")
        else:
            yield from self._failed(flight, outcome)
        return outcome

    def _hedged(self, judgement: Judgement, index: int) -> Hedge | None:
        """How this attempt is hedged, if at all: by policy, with an attempt to spare."""
        if (
            not self._policy.step_rule(judgement.step.kind).hedge
            or self._draft.made + 2 > self._policy.fallback.attempts
        ):
            return None
        ladder, now_s = judgement.verdict.ladder, self._moment.now_s
        return hedge(ladder, index, self._tried, self._health, stream=self._call.stream, now_s=now_s)

    def _race(self, first: Runner, hedged: Hedge, judgement: Judgement) -> Effects[tuple[Runner, Heard]]:
        stream = self._call.stream

        def spare() -> Effects[Runner | None]:
            if self._moment.now_s >= self._deadline_s:
                return None
            flight = self._fly(judgement.verdict.ladder[hedged.spare], judgement.step.kind)
            limit = judgement.verdict.output_limit
            granted = yield from self._purse.reserve(self._call, flight, limit, self._moment, patient=False)
            if isinstance(granted, Shortfall):
                self._flights.remove(flight)
                return None
            self._draft.hedged(granted, first.flight, flight)
            call, flight.notes = self._outbound(flight)
            return Runner(flight, call, self._timeout_s())

        def lost(runner: Runner, came: Outcome | None) -> Effects[None]:
            if isinstance(came, Failure):
                return self._failed(runner.flight, came)
            used = outrun_usage(runner.flight, came, stream=stream)
            return self._lost(runner.flight, used, OUTRUN, "another was quicker")

        return race(first, hedged.patience_s, self._moment, stream=stream, spare=spare, lost=lost)

    def _failed(self, flight: InFlight, failure: Failure) -> Effects[None]:
        self._tried.append(Tried(flight.candidate, failure))
        return self._lost(flight, flight.charged(failure), failure.kind, failure.message)

    def _lost(self, flight: InFlight, used: Usage, failure: str, detail: str) -> Effects[None]:
        """Settle an attempt whose reply is not used."""
        self._draft.attempted(flight, used, self._moment.now_s, failure, detail)
        flight.settlement = self._draft.settlement(flight, used, self._moment.now_s, self._loop)
        yield from perform(Settle(flight.settlement))
        self._flights.remove(flight)

    def _outbound(self, flight: InFlight) -> tuple[Call, tuple[str, ...]]:
        confidence = needed(self._policy, flight.kind, streamed=self._call.stream)
        return outbound(self._call, flight.candidate.model, flight.limit, self._said, confidence=confidence)

    def _timeout_s(self) -> float:
        return max(min(self._policy.fallback.timeout_s, self._deadline_s - self._moment.now_s), 0.001)

    def _land(self, landed: _Landed) -> Effects[Done]:
        """Settle the reply with its step and its receipt, hand over what was held, and end."""
        flight, reply = landed.flight, landed.reply
        receipt = self._draft.receipt(self._moment.now_s)
        settlement = self._draft.settlement(
            flight, reply.usage, self._moment.now_s, self._loop, receipt=receipt, reply=reply
        )
        yield from self._end(Settle(settlement))
        for chunk in landed.held:
            yield from perform(Emit(chunk))
        return Done(receipt, reply)

    def _exhausted(self, short: Shortfall) -> Effects[Done | str]:
        """Nothing is left: conclude once with what is kept, answer locally when even that is gone, or stop.

        To `ask` is to stop here: a surface that can reach a person asks, and makes the call again.
        """
        if self._said:  # what was begun can't be paid to its end, and a notice in the middle of it would end it cleanly
            return (yield from self._fail(self._tried[-1].failure))
        why = f"the {short.name}'s limit of {amount_text(short.what, short.limit)} is reached"
        self._draft.reasons.append(why)
        if self._policy.budget.on_exhausted != "conclude":
            return (yield from self._refuse("budget_exceeded", why, short))
        if not self._concluding:
            return why
        reply = notice(self._call, why)
        receipt = self._draft.receipt(self._moment.now_s, model=reply.model)
        yield from self._end(Record(receipt))
        if self._call.stream:
            yield from perform(Emit(Chunk(reply.text, finish=reply.finish, usage=reply.usage, model=reply.model)))
        return Done(receipt, reply)

    def _fail(self, failure: Failure) -> Effects[Done]:
        receipt = self._draft.receipt(self._moment.now_s, refused=failure.kind)
        yield from self._end(Record(receipt))
        return Done(receipt, failure=failure)

    def _refuse(self, code: str, why: str, short: Shortfall | None = None) -> Effects[Done]:
        receipt = self._draft.receipt(self._moment.now_s, refused=code)
        yield from self._end(Record(receipt))
        return Done(receipt, refused=code, why=why, short=short)

    def _end(self, last: Settle | Record) -> Effects[None]:
        """Perform the effect that keeps the receipt; a driver that is stopped in the middle of it performs it again."""
        self._last = last
        self._flights.clear()
        if isinstance(last, Settle):
            yield from perform(last)
        else:
            yield from perform(last)
        self._last, self._over = None, True

    def _escalate_rank(self, judgement: Judgement) -> int:
        """The lowest rank that a reply which was not accepted escalates to."""
        named = self._policy.step_rule(judgement.step.kind).escalate
        return self._policy.rank(named) if named else judgement.target.rank + 1
