"""From a policy file to `core.policy.Policy`: names resolved, numbers made integers, every mistake with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from waywiser.config.advice import advice
from waywiser.config.policy_schema import (
    LimitsSpec,
    MinLogprobSpec,
    ModelSpec,
    PolicySpec,
    PriceSpec,
    RuleSpec,
    WhenSpec,
)
from waywiser.config.shapes import suggest
from waywiser.config.source import Source
from waywiser.core.budget import NANOS_PER_USD, Limits
from waywiser.core.confidence import min_logprob
from waywiser.core.loops import LADDER
from waywiser.core.models import Ability, Model, Price
from waywiser.core.policy import (
    BudgetRule,
    Condition,
    FallbackRule,
    LoopControl,
    Policy,
    Pressure,
    Rule,
    StepRule,
    Tier,
    UnsureRule,
    Weights,
)
from waywiser.core.steps import StepKind
from waywiser.errors import ConfigError, Problem
from waywiser.ports import Classifier

PICOS_PER_USD_PER_MILLION = 1_000_000


class ModelTable(Protocol):
    """Where models are looked up: the catalogue."""

    def get(self, name: str) -> Model:
        """Look a model up; `KeyError` when there is none of that name."""
        ...

    def closest(self, name: str) -> str:
        """What was probably meant; empty when nothing comes near."""
        ...


class OpenClassifier(Protocol):
    """How a classifier of the policy's own is opened: with trained weights, with other languages than usual."""

    def __call__(self, weights: Path | None, languages: Sequence[str] | None) -> Classifier:
        """Open one; None stands for what the package brings. Raises `ConfigError`."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy ready for the engine, the secrets that came with it (by model), and what is legal but unwise.

    `classifier` is the policy's own, with the folder of its `weights`; None where it names none.
    """

    policy: Policy
    keys: Mapping[str, str]
    warnings: tuple[Problem, ...]
    source: Source
    classifier: Classifier | None = None
    weights: Path | None = None


def load_policy(source: Source, table: ModelTable, open_classifier: OpenClassifier) -> LoadedPolicy:
    """Check a policy that has been read. Raises `ConfigError` with every problem found."""
    spec = source.validate(PolicySpec)
    loader = _Loader(source, spec, table)
    policy = loader.policy()
    weights = (source.folder or Path()) / spec.classifier.weights if spec.classifier.weights else None
    classifier = loader.classifier(open_classifier, weights)
    if loader.problems:
        raise ConfigError(sorted(loader.problems, key=lambda problem: (problem.place.line, problem.place.column)))
    keys = {name: entry.api_key.get_secret_value() for name, entry in spec.models.items() if entry.api_key}
    return LoadedPolicy(policy, keys, tuple(advice(source, spec, policy)), source, classifier, weights)


