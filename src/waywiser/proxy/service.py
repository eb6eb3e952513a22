"""What every request of the proxy shares: an engine for each policy, the keys, the names, the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from waywiser.catalog.tokens import TokenEstimator
from waywiser.core.receipt import Receipt
from waywiser.engine import Engine
from waywiser.errors import ConfigError
from waywiser.ports import SessionStore, Upstream
from waywiser.proxy.fleet import Fleet
from waywiser.proxy.gate import Gate
from waywiser.proxy.http import Request
from waywiser.proxy.keys import Caller, KeyRing
from waywiser.proxy.metrics import Metrics
from waywiser.proxy.naming import Names
from waywiser.proxy.troubles import Denied
from waywiser.proxy.upstreams import Attended, with_own_keys
from waywiser.runtime import LazyClassifier, build, key_of, load, open_store
from waywiser.upstream.simulated_upstream import SimulatedUpstream


@dataclass(frozen=True, slots=True)
class Options:
    """How the proxy is run. `policies` are files, the first the default; `store` a path or URL; `keys` a file or None.

    `own_keys` lets clients bring provider keys in `x-waywiser-key-<provider>` headers. Limits are in bytes and seconds.
    `folder` is where several workers keep what they tell each other; whoever starts them makes and removes it.
    """

    policies: tuple[str, ...]
    store: str
    keys: str = ""
    own_keys: bool = False
    workers: int = 1
    budget_status: int = 402
    body_limit: int = 20 << 20
    body_timeout_s: float = 30.0
    slow_client_s: float = 60.0
    grace_s: float = 120.0
    folder: str = ""


class Service:
    """Everything behind the sockets. Made once in each worker."""

    def __init__(self, engines: Mapping[str, Engine], keys: KeyRing, options: Options) -> None:
        self.engines = engines
        self.keys = keys
        self.options = options
        self.names = Names({name: engine.policy for name, engine in engines.items()})
        self.gate = Gate(options.workers)
        self.metrics = Metrics()
        self.fleet = Fleet(self.metrics, options.folder)
        first = next(iter(engines.values()))
        self.clock = first.clock
        self.store: SessionStore = first.store

    def caller(self, request: Request) -> Caller:
        """Find out who calls. Raises `Denied` without a valid key; while keys are off, for pages of other sites."""
        if not self.keys.on:
            _same_site(request)
            return self.keys.caller("")
        said = request.header(b"authorization")
        scheme, _, token = said.partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else request.header(b"x-api-key")
        return self.keys.caller(key)

    def own_keys(self, request: Request) -> Mapping[str, str]:
        """Collect the provider keys that a client brought along, by provider."""
        return request.headers_from(b"x-waywiser-key-") if self.options.own_keys else {}

    async def receipt(self, receipt_id: str) -> Receipt | None:
        """Find a receipt by its whole id."""
        found = await asyncio.to_thread(self.store.receipt, receipt_id)
        return found if found is not None and found.id == receipt_id else None

    async def receipts(self, session: str) -> list[Receipt]:
        """Return the receipts of a session, oldest first."""
        return list(await asyncio.to_thread(self.store.receipts, session))

    async def aclose(self) -> None:
        """Release the store and all connections."""
        for engine in self.engines.values():
            await engine.aclose()


def open_service(options: Options) -> Service:
    """Read the policies and keys and put a service together. Raises `ConfigError` and `StoreError`."""
    loaded = [load(path) for path in options.policies]
    names = [policy.policy.name for policy in loaded]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--policy: two policies are called {twice[0]!r}")
    store = open_store(options.store)
    simulated = SimulatedUpstream(partial(TokenEstimator().text, encoding="o200k_base"))
    upstreams: dict[str, Upstream] = {"simulated": Attended(simulated)}
    apis = {model.api for policy in loaded for tier in policy.policy.tiers for model in tier.models}
    engines: dict[str, Engine] = {}
    if apis & {"openai", "anthropic"}:
        from waywiser.upstream.client import HttpUpstream  # noqa: PLC0415 - only those who call over HTTP pay for it

        keys = {name: key for policy in loaded for name, key in policy.keys.items()}
        http = Attended(HttpUpstream(with_own_keys(partial(key_of, keys=keys))))
        upstreams |= {"openai": http, "anthropic": http}
    classifier = LazyClassifier()
    for policy in loaded:
        own = policy.classifier or classifier
        runtime = build(policy, store=store, upstreams=upstreams, classifier=own, need_keys=not options.own_keys)
        engines[policy.policy.name] = runtime.engine
    first = engines[names[0]]
    for engine in engines.values():
        engine.health = first.health  # a model that is down is down for every policy
        engine.warm_up()
    return Service(engines, KeyRing(Path(options.keys) if options.keys else None), options)


def _same_site(request: Request) -> None:
    """While anybody on this machine may call, a web page that a browser shows may not."""
    page = request.header(b"origin")
    if page and urlsplit(page).hostname not in _LOCAL:
        raise Denied(403, "cross_site", "keys are off: pages of other sites may not call")


_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
