"""A plan: sub-tasks that depend on each other, checked before any of them runs.

A plan comes from a model, so anything may be in it. `check_plan` finds all that is wrong and says it in sentences that
a model can act on when it is asked to plan again. `ready` and `layers` say what may run at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import networkx as nx

MAX_TASKS = 200
NAMED = 5  # how many tasks or tools a sentence names before it only counts them


@dataclass(frozen=True, slots=True)
class SubTask:
    """One piece of work. `tools` are those it may use (none: all of them); `depends_on` names tasks it needs done."""

    id: str
    goal: str
    tools: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Sub-tasks in the order in which their results are to be told."""

    tasks: tuple[SubTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with a plan: a stable code, a sentence, and the ids of the tasks it concerns."""

    code: str
    message: str
    tasks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write the sentence."""
        return self.message


def check_plan(plan: Plan, tools: Collection[str], max_tasks: int = MAX_TASKS) -> tuple[Flaw, ...]:
    """Find everything that is wrong with a plan; nothing found means that it can run to its end.

    Codes: `empty`, `too_large` (alone: a plan too large is not looked into), `no_id`, `no_goal`, `duplicate_id`,
    `unknown_tool`, `unknown_task`, `self_dependency`, `cycle` (each named once, as a round trip) and `unreachable`
    (a task that waits, perhaps through others, for one that can never be done). Linear in the size of the plan.
    """
    if not plan.tasks:
        return (Flaw("empty", "the plan has no tasks"),)
    if len(plan.tasks) > max_tasks:
        return (Flaw("too_large", f"the plan has {len(plan.tasks)} tasks, more than the {max_tasks} allowed"),)
    flaws = [*_misnamed(plan), *_unknown_tools(plan, tools), *_unknown_tasks(plan)]
    cycles = list(_cycles(plan))
    blocked = {task for flaw in (*flaws, *cycles) if flaw.code in _BLOCKING for task in flaw.tasks}
    return (*flaws, *cycles, *_unreachable(plan, blocked))


_BLOCKING = {"unknown_task", "self_dependency", "cycle"}


def layers(plan: Plan) -> tuple[tuple[SubTask, ...], ...]:
    """Split a plan into layers: each needs only earlier ones, so all of its tasks may run at the same time.

    Tasks keep the plan's order within a layer. Raises `ValueError` for a plan that is not a DAG of known tasks.
    """
    order = {task.id: (index, task) for index, task in enumerate(plan.tasks)}
    unknown = {need for task in plan.tasks for need in task.depends_on} - order.keys()
    if unknown:
        raise ValueError(f"the plan depends on unknown tasks: {_listed(sorted(unknown))}")
    try:
        generations = [sorted(order[task] for task in layer) for layer in nx.topological_generations(_graph(plan))]
    except nx.NetworkXUnfeasible:
        raise ValueError("the plan has a cycle") from None
    return tuple(tuple(task for _, task in layer) for layer in generations)


def ready(plan: Plan, done: Collection[str], settled: Collection[str] = ()) -> tuple[SubTask, ...]:
    """Return the tasks whose needs are all in `done` and that are themselves neither done nor otherwise settled."""
    finished = set(done)
    past = finished | set(settled)
    return tuple(task for task in plan.tasks if task.id not in past and finished.issuperset(task.depends_on))


def _graph(plan: Plan) -> nx.DiGraph[str]:
    """Edges run from a task to those that wait for it; what is not in the plan is left out."""
    known = {task.id for task in plan.tasks}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(task.id for task in plan.tasks)
    graph.add_edges_from((need, task.id) for task in plan.tasks for need in task.depends_on if need in known)
    return graph


def _misnamed(plan: Plan) -> Iterator[Flaw]:
    counts: dict[str, int] = {}
    for number, task in enumerate(plan.tasks, 1):
        counts[task.id] = counts.get(task.id, 0) + 1
        if not task.id.strip():
            yield Flaw("no_id", f"task number {number} has no id", (task.id,))
        if not task.goal.strip():
            yield Flaw("no_goal", f"task `{task.id}` has no goal", (task.id,))
    for task_id, count in counts.items():
        if count > 1 and task_id.strip():
            yield Flaw("duplicate_id", f"{count} tasks have the id `{task_id}`", (task_id,))


def _unknown_tools(plan: Plan, tools: Collection[str]) -> Iterator[Flaw]:
    users: dict[str, list[str]] = {}
    for task in plan.tasks:
        for tool in dict.fromkeys(task.tools):
            if tool not in tools:
                users.setdefault(tool, []).append(task.id)
    for tool, tasks in users.items():
        meant = _meant(tool, tools) or (
            f"; the tools are {_listed(sorted(tools))}" if tools else "; there are no tools"
        )
        yield Flaw("unknown_tool", f"there is no tool `{tool}`, which task {_listed(tasks)} wants{meant}", tuple(tasks))


def _unknown_tasks(plan: Plan) -> Iterator[Flaw]:
    known: Mapping[str, SubTask] = {task.id: task for task in plan.tasks}
    for task in plan.tasks:
        for need in dict.fromkeys(task.depends_on):
            if need == task.id:
                yield Flaw("self_dependency", f"task `{task.id}` depends on itself", (task.id,))
            elif need not in known:
                sentence = f"task `{task.id}` depends on `{need}`, which is not in the plan{_meant(need, known)}"
                yield Flaw("unknown_task", sentence, (task.id,))


def _cycles(plan: Plan) -> Iterator[Flaw]:
    """Name one round trip through each knot of tasks that wait for each other."""
    graph = _graph(plan)
    for knot in nx.strongly_connected_components(graph):
        if len(knot) > 1:
            start = min(knot, key=[task.id for task in plan.tasks].index)
            edges = nx.find_cycle(graph.subgraph(knot), start)
            trip = [edge[0] for edge in edges]
            shown = [*trip, trip[0]] if len(trip) <= NAMED else [*trip[:NAMED], "…", trip[0]]
            sentence = f"tasks wait for each other: {' → '.join(shown)}"
            yield Flaw("cycle", sentence, tuple(task.id for task in plan.tasks if task.id in knot))


def _unreachable(plan: Plan, blocked: set[str]) -> Iterator[Flaw]:
    graph = _graph(plan)
    after: set[str] = set()
    waiting = [task for task in blocked if task in graph]
    while waiting:
        for task in graph.successors(waiting.pop()):
            if task not in after and task not in blocked:
                after.add(task)
                waiting.append(task)
    if after:
        tasks = tuple(dict.fromkeys(task.id for task in plan.tasks if task.id in after))
        yield Flaw("unreachable", f"task {_listed(tasks)} can never start: what it needs is never done", tasks)


def _listed(names: Collection[str]) -> str:
    """Name a few and count the rest."""
    shown = [f"`{name}`" for name in list(names)[:NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _meant(word: str, options: Collection[str]) -> str:
    close = get_close_matches(word, list(options), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""
