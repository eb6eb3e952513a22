"""What a graph's shape tells: the role of each node, its cycles, and what bounds them.

Roles are named where they decide the kind of a model call: an `entry` sorts requests, a node in a loop with tools
(`tool_loop`) calls them, a `final` node writes the answer. How many calls there can be is `bounds.worst_case`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import networkx as nx

from waywiser.core.shape import DEFAULT_RECURSION, END, START, GraphShape, NodePath

Role: TypeAlias = Literal["tools", "tool_loop", "cycle", "final", "entry", "fan_out", "join"]
PRECEDENCE: tuple[Role, ...] = ("tools", "tool_loop", "cycle", "final", "fan_out", "join", "entry")
_DEFAULTS = {DEFAULT_RECURSION: "LangGraph's default", 9_999: "the default of `create_agent`"}
BoundBy: TypeAlias = Literal["limits", "recursion"]


@dataclass(frozen=True, slots=True)
class Cycle:
    """Nodes of one graph that can run again and again, in the order of the graph.

    `bound_by` says what ends it: `limits` where every way around passes one of the `limits`, sentences about nodes of
    limited visits and edges of limited rounds; else the `recursion` limit, counted in supersteps. `only_default` is
    true when that one is a default, which nobody has chosen for this graph.
    """

    nodes: tuple[NodePath, ...]
    has_tools: bool
    bound_by: BoundBy
    limits: tuple[str, ...] = ()
    recursion: int = DEFAULT_RECURSION
    only_default: bool = False

    def __str__(self) -> str:
        """Say what bounds the cycle, in a sentence."""
        names = ", ".join("/".join(node) for node in self.nodes)
        if self.bound_by == "limits":
            return f"cycle {names}: {', '.join(self.limits)}"
        default = f", {_DEFAULTS[self.recursion]}" if self.only_default else ""
        return f"cycle {names}: only the recursion limit of {self.recursion} supersteps ends it{default}"


def roles(shape: GraphShape) -> Mapping[NodePath, tuple[Role, ...]]:
    """Return the roles of every node that can be reached, the telling ones first (see `PRECEDENCE`).

    `tools`: executes tool calls. `tool_loop`: in a cycle with such a node. `cycle`: in a cycle without one. `final`:
    nothing but the end need come after it, in its graph and in all around it. `entry`: among the first to run.
    `fan_out`: starts several nodes, or copies of one, at once. `join`: several unconditional ways meet in it.
    A node outside every cycle, of the graphs around it too, is judged by its own place alone.
    """
    found: dict[NodePath, tuple[Role, ...]] = {}
    _add_roles(shape, (), is_first=True, is_last=True, found=found)
    return found


def cycles(shape: GraphShape, recursion: int | None = None) -> tuple[Cycle, ...]:
    """Find the cycles of a graph and of its subgraphs. `recursion` is the run's limit in supersteps (None: not set)."""
    return tuple(_cycles(shape, (), recursion))


def supersteps(shape: GraphShape, recursion: int | None) -> int:
    """Return the limit in supersteps that holds for a graph: the run's, its own, or LangGraph's default."""
    limits = (recursion, shape.recursion, DEFAULT_RECURSION)
    return next(limit for limit in limits if limit is not None)


