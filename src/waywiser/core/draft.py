"""What a call in progress has to remember: the attempt in flight, and the receipt as it is being written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from waywiser.core.assembly import Assembly
from waywiser.core.budget import Amounts, Scope, Standing
from waywiser.core.calls import Call, Failure, FailureKind, Reply, Usage
from waywiser.core.claims import left_nanos
from waywiser.core.effects import Situation
from waywiser.core.judge import Judgement
from waywiser.core.loops import Loop, Seen, said
from waywiser.core.models import cost_nanos
from waywiser.core.policy import Policy
from waywiser.core.receipt import Attempt, Receipt
from waywiser.core.scoring import Candidate, warmed
from waywiser.core.session import Settlement
from waywiser.core.steps import StepKind
from waywiser.core.trail import LoopState, StepRecord, WarmPrefix

CHARACTERS_PER_TOKEN = 4
"""For what a provider streamed but did not count; the usage is then marked as estimated."""

_CHARGED_ANYWAY = frozenset({FailureKind.TIMEOUT, FailureKind.CUT_SHORT, FailureKind.MALFORMED})
"""Failures after which the provider has most likely done the work: the prompt is charged even where it said nothing."""

_NOT_REACHED = frozenset({FailureKind.CONNECTION})


@dataclass(slots=True, eq=False)
class InFlight:
    """One attempt between its hold and its settlement. `limit` is the longest answer paid for, in tokens."""

    hold: str
    candidate: Candidate
    kind: StepKind
    limit: int | None = None
    sent: bool = False
    started_s: float = 0.0
    first_token_s: float | None = None
    assembly: Assembly | None = None
    reply: Reply | None = None
    settlement: Settlement | None = None
    notes: tuple[str, ...] = ()

    def usage_so_far(self) -> Usage:
        """What is known, or must be assumed, to be used by now.

        A provider that tells the prompt's usage at the beginning of a stream has not counted what it said since.
        """
        if self.reply is not None:
            return self.reply.usage
        if self.assembly is None:
            return Usage(self.candidate.expected.input_tokens, estimated=True)
        partial = self.assembly.reply()
        return self.filled(partial) if self.assembly.finish is not None else _with_said(self.filled(partial), partial)

    def filled(self, reply: Reply) -> Usage:
        """The reply's usage; estimated from its length and the prompt's where the provider did not say."""
        usage = reply.usage
        if usage.input_tokens or usage.output_tokens:
            return usage
        return Usage(self.candidate.expected.input_tokens, _said_tokens(reply), estimated=True)

    def counted(self, reply: Reply) -> Reply:
        """The reply with its usage `filled`."""
        usage = self.filled(reply)
        return reply if usage is reply.usage else replace(reply, usage=usage)

    def charged(self, failure: Failure) -> Usage:
        """What a failed attempt is charged for: what was told, else what was said, else the prompt if it was read.

        A failure whose usage is zero but estimated is one whose request had been read.
        """
        if not failure.sent:
            self.sent = False
            return Usage()
        usage, partial = failure.usage, failure.partial
        if usage.input_tokens or usage.output_tokens:
            return _with_said(usage, partial) if usage.estimated and partial is not None else usage
        if partial is not None or usage.estimated or failure.kind in _CHARGED_ANYWAY:
            return self.filled(partial or Reply())
        self.sent = self.sent and failure.kind not in _NOT_REACHED
        return Usage()

    def amounts(self, usage: Usage, reply: Reply | None) -> Amounts:
        """What the ledger is charged: money, tokens, one model call if a provider was reached, the tools asked for."""
        return Amounts(
            cost_nanos(self.candidate.model, usage),
            usage.input_tokens + usage.output_tokens,
            int(self.sent),
            len(reply.tool_calls) if reply is not None else 0,
        )


def _said_tokens(reply: Reply) -> int:
    characters = sum(len(getattr(part, "text", "")) for part in reply.parts)
    characters += sum(len(call.name) + len(call.arguments) for call in reply.tool_calls)
    return max(-(-characters // CHARACTERS_PER_TOKEN), len(reply.logprobs))


def _with_said(usage: Usage, reply: Reply) -> Usage:
    """Count what was said of an answer that did not end: providers tell the prompt's usage at the beginning."""
    said = _said_tokens(reply)
    return replace(usage, output_tokens=said, estimated=True) if said > usage.output_tokens else usage


