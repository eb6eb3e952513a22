"""`waywiser check POLICY GRAPH`: a graph's roles, cycles and bounds, and the worst a run of it can cost."""

from __future__ import annotations

from dataclasses import dataclass

from waywiser.cli.graphs import load_any_graph
from waywiser.cli.output import table, usd
from waywiser.config.policy import LoadedPolicy
from waywiser.core.bounds import WorstCase, worst_case
from waywiser.core.claims import worst_nanos
from waywiser.core.policy import Policy
from waywiser.core.shape import END, START, GraphShape, NodePath
from waywiser.core.steps import ROLE_KINDS, StepKind
from waywiser.core.topology import Cycle, cycles, roles
from waywiser.langgraph.router import Router
from waywiser.langgraph.shape import shape_of
from waywiser.runtime import build

COLOURS = ("#cfe8cf", "#fdf3c7", "#f8d3c4", "#dcd3f0", "#c9dff5")
"""Fills for the tiers of a drawing, cheapest first; the last one serves all tiers above."""


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """One node that may call a model: its roles, the kind and tier of its steps (empty: decided call by call)."""

    name: str
    roles: tuple[str, ...]
    kind: str
    tier: str
    most_calls: int | None


@dataclass(frozen=True, slots=True)
class GraphCheck:
    """What can be said of a graph under a policy before it runs. `most_nanos` None: nothing bounds the cost.

    `most_calls` counts model calls of the graph (None: no bound), `most_sends` what may be sent for them, retries and
    fallbacks included, `binds` names the limit that is reached first.
    """

    nodes: tuple[NodeCheck, ...]
    cycles: tuple[Cycle, ...]
    most_calls: int | None
    most_sends: int | None
    most_nanos: int | None
    binds: str
    warnings: tuple[str, ...]
    mermaid: str


def check_graph(name: str, loaded: LoadedPolicy) -> GraphCheck:
    """Load a graph and check it under a policy. Raises `ConfigError`."""
    with Router(build(loaded, store=":memory:", need_keys=False)) as router:
        graph = load_any_graph(name, router)
    shape = shape_of(graph)
    policy = loaded.policy
    worst = worst_case(shape)
    found = roles(shape)
    nodes = tuple(
        _node(policy, path, node.kind, found.get(path, ()), worst)
        for path, node, _ in shape.walk()
        if node.inner is None and node.calls != 0
    )
    loops = cycles(shape)
    sends, nanos, binds = most_of_a_run(policy, worst)
    warnings = [
        f"{cycle}: give the node a turn limit, or the graph `supersteps`" for cycle in loops if cycle.only_default
    ]
    warnings += [f"node {'/'.join(path)}: nobody knows how many model calls it makes" for path in worst.unknown]
    if nanos is None:
        warnings.append("nothing bounds what a run may cost: set `budget: {session: {usd: …}}`")
    return GraphCheck(nodes, loops, worst.calls, sends, nanos, binds, tuple(warnings), _mermaid(shape, nodes, policy))


def _node(policy: Policy, path: NodePath, kind: str, found: tuple[str, ...], worst: WorstCase) -> NodeCheck:
    declared = kind or policy.declared(path[-1]) or (ROLE_KINDS.get(found[0], "") if found else "")
    tier = (policy.step_rule(StepKind(declared)).tier or "auto") if declared else ""
    return NodeCheck("/".join(path), tuple(found), declared, tier, worst.nodes.get(path))


def most_of_a_run(policy: Policy, worst: WorstCase) -> tuple[int | None, int | None, str]:
    """The most requests and the most money of one run, and which limit that comes from."""
    limits = policy.budget.session
    sends = None if worst.calls is None else worst.calls * policy.fallback.attempts
    binds = "the graph" if sends is not None else ""
    if limits.llm_calls is not None and (sends is None or limits.llm_calls < sends):
        sends, binds = limits.llm_calls, "budget: session: llm_calls"
    dearest = max(
        worst_nanos(model, model.context_tokens, model.max_output_tokens)
        for tier in policy.tiers
        for model in tier.models
    )
    nanos = None if sends is None else sends * dearest
    if limits.nanos is not None and (nanos is None or limits.nanos < nanos):
        nanos, binds = limits.nanos, "budget: session: usd"
        if policy.budget.estimate == "expected":
            binds += " (estimates are `expected`: by less than one step per concurrent call more)"
    return sends, nanos, binds


def _mermaid(shape: GraphShape, nodes: tuple[NodeCheck, ...], policy: Policy) -> str:
    """Draw the graph with its tiers as colours, subgraphs as boxes."""
    tiers = {node.name: node.tier for node in nodes}
    lines = ["flowchart TD"]
    lines += [f"  classDef t{rank} fill:{COLOURS[min(rank, 4)]},stroke:#555" for rank in range(len(policy.tiers))]
    lines += _drawn(shape, (), tiers, policy)
    return "\n".join(lines) + "\n"


def _drawn(shape: GraphShape, above: NodePath, tiers: dict[str, str], policy: Policy) -> list[str]:
    def label(name: str) -> str:
        return (
            "_".join((*above, name)).replace("-", "_") if name not in {START, END} else "_".join((*above, name[2:-2]))
        )

    pad = "  " * (len(above) + 1)
    lines = [f"{pad}{label(START)}((start))", f"{pad}{label(END)}((end))"]
    for node in shape.nodes:
        path = (*above, node.name)
        if node.inner is not None:
            lines += [
                f"{pad}subgraph {label(node.name)} [{node.name}]",
                *_drawn(node.inner, path, tiers, policy),
                f"{pad}end",
            ]
            continue
        tier = tiers.get("/".join(path), "")
        text = f"{node.name}<br/>{tier}" if tier else node.name
        style = f":::t{policy.rank_or(tier)}" if tier and tier != "auto" else ""
        lines.append(f'{pad}{label(node.name)}["{text}"]{style}')
    for edge in shape.edges:
        lines.append(f"{pad}{label(edge.source)} {'-.->' if edge.conditional else '-->'} {label(edge.target)}")
    return lines


def report(check: GraphCheck) -> str:
    """Lay the check out for a terminal."""
    rows = [
        (
            node.name,
            ", ".join(node.roles) or "—",
            node.kind or "by the call",
            node.tier or "by the call",
            "no bound" if node.most_calls is None else str(node.most_calls),
        )
        for node in check.nodes
    ]
    lines = [table(("node", "roles", "kind", "tier", "calls at most"), rows, right=(4,)), ""]
    lines += [str(cycle) for cycle in check.cycles]
    calls = "no bound" if check.most_calls is None else f"{check.most_calls:,}"
    sends = "no bound" if check.most_sends is None else f"{check.most_sends:,}"
    cost = "no bound" if check.most_nanos is None else usd(check.most_nanos)
    lines.append(
        f"a run: {calls} model calls at most, {sends} requests with retries, {cost};"
        f" first limit: {check.binds or 'none'}"
    )
    return "\n".join(lines)
