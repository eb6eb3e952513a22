"""Graphs from outside: every chat model in them is routed, wherever it hides and however it is called."""

import asyncio
import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import create_react_agent
from langgraph.types import Send
from langgraph_supervisor import create_supervisor

from waywiser import ConfigError, Router

UNROUTED = "nobody routed me"


class Theirs(GenericFakeChatModel):
    """Somebody's model: takes tools as a provider's own package binds them."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(entry) for entry in tools], **kwargs)


def theirs() -> Theirs:
    return Theirs(messages=iter([UNROUTED] * 100))


@tool
def get_order(order_id: str) -> str:
    """Look an order up by its id."""
    return f"order {order_id}: shipped"


QUESTION = {"messages": [("user", "Where is my order W1001?")]}


@pytest.fixture
def router() -> Iterator[Router]:
    with Router.from_policy("policies/simulated.yaml", store=":memory:") as made:
        yield made


def at(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def test_a_react_agent(router: Router) -> None:

    graph = router.wrap(create_react_agent(theirs(), [get_order]))
    messages = graph.invoke(QUESTION, at("t"))["messages"]
    assert messages[1].tool_calls[0]["name"] == "get_order"
    assert messages[-1].text.startswith("[simulated]")
    assert [receipt.node for receipt in router.receipts("t")] == ["agent", "agent"]


@pytest.mark.parametrize("way", ["wrap", "middleware"])
def test_an_agent_of_langchain(router: Router, way: str) -> None:

    if way == "wrap":
        graph: Any = router.wrap(create_agent(theirs(), [get_order]))
    else:
        graph = create_agent(theirs(), [get_order], middleware=[router.middleware()])
    assert graph.invoke(QUESTION, at("sync"))["messages"][-1].text.startswith("[simulated]")
    assert asyncio.run(graph.ainvoke(QUESTION, at("async")))["messages"][-1].text.startswith("[simulated]")
    for thread in ("sync", "async"):
        assert [receipt.node for receipt in router.receipts(thread)] == ["model", "model"]


def test_the_place_of_a_node_tells_its_kind(router: Router) -> None:
    """The last node writes the answer; a node in a cycle may end the graph too, and that tells nothing."""

    model = theirs()
    router.wrap(create_react_agent(model, [get_order])).invoke(QUESTION, at("react"))
    assert {receipt.kind_by for receipt in router.receipts("react")} <= {"shape", "learned", "revealed"}

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.bind_tools([get_order]).invoke(state["messages"])]}

    inner = StateGraph(MessagesState).add_node("say", node).add_edge(START, "say").compile()
    builder = StateGraph(MessagesState)
    builder.add_node("look", node).add_node("write", inner)
    builder.add_edge(START, "look").add_edge("look", "write").add_edge("write", END)
    router.wrap(builder.compile()).invoke(QUESTION, at("line"))
    told = {(receipt.agent, receipt.node): (receipt.kind, receipt.kind_by) for receipt in router.receipts("line")}
    assert told[("write", "say")] == ("synthesis", "graph")
    assert told[("", "look")][1] != "graph"


def test_a_supervisor_and_its_agents(router: Router) -> None:

    model = theirs()
    orders = create_react_agent(model, [get_order], name="orders")
    graph = router.wrap(create_supervisor([orders], model=model).compile())
    answer = graph.invoke(QUESTION, at("t"))["messages"][-1]
    receipts = router.receipts("t")
    assert answer.text.startswith("[simulated]")
    assert {receipt.agent for receipt in receipts} == {"supervisor", "orders"}
    assert all(receipt.node == "agent" for receipt in receipts)


class Work(TypedDict, total=False):
    found: Annotated[list[str], operator.add]
    part: int


class Inner(TypedDict, total=False):
    found: list[str]


def by_hand(model: Any) -> Any:
    """Two subgraphs and a fan-out of three; each node calls the model in its own way."""
    inner = StateGraph(Inner)
    inner.add_node("write", lambda _: {"found": [model.invoke([("user", "write")]).text]})
    inner.add_edge(START, "write")
    other = StateGraph(Inner)
    other.add_node("read", lambda _: {"found": ["".join(chunk.text for chunk in model.stream([("user", "read")]))]})
    other.add_edge(START, "read")
    outer = StateGraph(Work)
    outer.add_node("each", lambda state: {"found": [model.batch([[("user", f"part {state['part']}")]])[0].text]})
    outer.add_node("first", inner.compile())
    outer.add_node("second", other.compile())
    outer.add_node("last", lambda _: {"found": [model.generate([[AIMessage("x")]]).generations[0][0].text]})
    outer.add_conditional_edges(START, lambda _: [Send("each", {"part": n}) for n in range(3)], ["each"])
    outer.add_edge("each", "first")
    outer.add_edge("first", "second")
    outer.add_edge("second", "last")
    outer.add_edge("last", END)
    return outer.compile()


EVERY = [("", "each")] * 3 + [("", "last"), ("first", "write"), ("second", "read")]


def test_subgraphs_sends_and_every_way_to_call(router: Router) -> None:
    graph = router.wrap(by_hand(FakeListChatModel(responses=[UNROUTED])))
    found = graph.invoke({"found": []}, at("t"))["found"]
    assert len(found) == 6
    assert all(text.startswith("[simulated]") for text in found)
    assert sorted((receipt.agent, receipt.node) for receipt in router.receipts("t")) == EVERY


def test_async_nodes(router: Router) -> None:
    model = FakeListChatModel(responses=[UNROUTED])

    async def whole(_: Work) -> Work:
        return {"found": [(await model.ainvoke([("user", "whole")])).text]}

    async def pieces(_: Work) -> Work:
        return {"found": ["".join([chunk.text async for chunk in model.astream([("user", "pieces")])])]}

    async def below(_: Work) -> Work:
        return {"found": [(await model.agenerate([[AIMessage("x")]])).generations[0][0].text]}

    builder = StateGraph(Work)
    for name, node in (("whole", whole), ("pieces", pieces), ("below", below)):
        builder.add_node(name, node)
        builder.add_edge(START, name)
    found = asyncio.run(router.wrap(builder.compile()).ainvoke({"found": []}, at("t")))["found"]
    assert all(text.startswith("[simulated]") for text in found)
    assert sorted(receipt.node for receipt in router.receipts("t")) == ["below", "pieces", "whole"]


def test_each_token_comes_once_and_each_call_is_one_run(router: Router) -> None:
    class Runs(BaseCallbackHandler):
        started = 0
        tokens = 0

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            self.started += 1

        def on_llm_end(self, response: Any, **_: Any) -> None:
            self.tokens += response.generations[0][0].message.usage_metadata["total_tokens"]

    builder = StateGraph(MessagesState)
    model = FakeListChatModel(responses=[UNROUTED])
    builder.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "answer")
    graph, runs = router.wrap(builder.compile()), Runs()
    config = {**at("t"), "callbacks": [runs]}
    pieces = [
        message.text
        for message, _ in graph.stream(QUESTION, config, stream_mode="messages")
        if isinstance(message, AIMessageChunk)
    ]
    final = graph.invoke(QUESTION, at("u"))["messages"][-1].text
    (receipt,) = router.receipts("t")
    assert "".join(pieces) == final
    assert (runs.started, runs.tokens) == (1, receipt.usage.input_tokens + receipt.usage.output_tokens)


def test_the_graph_given_and_the_world_outside_stay_as_they_were(router: Router) -> None:
    plain = by_hand(FakeListChatModel(responses=[UNROUTED]))
    router.wrap(plain)
    assert set(plain.invoke({"found": []})["found"]) == {UNROUTED}
    assert FakeListChatModel(responses=[UNROUTED]).invoke("hello").text == UNROUTED


def test_two_routers_do_not_mix(router: Router) -> None:
    with Router.from_policy("policies/simulated.yaml", store=":memory:") as other:
        plain = by_hand(FakeListChatModel(responses=[UNROUTED]))
        first, second = router.wrap(plain), other.wrap(plain)
        first.invoke({"found": []}, at("mine"))
        second.invoke({"found": []}, at("theirs"))
        assert (len(router.receipts("mine")), len(router.receipts("theirs"))) == (6, 0)
        assert (len(other.receipts("mine")), len(other.receipts("theirs"))) == (0, 6)


def test_a_client_that_cannot_be_reached_is_named(router: Router) -> None:

    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9")

    def ask(_: MessagesState) -> dict[str, Any]:
        return {"messages": [client.chat.completions.create(model="x", messages=[]).choices[0].message.content]}

    inner = StateGraph(MessagesState)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    outer = StateGraph(MessagesState)
    outer.add_node("deep", inner.compile())
    outer.add_edge(START, "deep")
    for graph in (inner.compile(), outer.compile()):
        with pytest.raises(ConfigError, match="node `ask` holds a openai"):
            router.wrap(graph)


def test_what_only_one_provider_understands_is_refused(router: Router) -> None:
    bound = FakeListChatModel(responses=[UNROUTED]).bind(service_tier="flex")
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_edge(START, "answer")
    with pytest.raises(ConfigError, match="service_tier"):
        router.wrap(builder.compile()).invoke(QUESTION, at("t"))


def test_two_tenants_with_one_session_name_share_nothing(router: Router) -> None:
    model = router.chat_model()
    for tenant in ("acme", "globex"):
        with router.session("ticket-1", tenant=tenant) as session:
            model.invoke("hello")
        assert [(receipt.tenant, receipt.step) for receipt in session.receipts()] == [(tenant, 1)]
    assert router.receipts("ticket-1") == []
    assert len(router.receipts("ticket-1", tenant="acme")) == 1
