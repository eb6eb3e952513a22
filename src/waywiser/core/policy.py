"""A policy as the engine uses it, and `evaluate()`: from a step to a ranked ladder of candidates, or a refusal.

The law: step rule first (which tier), then the rules in order (a later rule may narrow what an earlier one said, a
`tier` sets the target anew), then pressure, then what the call itself pins. Floors beat ceilings: quality that a rule
demands is not traded for money; money has limits of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from waywiser.core.budget import Limits
from waywiser.core.calls import Call
from waywiser.core.classification import Classification, Head
from waywiser.core.models import Ability, Model
from waywiser.core.steps import SURE, Step, StepKind


@dataclass(frozen=True, slots=True)
class Tier:
    """A rung of the policy's ladder; `models` in the order of the policy."""

    name: str
    models: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class StepRule:
    """What the policy says of one kind of step. An empty `tier` is `auto`: the cheapest that is enough.

    `accept` names the checks a reply must pass (`confidence.min_logprob` writes the one that has a bound); one that
    fails goes to the tier `escalate` (empty: one tier up). `hedge` asks a second model when the first is slow.
    """

    tier: str = ""
    sufficiency: float = 0.8
    max_output_tokens: int | None = None
    accept: tuple[str, ...] = ()
    escalate: str = ""
    hedge: bool = False


_AUTO = StepRule()