class Draft:
    """The receipt as it is being written."""

    def __init__(self, call: Call, policy: Policy, now_s: float) -> None:
        self._call = call
        self._policy = policy
        self._now_s = now_s
        self._judgement: Judgement | None = None
        self._situation: Situation | None = None
        self._path: Sequence[Scope] = ()
        self._holds = 0
        self._attempts: list[Attempt] = []
        self._usage = Usage()
        self._landed: InFlight | None = None
        self._sent_s: float | None = None
        self._held_nanos = 0
        self._seen: Seen | None = None
        self._loop = ""
        self.cost_nanos = 0
        self.emitted = False
        self.reasons: list[str] = []

    @property
    def made(self) -> int:
        """How many attempts were made so far."""
        return len(self._attempts)

    def opened(self, situation: Situation, path: Sequence[Scope]) -> None:
        """Note what was known when the call began."""
        self._situation, self._path = situation, path

    def noticed(self, coming: Seen, loop: Loop | None, rung: str) -> None:
        """Note what the step sees that is new, and what is done about a loop it is part of."""
        self._seen = coming
        if loop is not None:
            self._loop = rung
            self.reasons.append(f"{loop.what}: {rung or 'every rung of the ladder is used, let go on'}")

    def judged(self, judgement: Judgement) -> None:
        """Note what was decided (again, when a step revealed itself or is concluded)."""
        self._judgement = judgement
        self.reasons.extend(reason for reason in judgement.verdict.reasons if reason not in self.reasons)

    def next_hold(self) -> str:
        """Name the next hold: the call's id and a number."""
        self._holds += 1
        return f"{self._call.id}.{self._holds}"

    def held(self, nanos: int) -> None:
        """Note how much was set aside for the attempt that follows."""
        self._held_nanos = nanos

    def hedged(self, nanos: int, first: InFlight, second: InFlight) -> None:
        """Note the hold of a second request that stands in for a slow first one."""
        self._held_nanos += nanos
        self.reasons.append(f"{first.candidate.model.name} is slow: {second.candidate.model.name} is asked as well")

    def excluded(self) -> str:
        """Say in one sentence why no model is left."""
        if self._judgement is None:
            return "nothing was decided"
        considered = self._judgement.verdict.considered
        return "no model can take this call: " + "; ".join(f"{entry.model}: {entry.excluded}" for entry in considered)

    def attempted(self, flight: InFlight, usage: Usage, ended_s: float, failure: str, detail: str) -> None:
        """Note an attempt and what it cost; `failure` is empty for the one whose reply is used."""
        model = flight.candidate.model
        nanos = cost_nanos(model, usage)
        started = flight.started_s or ended_s
        self._sent_s = started if self._sent_s is None else self._sent_s
        self._attempts.append(
            Attempt(
                model.name,
                flight.candidate.tier,
                started,
                ended_s - started,
                usage,
                nanos,
                failure,
                detail,
                None if flight.first_token_s is None else flight.first_token_s - started,
                flight.notes,
            )
        )
        self._usage = self._usage + usage if self._attempts[1:] else usage
        self.cost_nanos += nanos

    def landed(self, flight: InFlight, reply: Reply, ended_s: float, judgement: Judgement) -> None:
        """Note the attempt whose reply is used."""
        self._judgement = judgement
        self._landed = flight
        self.attempted(flight, reply.usage, ended_s, "", "")
        if reply.notes:
            self._attempts[-1] = replace(self._attempts[-1], notes=(*flight.notes, *reply.notes))

    def step(self, flight: InFlight, usage: Usage, reply: Reply, now_s: float) -> StepRecord:
        """The step as the trail keeps it."""
        saw, spoke = self._seen or Seen(0), said(reply)
        return StepRecord(
            number=self._number,
            at_s=now_s,
            kind=flight.kind.value,
            tier=flight.candidate.tier,
            model=flight.candidate.model.name,
            node=self._call.origin.node,
            agent=self._call.origin.agent,
            human=saw.human,
            results=saw.results,
            text=spoke.text,
            text_simhash=spoke.text_simhash,
            calls=spoke.calls,
            state=saw.state,
            length=saw.length,
            place=saw.place,
            spoke=saw.spoke,
            heard=saw.heard,
            since=saw.since,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_nanos=self.cost_nanos,
        )

    def warm(self, flight: InFlight, usage: Usage, now_s: float) -> WarmPrefix | None:
        """What the model's provider now holds in its prompt cache."""
        model = flight.candidate.model
        if not model.cache_ttl_s:
            return None
        return warmed(model, self._call.tools, self._call.messages, usage.input_tokens, now_s)

    def settlement(
        self,
        flight: InFlight,
        usage: Usage,
        now_s: float,
        loop: LoopState,
        *,
        receipt: Receipt | None = None,
        reply: Reply | None = None,
    ) -> Settlement:
        """What the store is told of an attempt; one whose `reply` is used makes a step and warms its model's cache."""
        origin, candidate = self._call.origin, flight.candidate
        return Settlement(
            hold=flight.hold,
            path=tuple(self._path),
            kind=flight.kind,
            used=flight.amounts(usage, reply),
            now_s=now_s,
            session=origin.session,
            tenant=origin.tenant,
            agent=origin.agent,
            tier=candidate.tier,
            model=candidate.model.name,
            policy=self._policy.name,
            receipt=receipt,
            step=self.step(flight, usage, reply, now_s) if reply is not None else None,
            warm=self.warm(flight, usage, now_s) if reply is not None else None,
            loop=loop,
        )

    @property
    def _number(self) -> int:
        return self._situation.trail.count + 1 if self._situation is not None else 0

    def receipt(self, now_s: float, *, refused: str = "", model: str = "", preview: bool = False) -> Receipt:
        """Write the receipt as of `now_s`. `model` names who answered when it was none of the attempts.

        A `preview` names the candidate that would be asked first, and what that is expected to cost.
        """
        call, judgement = self._call, self._judgement
        flight = self._landed
        origin = call.origin
        chosen = flight.candidate if flight else None
        if preview and judgement is not None and judgement.verdict.ladder:
            chosen = judgement.verdict.ladder[0]
        return Receipt(
            id=call.id,
            session=origin.session,
            tenant=origin.tenant,
            agent=origin.agent,
            node=origin.node,
            step=self._number,
            at_s=self._now_s,
            policy=self._policy.name,
            kind=judgement.step.kind.value if judgement else "",
            kind_by=judgement.step.by if judgement else "",
            kind_confidence=judgement.step.confidence if judgement else 0.0,
            tier=chosen.tier if chosen else "",
            model=chosen.model.name if chosen else model,
            considered=judgement.verdict.considered if judgement else (),
            attempts=tuple(self._attempts),
            usage=self._usage,
            cost_nanos=self.cost_nanos,
            top_tier_nanos=self._top_tier_nanos(),
            held_nanos=self._held_nanos,
            left_nanos=self._left(),
            decision_ms=((self._sent_s or now_s) - self._now_s) * 1000,
            took_s=now_s - self._now_s,
            refused=refused,
            reasons=tuple(self.reasons),
            classification=judgement.seen if judgement else None,
            simulated=bool(chosen and chosen.model.api == "simulated"),
            loop=self._loop,
        )

    def _top_tier_nanos(self) -> int:
        """What the used attempt would have cost on the top tier's first model, with the cache this session has here."""
        if self._landed is None:
            return 0
        return cost_nanos(self._policy.tiers[-1].models[0], self._attempts[-1].usage)

    def _left(self) -> int | None:
        if self._situation is None:
            return None
        standings: tuple[Standing, ...] = self._situation.standings
        left = left_nanos(self._path, standings)
        return None if left is None else max(left - self.cost_nanos, 0)
