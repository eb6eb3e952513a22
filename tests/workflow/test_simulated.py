"""The five graphs on the simulated models, through a router: sensible answers, every call routed, loops left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from waywiser import Router
from waywiser.workflow import load_graph

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = ROOT / "graphs"
TENT = "How long may I send back a tent?"


@pytest.fixture
def router() -> Iterator[Router]:
    with Router.from_policy(ROOT / "policies" / "simulated.yaml", store=":memory:") as made:
        yield made


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    made: list[Router] = []

    def make(text: str, **models: BaseChatModel) -> Router:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        named = {name.replace("_", "/"): model for name, model in models.items()}
        made.append(Router.from_policy(path, store=":memory:", models=named))
        return made[-1]

    yield make
    for router in made:
        router.close()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("support_desk", {"triage", "planning", "tool_call", "synthesis"}),
        ("support_react", {"tool_call", "synthesis"}),
        ("plan_execute", {"planning", "tool_call", "synthesis"}),
        ("supervisor", {"triage", "tool_call", "synthesis"}),
        ("document_answer", {"other", "synthesis", "reflection"}),
    ],
)
def test_each_graph_answers_and_every_call_is_routed(name: str, kinds: set[str], router: Router) -> None:
    graph = load_graph(GRAPHS / f"{name}.yaml", router.chat_model())
    with router.session(name) as session:
        end = graph.invoke({"messages": [("user", TENT)]})
    answer = end["messages"][-1].text
    assert answer.startswith("[simulated]")
    assert "30 days" in answer
    receipts = session.receipts()
    assert {receipt.kind for receipt in receipts} <= kinds
    if name != "support_react":  # whose loop leaves it to the router to tell
        assert {receipt.kind_by for receipt in receipts} == {"declared"}
    assert all(receipt.node and receipt.model.startswith("simulated/") for receipt in receipts)


REVEAL = """
version: 1
name: reveal
tiers: {economy: [simulated/economy], premium: [simulated/premium]}
steps: {tool_call: {tier: economy}, synthesis: {tier: premium}}
budget: {session: {usd: 5}}
reveal: {below: 100%}
"""


LOOP = "version: 1\nname: t\nnodes:\n  work: {type: work, kind: auto}\n"


@tool
def get_order(order_id: str) -> str:
    """Look an order up by its id."""
    return f"order {order_id}: shipped"


async def _ask(router: Router, way: str, write: Callable[..., Path]) -> None:
    """Say hello on one of the surfaces. Tools are offered and none is needed: the step turns out to be an answer."""
    model = router.chat_model()
    bound, said = model.bind_tools([get_order]), {"messages": [("user", "hello there")]}
    if way == "invoke":
        bound.invoke("hello there")
    elif way == "ainvoke":
        await bound.ainvoke("hello there")
    elif way == "stream":
        assert "".join(chunk.text for chunk in bound.stream("hello there")).startswith("[simulated]")
    elif way == "astream":
        assert [chunk async for chunk in bound.astream("hello there")]
    elif way == "middleware":
        create_agent(FakeListChatModel(responses=["unrouted"]), middleware=[router.middleware(), Offers()]).invoke(said)
    elif way == "wrap":
        router.wrap(create_agent(Plain(responses=["unrouted"]), [get_order])).invoke(said)
    elif way == "workflow":
        load_graph(write(LOOP), model, [get_order]).invoke(said)
    else:
        load_graph(write(LOOP), model, [get_order]).batch([said])


class Plain(FakeListChatModel):
    """Somebody's model that takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(entry) for entry in tools], **kwargs)


class Offers(AgentMiddleware[Any, Any]):
    """Brings a tool of its own into the agent."""

    tools = (get_order,)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "middleware", "wrap", "workflow", "batch"])
async def test_a_step_that_reveals_itself_is_charged_and_shown(
    way: str, routed: Callable[..., Router], write: Callable[..., Path]
) -> None:
    router = routed(REVEAL)
    with router.session("s") as session:
        await _ask(router, way, write)
    (receipt,) = session.receipts()
    assert (receipt.kind, receipt.kind_by, receipt.tier) == ("synthesis", "revealed", "premium")
    first, second = receipt.attempts
    assert (first.model, first.failure) == ("simulated/economy", "revealed")
    assert (second.model, second.failure) == ("simulated/premium", "")
    assert first.cost_nanos > 0
    assert receipt.cost_nanos == first.cost_nanos + second.cost_nanos == round(session.cost_usd * 1e9)


ONE = """
version: 1
name: one
tiers: {economy: [mine/small], premium: [mine/large]}
models:
  mine/small: {api: langchain, context: 100000, price: {input: 1, output: 2}, abilities: [tools, json_schema]}
  mine/large: {api: langchain, context: 100000, price: {input: 5, output: 9}, abilities: [tools, json_schema]}
steps: {tool_call: {tier: economy}, synthesis: {tier: economy}}
budget: {session: LIMITS, on_exhausted: ask}
loops: {after: 3, ladder: [hint, escalate, conclude, stop]}
"""
WORKING = "version: 1\nname: t\nnodes:\n  work: {type: work, turns: 40, next: answer}\n  answer: {type: synthesis}\n"


def _stubborn(asked: Any) -> Any:
    """Calls the same tool with the same arguments for ever, unless it may not."""
    if not asked.tools or asked.choice == "none":
        return "this is all I know"
    return AIMessage("", tool_calls=[{"name": "get_order", "args": {"order_id": "W1"}, "id": f"c{len(asked.results)}"}])


def test_a_node_that_goes_round_in_circles_leaves_by_the_ladder(
    routed: Callable[..., Router], fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    model = fake(_stubborn)
    router = routed(ONE.replace("LIMITS", "{usd: 5}"), mine_small=model, mine_large=model)
    graph = load_graph(write(WORKING), router.chat_model(), [get_order])
    with router.session("s") as session:
        end = graph.invoke({"messages": [("user", "where is W1?")]})
    assert end["messages"][-1].text == "this is all I know"
    receipts = [receipt for receipt in session.receipts() if receipt.node == "model"]
    assert len(receipts) < 12  # of 40 turns
    rungs = list(dict.fromkeys(receipt.loop for receipt in receipts if receipt.loop))
    assert len(rungs) >= 3
    assert {"economy", "premium"} == {receipt.tier for receipt in receipts}  # one tier up on the way


def test_a_workflow_asks_a_person_for_more_and_goes_on(
    routed: Callable[..., Router], fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    def answer(asked: Any) -> Any:
        call = {"name": "get_order", "args": {"order_id": "W1"}, "id": "c"}
        return "it is shipped" if asked.results else AIMessage("", tool_calls=[call])

    model = fake(answer)
    router = routed(ONE.replace("LIMITS", "{llm_calls: 1}"), mine_small=model, mine_large=model)
    graph = load_graph(write(WORKING), router.chat_model(), [get_order], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    (asked,) = graph.invoke({"messages": [("user", "where is W1?")]}, thread)["__interrupt__"]
    assert (asked.value["node"], asked.value["lacks"]) == ("model", "llm_calls")
    end = graph.invoke(Command(resume={"llm_calls": 2}), thread)
    assert end["messages"][-1].text == "it is shipped"
    assert len(model.asked) == 3  # two turns of the loop and the answer: no call was made twice
