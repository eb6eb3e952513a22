"""The most model calls that one run of a graph can make, whatever its models say.

Three ways to bound it, each sound on its own; the least is the answer.

- *Supersteps*: a node that is reached by edges runs at most once in a superstep, and only in those supersteps that a
  walk from the start can reach it in; never more often than its predecessors have sent for it, nor than its own limit.
- *Tokens*: cut the graph at the nodes of limited visits and the edges of limited rounds. What is left has no cycle (or
  this way says nothing), so the calls that can follow one visit are a sum over what it starts and a maximum over what
  excludes each other.
- *Walks*: the same sum and maximum over the supersteps that remain, which needs no limits but the recursion limit.

A bound holds for one invocation, in which no node is run again after a failure or an interrupt. None means unbounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import networkx as nx

from waywiser.core.shape import START, EdgeShape, GraphShape, NodePath
from waywiser.core.topology import digraph, handed_down, knots, supersteps

Amount = int | None  # None: without bound
Weights = Mapping[str, Amount]
_BEYOND = 10**12  # copies that start copies: more calls than anybody means to make, as good as no bound


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most calls of a run: all in all (None: no bound), and of each node, which may add up to more.

    `unknown` names the nodes whose calls nobody knows, which make `calls` None.
    """

    calls: Amount
    nodes: Mapping[NodePath, Amount]
    unknown: tuple[NodePath, ...] = ()


def worst_case(shape: GraphShape, recursion: int | None = None) -> WorstCase:
    """Bound the calls of one run. `recursion` is the limit in supersteps that the run sets (None: it sets none)."""
    nodes: dict[NodePath, Amount] = {}
    total = _bounded(shape, (), 1, recursion, nodes)
    unknown = tuple(path for path, node, _ in shape.walk() if node.calls is None and nodes.get(path, 0) is None)
    return WorstCase(total, nodes, unknown)


def _bounded(
    shape: GraphShape, above: NodePath, runs: Amount, recursion: int | None, nodes: dict[NodePath, Amount]
) -> Amount:
    """Bound one run of `shape`, and write down what `runs` runs of it come to for each node."""
    graph = _Graph(shape, supersteps(shape, recursion))
    weights: dict[str, Amount] = {}
    for node in shape.nodes:
        path = (*above, node.name)
        visits = graph.most({node.name: 1})
        nodes[path] = _times(_times(node.calls, visits), runs)
        weights[node.name] = node.calls
        if node.inner is not None:
            weights[node.name] = _plus(
                node.calls, _bounded(node.inner, path, _times(visits, runs), handed_down(shape, recursion), nodes)
            )
    return graph.most(weights, deep=True)


