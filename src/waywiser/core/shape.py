"""The shape of a compiled graph: nodes, edges, and what is known of how often each may run and call a model.

It's what an adapter reads off a runtime's graph, and all that `topology` needs. Units: a *visit* is one run of a node,
a *superstep* one round of the runtime in which every node that is due runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

START = "__start__"
END = "__end__"
DEFAULT_RECURSION = 10_007  # LangGraph 1.2 stops a run that nothing else stops after this many supersteps

NodePath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeShape:
    """One node. `calls` are the model calls one visit may make (None: nobody knows), those of `inner` not counted.

    `inner` is the subgraph that one visit runs once. `runs_tools` marks a node that executes tool calls. `visits` is
    how often a run of the graph can visit the node at most, where something enforces that (a turn limit).
    A `deferred` node waits until nothing else is due. `kind` is the step kind its author declared for its calls.
    """

    name: str
    calls: int | None = 0
    runs_tools: bool = False
    visits: int | None = None
    kind: str = ""
    deferred: bool = False
    inner: GraphShape | None = None


@dataclass(frozen=True, slots=True)
class EdgeShape:
    """A way from one node to another.

    Conditional edges that share a `choice` exclude each other: a visit of the source takes one of them. `copies` is
    how many copies of the target one visit may start with `Send`: 0 for an ordinary edge, None where it's unknown.
    `rounds` closes the edge after so many visits of the source (None: it stays open).
    """

    source: str
    target: str
    conditional: bool = False
    choice: str = ""
    copies: int | None = 0
    rounds: int | None = None


@dataclass(frozen=True, slots=True)
class GraphShape:
    """A graph with one entry (`START`) and one end (`END`), which are not among its nodes.

    `recursion` is its own limit in supersteps, which holds unless the run sets one.
    """

    name: str = ""
    nodes: tuple[NodeShape, ...] = ()
    edges: tuple[EdgeShape, ...] = ()
    recursion: int | None = None
    by_name: dict[str, NodeShape] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    def walk(self, above: NodePath = ()) -> Iterator[tuple[NodePath, NodeShape, GraphShape]]:
        """Yield every node, subgraphs included, with its path from the outside in and the graph it belongs to."""
        for node in self.nodes:
            path = (*above, node.name)
            yield path, node, self
            if node.inner is not None:
                yield from node.inner.walk(path)
