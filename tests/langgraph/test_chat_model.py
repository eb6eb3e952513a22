"""The chat model inside LangGraph: where a call comes from, what is traced, streamed, charged and never retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel

from waywiser import BadInput, BudgetExceeded, ConfigError, NoEligibleModel, Router
from waywiser.core.budget import Limits
from waywiser.core.policy import BudgetRule
from waywiser.langgraph.chat_model import RoutedChatModel
from waywiser.testing import Rig
from waywiser.testing.pieces import a_policy, asked, said

POLICY = Path(__file__).resolve().parents[2] / "policies" / "simulated.yaml"


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def look_up(id: str) -> str:  # noqa: A002 - as the scripted calls name it
    """Look an order up."""
    return f"{id} left on Monday"


@pytest.fixture
def router() -> Iterator[Router]:
    with Router.from_policy(POLICY, store=":memory:") as made:
        yield made


def model_of(rig: Rig) -> RoutedChatModel:
    return RoutedChatModel(engine=rig.engine)


def graph_of(model: Any, *, retry: RetryPolicy | None = None) -> Any:
    def answer(state: State) -> State:
        return {"messages": [model.invoke(state["messages"])]}

    async def aanswer(state: State) -> State:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(State)
    graph.add_node("answer", answer, retry_policy=retry)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


class Traced(BaseCallbackHandler):
    """Counts model runs and tokens, as a tracer would."""

    def __init__(self) -> None:
        self.starts = 0
        self.ends: list[Any] = []
        self.tokens: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ends.append(response)


# Where a call comes from


def test_node_and_session_are_langgraphs() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello")]})
    app = graph_of(model_of(rig)).compile(checkpointer=InMemorySaver())
    app.invoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "t-7"}})
    assert (rig.receipt.session, rig.receipt.node, rig.receipt.agent) == ("t-7", "answer", "")


WHENCE: RunnableConfig = {"tags": ["vip"], "metadata": {"thread_id": "t-8", "langgraph_node": "front"}}


async def test_a_stream_outside_a_graph_knows_where_it_comes_from() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello"), said("hello")]})
    model = model_of(rig)
    for pieces in (list(model.stream("hi", WHENCE)), [piece async for piece in model.astream("hi", WHENCE)]):
        assert "".join(str(piece.content) for piece in pieces) == "hello"
        assert (rig.receipt.session, rig.receipt.node) == ("t-8", "front")


@pytest.mark.parametrize("callbacks", [[], [BaseCallbackHandler()]], ids=["unheard", "heard"])
async def test_a_thread_is_the_session_outside_a_graph(callbacks: list[BaseCallbackHandler]) -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello")] * 4})
    model, config = (
        model_of(rig),
        cast("RunnableConfig", {"configurable": {"thread_id": "t-9"}, "callbacks": callbacks}),
    )
    model.invoke("hi", config)
    await model.ainvoke("hi", config)
    list(model.stream("hi", config))
    assert [piece async for piece in model.astream("hi", config)]
    assert [receipt.session for receipt in rig.recorder.receipts] == ["t-9"] * 4


def test_a_subgraph_is_an_agent() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello"), said("again")]})
    inner = graph_of(model_of(rig)).compile()
    middle = StateGraph(State)
    middle.add_node("researcher", inner)
    middle.add_edge(START, "researcher")
    outer = StateGraph(State)
    outer.add_node("team", middle.compile())
    outer.add_edge(START, "team")
    app = outer.compile()
    app.invoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "t"}})
    assert (rig.receipt.agent, rig.receipt.node) == ("team/researcher", "answer")


async def test_async_tells_the_same() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello")]})
    model = model_of(rig)

    async def answer(state: State) -> State:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    await graph.compile().ainvoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "t-8"}})
    assert (rig.receipt.session, rig.receipt.node) == ("t-8", "answer")


def test_a_declared_session_comes_before_the_thread(router: Router) -> None:
    app = graph_of(router.chat_model()).compile()
    with router.session("mine", tenant="acme") as session:
        app.invoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "t"}})
    (receipt,) = session.receipts()
    assert (receipt.session, receipt.tenant) == ("mine@acme", "acme")
    assert session.cost_usd == receipt.cost_nanos / 1e9


# Tracing and streaming


def test_one_run_and_one_usage_a_call() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello", tokens=(11, 7))]})
    traced = Traced()
    message = model_of(rig).invoke("hi", {"callbacks": [traced]})
    assert traced.starts == len(traced.ends) == 1
    assert message.usage_metadata is not None
    assert (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]) == (11, 7)
    assert message.response_metadata["waywiser"]["receipt"] == rig.receipt.id


def test_stream_mode_messages_gives_each_token_once_and_the_usage_once() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("one two three four", tokens=(11, 7))]})
    app = graph_of(model_of(rig)).compile()
    chunks = [c for c, _ in app.stream({"messages": [("user", "hi")]}, stream_mode="messages")]
    assert "".join(chunk.text for chunk in chunks) == "one two three four"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata] == [7]
    assert rig.spent()[1] == 1


async def test_astream_gives_each_token_once() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("one two three four", tokens=(11, 7))]})
    traced = Traced()
    whole: AIMessageChunk | None = None
    async for chunk in model_of(rig).astream("hi", {"callbacks": [traced]}):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.text == "".join(traced.tokens) == "one two three four"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 18
    assert traced.starts == 1


def test_streamed_tool_calls_come_together() -> None:
    rig = Rig(a_policy(), {"a/small": [asked()]})
    whole: Any = None
    for chunk in model_of(rig).bind_tools([look_up], tool_choice="any").stream("hi"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("look_up", {"id": "W1"})]


# An agent's loop


@pytest.mark.parametrize("asynchronous", [False, True])
def test_create_agent_runs_to_its_answer(asynchronous: bool) -> None:
    rig = Rig(a_policy(), {"a/small": [asked(), said("W1 left on Monday.")], "a/middle": [said("W1 left on Monday.")]})
    agent = create_agent(model_of(rig), [look_up], checkpointer=InMemorySaver())
    given = {"messages": [("user", "Where is W1?")]}
    config = {"configurable": {"thread_id": "t"}}
    state = asyncio.run(agent.ainvoke(given, config)) if asynchronous else agent.invoke(given, config)
    assert [type(m) for m in state["messages"]] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][-1].text == "W1 left on Monday."
    assert {r.session for r in rig.recorder.receipts} == {"t"}
    assert [r.step for r in rig.recorder.receipts] == [1, 2]
    assert {r.node for r in rig.recorder.receipts} == {"model"}


def test_structured_output_of_an_agent(router: Router) -> None:
    class Choice(BaseModel):
        """What to do."""

        answer: str

    agent = create_agent(router.chat_model(), [look_up], response_format=Choice)
    assert isinstance(agent.invoke({"messages": [("user", "hi")]})["structured_response"], Choice)


# Errors and repetition


def test_retry_policy_does_not_retry_a_budget() -> None:
    rig = Rig(a_policy(budget=BudgetRule(session=Limits(llm_calls=0), on_exhausted="stop")), {})
    app = graph_of(model_of(rig), retry=RetryPolicy(max_attempts=5, initial_interval=0.01)).compile()
    with pytest.raises(BudgetExceeded) as caught:
        app.invoke({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "t"}})
    assert len(rig.recorder.receipts) == 1
    assert caught.value.receipt == rig.receipt


def test_a_resumed_node_calls_and_is_charged_again() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("draft", tokens=(8, 4)), said("draft", tokens=(8, 4))]})
    model = model_of(rig)

    def approve(state: State) -> State:
        drafted = model.invoke(state["messages"])
        interrupt("send it?")
        return {"messages": [drafted]}

    graph = StateGraph(State)
    graph.add_node("approve", approve)
    graph.add_edge(START, "approve")
    app = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    app.invoke({"messages": [("user", "hi")]}, config)
    once = rig.spent()
    app.invoke(Command(resume="yes"), config)
    assert rig.spent() == (2 * once[0], 2)


# Bad input


def test_bad_input_has_its_place(router: Router) -> None:
    model = router.chat_model()
    with pytest.raises(BadInput, match="messages: the history is empty"):
        model.invoke([])
    with pytest.raises(BadInput, match=r"messages\[1\]\.tool_call_id"):
        model.invoke([HumanMessage("hi"), ToolMessage("x", tool_call_id="t1")])
    with pytest.raises(BadInput, match=r"tools\[0\]\.function\.parameters"):
        model.bind_tools([{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}])
    with pytest.raises(BadInput, match=r"tools\[0\]"):
        model.bind_tools(["not a tool"])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="tier: 'gold'"):
        router.chat_model(tier="gold").invoke("hi")
    with pytest.raises(BadInput, match="tool_choice: no tool 'g' is offered"):
        model.bind_tools([look_up], tool_choice="g").invoke("hi")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"top_p": True}, "top_p: expected a number"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number of at least 1, got 0"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens: expected a whole number"),
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"stop": 5}, "stop: expected text or a list of texts, got 5"),
        ({"stop": ["a", 5]}, "stop: expected text or a list of texts"),
        ({"logprobs": "yes"}, "logprobs: expected true or false"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls: expected true or false"),
        ({"tool_choice": "nope"}, "tool_choice: 'nope' can't be chosen, no tools are offered"),
    ],
)
def test_settings_no_model_could_take_are_refused_by_name(settings: dict[str, Any], says: str) -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello")]})
    with pytest.raises(BadInput, match=says):
        model_of(rig).invoke("hi", **settings)
    assert rig.upstream.asked == []


def test_settings_reach_the_model() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("hello"), said("hello")]})
    model = RoutedChatModel(engine=rig.engine, temperature=0.5, max_tokens=9, stop=["x"], seed=3)
    model.invoke("hi")
    model.invoke("hi", temperature=0, max_completion_tokens=5, stop="END", seed=None, top_k=4)
    (_, first), (_, second) = rig.upstream.asked
    assert (first.settings.temperature, first.settings.max_output_tokens, first.settings.seed) == (0.5, 9, 3)
    assert (first.settings.stop, dict(first.settings.extra)) == (("x",), {})
    assert (second.settings.temperature, second.settings.max_output_tokens, second.settings.seed) == (0, 5, None)
    assert (second.settings.stop, second.settings.logprobs, dict(second.settings.extra)) == (
        ("END",),
        None,
        {"top_k": 4},
    )


@pytest.mark.parametrize("text", ["a lone surrogate \ud800 in it", "a\x00b", "words " * 350_000, "x" * 2_000_000])
def test_odd_text_is_answered_and_huge_text_refused(router: Router, text: str) -> None:
    if len(text) > 1000:
        with pytest.raises(NoEligibleModel, match="the prompt does not fit"):
            router.chat_model().invoke(text)
    else:
        assert router.chat_model().invoke(text).text


def test_an_edited_tool_call_is_sent_as_edited() -> None:
    """A person may edit the call an agent proposes: in place, or with a new list of as many calls."""
    rig = Rig(a_policy(), {"a/middle": [said("1"), said("2"), said("3")]})
    model = model_of(rig)
    proposed = AIMessage("", tool_calls=[{"name": "look_up", "args": {"id": "W1"}, "id": "t1", "type": "tool_call"}])
    history = [HumanMessage("hi"), proposed, ToolMessage("none", tool_call_id="t1")]
    model.invoke(history)
    proposed.tool_calls = [{"name": "look_up", "args": {"id": "W2"}, "id": "t1", "type": "tool_call"}]
    model.invoke(history)
    proposed.tool_calls[0]["args"]["id"] = "W3"
    model.invoke(history)
    sent = [call.messages[1].tool_calls[0].arguments for _, call in rig.upstream.asked]
    assert sent == ['{"id":"W1"}', '{"id":"W2"}', '{"id":"W3"}']


# Models handed over in Python

HANDED = """
version: 1
name: handed
tiers:
  economy: [local/one]
  premium: [local/two]
