"""What the parts of a workflow file mean to each other: names that lead nowhere, nodes nobody reaches, unknown keys."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from waywiser.config.shapes import Path, joined, suggest
from waywiser.config.source import Source, in_order
from waywiser.errors import ConfigError, Problem
from waywiser.workflow.conditions import Condition, parse_condition
from waywiser.workflow.prompts import slots
from waywiser.workflow.spec import (
    Case,
    ExecuteNode,
    Node,
    PlanNode,
    PythonNode,
    ReflectNode,
    SynthesisNode,
    TriageNode,
    WorkflowSpec,
)
from waywiser.workflow.state import ROUNDS, keys_of

END_WORD = "end"
RESERVED = {
    ROUNDS, "request", "item", "item_number", "system", "allowed", "task", "loop_turn",
    "run_plan", "run_results", "run_retried", "run_replans",
}  # fmt: skip
COUNTING = (TriageNode, ReflectNode, PlanNode, SynthesisNode, PythonNode)  # nodes whose runs are counted


def targets(node: Node) -> list[str]:
    """Every node that may come after one, and `end`."""
    if isinstance(node.next, str):
        return [node.next]
    return list(dict.fromkeys(case.to if isinstance(case, Case) else case for case in node.next))


def is_conditional(node: Node) -> bool:
    """Whether what comes after a node depends on the state."""
    return not isinstance(node.next, str) and any(isinstance(case, Case) for case in node.next)


def check_workflow(spec: WorkflowSpec, source: Source) -> None:
    """Raise `ConfigError` with everything that is wrong with a workflow, each with its place."""
    problems = [*_names(spec, source), *_keys(spec, source)]
    if not problems:
        problems = [*_reach(spec, source), *_joins(spec, source)]
    if problems:
        raise ConfigError(in_order(problems))


def _names(spec: WorkflowSpec, source: Source) -> Iterator[Problem]:
    """Nodes that are named, and do not exist."""
    if spec.start is not None and spec.start not in spec.nodes:
        yield source.problem(("start",), f"there is no node `{spec.start}`", suggest(spec.start, spec.nodes))
    for name, node in spec.nodes.items():
        if name == END_WORD:
            yield source.problem(
                ("nodes", name), "`end` is the end of the run, not a node", "name it otherwise", key=True
            )
        for path, target in _next_places(name, node):
            if target not in spec.nodes and target != END_WORD:
                hint = suggest(target, [*spec.nodes, END_WORD]) or f"known: {', '.join([*spec.nodes, END_WORD])}"
                yield source.problem(path, f"there is no node `{target}`", hint)
        yield from _cases(name, node, source)
        if isinstance(node, SynthesisNode | PythonNode) and node.for_each and not isinstance(node.next, str):
            yield source.problem(("nodes", name, "next"), "a node with `for_each` goes on to one node only")
        if isinstance(node, TriageNode | ReflectNode) and node.otherwise and node.otherwise not in node.choices:
            message = f"`{node.otherwise}` is not one of the choices"
            yield source.problem(("nodes", name, "otherwise"), message, suggest(node.otherwise, node.choices))


def _next_places(name: str, node: Node) -> Iterator[tuple[Path, str]]:
    path: Path = ("nodes", name, "next")
    if isinstance(node.next, str):
        yield path, node.next
        return
    for index, case in enumerate(node.next):
        yield ((*path, index, "to"), case.to) if isinstance(case, Case) else ((*path, index), str(case))


def _cases(name: str, node: Node, source: Source) -> Iterator[Problem]:
    """Cases must end in one that always holds, and none may stand after it."""
    path: Path = ("nodes", name, "next")
    if isinstance(node.next, str):
        return
    if not node.next:
        yield source.problem(path, "nothing comes next", "name a node, or write `end`")
    cases = [case for case in node.next if isinstance(case, Case)]
    for index, case in enumerate(cases):
        always = not case.when and case.rounds is None
        if index == len(cases) - 1 and not always:
            yield source.problem((*path, index), "what if this does not hold?", "add a last case with nothing but `to`")
        if index < len(cases) - 1 and always:
            yield source.problem((*path, index), "this always holds, so what follows is never reached", "put it last")
        if case.rounds is not None and not isinstance(node, COUNTING):
            message = f"runs of a `{node.type}` node are not counted, so `rounds` can't stand here"
            yield source.problem((*path, index, "rounds"), message, "put it on another node of the cycle")


def _keys(spec: WorkflowSpec, source: Source) -> Iterator[Problem]:
    """Keys of the state that are read, and that nobody writes or declares."""
    keys = set(keys_of(spec))
    for key in sorted(keys & RESERVED | {"messages"} & spec.state.keys()):
        place: Path = ("state", key) if key in spec.state else ("nodes",)
        yield source.problem(place, f"`{key}` is a key of our own", "take another name", key=True)
    for index, key in enumerate(spec.output or ()):
        if key not in keys:
            yield source.problem(("output", index), *_unknown_key(key, keys))
    for name, node in spec.nodes.items():
        path: Path = ("nodes", name)
        for field, key in _read(node):
            known = keys | {"request", "item"} if "prompt" in field else keys
            if key not in known:
                yield source.problem((*path, field), *_unknown_key(key, known))
        if isinstance(node, TriageNode | ReflectNode | PlanNode | ExecuteNode) and node.writes == "messages":
            yield source.problem((*path, "writes"), f"a `{node.type}` node can't write `messages`", "name another key")
        for index, case in enumerate(_listed(node)):
            if isinstance(case, Case) and case.when:
                yield from _condition(case.when, (*path, "next", index, "when"), spec, source, keys)


def _read(node: Node) -> Iterator[tuple[str, str]]:
    """The fields of a node that name keys of the state, each with a key it names."""
    for field in ("prompt", "replan_prompt"):
        for key in slots(getattr(node, field, "")):
            if key != "item" or getattr(node, "for_each", None):
                yield field, key
    if isinstance(node, ExecuteNode):
        yield "plan", node.plan
    if isinstance(node, SynthesisNode | PythonNode) and node.for_each:
        yield "for_each", node.for_each


def _listed(node: Node) -> list[str] | list[Case]:
    return [node.next] if isinstance(node.next, str) else node.next


def _condition(text: str, path: Path, spec: WorkflowSpec, source: Source, keys: set[str]) -> Iterator[Problem]:
    try:
        condition = parse_condition(text)
    except ValueError as error:
        yield source.problem(path, str(error), "as in: topic == 'order' and not done")
        return
    for key in condition.names:
        if key not in keys:
            yield source.problem(path, *_unknown_key(key, keys))
    yield from _compared(condition, path, spec, source)


def _compared(condition: Condition, path: Path, spec: WorkflowSpec, source: Source) -> Iterator[Problem]:
    """A choice that is asked for, and that no node ever makes."""
    for key, literal in condition.literals:
        writers = [node for node in spec.nodes.values() if key in (getattr(node, "writes", None), None)]
        choosers = [node for node in writers if isinstance(node, TriageNode | ReflectNode)]
        choices = [choice for node in choosers for choice in node.choices]
        if choosers and len(choosers) == len(writers) and key not in spec.state and literal not in choices:
            hint = suggest(str(literal), choices) or f"it is {joined(f'`{choice}`' for choice in choices)}"
            yield source.problem(path, f"`{key}` is never {literal!r}", hint)


def _unknown_key(key: str, keys: set[str]) -> tuple[str, str]:
    hint = suggest(key, keys) or f"known: {', '.join(sorted(keys))}; declare others under `state`"
    return f"there is no key `{key}` in the state", hint


def _reach(spec: WorkflowSpec, source: Source) -> Iterator[Problem]:
    """Nodes that are never reached, and nodes from which the end is never reached."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from([*spec.nodes, END_WORD])
    graph.add_edges_from((name, target) for name, node in spec.nodes.items() for target in targets(node))
    start = spec.start or next(iter(spec.nodes))
    reached = {start, *nx.descendants(graph, start)}
    ending = nx.ancestors(graph, END_WORD)
    for name in spec.nodes:
        if name not in reached:
            yield source.problem(("nodes", name), f"no way leads to `{name}`", "name it in some `next`", key=True)
        elif name not in ending:
            yield source.problem(
                ("nodes", name, "next"), f"from `{name}` no way leads to the end", "add a case to `end`"
            )


def _joins(spec: WorkflowSpec, source: Source) -> Iterator[Problem]:
    """A node that waits for all can't wait for one that may not come."""
    for name, node in spec.nodes.items():
        if not node.join:
            continue
        before = [other for other, one in spec.nodes.items() if name in targets(one)]
        if name in before:
            yield source.problem(("nodes", name, "join"), f"`{name}` waits for itself", "lead it on to another node")
        unsure = [other for other in before if is_conditional(spec.nodes[other])]
        if unsure:
            message = f"`{name}` waits for `{unsure[0]}`, which does not always lead here"
            yield source.problem(("nodes", name, "join"), message, "only sure ways can be joined")
        elif len(before) < 2:
            yield source.problem(("nodes", name, "join"), f"only one way leads to `{name}`", "leave `join` out")