class _Loader:
    def __init__(self, source: Source, spec: PolicySpec, table: ModelTable) -> None:
        self._source = source
        self._spec = spec
        self._table = table
        self.problems: list[Problem] = []

    def policy(self) -> Policy:
        spec = self._spec
        tiers = tuple(self._tier(name, models) for name, models in spec.tiers.items())
        for name in spec.models:
            if not any(name in models for models in spec.tiers.values()):
                self._problem(("models", name), f"`{name}` is in no tier", "name it in a tier or take it out", key=True)
        budget, unsure = spec.budget, spec.fallback.cut_unsure
        pressure = []
        for index, entry in enumerate(budget.pressure):
            self._is_tier(entry.ceiling, ("budget", "pressure", index, "ceiling"))
            pressure.append(Pressure(entry.at, entry.ceiling))
        if sum(budget.keep.values()) > 1:
            self._problem(("budget", "keep"), "the shares that are kept add up to more than 100%")
        if budget.keep and budget.session.usd is None and budget.session.llm_calls is None:
            self._problem(("budget", "keep"), "`keep` is a part of `session: usd` or `llm_calls`, and neither is set")
        return Policy(
            name=spec.name,
            tiers=tiers,
            steps={StepKind(kind): self._step(kind) for kind in spec.steps},
            nodes=tuple(spec.nodes.items()),
            rules=tuple(self._rule(index, rule) for index, rule in enumerate(spec.rules)),
            weights=Weights(spec.weights.quality, spec.weights.cost, spec.weights.latency, spec.weights.health),
            budget=BudgetRule(
                session=_limits(budget.session),
                agent=_limits(budget.agent),
                tenant=Limits(
                    _nanos(budget.tenant.usd_per_day), budget.tenant.tokens_per_day, budget.tenant.llm_calls_per_day
                ),
                keep={str(kind): share for kind, share in budget.keep.items()},
                estimate=budget.estimate,
                pressure=tuple(pressure),
                on_exhausted=budget.on_exhausted,
                lease_s=budget.lease_s,
            ),
            loops=self._loops(),
            fallback=FallbackRule(
                spec.fallback.attempts,
                spec.fallback.timeout_s,
                spec.fallback.deadline_s,
                cut_stream=spec.fallback.cut_stream,
                cut_repetition=spec.fallback.cut_repetition,
                cut_unsure=UnsureRule(unsure.below, unsure.over) if unsure else None,
            ),
            min_saving=spec.switching.min_saving,
            reveal_below=spec.reveal.below if spec.reveal else 0.0,
        )

    def classifier(self, open_classifier: OpenClassifier, weights: Path | None) -> Classifier | None:
        """Open the policy's own classifier now: what is wrong with it is told with the rest, not at the first call."""
        spec = self._spec.classifier
        if weights is None and spec.languages is None:
            return None
        try:
            return open_classifier(weights, spec.languages)
        except ConfigError as error:
            for problem in error.problems:
                named = weights is not None and problem.place.file.startswith(str(weights))
                path = ("classifier", "weights" if named else "languages")
                self._problem(path, str(replace(problem, hint="")) if named else problem.message, problem.hint)
        return None

    def _loops(self) -> LoopControl | None:
        spec = self._spec.loops
        if spec is None:
            return None
        order = [LADDER.index(rung) for rung in spec.ladder]
        if order != sorted(set(order)):
            self._problem(("loops", "ladder"), "each rung once, in the order " + ", ".join(LADDER))
        return LoopControl(spec.after, tuple(spec.ladder), frozenset(spec.navigation))

    def _tier(self, name: str, models: Sequence[str]) -> Tier:
        found = []
        for index, model in enumerate(models):
            path = ("tiers", name, index)
            if models.index(model) != index:
                self._problem(path, f"`{model}` is named twice in tier `{name}`")
            elif (row := self._model(model, path)) is not None:
                found.append(row)
        return Tier(name, tuple(found))

    def _model(self, name: str, path: tuple[str | int, ...]) -> Model | None:
        own = self._spec.models.get(name)
        try:
            known = self._table.get(name)
        except KeyError:
            complete = own is not None and (own.base_url or own.api == "langchain") and own.price and own.context
            if not complete:
                near = suggest(name, self._spec.models) or self._table.closest(name)
                hint = f"did you mean `{near}`?" if near else "give it `base_url`, `context` and `price` under `models`"
                if own is not None:
                    hint = "a model of your own needs `base_url` (or `api: langchain`), `context` and `price`"
                self._problem(path, f"unknown model `{name}`", hint)
                return None
            known = Model(name, remote=name.partition("/")[2] or name)
        row = known if own is None else _overridden(known, own)
        if not row.prices:
            self._problem(path, f"the price of `{name}` is not known", f"set it: models: {{{name}: {{price: …}}}}")
            return None
        return row

    def _step(self, kind: str) -> StepRule:
        spec = self._spec.steps[kind]  # type: ignore[index]  # keys of this very mapping
        path = ("steps", kind)
        if spec.tier != "auto":
            self._is_tier(spec.tier, (*path, "tier"))
        if spec.escalate is not None:
            self._is_tier(spec.escalate, (*path, "escalate"))
            if not spec.accept:
                self._problem((*path, "escalate"), "`escalate` without `accept` never happens", key=True)
        if spec.hedge and (why := self._unhedged(spec.tier)):
            self._problem((*path, "hedge"), f"`hedge` never happens: {why}", key=True)
        return StepRule(
            "" if spec.tier == "auto" else spec.tier,
            spec.sufficiency,
            spec.max_output_tokens,
            tuple(min_logprob(one.min_logprob) if isinstance(one, MinLogprobSpec) else one for one in spec.accept),
            spec.escalate or "",
            spec.hedge,
        )

    def _unhedged(self, tier: str) -> str:
        """Say why a second request could never be sent beside one to this tier."""
        if self._spec.fallback.attempts < 2:
            return "`fallback: attempts` allows one request"
        tiers = list(self._spec.tiers)
        above = tiers[tiers.index(tier) if tier in tiers else 0 :]
        models = {name for other in above for name in self._spec.tiers[other]}
        return "" if len(models) > 1 else "there is no second model in its tier or above"

    def _rule(self, index: int, spec: RuleSpec) -> Rule:
        path = ("rules", index)
        effects = spec.model_dump(exclude={"when"}, exclude_none=True)
        if not effects:
            self._problem(path, "the rule has no effect", "add `tier`, `floor`, `ceiling`, `models`, `exclude`, …")
        if not spec.when.model_dump(exclude_none=True):
            self._problem((*path, "when"), "an empty `when` always holds", "say it under `steps` instead")
        for key in ("tier", "floor", "ceiling"):
            if (name := getattr(spec, key)) is not None:
                self._is_tier(name, (*path, key))
        order = list(self._spec.tiers)
        if spec.floor in order and spec.ceiling in order and order.index(spec.floor) > order.index(spec.ceiling):
            message = f"the floor `{spec.floor}` is above the ceiling `{spec.ceiling}`"
            self._problem((*path, "floor"), message, f"cheapest first, the tiers are {', '.join(order)}")
        names = [name for models in self._spec.tiers.values() for name in models]
        for key in ("models", "exclude"):
            for position, glob in enumerate(getattr(spec, key) or ()):
                if not any(fnmatchcase(name, glob) for name in names):
                    near = suggest(glob, names)
                    self._problem(
                        (*path, key, position),
                        f"`{glob}` matches no model of this policy",
                        f"did you mean `{near}`?" if near else "",
                    )
        return Rule(
            name=f"rule {index + 1} (line {self._source.place(path).line})",
            when=_condition(spec.when),
            tier=spec.tier or "",
            floor=spec.floor or "",
            ceiling=spec.ceiling or "",
            models=tuple(spec.models or ()),
            exclude=tuple(spec.exclude or ()),
            require=frozenset(Ability(name) for name in spec.require or ()),
            regions=frozenset(spec.regions or ()),
        )

    def _is_tier(self, name: str, path: tuple[str | int, ...]) -> None:
        if name not in self._spec.tiers:
            near = suggest(name, self._spec.tiers)
            hint = f"did you mean `{near}`?" if near else f"the tiers are {', '.join(self._spec.tiers)}"
            self._problem(path, f"there is no tier `{name}`", hint)

    def _problem(self, path: tuple[str | int, ...], message: str, hint: str = "", *, key: bool = False) -> None:
        self.problems.append(self._source.problem(path, message, hint, key=key))


