"""`Router`: the way in for Python. A policy goes in; chat models, sessions and receipts come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langchain_core.runnables import Runnable
from langgraph.pregel import Pregel

from waywiser.acceptance import UserCheck
from waywiser.config.shapes import suggest
from waywiser.core.claims import session_key
from waywiser.core.policy import Policy
from waywiser.core.receipt import Receipt
from waywiser.errors import BadInput, ConfigError
from waywiser.langgraph.chat_model import RoutedChatModel
from waywiser.langgraph.context import SessionInfo, within
from waywiser.langgraph.shape import telling_roles
from waywiser.langgraph.wrap import G, wrap
from waywiser.ports import Classifier, SessionStore, Sink
from waywiser.runtime import Runtime, build, load
from waywiser.telemetry.log import LogSink

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from waywiser.langgraph.middleware import RoutingMiddleware


class Session:
    """One run of an agent: what it has cost so far and why. Made by `Router.session()`.

    `key` is what the store calls it: the id, and the tenant's name where there is one.
    """

    def __init__(self, info: SessionInfo, store: SessionStore) -> None:
        self.id = info.id
        self.tenant = info.tenant
        self.key = session_key(info.id, info.tenant)
        self._store = store

    def receipts(self) -> Sequence[Receipt]:
        """Return the receipts of this session, oldest first."""
        return self._store.receipts(self.key)

    @property
    def cost_usd(self) -> float:
        """What the session has cost so far, in USD."""
        return sum(receipt.cost_nanos for receipt in self.receipts()) / 1e9


class Router:
    """Routes model calls by a policy. Close it, or use it as a context manager, to release its store."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    def from_policy(
        cls,
        policy: str | Path,
        *,
        store: str | Path | SessionStore | None = None,
        models: Mapping[str, BaseChatModel] | None = None,
        checks: Mapping[str, UserCheck] | None = None,
        classifier: Classifier | None = None,
        sinks: Sequence[Sink] = (),
        log: bool = False,
    ) -> Self:
        """Read a policy file and put a router together.

        `store` is the path of a SQLite file (default: `waywiser.sqlite` in the current folder), `:memory:`, the URL of
        a Redis, or a store object. `models` answers for models of the policy with LangChain chat models, `checks` for
        checks of one's own that the policy names (`accept: ["own:polite"]`, `checks={"own:polite": …}`). `classifier`
        stands in for the local one, also where the policy names its own. `log` writes one line a step to standard
        error. Raises `ConfigError` with every problem found, each with its place.
        """
        for name, model in (models or {}).items():
            if not isinstance(model, Runnable):
                raise ConfigError(f"models: {name}: expected a LangChain chat model, got {type(model).__name__}")
        every = (*sinks, LogSink()) if log else sinks
        return cls(build(load(policy), store=store, models=models, checks=checks, classifier=classifier, sinks=every))

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._runtime.engine.policy

    @property
    def runtime(self) -> Runtime:
        """The engine and the policy file under it, for the other surfaces."""
        return self._runtime

    def chat_model(self, **settings: Any) -> RoutedChatModel:
        """Make a LangChain chat model. `settings` are those of any, such as `temperature` and `max_tokens`.

        `model="provider/name"` pins a model, `tier="name"` a tier. Raises `BadInput` for a setting that there is not.
        """
        known = RoutedChatModel.model_fields.keys() - {"engine", "roles"}
        if unknown := sorted(settings.keys() - known):
            hint = suggest(unknown[0], known) or "what only one provider knows is bound: `.bind(name=value)`"
            raise BadInput(f"chat_model: there is no setting {unknown[0]!r}; {hint}")
        return RoutedChatModel(engine=self._runtime.engine, **settings)

    def middleware(self, **settings: Any) -> RoutingMiddleware:
        """Make a middleware for LangChain's `create_agent` that routes every model call of the agent.

        Needs the extra `langchain`. `settings` are those of `chat_model()`.
        """
        from waywiser.langgraph.middleware import RoutingMiddleware  # noqa: PLC0415 - needs an extra

        return RoutingMiddleware(self.chat_model(**settings))

    def wrap(self, graph: G) -> G:
        """Return a compiled graph in which every chat model is routed, in subgraphs and `Send` branches too.

        The graph given is left as it is. Raises `BadInput` for what is not a compiled graph, `ConfigError` naming each
        node that holds a client which can't be reached from outside.
        """
        if not isinstance(graph, Pregel):
            hint = "; compile it first" if hasattr(graph, "compile") else ""
            raise BadInput(f"wrap: expected a compiled LangGraph graph, got {type(graph).__name__}{hint}")
        return wrap(graph, self._runtime.engine, telling_roles(graph))

    @contextmanager
    def session(
        self, session_id: str = "", *, tenant: str = "", labels: Mapping[str, str] | None = None
    ) -> Iterator[Session]:
        """Make every call inside the `with` block part of one session; without an id, of a new one.

        Outside such a block the session is LangGraph's `thread_id`. Raises `BadInput` for an id that is not text.
        """
        _require_texts(session_id=session_id, tenant=tenant)
        info = SessionInfo(session_id or self._runtime.engine.clock.new_id(), tenant, labels or {})
        with within(info):
            yield Session(info, self._runtime.engine.store)

    def receipts(self, session_id: str, *, tenant: str = "") -> Sequence[Receipt]:
        """Return the receipts of a session, oldest first. Raises `BadInput` for an id that is not text."""
        _require_texts(session_id=session_id, tenant=tenant)
        return self._runtime.engine.store.receipts(session_key(session_id, tenant))

    def close(self) -> None:
        """Release the store and the connections."""
        self._runtime.close()

    def __enter__(self) -> Self:
        """Use the router in a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the router."""
        self.close()


def _require_texts(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, str):
            raise BadInput(f"{name}: expected text, got {type(value).__name__}")
