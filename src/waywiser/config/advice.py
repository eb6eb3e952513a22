"""What is legal in a policy but unwise: the warnings of `waywiser check`."""

from __future__ import annotations

from collections.abc import Iterator

from waywiser.config.policy_schema import MinLogprobSpec, PolicySpec
from waywiser.config.source import Source
from waywiser.core.confidence import MIN_LOGPROB
from waywiser.core.models import Ability
from waywiser.core.policy import Policy
from waywiser.core.steps import UNREAD, StepKind
from waywiser.errors import Problem


def advice(source: Source, spec: PolicySpec, policy: Policy) -> Iterator[Problem]:
    """What had better be otherwise, each with its place. `policy` is what `spec` came to."""
    means = [sum(model.prices[0].output_picos for model in tier.models) / len(tier.models) for tier in policy.tiers]
    for index, tier in enumerate(policy.tiers[1:], start=1):
        if means[index] < means[index - 1]:
            yield source.problem(
                ("tiers", tier.name),
                f"tier `{tier.name}` is cheaper than the one before it",
                "cheapest first",
                key=True,
            )
    tier_of: dict[str, str] = {}
    for tier in policy.tiers:
        for index, model in enumerate(tier.models):
            if (first := tier_of.setdefault(model.name, tier.name)) != tier.name:
                message = f"`{model.name}` is in tier `{first}` too: moving up may change nothing"
                yield source.problem(("tiers", tier.name, index), message, "name a model in one tier")
    budget = spec.budget
    if not any((budget.session.usd, budget.session.tokens, budget.session.llm_calls, budget.tenant.usd_per_day)):
        yield source.problem(("budget",), "nothing limits what a session may cost", "set `budget: {session: {usd: …}}`")
    limited = budget.session.usd is not None or budget.session.llm_calls is not None
    if budget.on_exhausted == "conclude" and limited and not budget.keep.get("synthesis"):
        yield source.problem(
            ("budget", "on_exhausted"),
            "`conclude` without `keep`: a session that spent everything is ended by a fixed notice",
            "set `keep: {synthesis: 20%}`",
        )
    for tier in policy.tiers:
        if len(tier.models) == 1 and len(policy.tiers) == 1:
            yield source.problem(("tiers", tier.name), "one model alone: an outage of it can't be survived", key=True)
    yield from _unjudged(source, spec, policy)


def _unjudged(source: Source, spec: PolicySpec, policy: Policy) -> Iterator[Problem]:
    """Where confidence is to be judged, name the models that do not tell it. Simulated ones have none to tell."""
    models = {model.name: model for tier in policy.tiers for model in tier.models}
    mute = [
        name for name, model in models.items() if Ability.LOGPROBS not in model.abilities or model.api == "simulated"
    ]
    hint = "where one does, add `logprobs` to its `abilities` under `models`"
    never, names = len(mute) == len(models), ", ".join(f"`{name}`" for name in mute)
    where = "anywhere: no model of this policy tells" if never else f"where {names} answers, which does not tell"
    for kind, step in spec.steps.items():
        for index, check in enumerate(step.accept):
            if not isinstance(check, MinLogprobSpec):
                continue
            place = ("steps", kind, "accept", index)
            if mute:
                yield source.problem(place, f"`{MIN_LOGPROB}` judges nothing {where} log-probabilities", hint)
            if StepKind(kind) not in UNREAD and spec.fallback.cut_unsure is None:
                yield source.problem(
                    place,
                    f"`{MIN_LOGPROB}` does not judge a streamed {kind}, which is shown as it comes",
                    "`fallback: {cut_unsure: {below: …}}` watches those",
                )
    if spec.fallback.cut_unsure is None:
        return
    top = policy.tiers[-1]
    ends = [kind for kind, step in spec.steps.items() if step.tier == top.name]
    if ends and any(model.name not in mute for model in top.models):
        message = f"`cut_unsure` can only end a step of {', '.join(ends)} with an error: nothing is above its tier"
        hint_up = "set `below` so low that the top tier stays above it, or let the step begin lower"
        yield source.problem(("fallback", "cut_unsure"), message, hint_up, key=True)
    if mute:
        problem = f"`cut_unsure` stops nothing {where} log-probabilities"
        yield source.problem(("fallback", "cut_unsure"), problem, hint, key=True)
