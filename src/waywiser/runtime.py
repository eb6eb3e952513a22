"""The composition root: from a policy file to an engine with its catalogue, store, upstreams, classifier and sinks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from waywiser.acceptance import Acceptance, UserCheck
from waywiser.catalog.catalog import Catalog
from waywiser.catalog.tokens import TokenCounter, TokenEstimator
from waywiser.clock import SystemClock
from waywiser.config.objects import load_object
from waywiser.config.policy import LoadedPolicy, load_policy
from waywiser.config.source import Source
from waywiser.core.calls import Tool
from waywiser.core.classification import HEADS, Classification, Head
from waywiser.core.messages import Message
from waywiser.core.models import Model
from waywiser.engine import Engine
from waywiser.errors import ConfigError, Problem, StoreError
from waywiser.health import board_of
from waywiser.ports import Classifier, Clock, RemembersAgents, SessionStore, Sink, Upstream
from waywiser.stores.memory import MemoryStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.upstream.simulated_upstream import SimulatedUpstream

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

DEFAULT_STORE = "waywiser.sqlite"
REDIS = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a surface needs: the engine and the policy as it was loaded."""

    engine: Engine
    loaded: LoadedPolicy

    def close(self) -> None:
        """Release the store and the connections."""
        self.engine.close()


def load(policy: str | Path | Source) -> LoadedPolicy:
    """Read and check a policy against the catalogue, and open its own classifier. Raises `ConfigError`."""
    source = policy if isinstance(policy, Source) else Source.read(policy)
    return load_policy(source, Catalog(), open_classifier)


def open_classifier(weights: Path | None = None, languages: Sequence[str] | None = None) -> Classifier:
    """Open the local classifier; None stands for what the package brings. Raises `ConfigError`."""
    from waywiser.classifier.classifier import WEIGHTS, LocalClassifier  # noqa: PLC0415 - numpy and weights: 60 ms
    from waywiser.classifier.language import LANGUAGES  # noqa: PLC0415 - as above

    return LocalClassifier(weights or WEIGHTS, languages or LANGUAGES)


def build(
    policy: LoadedPolicy,
    *,
    store: str | Path | SessionStore | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    classifier: Classifier | None = None,
    checks: Mapping[str, UserCheck] | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock | None = None,
    need_keys: bool = True,
    live: bool = True,
) -> Runtime:
    """Put a runtime together.

    `store` is what `open_store` takes (default: the SQLite file `waywiser.sqlite` in the current folder).
    `models` answers for models by name with LangChain chat models. `need_keys=False` is for deciding without calling.
    `live=False` is for decisions to be reproduced: what agents did in one session does not count in the next.
    Raises `ConfigError` for a model whose key is not in the environment, with the place where the policy names it.
    """
    own = dict(models or {})
    core = _handed_over(policy, own)
    if need_keys and (missing := [*missing_keys(core, own), *_not_handed_over(core, own)]):
        raise ConfigError(missing)
    made: dict[str, Upstream] = {"simulated": SimulatedUpstream(partial(TokenEstimator().text, encoding="o200k_base"))}
    if own:
        from waywiser.upstream.langchain_model import LangChainUpstream  # noqa: PLC0415 - langchain-core is slow to import

        made["langchain"] = LangChainUpstream(own)
    if any(model.api in {"openai", "anthropic"} for tier in core.policy.tiers for model in tier.models):
        from waywiser.upstream.client import HttpUpstream  # noqa: PLC0415 - only those who call over HTTP pay for it

        made["openai"] = made["anthropic"] = HttpUpstream(lambda model: key_of(model, core.keys))
    opened = open_store(store)
    judge = classifier or policy.classifier or LazyClassifier()
    if live and isinstance(judge, RemembersAgents):
        judge.remember_agents()
    engine = Engine(
        core.policy,
        store=opened,
        upstreams={**made, **(upstreams or {})},
        counter=TokenCounter() if core.policy.budget.estimate == "strict" else TokenEstimator(),
        classifier=judge,
        checker=Acceptance(_own_checks(core, checks or {})),
        sinks=sinks,
        clock=clock or SystemClock(),
        health=board_of(opened),
    )
    return Runtime(engine, core)


def open_store(store: str | Path | SessionStore | None) -> SessionStore:
    """Open a session store by the path of a SQLite file, as `:memory:`, by the URL of a Redis, or take the one given.

    `?away=local` at the end of a Redis URL lets calls go on while it can't be reached; without it they are refused.
    Raises `StoreError` when it can't be opened, `ConfigError` for a URL that says something else.
    """
    if store is None:
        return SqliteStore(DEFAULT_STORE)
    if not isinstance(store, str | Path):
        return store
    if str(store).startswith(REDIS):
        return _redis(str(store))
    return MemoryStore() if str(store) == ":memory:" else SqliteStore(store)


