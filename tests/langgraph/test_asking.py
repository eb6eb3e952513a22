"""`on_exhausted: ask`: an empty budget interrupts the graph, and what a person adds lets it go on where it stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from waywiser import BudgetExceeded, Router
from waywiser.core.budget import Amounts, Limits, Scope
from waywiser.langgraph.asking import read_answer

POLICY = """
version: 1
name: asking
tiers: {only: [simulated/standard]}
budget: {session: LIMITS, estimate: strict, on_exhausted: ask}
"""
ASK = {"messages": [("user", "hello")]}
AT: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Callable[[str], Router]]:
    made: list[Router] = []

    def make(limits: str) -> Router:
        path = tmp_path / "policy.yaml"
        path.write_text(POLICY.replace("LIMITS", limits))
        made.append(Router.from_policy(path, store=tmp_path / "store.sqlite"))
        return made[-1]

    yield make
    for router in made:
        router.close()


def nodes(model: Any, calls: int) -> dict[str, Any]:
    """Nodes that call a model so many times, one after the other, each in its own way."""

    def invoke(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"]) for _ in range(calls)]}

    async def ainvoke(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"]) for _ in range(calls)]}

    def stream(state: MessagesState) -> dict[str, Any]:
        pieces = [chunk for _ in range(calls) for chunk in model.stream(state["messages"])]
        return {"messages": [sum(pieces, AIMessageChunk(""))]}

    async def astream(state: MessagesState) -> dict[str, Any]:
        pieces = [chunk for _ in range(calls) async for chunk in model.astream(state["messages"])]
        return {"messages": [sum(pieces, AIMessageChunk(""))]}

    return {"invoke": invoke, "ainvoke": ainvoke, "stream": stream, "astream": astream}


def calling(router: Router, calls: int, way: str, *, saved: bool = True) -> Any:
    """A graph of one such node."""
    node = nodes(router.chat_model(max_tokens=50), calls)[way]
    graph = StateGraph(MessagesState).add_node("ask", node).add_edge(START, "ask").add_edge("ask", END)
    return graph.compile(checkpointer=InMemorySaver() if saved else None)


def go(graph: Any, given: Any, way: str) -> dict[str, Any]:
    end: dict[str, Any] = asyncio.run(graph.ainvoke(given, AT)) if way.startswith("a") else graph.invoke(given, AT)
    return end


WAYS = ["invoke", "ainvoke", "stream", "astream"]


@pytest.mark.parametrize("way", WAYS)
def test_a_person_adds_calls_and_the_run_goes_on(routed: Callable[[str], Router], way: str) -> None:
    router = routed("{llm_calls: 1}")
    graph = calling(router, 1, way)
    assert "__interrupt__" not in go(graph, ASK, way)
    (asked,) = go(graph, {"messages": [("user", "and now?")]}, way)["__interrupt__"]
    assert asked.value["why"] == "the session's limit of 1 model calls is reached"
    assert (asked.value["scope"], asked.value["lacks"], asked.value["limit"], asked.value["left"]) == (
        "session", "llm_calls", 1, 0,
    )  # fmt: skip
    assert (asked.value["session"], asked.value["node"]) == ("t", "ask")
    end = go(graph, Command(resume={"llm_calls": 1}), way)
    assert end["messages"][-1].text.startswith("[simulated]")
    codes = [receipt.refused for receipt in router.receipts("t")]
    assert sorted(codes) == ["", "", "budget_exceeded", "budget_exceeded"]  # refused again, then granted, then made


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_counts_once_though_the_node_runs_again(routed: Callable[[str], Router], way: str) -> None:
    """Three calls a run; the node is interrupted twice, so its first answer is handed to it three times."""
    router = routed("{llm_calls: 1}")
    graph = calling(router, 3, way)
    assert go(graph, ASK, way)["__interrupt__"]
    assert go(graph, Command(resume={"llm_calls": 1}), way)["__interrupt__"]
    # One call was made in the first run, one in the second: the third is refused at once, asked for twice, and goes on.
    end = go(graph, Command(resume={"llm_calls": 3}), way)
    assert "__interrupt__" not in end
    made = [receipt for receipt in router.receipts("t") if not receipt.refused]
    assert len(made) == 1 + 1 + 3
    (refused,) = go(graph, {"messages": [("user", "more")]}, way)["__interrupt__"]
    assert refused.value["limit"] == 1 + 1 + 3


def test_money_is_asked_for_in_dollars(routed: Callable[[str], Router]) -> None:
    router = routed("{usd: 0.000001}")
    graph = calling(router, 1, "invoke")
    (asked,) = go(graph, ASK, "invoke")["__interrupt__"]
    assert (asked.value["lacks"], asked.value["limit_usd"], asked.value["spent_usd"]) == ("usd", 1e-06, 0)
    (again,) = go(graph, Command(resume="a lot"), "invoke")["__interrupt__"]
    assert again.value["problem"].startswith("'a lot' is no amount")
    assert go(graph, Command(resume=0.5), "invoke")["messages"][-1].text


@pytest.mark.parametrize("way", WAYS)
def test_no_ends_the_run(routed: Callable[[str], Router], way: str) -> None:
    router = routed("{llm_calls: 1}")
    graph = calling(router, 2, way)
    go(graph, ASK, way)
    with pytest.raises(BudgetExceeded) as caught:
        go(graph, Command(resume=False), way)
    assert caught.value.short is not None
    assert caught.value.short.name == "session"


def test_where_nobody_can_be_asked_it_stops(routed: Callable[[str], Router]) -> None:
    router = routed("{llm_calls: 1}")
    with router.session("s"):
        router.chat_model().invoke("hello")
        with pytest.raises(BudgetExceeded, match="1 model calls"):
            router.chat_model().invoke("hello")
    graph = calling(router, 2, "invoke", saved=False)
    with pytest.raises(BudgetExceeded):
        graph.invoke(ASK, AT)


@pytest.mark.parametrize("way", WAYS)
def test_time_is_added_from_the_answer_on(routed: Callable[[str], Router], way: str) -> None:
    router = routed("{seconds: 0.01, usd: 1}")
    graph = calling(router, 2, way)
    began_s = time.time()
    (asked,) = go(graph, ASK, way)["__interrupt__"]
    assert (asked.value["lacks"], asked.value["limit"], asked.value["left"]) == ("seconds", 0.01, 0)
    time.sleep(1.1)  # a person takes longer than the whole session was allowed to
    (again,) = go(graph, Command(resume=60), way)["__interrupt__"]
    assert again.value["problem"] == "60 is no amount: answer with {'seconds': 60} or the like, or with False"
    end = go(graph, Command(resume={"seconds": 30}), way)
    assert end["messages"][-1].text.startswith("[simulated]")
    scope = Scope("session//t", "session", Limits())
    (standing,) = router.runtime.engine.store.open("t", (scope,), time.time()).standings
    passed_s = time.time() - began_s
    assert 30 < standing.granted.seconds <= 31 + passed_s, "the time until the answer, and thirty seconds"


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        (0.25, Amounts(nanos=250_000_000)),
        ("1.5", Amounts(nanos=1_500_000_000)),
        ({"usd": 1, "llm_calls": 3}, Amounts(nanos=1_000_000_000, llm_calls=3)),
        ({"tokens": 10.0, "tool_calls": 1}, Amounts(tokens=10, tool_calls=1)),
        (True, None),
        ("yes", None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        ({"euros": 1}, None),
        ({"usd": -1}, None),
        ({"usd": 0}, None),
        ([1], None),
    ],
)  # fmt: skip
def test_what_a_person_may_answer(answer: object, more: Amounts | None) -> None:
    assert read_answer(answer) == more
