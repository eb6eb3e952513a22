"""`evaluate()`: from where a step belongs to a ranked ladder of candidates, or to the reasons why there is none.

The ladder begins with the candidates of the step's own tier, best score first; then come the tiers above it up to its
ceiling, then those below it down to its floor: who falls back prefers paying more to answering worse. A model whose
circuit is open, or whose one probe is under way, goes to the end. A model the conversation can't be moved to is no
candidate. The session stays with the model that holds its warm prefix unless a move saves `min_saving` of what staying
costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from waywiser.core.calls import Call, Usage
from waywiser.core.health import Health
from waywiser.core.messages import File, Image, Message
from waywiser.core.models import Ability, Model, cost_nanos
from waywiser.core.policy import Policy, Target
from waywiser.core.portability import Forbidden, portable, surveyed
from waywiser.core.receipt import Considered
from waywiser.core.scoring import Candidate, Prospect, expected_output, scored, warm_tokens
from waywiser.core.steps import Step
from waywiser.core.survey import MEDIA
from waywiser.core.trail import Trail


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a call goes. An empty `ladder` is a refusal; `reasons` say why. `output_limit` clamps the answer."""

    step: Step
    target: Target
    ladder: tuple[Candidate, ...]
    considered: tuple[Considered, ...]
    reasons: tuple[str, ...]
    output_limit: int | None


def evaluate(
    policy: Policy,
    call: Call,
    step: Step,
    target: Target,
    *,
    trail: Trail,
    tokens: Mapping[str, int],
    health: Mapping[str, Health],
    now_s: float,
) -> Verdict:
    """Rank every model of the policy for this call. `tokens` maps an encoding to the prompt's length in it."""
    asked = call.settings.max_output_tokens
    rule_limit = policy.step_rule(step.kind).max_output_tokens
    limit = min((value for value in (asked, rule_limit) if value is not None), default=None)
    output_tokens = expected_output(trail.steps, step.kind, limit)
    bits = surveyed(call)
    needed = _needed(call, media=bool(bits & MEDIA)) | target.require
    fit: list[Prospect] = []
    usages: dict[tuple[str, int], Usage] = {}
    excluded: list[Considered] = []
    for rank, tier in enumerate(policy.tiers):
        for model in tier.models:
            why = _why_not(model, rank, target, call, needed, tokens[model.encoding] + min(output_tokens, 16))
            if not why and isinstance(moved := portable(call, model, bits), Forbidden):
                why = f"the conversation can't go there: {moved.why}"
            if why:
                excluded.append(Considered(model.name, tier.name, excluded=why))
                continue
            warm = warm_tokens(model, trail, call.tools, call.messages, now_s) if trail.warm else 0
            usage = usages.get((model.encoding, warm))
            if usage is None:
                prompt = tokens[model.encoding]
                usage = Usage(prompt, output_tokens, cached_tokens=min(warm, prompt), estimated=True)
                usages[model.encoding, warm] = usage
            fit.append(Prospect(model, tier.name, rank, usage, cost_nanos(model, usage)))
    read = call.stream and not step.unread
    ranked = _ranked(scored(fit, policy.weights, health, now_s, first=read), target, health, now_s)
    reasons = list(target.reasons)
    ranked, sticky = _stay(ranked, trail, target, policy.min_saving)
    if sticky:
        reasons.append(sticky)
    considered = (
        *(Considered(c.model.name, c.tier, c.score, c.terms, c.expected_nanos) for c in ranked),
        *excluded,
    )
    return Verdict(step, target, tuple(ranked), considered, tuple(reasons), limit)


def _needed(call: Call, *, media: bool) -> frozenset[Ability]:
    needed = {ability for message in call.messages for ability in _message_needs(message)} if media else set()
    if call.response_format is not None:
        needed.add(Ability.JSON_SCHEMA)
    if call.settings.logprobs is not None:
        needed.add(Ability.LOGPROBS)
    return frozenset(needed)


def _message_needs(message: Message) -> tuple[Ability, ...]:
    return tuple(
        Ability.VISION if isinstance(part, Image) else Ability.FILES
        for part in message.parts
        if isinstance(part, Image | File)
    )


def _why_not(  # noqa: PLR0911 - a list of reasons
    model: Model, rank: int, target: Target, call: Call, needed: frozenset[Ability], tokens: int
) -> str:
    if target.models:
        if not any(fnmatchcase(model.name, glob) for glob in target.models):
            return "another model is pinned"
    elif rank > target.ceiling:
        return "above the ceiling"
    elif rank < target.floor:
        return "below the floor"
    if any(fnmatchcase(model.name, glob) for glob in target.exclude):
        return "excluded by a rule"
    if not needed <= model.abilities:
        return f"cannot do {', '.join(sorted(needed - model.abilities))}"
    if (
        call.tools
        and call.settings.tool_choice != "none"
        and not model.abilities & {Ability.TOOLS, Ability.JSON_SCHEMA}
    ):
        return "takes neither tools nor a JSON schema"
    if target.regions and not (model.regions and model.regions <= target.regions):
        return "not known to stay in the region"
    if tokens > model.context_tokens:
        return f"the prompt does not fit: {tokens} tokens, room for {model.context_tokens}"
    return ""


def _ranked(candidates: list[Candidate], target: Target, health: Mapping[str, Health], now_s: float) -> list[Candidate]:
    def order(candidate: Candidate) -> tuple[bool, int, float]:
        known = health.get(candidate.model.name)
        broken = known is not None and not known.admits(now_s)
        distance = candidate.rank - target.rank
        return broken, distance if distance >= 0 else 100 - distance, -candidate.score

    return sorted(candidates, key=order)


def _stay(ranked: list[Candidate], trail: Trail, target: Target, min_saving: float) -> tuple[list[Candidate], str]:
    """Put the session's warm model first when moving away from it saves too little."""
    if len(ranked) < 2 or not trail.warm:
        return ranked, ""
    last = trail.warm[-1].model
    held = next(
        (c for c in ranked if c.model.name == last and c.rank >= target.rank and c.expected.cached_tokens), None
    )
    best = ranked[0]
    if held is None or held is best or best.expected_nanos <= held.expected_nanos * (1 - min_saving):
        return ranked, ""
    rest = [candidate for candidate in ranked if candidate is not held]
    saving = 1 - best.expected_nanos / held.expected_nanos if held.expected_nanos else 0.0
    return [replace(held), *rest], (
        f"stays on {last}: its {held.expected.cached_tokens} warm tokens make {best.model.name} "
        + (f"save only {saving:.0%}" if saving >= 0 else "dearer")
    )