def _redis(url: str) -> SessionStore:
    try:
        from waywiser.stores.redis import RedisStore  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"store: {error.name} is not installed; pip install 'waywiser[redis]'") from None
    plain, _, query = url.partition("?")
    away = query.removeprefix("away=") if query else "closed"
    if away not in {"closed", "local"}:
        raise ConfigError(f"store: `?{query}` is not understood; `?away=closed` and `?away=local` are")
    return RedisStore(plain, away="local" if away == "local" else "closed")


def open_existing(path: str | Path) -> SessionStore:
    """Open a store that must be there already. Raises `StoreError` for one that is not."""
    if str(path).startswith(REDIS):
        return open_store(path)
    if not Path(path).is_file():
        raise StoreError(f"{path}: no such store; `--store` names another")
    return SqliteStore(path)


class LazyClassifier:
    """The shipped classifier, loaded when first asked: numpy and weights cost what a policy may never need."""

    def __init__(self) -> None:
        self._remembers = False

    @cached_property
    def _shipped(self) -> Classifier:
        opened = open_classifier()
        if self._remembers and isinstance(opened, RemembersAgents):
            opened.remember_agents()
        return opened

    def remember_agents(self) -> None:
        """From now on learn what agents do; to be called before the first question."""
        self._remembers = True

    def classify(
        self, messages: Sequence[Message], tools: Sequence[Tool], rungs: int, heads: frozenset[Head] = HEADS
    ) -> Classification:
        """Answer `heads` about the coming call of this history, for a ladder of `rungs` tiers."""
        return self._shipped.classify(messages, tools, rungs, heads)

    def warm_up(self, heads: frozenset[Head] = HEADS) -> None:
        """Read what the first question to these heads would have to wait for."""
        self._shipped.warm_up(heads)


def key_of(model: Model, keys: Mapping[str, str]) -> str:
    """Find a model's key: the policy's own, else the environment's; empty where none is needed."""
    return keys.get(model.name) or (os.environ.get(model.key_env, "") if model.key_env else "")


def missing_keys(loaded: LoadedPolicy, own: Mapping[str, object]) -> list[Problem]:
    """Name every model of the policy whose key is not there."""
    problems = []
    for tier in loaded.policy.tiers:
        for index, model in enumerate(tier.models):
            if model.key_env and model.name not in own and not key_of(model, loaded.keys):
                problems.append(
                    loaded.source.problem(
                        ("tiers", tier.name, index),
                        f"`{model.name}` needs a key: the environment variable `{model.key_env}` is not set",
                        f"export {model.key_env}=…, or take the model out",
                    )
                )
    return problems


def _not_handed_over(loaded: LoadedPolicy, own: Mapping[str, object]) -> Iterator[Problem]:
    """Name every model that answers through LangChain and was not given."""
    for tier in loaded.policy.tiers:
        for index, model in enumerate(tier.models):
            if model.api == "langchain" and model.name not in own:
                yield loaded.source.problem(
                    ("tiers", tier.name, index),
                    f"`{model.name}` answers through LangChain, and was not handed over",
                    f"Router.from_policy(…, models={{{model.name!r}: …}})",
                )


def _own_checks(loaded: LoadedPolicy, given: Mapping[str, UserCheck]) -> Mapping[str, UserCheck]:
    """Find the user's checks that the policy names: those given by name, the others by `module:function`.

    Raises `ConfigError` with the place of one that can't be imported or called, and for one given but not named.
    """
    own: dict[str, UserCheck] = {}
    problems = []
    for kind, rule in loaded.policy.steps.items():
        for index, name in enumerate(rule.accept):
            if ":" not in name:
                continue
            try:
                check = given[name] if name in given else load_object(name, loaded.source.folder)
            except ValueError as error:
                problems.append(loaded.source.problem(("steps", kind.value, "accept", index), str(error)))
                continue
            if not callable(check):
                place = ("steps", kind.value, "accept", index)
                problems.append(loaded.source.problem(place, f"`{name}` is not a function"))
                continue
            own[name] = cast("UserCheck", check)
    if problems:
        raise ConfigError(problems)
    if unused := sorted(set(given) - set(own)):
        raise ConfigError(f"checks: {', '.join(unused)}: the policy accepts by no such check")
    return own


def _handed_over(loaded: LoadedPolicy, own: Mapping[str, object]) -> LoadedPolicy:
    """Let the models handed over in Python answer through LangChain. Raises `ConfigError` for one in no tier."""
    names = {model.name for tier in loaded.policy.tiers for model in tier.models}
    if strangers := sorted(set(own) - names):
        raise ConfigError(f"models: {', '.join(strangers)}: in no tier of policy {loaded.policy.name!r}")
    tiers = tuple(
        replace(
            tier,
            models=tuple(
                replace(model, api="langchain", key_env="") if model.name in own else model for model in tier.models
            ),
        )
        for tier in loaded.policy.tiers
    )
    return replace(loaded, policy=replace(loaded.policy, tiers=tiers))
