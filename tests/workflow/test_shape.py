"""The shape of compiled graphs, ours and others', and that no run makes more calls than it allows."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.errors import GraphRecursionError, InvalidUpdateError
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send
from langgraph_supervisor import create_supervisor

from waywiser.config.source import Source
from waywiser.core.bounds import worst_case
from waywiser.core.topology import cycles, roles
from waywiser.errors import ConfigError, PlanRefused
from waywiser.langgraph.shape import shape_of
from waywiser.workflow import WorkflowSpec, build_graph, load_graph
from waywiser.workflow.checks import check_workflow

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
EXAMPLES = int(os.environ.get("WAYWISER_EXAMPLES", "60"))  # random graphs to try; 1000 take some minutes


@pytest.mark.parametrize(
    ("name", "calls"),
    [("support_desk", 16), ("support_react", 16), ("plan_execute", 149), ("supervisor", 38), ("document_answer", 8)],
)
def test_the_five_graphs_are_bounded_by_their_own_limits(name: str, calls: int, fake: Callable[..., Any]) -> None:
    shape = shape_of(load_graph(GRAPHS / f"{name}.yaml", fake(str)))
    assert worst_case(shape).calls == calls
    assert all(cycle.bound_by == "limits" for cycle in cycles(shape))


def test_the_shape_of_a_desk(fake: Callable[..., Any]) -> None:
    shape = shape_of(load_graph(GRAPHS / "support_desk.yaml", fake(str)))
    kinds = {path: node.kind for path, node, _ in shape.walk() if node.kind}
    assert kinds == {
        ("triage",): "triage",
        ("plan",): "planning",
        ("work", "model"): "tool_call",
        ("answer",): "synthesis",
    }
    found = roles(shape)
    assert found[("triage",)] == ("entry",)
    assert found[("work", "model")] == ("tool_loop",)
    assert found[("answer",)] == ("final",)


def test_graphs_of_others(fake: Callable[..., Any], shop_tools: list[Any]) -> None:
    model = fake(lambda _: "x")
    agent = create_agent(model, shop_tools, name="helper")
    shape = shape_of(agent)
    assert roles(shape)[("model",)][0] == "tool_loop"
    (cycle,) = cycles(shape)
    assert str(cycle).endswith("only the recursion limit of 9999 supersteps ends it, the default of `create_agent`")
    assert worst_case(shape, 25).calls == 13
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what LangGraph has deprecated
        supervisor = create_supervisor([agent], model=model).compile()
    found = roles(shape_of(supervisor))
    assert found[("supervisor", "agent")][0] == "tool_loop"
    assert found[("helper", "model")][0] == "tool_loop"


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def test_a_graph_written_by_hand(fake: Callable[..., Any]) -> None:
    def ask(state: State) -> dict[str, Any]:
        return {}

    def route(state: State) -> Literal["left", "right"]:
        return "left"

    def spread(state: State) -> list[Send]:
        return [Send("copy", state)]

    inner = StateGraph(State).add_node("say", ask).add_edge(START, "say").compile()
    graph = StateGraph(State)
    graph.add_node("sort", ask).add_node("left", inner).add_node("right", ask).add_node("copy", ask)
    graph.add_node("last", ask, defer=True, metadata={"waywiser_calls": 3})
    graph.add_edge(START, "sort")
    graph.add_conditional_edges("sort", route)
    graph.add_conditional_edges("right", spread, ["copy"])
    graph.add_edge("left", "last").add_edge("copy", "last").add_edge("last", END)
    shape = shape_of(graph.compile())
    sort = {edge.target: edge.choice for edge in shape.edges if edge.source == "sort"}
    assert sort == {"left": "branch", "right": "branch"}
    assert [edge.copies for edge in shape.edges if edge.source == "right"] == [None]
    assert [node.deferred for node in shape.nodes] == [False, False, False, False, True]
    assert worst_case(shape).calls is None  # nobody says how many copies there may be
    assert worst_case(shape).nodes[("left", "say")] == 1
    assert roles(shape)[("right",)] == ("fan_out",)


def random_workflow(chance: random.Random) -> dict[str, Any]:
    """A workflow that may be nonsense; `check_workflow` says."""
    names = "abcd"[: chance.randint(1, 4)]
    nodes: dict[str, Any] = {}
    for name in names:
        kind = chance.choice(["triage", "reflect", "synthesis", "synthesis", "work", "plan", "execute"])
        node: dict[str, Any] = {"type": kind}
        if kind == "triage":
            node |= {"choices": {"yes": "", "no": ""}, "writes": "topic"}
        if kind == "work":
            node |= {"turns": chance.randint(1, 3)}
        if kind == "plan":
            node |= {"max_tasks": 2, "if_flawed": "skip", "attempts": chance.randint(1, 2)}
        if kind == "execute":
            node |= {"max_tasks": 2, "turns": chance.randint(1, 2), "replans": chance.randint(0, 2)}
        if kind == "synthesis" and chance.random() < 0.3:
            node |= {"for_each": "items", "max_items": 2, "writes": f"notes_{name}"}
        ways = [*names, "end"]
        cases = [{"to": chance.choice(ways), "when": f"topic == '{word}'"} for word in ("yes", "no")]
        if kind not in {"work", "execute"} and chance.random() < 0.5:
            cases[0]["rounds"] = chance.randint(1, 2)
        one = chance.choice(ways)
        several = chance.sample(ways[:-1], min(2, len(names)))
        node["next"] = one if "for_each" in node else chance.choice([one, several, [*cases, {"to": one}]])
        if chance.random() < 0.2:
            node["join"] = True
        nodes[name] = node
    state = {"items": "list", "plan": "list", "topic": "text"}
    return {"version": 1, "name": "random", "supersteps": chance.randint(2, 9), "state": state, "nodes": nodes}


def a_workflow(chance: random.Random) -> tuple[WorkflowSpec, Source] | None:
    """Take the first random workflow that is not nonsense; most are."""
    for _ in range(40):
        source = Source.parse(json.dumps(random_workflow(chance)))
        spec = source.validate(WorkflowSpec, {})
        with suppress(ConfigError):
            check_workflow(spec, source)
            return spec, source
    return None


def adversary(chance: random.Random) -> Callable[[Any], Any]:
    """A model that makes as much work as it can, and sometimes less."""

    def answer(asked: Any) -> Any:
        if "plan" in asked.tools:
            names = chance.choice([["t", "u"], ["t", "t"], ["v", "w"], [f"t{chance.randint(0, 9)}", "x"]])
            tasks = [{"id": name, "goal": "go", "tools": [], "depends_on": []} for name in names]
            tasks[1]["depends_on"] = chance.choice([[], [names[0]]])
            return {"tasks": tasks}
        if "choice" in asked.tools or "verdict" in asked.tools:
            return {"choice": chance.choice(["yes", "no", "again", "good"])}
        if asked.tools and chance.random() < 0.9:
            calls = [{"name": "look_up", "args": {"order": "1"}, "id": str(chance.random())}]
            return AIMessage("", tool_calls=calls)
        return chance.choice(["FAILED", "done", ""])

    return answer


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_no_adversary_exceeds_the_worst_case(fake: Callable[..., Any], shop_tools: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    made = a_workflow(chance)
    if made is None:
        return
    spec, source = made
    text = spec.model_dump_json()
    note(text)
    model = fake(adversary(chance))
    graph = build_graph(spec, source, model, shop_tools[:1])
    bound = worst_case(shape_of(graph)).calls
    assert bound is not None
    for items in ([], ["a", "b", "c"]):
        model.asked.clear()
        with suppress(GraphRecursionError, InvalidUpdateError, PlanRefused):
            graph.invoke({"messages": [("user", "go")], "items": items, "topic": "yes"})
        assert len(model.asked) <= bound, text