def _overridden(known: Model, own: ModelSpec) -> Model:
    changes: dict[str, object] = {
        "api": own.api,
        "remote": own.remote,
        "base_url": own.base_url,
        "context_tokens": own.context,
        "max_output_tokens": own.max_output or (min(known.max_output_tokens, own.context) if own.context else None),
        "prices": (_price(own.price),) if own.price else None,
        "abilities": frozenset(Ability(name) for name in own.abilities) if own.abilities is not None else None,
        "regions": frozenset(own.regions) if own.regions is not None else None,
        "quality": own.quality,
        "latency_ms": own.latency_ms,
        "cache_ttl_s": own.cache_ttl_s,
        "headers": tuple(own.headers.items()) if own.headers else None,
    }
    return replace(known, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]  # a table of fields


def _price(spec: PriceSpec) -> Price:
    def picos(value: float) -> int:
        return round(value * PICOS_PER_USD_PER_MILLION)

    return Price(
        picos(spec.input),
        picos(spec.output),
        picos(spec.input if spec.cached is None else spec.cached),
        picos(spec.input if spec.cache_write is None else spec.cache_write),
    )


def _nanos(usd: float | None) -> int | None:
    return None if usd is None else round(usd * NANOS_PER_USD)


def _limits(spec: LimitsSpec) -> Limits:
    return Limits(_nanos(spec.usd), spec.tokens, spec.llm_calls, spec.tool_calls, spec.seconds)


def _condition(spec: WhenSpec) -> Condition:
    language = spec.language
    wanted, unwanted = (language, []) if isinstance(language, list) else ([], language.not_ if language else [])
    return Condition(
        kind=_set(spec.kind),
        node=tuple(spec.node or ()),
        agent=tuple(spec.agent or ()),
        session=tuple(spec.session or ()),
        tenant=tuple(spec.tenant or ()),
        tag=tuple(spec.tag or ()),
        label=dict(spec.label or {}),
        task=_set(spec.task),
        difficulty=_set(spec.difficulty),
        risk=_set(spec.risk),
        language=_set(wanted),
        language_not=_set(unwanted),
        time_sensitive=spec.time_sensitive,
        input_tokens_above=spec.input_tokens_above,
    )


def _set(names: Iterable[str] | None) -> frozenset[str]:
    return frozenset(names or ())
