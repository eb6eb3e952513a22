"""The shape of any compiled LangGraph graph: what `core.topology` and `core.bounds` work on.

Graphs made from workflow files say all of it: how many calls a node makes, how often it can run, which ways exclude
each other. Of other graphs this much is seen: nodes, edges, subgraphs, tool nodes, and branches that use `Send`. There,
a node that runs code of its own is taken to run the subgraph it holds, or to call a model, once in a visit; its
metadata (`waywiser_calls`, `waywiser_visits`, `waywiser_kind`) says it better. Ways out of a branch are taken not to
exclude each other, unless the branch's return type is a `Literal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel
from langgraph.types import Send

from waywiser.core.shape import DEFAULT_RECURSION, END, START, EdgeShape, GraphShape, NodeShape
from waywiser.core.topology import roles
from waywiser.langgraph.context import CALLS_KEY, KIND_KEY, VISITS_KEY
from waywiser.langgraph.ways import Way


def shape_of(graph: Pregel[Any, Any, Any, Any], name: str = "") -> GraphShape:
    """Read the shape of a compiled graph, subgraphs included."""
    drawn = graph.get_graph()
    inner = {part: sub for part, sub in graph.get_subgraphs() if isinstance(sub, Pregel)}
    builder = graph.builder if isinstance(graph, CompiledStateGraph) else None
    deferred = {part for part, node in builder.nodes.items() if node.defer} if builder else set[str]()
    nodes = tuple(
        _node(part, node.data, node.metadata, inner.get(part), deferred=part in deferred)
        for part, node in drawn.nodes.items()
        if part not in (START, END)
    )
    ways = _ways(graph)
    edges = [_edge(edge.source, edge.target, ways, conditional=edge.conditional) for edge in drawn.edges]
    edges += [
        _edge(source, target, ways, conditional=conditional) for source, target, conditional in _declared(builder)
    ]
    limit = (graph.config or {}).get("recursion_limit")
    return GraphShape(
        name or str(graph.name or ""),
        nodes,
        tuple(dict.fromkeys(edges)),
        recursion=limit if limit != DEFAULT_RECURSION else None,
    )


def telling_roles(graph: Pregel[Any, Any, Any, Any]) -> Mapping[str, str]:
    """Map every node, with the subgraphs around it (`outer/inner`), to the role that tells most of it."""
    return {"/".join(path): found[0] for path, found in roles(shape_of(graph)).items() if found}


def _declared(builder: StateGraph[Any, Any, Any, Any] | None) -> Iterator[tuple[str, str, bool]]:
    """The edges a graph was built with. The drawing leaves out those its trial run never came by."""
    if builder is None:
        return
    for source, target in builder.edges:
        yield source, target, False
    for sources, target in builder.waiting_edges:
        for source in sources:
            yield source, target, False
    for source, branches in builder.branches.items():
        for branch in branches.values():
            for target in (branch.ends or {}).values():
                yield source, target, True


def _node(
    name: str,
    data: object,
    metadata: Mapping[str, Any] | None,
    inner: Pregel[Any, Any, Any, Any] | None,
    *,
    deferred: bool,
) -> NodeShape:
    told = metadata or {}
    runs_tools = isinstance(data, ToolNode)
    calls = told.get(CALLS_KEY, 0 if runs_tools or inner is not None else 1)
    return NodeShape(
        name,
        calls=calls,
        runs_tools=runs_tools,
        visits=told.get(VISITS_KEY),
        kind=str(told.get(KIND_KEY, "")),
        deferred=deferred,
        inner=None if inner is None else shape_of(inner, name),
    )


def _edge(source: str, target: str, ways: Mapping[str, list[Callable[..., object]]], *, conditional: bool) -> EdgeShape:
    """Describe an edge. With several branches on a node nobody knows which drew it: then nothing is taken for sure."""
    branches = ways.get(source, [])
    if not conditional or not branches:
        return EdgeShape(source, target, conditional=conditional)
    branch = branches[0] if len(branches) == 1 else None
    if isinstance(branch, Way):
        return EdgeShape(
            source,
            target,
            conditional=True,
            choice="way" if branch.exclusive else "",
            copies=branch.copies.get(target, 0),
            rounds=branch.rounds.get(target),
        )
    copies = None if any(_sends(way) for way in branches) else 0
    exclusive = branch is not None and copies == 0 and _one_of(branch)
    return EdgeShape(source, target, conditional=True, choice="branch" if exclusive else "", copies=copies)


def _ways(graph: Pregel[Any, Any, Any, Any]) -> dict[str, list[Callable[..., object]]]:
    """The branch functions of each node."""
    if not isinstance(graph, CompiledStateGraph):
        return {}
    found: dict[str, list[Callable[..., object]]] = {}
    for source, branches in graph.builder.branches.items():
        for branch in branches.values():
            path: Any = branch.path
            function = getattr(path, "func", None) or getattr(path, "afunc", None)
            found.setdefault(source, []).append(function if callable(function) else path)
    return found


def _one_of(branch: Callable[..., object]) -> bool:
    """Whether a branch says that it returns one name out of several."""
    try:
        return get_origin(get_type_hints(branch).get("return")) is Literal
    except (NameError, TypeError):
        return False


def _sends(branch: Callable[..., object]) -> bool:
    """Whether a branch function may return `Send`: it names it, or says so in its return type."""
    code = getattr(branch, "__code__", None)
    if code is not None and "Send" in (*code.co_names, *code.co_freevars, *code.co_varnames):
        return True
    try:
        hint = get_type_hints(branch).get("return")
    except (NameError, TypeError):
        return True  # nobody knows
    return hint is Send or Send in _flat_args(hint)


def _flat_args(hint: object) -> list[object]:
    return [found for part in get_args(hint) for found in (part, *_flat_args(part))]
