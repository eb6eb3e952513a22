"""Where a call comes from: LangGraph's metadata, and what `Router.session()` says, read once into an `Origin`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig, ensure_config

from waywiser.core.calls import Origin
from waywiser.core.claims import session_key
from waywiser.core.steps import KINDS
from waywiser.errors import BadInput

KIND_KEY = "waywiser_kind"
SESSION_KEY = "waywiser_session"
TENANT_KEY = "waywiser_tenant"
LABELS_KEY = "waywiser_labels"
CALLS_KEY = "waywiser_calls"
"""In a node's metadata: how many model calls one run of it may make."""
VISITS_KEY = "waywiser_visits"
"""In a node's metadata: how often a run of its graph can visit it at most."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a caller declares for everything inside a `with router.session(...)`."""

    id: str
    tenant: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


_current: ContextVar[SessionInfo | None] = ContextVar("waywiser_session", default=None)


@contextmanager
def within(info: SessionInfo) -> Iterator[SessionInfo]:
    """Make `info` the session of all calls of this context."""
    token = _current.set(info)
    try:
        yield info
    finally:
        _current.reset(token)


def placed(config: RunnableConfig | None) -> RunnableConfig:
    """Return the whole config of a call with its thread in the metadata, where only a graph would have put it."""
    whole = ensure_config(config)
    thread = (whole.get("configurable") or {}).get("thread_id")
    if thread is not None:
        whole["metadata"] = {"thread_id": thread, **(whole.get("metadata") or {})}
    return whole


def origin_of(
    metadata: Mapping[str, Any], tags: frozenset[str], fallback_session: str, roles: Mapping[str, str] | None = None
) -> Origin:
    """Read the origin of a call. The session is the declared one, else LangGraph's thread, else `fallback_session`.

    `roles` maps a node, with the subgraphs around it (`outer/inner`), to its role in the compiled graph.

    Raises `BadInput` for a declared kind that does not exist.
    """
    info = _current.get()
    session = metadata.get(SESSION_KEY) or (info.id if info else "") or metadata.get("thread_id") or fallback_session
    tenant = str(metadata.get(TENANT_KEY) or (info.tenant if info else ""))
    path = _path(metadata)
    node = str(metadata.get("langgraph_node") or "")
    kind, kind_by = str(metadata.get(KIND_KEY) or ""), "the graph"
    for tag in tags:
        if tag.startswith("kind:"):
            kind, kind_by = tag.removeprefix("kind:"), "a tag"
    if kind and kind not in KINDS:
        raise BadInput(f"metadata.{KIND_KEY}: {kind!r} is none of {', '.join(sorted(KINDS))}")
    return Origin(
        session=session_key(str(session), tenant),
        tenant=tenant,
        agent="/".join(path),
        node=node,
        node_role=(roles or {}).get("/".join((*path, node)), ""),
        tags=tags,
        labels={**(info.labels if info else {}), **(metadata.get(LABELS_KEY) or {})},
        kind=kind,
        kind_by=kind_by if kind else "",
        task_id=str(metadata.get("langgraph_checkpoint_ns") or ""),
    )


def _path(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the subgraphs around a node, from the outside in: `outer:<id>|inner:<id>` is inside `outer`."""
    namespace = str(metadata.get("langgraph_checkpoint_ns") or "")
    return tuple(part.partition(":")[0] for part in namespace.split("|")[:-1])
