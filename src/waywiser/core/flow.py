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

from waywiser.core.budget import Hold, Shortfall
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Reply, Usage
from waywiser.core.claims import Asked, amount_text, ask, scopes
from waywiser.core.conclude import conclude, noted, notice
from waywiser.core.draft import Draft, InFlight
from waywiser.core.effects import Check, Effect, Emit, Open, Record, Reserve, Send, Settle, Sleep, perform
from waywiser.core.fallback import GiveUp, Tried, first_rung, next_move
from waywiser.core.judge import Bench, Judgement, as_revealed, judge, reveal
from waywiser.core.loops import carried, find_loop, hint_text, holds, next_rung
from waywiser.core.outbound import outbound
from waywiser.core.policy import LoopControl, Policy
from waywiser.core.progress import seen
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.resume import Seam, joined, lengthened, remaining, resumes
from waywiser.core.scoring import Candidate
from waywiser.core.session import Settlement
from waywiser.core.streams import Dropped, watch
from waywiser.core.trail import LoopState, Trail
from waywiser.core.wellformed import require_wellformed

T = TypeVar("T")
Effects: TypeAlias = Generator[Effect[object], object, T]

RESERVE_WAIT_S = 0.02
"""First wait for money that others hold; it doubles up to half a second."""


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
        self._now_s = now_s
        self._deadline_s = now_s + policy.fallback.deadline_s
        self._path = scopes(policy.budget, call, now_s)
        self._draft = Draft(call, policy, now_s)
        self._flight: InFlight | None = None
        self._tried: list[Tried] = []
        self._last: Settle | Record | None = None
        self._over = False
        self._concluding = ""
        self._pinned = ""
        self._said = ""
        self._finished = False
        self._jitter = 0.5
        self._loop = LoopState()
        self._costs: Mapping[tuple[str, str], History] = {}

    def run(self) -> Effects[Done]:
        """Run the call to its end."""
        policy = self._policy
        encodings = frozenset(model.encoding for tier in policy.tiers for model in tier.models)
        situation = yield from perform(Open(self._call, self._path, policy.name, encodings, self._now_s))
        self._draft.opened(situation, self._path)
        self._costs = situation.costs
        stopped = self._control_loop(situation.trail)
        if stopped:
            return (yield from self._refuse("loop_detected", stopped))
        bench = Bench(policy, self._path, situation, self._now_s, self._pinned)
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
        flight, self._flight = self._flight, None
        if self._last is not None:
            return (self._last,)
        if self._over or (flight is None and not self._draft.made):
            return ()
        if flight is not None and flight.settlement is None:
            used = flight.usage_so_far() if flight.sent else Usage()
            kind = FailureKind.UNKNOWN if broken else FailureKind.CUT_SHORT
            self._draft.attempted(flight, used, now_s, kind, broken or "stopped by the caller")
            flight.settlement = self._draft.settlement(flight, used, now_s, self._loop)
        receipt = self._draft.receipt(now_s, refused="broken" if broken else "cancelled")
        if flight is None or flight.settlement is None:
            return (Record(receipt),)
        return (Settle(flight.settlement), Record(receipt))

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
            candidate = lengthened(ladder[index], self._said) if self._said else ladder[index]
            granted = yield from self._reserve(candidate, judgement)
            if isinstance(granted, Shortfall):
                dear.add(index)
                cheaper = self._cheaper(ladder, index, dear) if granted.what in {"nanos", "tokens"} else None
                if cheaper is not None:
                    self._draft.reasons.append(f"{candidate.model.name} does not fit what is left")
                    index = cheaper
                    continue
                return (yield from self._exhausted(granted))
            dropping = revealing and self._draft.made + 1 < self._policy.fallback.attempts
            outcome = yield from self._attempt(candidate, judgement, granted, dropping)
            if isinstance(outcome, Dropped):
                return outcome
            if isinstance(outcome, _Landed):
                return (yield from self._land(outcome))
            self._tried.append(Tried(candidate, outcome))
            if self._draft.emitted and not resumes(self._policy.fallback, outcome, finished=self._finished):
                return (yield from self._fail(outcome))
            move = next_move(
                self._policy.fallback,
                ladder,
                self._tried,
                made=self._draft.made,
                escalate_rank=self._escalate_rank(judgement),
                left_s=self._deadline_s - self._now_s,
                jitter=self._jitter,
            )
            self._draft.reasons.append(move.why)
            if isinstance(move, GiveUp):
                return (yield from self._fail(outcome))
            if move.delay_s:
                yield from self._sleep(move.delay_s)
                if self._now_s >= self._deadline_s:
                    return (yield from self._fail(outcome))
            index = move.index

    def _reserve(self, candidate: Candidate, judgement: Judgement) -> Effects[Asked | Shortfall]:
        """Set the money for one attempt aside; waits for holds of others, within the deadline, before it gives up."""
        room: Shortfall | None = None
        limit = most = remaining(judgement.verdict.output_limit, self._said)
        wait = RESERVE_WAIT_S
        while True:
            hold = self._draft.next_hold()
            asked = ask(
                self._policy.budget,
                self._call,
                judgement.step.kind,
                candidate,
                self._path,
                hold=hold,
                output_limit=limit,
                now_s=self._now_s,
                history=self._costs.get((judgement.step.kind, candidate.model.name)),
                room=room,
            )
            if asked is not None:
                self._flight = InFlight(hold, candidate, asked.claim, judgement.step.kind)
                answer = yield from perform(Reserve(asked.claim))
                if isinstance(answer, Hold):
                    self._draft.held(answer.amounts.nanos)
                    return asked
                self._flight = None
                room, limit = answer, asked.output_limit
                if self._policy.budget.estimate == "strict" and answer.what in {"nanos", "tokens"}:
                    continue
            if room is None:
                raise AssertionError("a claim is only refused by the store")
            if not room.waiting_may_help or self._now_s + wait >= self._deadline_s:
                return room
            yield from self._sleep(wait * (0.5 + self._jitter))
            wait = min(wait * 2, 0.5)
            room, limit = None, most

    def _attempt(
        self, candidate: Candidate, judgement: Judgement, granted: Asked, revealing: bool
    ) -> Effects[_Landed | Dropped | Failure]:
        """Send once, settle, check. A reply that fails its checks is a failure like any other, and charged."""
        flight = self._flight
        if flight is None:
            raise AssertionError("an attempt needs its hold")
        fallback = self._policy.fallback
        before = self._said
        call, flight.notes = outbound(self._call, candidate.model, granted.output_limit, before)
        timeout_s = max(min(fallback.timeout_s, self._deadline_s - self._now_s), 0.001)
        flight.sent = True
        outcome: Reply | Failure | Dropped
        held: tuple[Chunk, ...] = ()
        if call.stream or revealing:
            watched = yield from watch(
                call,
                candidate,
                judgement.step,
                flight,
                timeout_s,
                self._deadline_s,
                revealing=revealing,
                seam=Seam(before) if before else None,
                rule=fallback,
            )
            outcome, held = watched.outcome, watched.held
            self._now_s, self._jitter = watched.now_s, watched.jitter
            self._draft.emitted = self._draft.emitted or watched.emitted
            self._said, self._finished = before + watched.said, watched.finished
        else:
            sent = yield from perform(Send(candidate.model, call, timeout_s))
            outcome, self._now_s, self._jitter, flight.started_s = (
                sent.outcome,
                sent.ended_s,
                sent.jitter,
                sent.started_s,
            )
        if isinstance(outcome, Reply):
            outcome = flight.reply = joined(before, replace(outcome, usage=flight.filled(outcome)))
            if (checks := self._policy.step_rule(judgement.step.kind).accept) and not self._draft.emitted:
                wrong = yield from perform(Check(call, outcome, checks))
                if wrong:
                    outcome = Failure(FailureKind.NOT_ACCEPTED, wrong, usage=outcome.usage, partial=outcome)
        if isinstance(outcome, Reply):
            self._draft.landed(flight, outcome, self._now_s, judgement)
            return _Landed(outcome, held)
        if isinstance(outcome, Dropped):
            self._draft.attempted(flight, outcome.usage, self._now_s, "revealed", f"turned out to be {outcome.kind}")
            yield from self._settle(self._draft.settlement(flight, outcome.usage, self._now_s, self._loop))
            return outcome
        used = flight.charged(outcome)
        self._draft.attempted(flight, used, self._now_s, outcome.kind, outcome.message)
        yield from self._settle(self._draft.settlement(flight, used, self._now_s, self._loop))
        return outcome

    def _land(self, landed: _Landed) -> Effects[Done]:
        """Settle the reply with its step and its receipt, hand over what was held, and end."""
        flight, reply = self._flight, landed.reply
        if flight is None:
            raise AssertionError("a reply needs its hold")
        receipt = self._draft.receipt(self._now_s)
        settlement = self._draft.settlement(flight, reply.usage, self._now_s, self._loop, receipt=receipt, reply=reply)
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
        receipt = self._draft.receipt(self._now_s, model=reply.model)
        yield from self._end(Record(receipt))
        if self._call.stream:
            yield from perform(Emit(Chunk(reply.text, finish=reply.finish, usage=reply.usage, model=reply.model)))
        return Done(receipt, reply)

    def _fail(self, failure: Failure) -> Effects[Done]:
        receipt = self._draft.receipt(self._now_s, refused=failure.kind)
        yield from self._end(Record(receipt))
        return Done(receipt, failure=failure)

    def _refuse(self, code: str, why: str, short: Shortfall | None = None) -> Effects[Done]:
        receipt = self._draft.receipt(self._now_s, refused=code)
        yield from self._end(Record(receipt))
        return Done(receipt, refused=code, why=why, short=short)

    def _end(self, last: Settle | Record) -> Effects[None]:
        """Perform the effect that keeps the receipt; a driver that is stopped in the middle of it performs it again."""
        self._last, self._flight = last, None
        if isinstance(last, Settle):
            yield from perform(last)
        else:
            yield from perform(last)
        self._last, self._over = None, True

    def _settle(self, settlement: Settlement) -> Effects[None]:
        if self._flight is not None:
            self._flight.settlement = settlement
        yield from perform(Settle(settlement))
        self._flight = None

    def _sleep(self, seconds: float) -> Effects[None]:
        woke = yield from perform(Sleep(seconds))
        self._now_s, self._jitter = woke.now_s, woke.jitter

    def _cheaper(self, ladder: tuple[Candidate, ...], index: int, dear: set[int]) -> int | None:
        """Find the best rung that costs less than the one that did not fit, of models that have not failed here."""
        limit, failed = ladder[index].expected_nanos, {entry.name for entry in self._tried}
        return next(
            (
                other
                for other, entry in enumerate(ladder)
                if other not in dear and entry.model.name not in failed and entry.expected_nanos < limit
            ),
            None,
        )

    def _escalate_rank(self, judgement: Judgement) -> int:
        """The lowest rank that a reply which was not accepted escalates to."""
        named = self._policy.step_rule(judgement.step.kind).escalate
        return self._policy.rank(named) if named else judgement.target.rank + 1