@dataclass(frozen=True, slots=True)
class Condition:
    """When a rule applies: every field that is set must hold. Names are globs (`vip-*`)."""

    kind: frozenset[str] = frozenset()
    node: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    label: Mapping[str, str] = field(default_factory=dict)
    task: frozenset[str] = frozenset()
    difficulty: frozenset[str] = frozenset()
    risk: frozenset[str] = frozenset()
    language: frozenset[str] = frozenset()
    language_not: frozenset[str] = frozenset()
    time_sensitive: bool | None = None
    input_tokens_above: int | None = None

    @property
    def heads(self) -> frozenset[Head]:
        """What the condition asks that only the classifier knows."""
        asked = (
            (Head.TASK, self.task),
            (Head.DIFFICULTY, self.difficulty),
            (Head.RISK, self.risk),
            (Head.LANGUAGE, self.language or self.language_not),
            (Head.TIME_SENSITIVE, self.time_sensitive is not None),
        )
        return frozenset(head for head, needed in asked if needed)

    def holds(self, call: Call, step: Step, seen: Classification | None, input_tokens: int) -> bool:
        """Tell whether the condition holds for this call."""
        origin = call.origin
        names = (
            (self.node, origin.node),
            (self.agent, origin.agent),
            (self.session, origin.session),
            (self.tenant, origin.tenant),
        )
        if any(globs and not any(fnmatchcase(name, glob) for glob in globs) for globs, name in names):
            return False
        if self.kind and step.kind not in self.kind:
            return False
        if self.tag and not any(fnmatchcase(tag, glob) for tag in origin.tags for glob in self.tag):
            return False
        if any(not fnmatchcase(origin.labels.get(key, ""), glob) for key, glob in self.label.items()):
            return False
        if self.input_tokens_above is not None and input_tokens <= self.input_tokens_above:
            return False
        return not self.heads or (seen is not None and self._holds_for(seen))

    def found(self, seen: Classification) -> tuple[str, ...]:
        """Say what the classifier found that this condition asks about."""
        risks = [risk.label for risk in seen.risk if risk.label in self.risk]
        return (
            *([f"task {seen.task.label}"] if self.task else ()),
            *([f"difficulty {seen.difficulty.label}"] if self.difficulty else ()),
            *([f"risk {', '.join(risks)}"] if risks else ()),
            *([f"language {seen.language.label}"] if self.language or self.language_not else ()),
            *([f"time-sensitive {seen.time_sensitive:.2f}"] if self.time_sensitive is not None else ()),
        )

    def _holds_for(self, seen: Classification) -> bool:
        language = seen.language.label
        return (
            (not self.task or seen.task.label in self.task)
            and (not self.difficulty or seen.difficulty.label in self.difficulty)
            and (not self.risk or any(risk.label in self.risk for risk in seen.risk))
            and (not self.language or language in self.language)
            and (not self.language_not or language not in self.language_not | {"unsure"})
            and (self.time_sensitive is None or (seen.time_sensitive >= 0.5) == self.time_sensitive)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy demands when `when` holds. `name` is its place in the file, for the receipt."""

    name: str
    when: Condition
    tier: str = ""
    floor: str = ""
    ceiling: str = ""
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require: frozenset[Ability] = frozenset()
    regions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Weights:
    """What a point of each term is worth in the score."""

    quality: float = 1.0
    cost: float = 0.6
    latency: float = 0.2
    health: float = 0.5


@dataclass(frozen=True, slots=True)
class Pressure:
    """From the share `at` of any limit spent, steps go no higher than the tier `ceiling`."""

    at: float
    ceiling: str


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """Limits of each scope and what happens at them. `keep` maps a kind to its share of the session's money."""

    session: Limits = Limits()
    agent: Limits = Limits()
    tenant: Limits = Limits()
    keep: Mapping[str, float] = field(default_factory=dict)
    estimate: str = "expected"
    pressure: tuple[Pressure, ...] = ()
    on_exhausted: str = "stop"
    lease_s: float = 300.0


@dataclass(frozen=True, slots=True)
class LoopControl:
    """After how many fruitless repetitions a loop counts, what is done about it, and which tools navigate."""

    after: int = 3
    ladder: tuple[str, ...] = ("hint", "escalate", "conclude", "stop")
    navigation: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UnsureRule:
    """A streamed answer is cut when the mean log-probability of its newest `over` tokens falls `below` this."""

    below: float
    over: int = 40


@dataclass(frozen=True, slots=True)
class FallbackRule:
    """How long and how often a call is tried. `attempts` counts every request sent; times in seconds.

    `cut_stream` says what becomes of an answer that is cut while somebody reads it: it goes on elsewhere (`resume`) or
    ends in an error (`fail`). `cut_repetition` stops one that repeats itself, `cut_unsure` one whose model is guessing
    (None: never).
    """

    attempts: int = 4
    timeout_s: float = 60.0
    deadline_s: float = 120.0
    cut_stream: str = "fail"
    cut_repetition: bool = True
    cut_unsure: UnsureRule | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, checked and complete: every tier it names exists, every model has a price.

    `nodes` declares the kind of the steps of a node, by glob. `reveal_below` is the confidence under which a step
    whose kind decides its tier is made to reveal itself (0: never).
    """

    name: str
    tiers: tuple[Tier, ...]
    steps: Mapping[StepKind, StepRule] = field(default_factory=dict)
    nodes: tuple[tuple[str, str], ...] = ()
    rules: tuple[Rule, ...] = ()
    weights: Weights = Weights()
    budget: BudgetRule = BudgetRule()
    loops: LoopControl | None = None
    fallback: FallbackRule = FallbackRule()
    min_saving: float = 0.15
    reveal_below: float = 0.0

    def rank(self, tier: str) -> int:
        """The position of a tier, 0 for the cheapest."""
        return next(rank for rank, entry in enumerate(self.tiers) if entry.name == tier)

    def rank_or(self, tier: str, otherwise: int = 0) -> int:
        """Give the position of a tier that a store remembers; `otherwise` for one the policy no longer has."""
        return next((rank for rank, entry in enumerate(self.tiers) if entry.name == tier), otherwise)

    def step_rule(self, kind: StepKind) -> StepRule:
        """What the policy says of a kind; a kind it does not name is `auto`."""
        return self.steps.get(kind, _AUTO)

    def declared(self, node: str) -> str:
        """The kind the policy declares for a node; empty when it says nothing."""
        return next((kind for glob, kind in self.nodes if fnmatchcase(node, glob)), "") if node else ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a step belongs after all rules: a tier (by rank) between floor and ceiling, and what a model must be."""

    rank: int
    floor: int
    ceiling: int
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require: frozenset[Ability] = frozenset()
    regions: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    rank: int
    floor: int
    ceiling: int
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require: frozenset[Ability] = frozenset()
    regions: frozenset[str] = frozenset()
    reasons: list[str] = field(default_factory=list)


_OPEN = (StepKind.TOOL_CALL, StepKind.SYNTHESIS)
"""What a step whose kind is not sure may turn out to be."""


def heads_needed(policy: Policy, call: Call, step: Step) -> frozenset[Head]:
    """Name the heads of the classifier without which this call can't be decided; none for most calls."""
    needed = frozenset[Head]().union(*(rule.when.heads for rule in policy.rules))
    kinds = [step.kind]
    if step.by == "shape" and step.confidence < SURE:
        needed |= {Head.KIND}
        kinds += _OPEN
    if not call.tier and not call.model and not all(policy.step_rule(kind).tier for kind in kinds):
        needed |= {Head.SUFFICIENCY}
    return needed


def aim(
    policy: Policy,
    call: Call,
    step: Step,
    seen: Classification | None,
    *,
    input_tokens: int,
    spent_share: float,
    pinned: str = "",
) -> Target:
    """Decide the tier a step belongs to and what its model must be.

    `spent_share` is 0..1 of the tightest limit; `pinned` is the tier loop control has raised the session to.
    """
    top = len(policy.tiers) - 1
    rule = policy.step_rule(step.kind)
    draft = _Draft(rank=0, floor=0, ceiling=top)
    if rule.tier:
        draft.rank = policy.rank(rule.tier)
        draft.reasons.append(f"{step.kind} steps go to {rule.tier}")
    elif seen is not None:
        draft.rank, reason = _auto(policy, rule.sufficiency, seen)
        draft.reasons.append(reason)
    else:
        draft.rank = top
        draft.reasons.append("auto without a classifier: the top tier")
    for entry in policy.rules:
        if entry.when.holds(call, step, seen, input_tokens):
            _apply(policy, entry, draft, entry.when.found(seen) if seen is not None else ())
    for pressure in policy.budget.pressure:
        if spent_share >= pressure.at and policy.rank(pressure.ceiling) < draft.ceiling:
            draft.ceiling = policy.rank(pressure.ceiling)
            draft.reasons.append(f"{spent_share:.0%} of the budget is spent: no higher than {pressure.ceiling}")
    if pinned and policy.rank_or(pinned) > draft.rank:
        draft.floor = max(draft.floor, policy.rank_or(pinned))
        draft.reasons.append(f"going round in circles: at least {pinned} until there is progress")
    if call.tier:
        draft.rank = policy.rank(call.tier)
        draft.reasons.append(f"the caller asked for tier {call.tier}")
    ceiling = max(draft.ceiling, draft.floor)
    return Target(
        rank=min(max(draft.rank, draft.floor), ceiling),
        floor=draft.floor,
        ceiling=ceiling,
        models=(call.model,) if call.model else draft.models,
        exclude=draft.exclude,
        require=draft.require,
        regions=draft.regions,
        reasons=tuple(draft.reasons),
    )


def _auto(policy: Policy, sufficiency: float, seen: Classification) -> tuple[int, str]:
    why = f" ({'; '.join(seen.why[:3])})" if seen.why else ""
    for rank, (tier, enough) in enumerate(zip(policy.tiers, seen.sufficiency, strict=False)):
        if enough >= sufficiency:
            return rank, f"auto: {tier.name} is enough with probability {enough:.2f}, {sufficiency:.2f} asked{why}"
    return len(policy.tiers) - 1, f"auto: no tier reaches {sufficiency:.2f}, so the top one{why}"


def _apply(policy: Policy, rule: Rule, draft: _Draft, found: Sequence[str]) -> None:
    said = []
    if rule.tier:
        draft.rank = policy.rank(rule.tier)
        said.append(f"tier {rule.tier}")
    if rule.floor:
        draft.floor = max(draft.floor, policy.rank(rule.floor))
        said.append(f"at least {rule.floor}")
    if rule.ceiling:
        draft.ceiling = min(draft.ceiling, policy.rank(rule.ceiling))
        said.append(f"at most {rule.ceiling}")
    if rule.models:
        draft.models = rule.models
        said.append(f"only {', '.join(rule.models)}")
    if rule.exclude:
        draft.exclude += rule.exclude
        said.append(f"not {', '.join(rule.exclude)}")
    if rule.require:
        draft.require |= rule.require
        said.append(f"must have {', '.join(sorted(rule.require))}")
    if rule.regions:
        draft.regions = draft.regions & rule.regions if draft.regions else rule.regions
        said.append(f"only in {', '.join(sorted(rule.regions))}")
    because = f" ({', '.join(found)})" if found else ""
    draft.reasons.append(f"{rule.name}: {', '.join(said)}{because}")
