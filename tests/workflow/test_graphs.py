"""The five graphs to start from, on the real shop: every way of running them comes to the same end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from waywiser.workflow import load_graph, read_workflow

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
NAMES = ("support_desk", "support_react", "plan_execute", "supervisor", "document_answer")
LAST = {"support_react": "agent", "document_answer": "judge"}
ASK = {"messages": [("user", "How long may I send back a tent, and is order #W10561 on its way?")]}
MODES = ["values", "updates", "messages", "custom", "checkpoints", "tasks", "debug"]


def acting(asked: Any) -> Any:
    """Answer in any of the five graphs, always the same way to the same question."""
    if "choice" in asked.tools:
        choices = asked.schemas["choice"]["properties"]["choice"]["enum"]
        worked = any(message.type == "ai" for message in asked.messages)
        return {"choice": "finish" if worked else "orders"} if "finish" in choices else {"choice": "question"}
    if "verdict" in asked.tools:
        return {"choice": "good" if "mended" in str(asked.messages) else "again", "why": "too short"}
    if "plan" in asked.tools:
        return {
            "tasks": [
                {"id": "rules", "goal": "the return window of tents", "tools": ["search_policies"], "depends_on": []},
                {"id": "order", "goal": "where #W10561 is", "tools": ["get_order"], "depends_on": []},
                {"id": "both", "goal": "put it together", "tools": [], "depends_on": ["rules", "order"]},
            ]
        }
    if "search_policies" in asked.tools and not asked.results:
        return AIMessage("", tool_calls=[{"name": "search_policies", "args": {"query": "return tent"}, "id": "p"}])
    if "get_order" in asked.tools and not asked.results:
        return AIMessage("", tool_calls=[{"name": "get_order", "args": {"order_id": "#W10561"}, "id": "o"}])
    return f"{asked.node}: {'mended' if 'too short' in asked.system else 'told'} {len(asked.results)}"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def made(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: load_graph(GRAPHS / f"{name}.yaml", fake(acting), **options)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A final state without the ids that LangChain draws, and the counts that go by them."""
    told = [
        (message.type, message.content, [call["name"] for call in getattr(message, "tool_calls", [])])
        for message in state["messages"]
    ]
    return {**{key: value for key, value in state.items() if key != "node_rounds"}, "messages": told}


async def test_invoke_and_ainvoke_and_every_stream_come_to_the_same_end(made: Callable[..., Any], name: str) -> None:
    graph = made()
    end = plain(graph.invoke(ASK))
    assert end["messages"][-1][0] == "ai"
    assert plain(await graph.ainvoke(ASK)) == end
    for mode in MODES:
        inside = mode == "messages"  # without it, LangGraph leaves out the tokens of subgraphs
        events = list(graph.stream(ASK, stream_mode=mode, subgraphs=inside))
        later = [event async for event in graph.astream(ASK, stream_mode=mode, subgraphs=inside)]
        if mode == "values":
            assert plain(events[-1]) == plain(later[-1]) == end
        elif mode == "updates":
            assert {key for event in events for key in event} == {key for event in later for key in event}
            assert {key for event in events for key in event} <= set(read_workflow(GRAPHS / f"{name}.yaml")[0].nodes)
        elif mode == "messages":
            written = "".join(str(chunk.content) for _, (chunk, _) in events if isinstance(chunk, AIMessageChunk))
            assert "told" in written or "mended" in written
            assert sorted(str(chunk.content) for _, (chunk, _) in events) == sorted(
                str(chunk.content) for _, (chunk, _) in later
            )
        elif mode in {"tasks", "debug"}:
            assert events
            assert later


def test_subgraphs_stream_under_their_names(made: Callable[..., Any], name: str) -> None:
    spaces = {space[0].split(":")[0] for space, _ in made().stream(ASK, stream_mode="updates", subgraphs=True) if space}
    loops = {
        node for node, one in read_workflow(GRAPHS / f"{name}.yaml")[0].nodes.items() if one.type in {"work", "execute"}
    }
    assert spaces <= loops
    assert bool(spaces) == bool(loops)


async def test_a_run_goes_on_after_an_interrupt_with_nothing_asked_twice(
    made: Callable[..., Any], name: str, fake: Callable[..., Any]
) -> None:
    end = plain(made().invoke(ASK))
    model = fake(acting)
    last = LAST.get(name, "answer")
    for run in ("sync", "async"):
        model.asked.clear()
        saver = InMemorySaver()
        graph = load_graph(GRAPHS / f"{name}.yaml", model, checkpointer=saver, interrupt_before=[last])
        thread = {"configurable": {"thread_id": run}}
        given: Any = ASK
        for _ in range(5):
            state = graph.invoke(given, thread) if run == "sync" else await graph.ainvoke(given, thread)
            given = None
            if not graph.get_state(thread).next:
                break
            assert graph.get_state(thread).next == (last,)
        assert plain({key: value for key, value in state.items() if key != "__interrupt__"}) == end
        straight = fake(acting)
        load_graph(GRAPHS / f"{name}.yaml", straight).invoke(ASK)
        assert len(model.asked) == len(straight.asked)


def test_the_graphs_are_drawn(made: Callable[..., Any], name: str) -> None:
    drawn = made().get_graph(xray=1)
    nodes = set(read_workflow(GRAPHS / f"{name}.yaml")[0].nodes)
    assert {node.split(":")[0] for node in drawn.nodes} == {*nodes, "__start__", "__end__"}
    assert "graph TD" in drawn.draw_mermaid()


@tool
def ask_person(question: str) -> str:
    """Ask the person at the other end."""
    return f"they say {interrupt(question)}"


ASKING = """
version: 1
name: asking
nodes:
  plan: {type: plan, next: execute}
  execute: {type: execute, next: work}
  work: {type: work}
"""


@pytest.mark.parametrize("run", ["sync", "async"])
async def test_a_tool_may_ask_a_person_in_a_loop_and_in_a_task(
    run: str, fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            names = ("a", "b")
            return {"tasks": [{"id": name, "goal": f"ask {name}", "tools": [], "depends_on": []} for name in names]}
        call = {"name": "ask_person", "args": {"question": asked.messages[1].content}, "id": "q"}
        return asked.results[0] if asked.results else AIMessage("", tool_calls=[call])

    model = fake(answer)
    graph = load_graph(write(ASKING), model, [ask_person], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}

    async def go(given: Any) -> dict[str, Any]:
        end: dict[str, Any] = graph.invoke(given, thread) if run == "sync" else await graph.ainvoke(given, thread)
        return end

    end = await go({"messages": [("user", "go")]})
    asked = {str(one.value): one.id for one in end["__interrupt__"]}
    assert set(asked) == {"ask a", "ask b"}
    end = await go(Command(resume={asked["ask a"]: "yes", asked["ask b"]: "no"}))
    assert [result["text"] for result in end["results"]] == ["they say yes", "they say no"]
    (question,) = end["__interrupt__"]
    end = await go(Command(resume="well"))
    assert end["messages"][-1].content == "they say well"
    assert question.value == "go"
    assert len(model.asked) == 7  # a plan, and two turns each for two tasks and the loop: no call twice
