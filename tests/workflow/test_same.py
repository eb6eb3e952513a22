"""A graph behaves the same with a plain chat model and with the same model behind a policy.

The same deterministic model answers once by itself and once as the model of every tier. Final states and stream events
are equal, apart from what says which model answered and what it cost: ids, `response_metadata`, usage.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt
from tests.workflow.conftest import Fake
from tests.workflow.test_graphs import ASK, ASKING, GRAPHS, LAST, MODES, NAMES, acting, ask_person

from waywiser import Router
from waywiser.workflow import load_graph

POLICY = """
version: 1
name: same
tiers: {economy: [mine/small], premium: [mine/large]}
models:
  mine/small: {api: langchain, context: 100000, price: {input: 1, output: 2}, abilities: [tools, json_schema]}
  mine/large: {api: langchain, context: 100000, price: {input: 5, output: 9}, abilities: [tools, json_schema]}
steps: {triage: {tier: economy}, tool_call: {tier: economy}, planning: {tier: premium}, synthesis: {tier: premium}}
budget: {session: {usd: 5}}
"""
OTHER = {"response_metadata", "usage_metadata"}


class Native(Fake):
    """Writes structured output as its text, as models do that can."""

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Any:
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | JsonOutputParser())
        return RunnableParallel(raw=self.bind(response_format=schema)) | parsed

    def _reply(self, messages: list[BaseMessage], run_manager: Any, kwargs: dict[str, Any]) -> AIMessage:
        schema = kwargs.pop("response_format", None)
        if schema is None:
            return super()._reply(messages, run_manager, kwargs)
        tool = {"type": "function", "function": {"name": schema["title"], "parameters": schema}}
        answer = super()._reply(messages, run_manager, {**kwargs, "tools": [tool]})
        return AIMessage(json.dumps(answer.tool_calls[0]["args"]))


@pytest.fixture
def routes(tmp_path: Path, fake: Callable[..., Any]) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Make a model that answers by a function, and the same one behind a policy."""
    made: list[Router] = []

    def make(answer: Callable[..., Any]) -> tuple[Any, Any]:
        model = Native(**fake(answer).__dict__)
        path = tmp_path / "policy.yaml"
        path.write_text(POLICY)
        made.append(Router.from_policy(path, store=":memory:", models={"mine/small": model, "mine/large": model}))
        return model, made[-1].chat_model()

    yield make
    for router in made:
        router.close()


@pytest.fixture
def both(routes: Callable[..., tuple[Any, Any]]) -> tuple[Any, Any]:
    return routes(acting)


DRAWN = {
    "id", "ts", "timestamp", "thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "langgraph_checkpoint_ns",
    "parents", "node_rounds", "ls_provider", "ls_model_name",
}  # fmt: skip
"""Keys of what LangGraph draws anew in each run, and of the model's name."""
PARALLEL = {"plan_execute", "document_answer"}
"""Graphs whose branches stream at the same time, so that the order of their events is nobody's."""


def same(value: Any) -> Any:
    """What of a state or an event must be equal."""
    if isinstance(value, BaseMessage):
        told = {key: same(item) for key, item in value.__dict__.items() if key not in {*OTHER, "id"}}
        return {**told, "class": type(value).__name__}
    if isinstance(value, Interrupt):
        return ["interrupt", same(value.value)]
    if isinstance(value, Mapping):
        return {key: same(item) for key, item in value.items() if key not in DRAWN}
    if isinstance(value, list | tuple):
        return [same(item) for item in value]
    if isinstance(value, str) and (space := re.fullmatch(r"(\w+):[0-9a-f-]{36}", value)):
        return space.group(1)
    return value


def in_order(name: str, events: list[Any]) -> list[str]:
    lines = [json.dumps(same(event), sort_keys=True, default=str) for event in events]
    return sorted(lines) if name in PARALLEL else lines


def at() -> Any:
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