class _Graph:
    """One level of a graph, made ready for bounding."""

    def __init__(self, shape: GraphShape, steps: int) -> None:
        self.steps = steps
        self.graph = digraph(shape)
        self.names = [node.name for node in shape.nodes if node.name in self.graph]
        self.limits = {node.name: node.visits for node in shape.nodes if node.visits is not None}
        self.deferred = {node.name for node in shape.nodes if node.deferred}
        known = {START, *self.names}
        self.edges = [edge for edge in shape.edges if edge.source in known and edge.target in known]
        self.after = {name: [edge for edge in self.edges if edge.source == name] for name in known}
        self.before = {name: [edge for edge in self.edges if edge.target == name] for name in known}
        self.merging = {
            name for name in self.names if all(not edge.conditional and edge.copies == 0 for edge in self.after[name])
        }
        self.visits = self._visits()
        cut: nx.DiGraph[str] = nx.DiGraph()
        cut.add_nodes_from(known - self.limits.keys())
        free = (edge for edge in self.edges if edge.rounds is None)
        cut.add_edges_from((edge.source, edge.target) for edge in free if {edge.source, edge.target} <= set(cut))
        self.order = None if knots(cut) else list(reversed(list(nx.topological_sort(cut))))

    def most(self, weights: Weights, *, deep: bool = False) -> Amount:
        """The most that the visits of a run can weigh; `deep` also tries the walks, which take longer."""
        best = self._by_supersteps(weights)
        if self.order is not None:
            best = _least(best, self._by_tokens(weights, self.order))
        elif deep:
            best = _least(best, self._by_walks(weights, _BEYOND if best is None else best))
        return best

    def _visits(self) -> dict[str, Amount]:
        """How often each node can run, by the first way. Starts from the supersteps and tightens until it's stable.

        Copies that start together run in one superstep, and what follows them all runs once in the next. So beside the
        visits of a node we count its *waves*, the supersteps in which it runs at all.
        """
        pulled = self._reachable_supersteps()
        waves: dict[str, Amount] = {name: _least(pulled[name], self.limits.get(name)) for name in self.names}
        visits: dict[str, Amount] = {}
        for name in self.names:
            sent = any(edge.copies != 0 for edge in self.before[name])
            visits[name] = self.limits.get(name) if sent else waves[name]
        waves[START] = visits[START] = 1
        # Each round can only lower a number; a limit travels along a path of edges in as many rounds as it has edges,
        # and around a cycle it may keep falling by one, so the rounds are bounded rather than the fall awaited.
        for _ in range(2 * len(self.names) + 2):
            before = dict(waves), dict(visits)
            for name in self.names:
                taken = [(edge, _least(edge.rounds, waves[edge.source])) for edge in self.before[name]]
                waves[name] = _least(waves[name], _sum(count for _, count in taken))
                pull = _sum(count for edge, count in taken if edge.copies == 0)
                sent_to = [edge for edge in self.before[name] if edge.copies != 0]
                sends = _sum(_times(edge.copies, _least(edge.rounds, visits[edge.source])) for edge in sent_to)
                visits[name] = _least(visits[name], _plus(_least(pull, pulled[name]), sends))
            if (waves, visits) == before:
                break
        return visits

    def _reachable_supersteps(self) -> dict[str, int]:
        """Count the supersteps, of those allowed, in which each node can be due.

        A walk from the start arrives in them; a deferred node may be held back from then on to any later one.
        """
        counts = dict.fromkeys(self.names, 0)
        here = frozenset(edge.target for edge in self.after[START])
        seen: dict[frozenset[str], int] = {}
        trail: list[frozenset[str]] = []
        for step in range(self.steps):
            if here in seen:  # from here on the sets repeat: count whole periods at once
                period = trail[seen[here] :]
                rounds, rest = divmod(self.steps - step, len(period))
                for index, names in enumerate(period):
                    for name in names:
                        counts[name] += rounds + (index < rest)
                break
            seen[here] = len(trail)
            trail.append(here)
            for name in here:
                counts[name] += 1
            here = frozenset(edge.target for name in here for edge in self.after[name]) | (here & self.deferred)
        return counts

    def _by_supersteps(self, weights: Weights) -> Amount:
        return _sum(_times(weights.get(name, 0), self.visits[name]) for name in self.names)

    def _by_tokens(self, weights: Weights, order: list[str]) -> Amount:
        """Sum what can follow the start, each visit of a limited node, and each round of a limited edge."""
        follows: dict[str, Amount] = dict.fromkeys(self.limits, 0)
        own = {name: 0 if name in self.limits else weights.get(name, 0) for name in self.names}
        for name in order:
            follows[name] = _plus(own.get(name, 0), self._started(name, own, follows, rounds=0))
        total = follows[START]
        for name in self.names:
            if name in self.limits:
                each = _plus(weights.get(name, 0), self._started(name, own, follows, rounds=0))
                total = _plus(total, _times(each, self.visits[name]))
            total = _plus(total, self._by_rounds(name, own, follows))
        return total

    def _by_rounds(self, name: str, own: Weights, follows: Weights) -> Amount:
        """What the limited edges of a node add, over all of its rounds, to what its other edges start anyway."""
        anyway = self._started(name, own, follows, rounds=0)
        total: Amount = 0
        closing = sorted({edge.rounds for edge in self.after[name] if edge.rounds is not None})
        for before, last in zip([0, *closing], closing, strict=False):
            started = self._started(name, own, follows, rounds=last)
            if started is None or anyway is None:
                return None
            total = _plus(total, (last - before) * (started - anyway))
        return total

    def _by_walks(self, weights: Weights, ceiling: int) -> Amount:
        """Sum and maximum over the supersteps that remain. Nothing above `ceiling` matters, so it is cut there."""
        left: dict[str, Amount] = dict.fromkeys(self.after, 0)
        own: Weights = dict.fromkeys(self.after, 0)
        for _ in range(self.steps):
            longer = {
                name: _least(ceiling, _plus(weights.get(name, 0), self._started(name, own, left)))
                for name in self.names
            }
            own = weights
            if all(longer[name] == left[name] for name in self.names):
                break
            left.update(longer)
        started = self._started(START, own, left)
        return None if started is None or started >= _BEYOND else started

    def _started(self, name: str, own: Weights, worth: Weights, rounds: int | None = None) -> Amount:
        """What one visit of `name` starts: all that is sure or independent, the dearest of what excludes each other.

        Of the limited edges only those count that are still open in round number `rounds` (0: none, None: all).
        `own` is what a node weighs itself, `worth` with all that follows it.
        """
        groups: dict[str, Amount] = {}
        total: Amount = 0
        for edge in self.after[name]:
            if edge.rounds is not None and rounds is not None and (rounds == 0 or edge.rounds < rounds):
                continue
            amount = self._edge_worth(edge, own, worth)
            if edge.choice:
                groups[edge.choice] = _most(groups.get(edge.choice, 0), amount)
            else:
                total = _plus(total, amount)
        return _plus(total, _sum(groups.values()))

    def _edge_worth(self, edge: EdgeShape, own: Weights, worth: Weights) -> Amount:
        whole = worth.get(edge.target, 0)
        if edge.copies == 0:
            return whole
        each = own.get(edge.target, 0)
        if edge.target not in self.merging or whole is None or each is None:
            return _times(edge.copies, whole)
        return _plus(_times(edge.copies, each), max(0, whole - each))  # what follows the copies runs once


def _plus(a: Amount, b: Amount) -> Amount:
    return None if a is None or b is None else a + b


def _times(a: Amount, b: Amount) -> Amount:
    if a == 0 or b == 0:
        return 0  # however often nothing happens, nothing happens
    return None if a is None or b is None else a * b


def _sum(amounts: Iterable[Amount]) -> Amount:
    total: Amount = 0
    for amount in amounts:
        total = _plus(total, amount)
    return total


def _least(a: Amount, b: Amount) -> Amount:
    return b if a is None else a if b is None else min(a, b)


def _most(a: Amount, b: Amount) -> Amount:
    return None if a is None or b is None else max(a, b)
