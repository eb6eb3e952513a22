"""The edges of a workflow: plain ones, joins, conditions on the state, and one run for every item of a list."""

from __future__ import annotations

from collections.abc import Mapping

from langgraph.graph import END, START
from langgraph.types import Send

from waywiser.langgraph.ways import Way
from waywiser.workflow.checks import END_WORD, is_conditional, targets
from waywiser.workflow.conditions import Condition, parse_condition
from waywiser.workflow.spec import Case, PythonNode, SynthesisNode, WorkflowSpec
from waywiser.workflow.state import Builder, runs_of


def add_edges(graph: Builder, spec: WorkflowSpec) -> None:
    """Connect the nodes of a checked workflow."""
    start = spec.start or next(iter(spec.nodes))
    _connect(graph, spec, START, [start])
    joins: dict[str, list[str]] = {}
    for name, node in spec.nodes.items():
        if is_conditional(node):
            _choose(graph, spec, name, [case for case in node.next if isinstance(case, Case)])
            continue
        sure = targets(node)
        for target in sure:
            if target in spec.nodes and spec.nodes[target].join:
                joins.setdefault(target, []).append(name)
        _connect(graph, spec, name, [target for target in sure if target not in joins])
    for target, sources in joins.items():
        graph.add_edge(sources, target)


def _connect(graph: Builder, spec: WorkflowSpec, source: str, sure: list[str]) -> None:
    """Add ways that are always taken; those to a node with `for_each` start its copies."""
    for target in sure:
        if not _each(spec, target):
            graph.add_edge(source, _end(target))
    copied = [target for target in sure if _each(spec, target)]
    if copied:
        ends = [end for target in copied for end in _ends(spec, target)]
        way = Way(
            lambda state: [item for target in copied for item in _sent(spec, target, state)],
            exclusive=len(copied) == 1,  # copies, or past the node when there is nothing to copy it for
            copies=_copies(spec, ends),
        )
        graph.add_conditional_edges(source, way, list(dict.fromkeys(ends)))


def _choose(graph: Builder, spec: WorkflowSpec, source: str, cases: list[Case]) -> None:
    """Add ways of which the first whose condition holds is taken."""
    parsed = [(case, parse_condition(case.when) if case.when else None) for case in cases]

    def choose(state: Mapping[str, object]) -> list[str | Send]:
        count = runs_of(source, state)
        case = next(case for case, condition in parsed if _open(case, condition, count, state))
        return _sent(spec, case.to, state)

    ends = [end for case in cases for end in _ends(spec, case.to)]
    way = Way(
        choose,
        copies=_copies(spec, ends),
        rounds=_rounds(spec, cases),
    )
    graph.add_conditional_edges(source, way, list(dict.fromkeys(ends)))


def _open(case: Case, condition: Condition | None, count: int, state: Mapping[str, object]) -> bool:
    if case.rounds is not None and count > case.rounds:
        return False
    return condition is None or condition.holds(state)


def _rounds(spec: WorkflowSpec, cases: list[Case]) -> dict[str, int]:
    """For each target that only closing cases lead to, the round in which the last of them closes."""
    found: dict[str, list[int | None]] = {}
    for case in cases:
        for end in _ends(spec, case.to):
            found.setdefault(end, []).append(case.rounds)
    return {end: max(closing) for end, rounds in found.items() if (closing := _all_known(rounds))}


def _all_known(rounds: list[int | None]) -> list[int]:
    known = [count for count in rounds if count is not None]
    return known if len(known) == len(rounds) else []


def _each(spec: WorkflowSpec, name: str) -> str | None:
    node = spec.nodes.get(name)
    return node.for_each if isinstance(node, SynthesisNode | PythonNode) else None


def _items(spec: WorkflowSpec, name: str) -> int:
    node = spec.nodes[name]
    return node.max_items if isinstance(node, SynthesisNode | PythonNode) else 0


def _copies(spec: WorkflowSpec, ends: list[str]) -> dict[str, int]:
    """For each target that runs once per item, how many copies there can be."""
    return {end: _items(spec, end) for end in ends if _each(spec, end)}


def _end(name: str) -> str:
    return END if name == END_WORD else name


def _ends(spec: WorkflowSpec, name: str) -> list[str]:
    """Where a way to a node can lead: to the node, or past it when it has a `for_each` and the list is empty."""
    if not _each(spec, name):
        return [_end(name)]
    after = targets(spec.nodes[name])[0]
    return [name, *_ends(spec, after)]


def _sent(spec: WorkflowSpec, name: str, state: Mapping[str, object]) -> list[str | Send]:
    key = _each(spec, name)
    if key is None:
        return [_end(name)]
    items = state.get(key)
    found = items[: _items(spec, name)] if isinstance(items, list) else []
    if not found:
        return _sent(spec, targets(spec.nodes[name])[0], state)
    return [Send(name, {**state, "item": item, "item_number": number}) for number, item in enumerate(found)]