@pytest.mark.parametrize("name", NAMES)
async def test_final_states_are_the_same(name: str, both: tuple[Any, Any]) -> None:
    ends = []
    for model in both:
        for saver in (None, InMemorySaver()):
            graph = load_graph(GRAPHS / f"{name}.yaml", model, checkpointer=saver)
            ends += [same(graph.invoke(ASK, at())), same(await graph.ainvoke(ASK, at()))]
    assert len(ends) == 8
    assert all(end == ends[0] for end in ends)


async def test_a_model_that_writes_structure_by_a_tool_call(fake: Callable[..., Any], tmp_path: Path) -> None:
    """Triage, a plan and a verdict come out the same, streamed or not, though the model only knows tools."""
    model = fake(acting)
    (tmp_path / "policy.yaml").write_text(POLICY)
    ends = []
    with Router.from_policy(
        tmp_path / "policy.yaml", store=":memory:", models={"mine/small": model, "mine/large": model}
    ) as router:
        for one in (model, router.chat_model()):
            graph = load_graph(GRAPHS / "support_desk.yaml", one)
            streamed = [
                event[1] for event in graph.stream(ASK, stream_mode=["values", "messages"]) if event[0] == "values"
            ]
            ends += [same(graph.invoke(ASK)), same(await graph.ainvoke(ASK)), same(streamed[-1])]
    assert all(end == ends[0] for end in ends)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_stream_events_are_the_same(name: str, deep: bool, both: tuple[Any, Any]) -> None:
    """All modes at once, each event with the mode it belongs to."""
    plain, routed = (load_graph(GRAPHS / f"{name}.yaml", model, checkpointer=InMemorySaver()) for model in both)
    expected = in_order(name, list(plain.stream(ASK, at(), stream_mode=MODES, subgraphs=deep)))
    assert in_order(name, list(routed.stream(ASK, at(), stream_mode=MODES, subgraphs=deep))) == expected
    expected = in_order(name, [event async for event in plain.astream(ASK, at(), stream_mode=MODES, subgraphs=deep)])
    later = [event async for event in routed.astream(ASK, at(), stream_mode=MODES, subgraphs=deep)]
    assert in_order(name, later) == expected
    seen = {event[-2] for event in later}
    assert seen >= set(MODES) - {"custom", "messages"}
    assert "messages" in seen or name == "support_react"  # without `subgraphs`, LangGraph leaves out what is in loops


@pytest.mark.parametrize("name", NAMES)
async def test_an_interrupt_and_a_resume_are_the_same(name: str, both: tuple[Any, Any]) -> None:
    runs = []
    for model in both:
        last = [LAST.get(name, "answer")]
        graph = load_graph(GRAPHS / f"{name}.yaml", model, checkpointer=InMemorySaver(), interrupt_before=last)
        thread, later = at(), at()
        run = [same(graph.invoke(ASK, thread)), same(await graph.ainvoke(ASK, later))]
        while graph.get_state(thread).next:
            run += [same(graph.invoke(None, thread)), same(await graph.ainvoke(None, later))]
        runs.append(run)
    assert len(runs[0]) >= 4
    assert runs[0] == runs[1]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_question_of_a_tool_and_its_answer_are_the_same(
    way: str, routes: Callable[..., Any], write: Callable[..., Path]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            names = ("a", "b")
            return {"tasks": [{"id": name, "goal": f"ask {name}", "tools": [], "depends_on": []} for name in names]}
        call = {"name": "ask_person", "args": {"question": asked.messages[1].content}, "id": "q"}
        return asked.results[0] if asked.results else AIMessage("", tool_calls=[call])

    runs = []
    for model in routes(answer):
        graph = load_graph(write(ASKING), model, [ask_person], checkpointer=InMemorySaver())
        thread, given, run = at(), {"messages": [("user", "go")]}, []
        for _ in range(3):
            end: dict[str, Any] = graph.invoke(given, thread) if way == "sync" else await graph.ainvoke(given, thread)
            asked = end.get("__interrupt__", ())
            run.append([sorted(str(one.value) for one in asked), same({**end, "__interrupt__": ()})])
            given = Command(resume={one.id: f"{one.value}: yes" for one in asked})
        runs.append(run)
    assert [asked for asked, _ in runs[0]] == [["ask a", "ask b"], ["go"], []]
    assert runs[0] == runs[1]
