"""From a call and a situation to a judgement: kind, target and ladder; and whether a step had better reveal itself."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from waywiser.core.budget import Scope
from waywiser.core.calls import Call
from waywiser.core.claims import spent_share
from waywiser.core.classification import Classification
from waywiser.core.effects import Classify, Effect, Situation, perform
from waywiser.core.policy import Policy, Target, aim, heads_needed
from waywiser.core.steps import Step, StepKind, decide_kind
from waywiser.core.verdict import Verdict, evaluate


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided of one call before anything is sent."""

    step: Step
    seen: Classification | None
    verdict: Verdict

    @property
    def target(self) -> Target:
        """Where the step belongs."""
        return self.verdict.target


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything judging needs besides the call: it stays the same while one call is under way.

    `pinned` is the tier that loop control has raised the session to.
    """

    policy: Policy
    path: tuple[Scope, ...]
    situation: Situation
    now_s: float
    pinned: str = ""

    @property
    def input_tokens(self) -> int:
        """The prompt's length in the encoding that counts the most."""
        return max(self.situation.tokens.values(), default=0)


def judge(bench: Bench, call: Call) -> Generator[Effect[object], object, Judgement]:
    """Decide kind, target and ladder of a call. The classifier is asked only what the policy needs to know."""
    step = decide_kind(call)
    seen: Classification | None = None
    heads = heads_needed(bench.policy, call, step)
    if heads:
        seen = yield from perform(Classify(call, len(bench.policy.tiers), heads))
        step = decide_kind(call, seen)
    return judged(bench, call, step, seen)


def judged(bench: Bench, call: Call, step: Step, seen: Classification | None) -> Judgement:
    """Decide target and ladder of a call whose kind is known."""
    share = spent_share(bench.path, bench.situation.standings, bench.now_s) if bench.policy.budget.pressure else 0.0
    target = aim(
        bench.policy, call, step, seen, input_tokens=bench.input_tokens, spent_share=share, pinned=bench.pinned
    )
    return Judgement(step, seen, ranked(bench, call, step, target))


def ranked(bench: Bench, call: Call, step: Step, target: Target) -> Verdict:
    """Rank the models for a call whose target is known."""
    situation = bench.situation
    return evaluate(
        bench.policy,
        call,
        step,
        target,
        trail=situation.trail,
        tokens=situation.tokens,
        health=situation.health,
        now_s=bench.now_s,
    )


def reveal(bench: Bench, call: Call, judgement: Judgement) -> Judgement | None:
    """Judge the step anew as one that reveals itself, on the cheaper of the two tiers in question. None: do not.

    The lower tier is asked first unless it is expected to cost as much as the higher one (a cold prefix against a
    warm one). Weighing the chance of a drop as well, and asking the higher tier at once where that looked cheaper, was
    tried on recorded sessions: it cost more, because steps of the cheaper kind then stayed on the dearer tier.
    """
    step, policy = judgement.step, bench.policy
    open_question = call.tools and call.settings.tool_choice in {"", "auto"} and step.by in {"shape", "learned"}
    if not open_question or step.confidence >= policy.reveal_below or call.model or call.tier:
        return None
    other = StepKind.SYNTHESIS if step.kind is StepKind.TOOL_CALL else StepKind.TOOL_CALL
    alternative = judged(bench, call, replace(step, kind=other, confidence=1 - step.confidence), judgement.seen)
    low, high = sorted((judgement, alternative), key=lambda entry: entry.target.rank)
    if low.target.rank == high.target.rank or not low.verdict.ladder or not high.verdict.ladder:
        return None
    if low.verdict.ladder[0].expected_nanos >= high.verdict.ladder[0].expected_nanos:
        return None
    return low


def as_revealed(bench: Bench, call: Call, kind: StepKind, seen: Classification | None) -> Judgement:
    """Judge a step whose reply has shown its kind."""
    return judged(bench, call, Step(kind, "revealed", 1.0, "the first chunks of the reply showed it"), seen)