def digraph(shape: GraphShape) -> nx.DiGraph[str]:
    """The part of a graph that can be reached, as a networkx graph with `START` and `END` in it."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node(START)
    graph.add_nodes_from(node.name for node in shape.nodes)
    graph.add_edges_from((edge.source, edge.target) for edge in shape.edges)
    reached = {START, END, *nx.descendants(graph, START)}
    return graph.subgraph([name for name in graph if name in reached]).copy()


def knots(graph: nx.DiGraph[str]) -> list[set[str]]:
    """The sets of nodes that lie on cycles together (strongly connected, or one node that follows itself)."""
    parts = nx.strongly_connected_components(graph)
    return [part for part in parts if len(part) > 1 or any(graph.has_edge(node, node) for node in part)]


def has_tools(shape: GraphShape) -> bool:
    """Whether any node of the graph, or of a subgraph of it, executes tool calls."""
    return any(node.runs_tools for _, node, _ in shape.walk())


def handed_down(shape: GraphShape, recursion: int | None) -> int | None:
    """Return the limit that a graph hands down to its subgraphs: one that was set goes before their own."""
    return shape.recursion if recursion is None else recursion


def _add_roles(
    shape: GraphShape, above: NodePath, *, is_first: bool, is_last: bool, found: dict[NodePath, tuple[Role, ...]]
) -> None:
    graph = digraph(shape)
    around = {name: knot for knot in knots(graph) for name in knot}
    for node in shape.nodes:
        if node.name not in graph:
            continue
        mine: set[Role] = {"tools"} if node.runs_tools else set()
        knot = around.get(node.name)
        if knot and not node.runs_tools:
            mine.add("tool_loop" if any(_runs_tools(shape, name) for name in knot - {node.name}) else "cycle")
        first = is_first and graph.has_edge(START, node.name)
        last = is_last and graph.has_edge(node.name, END)
        mine |= {"entry"} if first else set()
        mine |= {"final"} if last else set()
        mine |= _branching(shape, node.name)
        path = (*above, node.name)
        found[path] = tuple(role for role in PRECEDENCE if role in mine)
        if node.inner is not None:
            _add_roles(node.inner, path, is_first=first, is_last=last and not knot, found=found)


def _runs_tools(shape: GraphShape, name: str) -> bool:
    node = shape.by_name.get(name)
    return node is not None and node.runs_tools


def _branching(shape: GraphShape, name: str) -> set[Role]:
    after = [edge for edge in shape.edges if edge.source == name]
    sure = {edge.target for edge in after if not edge.conditional}
    copies = any(edge.copies != 0 for edge in after)
    before = {edge.source for edge in shape.edges if edge.target == name and not edge.conditional} - {START}
    mine: set[Role] = {"fan_out"} if copies or len(sure) > 1 else set()
    return mine | ({"join"} if len(before) > 1 else set())


def _cycles(shape: GraphShape, above: NodePath, recursion: int | None) -> list[Cycle]:
    graph = digraph(shape)
    found: list[Cycle] = []
    for knot in knots(graph):
        free = _without_limits(shape, graph.subgraph(knot).copy())
        names = [node.name for node in shape.nodes if node.name in knot]
        bounded = not knots(free)
        found.append(
            Cycle(
                nodes=tuple((*above, name) for name in names),
                has_tools=any(_runs_tools(shape, name) for name in names),
                bound_by="limits" if bounded else "recursion",
                limits=tuple(_limits(shape, knot, above)),
                recursion=supersteps(shape, recursion),
                only_default=supersteps(shape, recursion) in _DEFAULTS and not bounded,
            )
        )
    for node in shape.nodes:
        if node.inner is not None:
            found.extend(_cycles(node.inner, (*above, node.name), handed_down(shape, recursion)))
    return found


def _without_limits(shape: GraphShape, graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """Take out of a graph the nodes of limited visits, and the edges that are open for some rounds only."""
    graph.remove_nodes_from([node.name for node in shape.nodes if node.visits is not None and node.name in graph])
    closing = {(edge.source, edge.target) for edge in shape.edges if edge.rounds is not None}
    lasting = {(edge.source, edge.target) for edge in shape.edges if edge.rounds is None}
    graph.remove_edges_from(closing - lasting)
    return graph


def _limits(shape: GraphShape, knot: set[str], above: NodePath) -> Iterator[str]:
    """Say which limits there are in a knot of nodes."""
    for node in shape.nodes:
        if node.name in knot and node.visits is not None:
            yield f"{'/'.join((*above, node.name))} runs at most {node.visits} times"
    for edge in shape.edges:
        if {edge.source, edge.target} <= knot and edge.rounds is not None:
            yield f"{'/'.join((*above, edge.source))} goes to {edge.target} in its first {edge.rounds} rounds only"