models:
  local/one: {base_url: "http://127.0.0.1:1/v1", context: 8192, price: {input: 1, output: 2}, abilities: [tools]}
  local/two: {base_url: "http://127.0.0.1:1/v1", context: 8192, price: {input: 3, output: 6}, abilities: [tools]}
steps:
  synthesis: {tier: economy}
"""


@pytest.fixture
def handed(tmp_path: Path) -> Path:
    path = tmp_path / "handed.yaml"
    path.write_text(HANDED)
    return path


def test_models_handed_over_answer_and_fail_over(handed: Path) -> None:
    class Down(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            raise ConnectionError("down")

        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            raise ConnectionError("down")

    models = {"local/one": Down(responses=["never"]), "local/two": FakeListChatModel(responses=["from two"])}
    with Router.from_policy(handed, store=":memory:", models=models) as router, router.session("s") as session:
        assert router.chat_model().invoke("hi").text == "from two"
        traced = Traced()
        streamed = list(router.chat_model().stream("hi", {"callbacks": [traced]}))
        assert "".join(chunk.text for chunk in streamed) == "".join(traced.tokens) == "from two"
        assert traced.starts == 1
        assert [receipt.model for receipt in session.receipts()] == ["local/two", "local/two"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_model_handed_over_is_heard_once_in_a_graph(handed: Path, asynchronous: bool) -> None:
    """It is bound before it is called, and what is bound listens to the graph it is called in."""
    models = {name: FakeListChatModel(responses=["once"]) for name in ("local/one", "local/two")}
    with Router.from_policy(handed, store=":memory:", models=models) as router:
        app, traced = graph_of(router.chat_model()).compile(), Traced()
        given = {"messages": [("user", "hi")]}
        config: RunnableConfig = {"callbacks": [traced], "metadata": {"thread_id": "t"}}
        if asynchronous:
            parts = [part async for part in app.astream(given, config, stream_mode="messages")]
        else:
            parts = list(app.stream(given, config, stream_mode="messages"))
    assert "".join(str(message.content) for message, _ in parts) == "once"
    assert (traced.starts, "".join(traced.tokens)) == (1, "once")


async def test_models_handed_over_answer_in_an_event_loop(handed: Path) -> None:
    call = {"name": "look_up", "args": {"id": "W1"}, "id": "t1", "type": "tool_call"}
    one = GenericFakeChatModel(messages=iter([AIMessage("", tool_calls=[call])]))
    models = {"local/one": one, "local/two": FakeListChatModel(responses=["two"])}
    with Router.from_policy(handed, store=":memory:", models=models) as router:
        message = await router.chat_model().ainvoke("hi")
        assert message.tool_calls[0]["args"] == {"id": "W1"}
        assert message.usage_metadata is not None
        assert message.usage_metadata["input_tokens"] > 0


async def test_a_stream_that_is_dropped_stops_the_model_handed_over(handed: Path) -> None:
    stopped = asyncio.Event()

    class Endless(FakeListChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            try:
                while True:
                    yield ChatGenerationChunk(message=AIMessageChunk("word "))
            finally:
                stopped.set()

    models = {"local/one": Endless(responses=["x"]), "local/two": FakeListChatModel(responses=["two"])}
    with Router.from_policy(handed, store=":memory:", models=models) as router, router.session("s") as session:
        async with aclosing(cast("AsyncGenerator[AIMessageChunk, None]", router.chat_model().astream("hi"))) as stream:
            async for _ in stream:
                break
        await asyncio.wait_for(stopped.wait(), 1.0)
        (receipt,) = session.receipts()
        assert receipt.refused == "cancelled"
        assert receipt.cost_nanos > 0


def test_a_model_handed_over_for_no_tier_is_an_error(handed: Path) -> None:
    with pytest.raises(ConfigError, match=r"local/three: in no tier"):
        Router.from_policy(handed, store=":memory:", models={"local/three": FakeListChatModel(responses=["x"])})
