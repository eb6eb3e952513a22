"""From a file to a graph: nodes, edges, joins, fan-out, subgraphs, models and tools; and what a wrong file is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from waywiser.errors import ConfigError
from waywiser.workflow import load_graph, read_workflow, workflow_schema

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
HEAD = "version: 1\nname: test\nnodes:\n"
ASK = {"messages": [("user", "please")]}


def problems(path: Path, *more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_graph(path, *more) if more else read_workflow(path)
    return [str(problem).removeprefix(f"{path.parent}/") for problem in caught.value.problems]


def test_triage_takes_the_word_however_it_is_said(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    text = HEAD + "  sort: {type: triage, choices: {order: An order, other: Else}, otherwise: other}"
    for said, topic in [
        ({"choice": "order"}, "order"),
        ({"choice": " ORDER "}, "order"),
        ('Sure: {"choice": "order"}', "order"),
        ("I'd say order.", "order"),
        ("order or other", "other"),
        ({"choice": "nonsense"}, "other"),
        ({"choice": 3}, "other"),
        ({}, "other"),
        ("", "other"),
    ]:
        assert load_graph(write(text), fake(lambda _, said=said: said)).invoke(ASK)["topic"] == topic


def test_a_model_without_tools_is_asked_for_json_in_words(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    model = fake(lambda _: '```json\n{"choice": "b"}\n```')
    kind = type(model)
    wordy = type("Wordy", (kind,), {"bind_tools": kind.__mro__[1].bind_tools})(**model.__dict__)
    graph = load_graph(write(HEAD + "  sort: {type: triage, choices: {a: x, b: y}, otherwise: a}"), wordy)
    assert graph.invoke(ASK)["topic"] == "b"
    assert '"enum": ["a", "b"]' in wordy.asked[0].system


def test_every_call_declares_its_kind(
    fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]
) -> None:
    text = HEAD + (
        "  sort: {type: triage, choices: {a: x, b: y}, next: work}\n"
        "  work: {type: work, next: free}\n"
        "  free: {type: work, kind: auto, tools: [look_up], next: write}\n"
        "  write: {type: synthesis, next: judge}\n"
        "  judge: {type: reflect}\n"
    )
    model = fake(lambda asked: {"choice": "a"} if asked.kind in {"triage", "reflection"} else "text")
    load_graph(write(text), model, shop_tools).invoke(ASK)
    assert [asked.kind for asked in model.asked] == ["triage", "tool_call", "", "synthesis", "reflection"]


def test_the_loop_has_turns_and_ends_in_words(
    fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]
) -> None:
    def eager(asked: Any) -> Any:
        return AIMessage("", tool_calls=[{"name": "look_up", "args": {"order": "W1"}, "id": f"c{len(asked.results)}"}])

    model = fake(eager)
    end = load_graph(write(HEAD + "  work: {type: work, turns: 3}"), model, shop_tools).invoke(ASK)
    assert [asked.choice for asked in model.asked] == ["", "", "none"]
    assert [asked.kind for asked in model.asked] == ["tool_call", "tool_call", "synthesis"]
    assert "last turn" in model.asked[-1].system
    answered = {message.tool_call_id for message in end["messages"] if message.type == "tool"}
    assert answered == {
        call["id"] for message in end["messages"] if message.type == "ai" for call in message.tool_calls
    }
    assert end["messages"][-1].status == "error"


def test_errors_of_tools_and_unreadable_arguments_go_back_to_the_model(
    fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]
) -> None:
    bad = {"name": "cancel", "args": '{"order": ', "id": "bad", "error": None, "type": "invalid_tool_call"}
    turns = [
        AIMessage("", tool_calls=[{"name": "cancel", "args": {"order": "W9"}, "id": "a"}]),
        AIMessage("", tool_calls=[{"name": "cancel", "args": {}, "id": "b"}]),
        AIMessage("", tool_calls=[{"name": "fly", "args": {}, "id": "c"}]),
        AIMessage("", invalid_tool_calls=[bad]),
        AIMessage("done"),
    ]
    model = fake(lambda _: turns.pop(0))
    end = load_graph(write(HEAD + "  work: {type: work}"), model, shop_tools).invoke(ASK)
    told = [str(message.content) for message in end["messages"] if message.type == "tool"]
    assert told[0] == "Error: it has been sent"
    assert "order" in told[1]
    assert "fly is not a valid tool" in told[2]
    assert told[3] == "The arguments are not valid JSON."
    assert end["messages"][-1].content == "done"


def test_rounds_close_an_edge_and_open_it_again_for_the_next_request(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    text = HEAD + (
        "  answer: {type: synthesis, prompt: 'Judged: {verdict_why}', next: judge}\n"
        "  judge:\n    type: reflect\n    next:\n"
        "      - {to: answer, when: verdict == 'again', rounds: 2}\n      - {to: end}\n"
    )
    model = fake(lambda asked: {"choice": "again", "why": "dull"} if asked.kind == "reflection" else "text")
    graph = load_graph(write(text), model, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    end = graph.invoke(ASK, thread)
    assert [asked.kind for asked in model.asked] == ["synthesis", "reflection"] * 3
    assert model.asked[2].system == "Judged: dull"
    assert "node_rounds" not in end
    graph.invoke({"messages": [("user", "and now?")]}, thread)
    assert len(model.asked) == 12


def test_fan_out_and_join(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    text = HEAD + (
        "  start: {type: triage, choices: {a: x, b: y}, next: [left, right]}\n"
        "  left: {type: synthesis, writes: one, next: more}\n"
        "  more: {type: synthesis, writes: two, prompt: '{one}', next: both}\n"
        "  right: {type: synthesis, writes: three, next: both}\n"
        "  both: {type: synthesis, join: true, prompt: '{two} and {three}'}\n"
    )
    model = fake(lambda asked: asked.node)
    end = load_graph(write(text), model).invoke(ASK)
    assert (end["one"], end["two"], end["three"]) == ("left", "more", "right")
    assert [asked.node for asked in model.asked].count("both") == 1
    assert model.asked[-1].system == "more and right"


def test_a_node_for_each_item(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    text = HEAD.replace("nodes:", "state: {parts: list}\nnodes:") + (
        "  read: {type: synthesis, for_each: parts, max_items: 3, prompt: 'Read {item}', history: false,"
        " writes: notes, next: tell}\n  tell: {type: synthesis, prompt: '{notes}'}\n"
    )
    model = fake(lambda asked: asked.system.upper() if asked.node == "read" else "told")
    graph = load_graph(write(text), model, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    assert graph.invoke({**ASK, "parts": list("abcde")}, thread)["notes"] == ["READ A", "READ B", "READ C"]
    assert model.asked[-1].system == "1. READ A\n2. READ B\n3. READ C"
    assert graph.invoke({**ASK, "parts": ["z"]}, thread)["notes"] == ["READ Z"]  # begun anew, not added to
    model.asked.clear()
    graph.invoke({**ASK, "parts": []}, {"configurable": {"thread_id": "2"}})
    assert [asked.node for asked in model.asked] == ["tell"]


def test_python_nodes_and_subgraphs(
    fake: Callable[..., Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        "from langgraph.graph import StateGraph, START\nfrom typing import TypedDict\n"
        "def double(state): return state['count'] * 2\n"
        "def update(state): return {'seen': [len(state['messages'])]}\n"
        "async def later(state): return {'late': True}\n"
        "def wrong(state): return 3\n"
        "class S(TypedDict):\n    count: float\n"
        "builder = StateGraph(S)\nbuilder.add_node('plus', lambda state: {'count': state['count'] + 1})\n"
        "builder.add_edge(START, 'plus')\ngraph = builder.compile()\nnumber = 3\n",
        "their_nodes.py",
    )
    write("version: 1\nname: inner\nnodes:\n  say: {type: synthesis, prompt: inner}\n", "inner.yaml")
    text = (
        "version: 1\nname: t\nstate: {count: number, seen: list, late: flag}\noutput: [count, seen, messages]\nnodes:\n"
    )
    nodes = (
        "  a: {type: python, call: 'their_nodes:double', writes: count, next: b}\n"
        "  b: {type: python, call: 'their_nodes:update', next: c}\n"
        "  c: {type: graph, graph: 'their_nodes:graph', next: d}\n"
        "  d: {type: graph, graph: inner.yaml}\n"
    )
    end = load_graph(write(text + nodes), fake(lambda _: "said")).invoke({**ASK, "count": 4})
    assert end.keys() == {"count", "seen", "messages"}
    assert (end["count"], end["seen"], end["messages"][-1].content) == (9, [1], "said")

    with pytest.raises(TypeError, match="`their_nodes:wrong` returned int"):
        load_graph(write(HEAD + "  a: {type: python, call: 'their_nodes:wrong'}"), fake(str)).invoke(ASK)
    for call, why in [
        ("nowhere:x", "there is no module `nowhere`"),
        ("their_nodes:nothing", "`their_nodes` has no `nothing`"),
        ("their_nodes:number", "`their_nodes:number` can't be called"),
    ]:
        path = write(HEAD + f"  a: {{type: python, call: '{call}'}}")
        assert problems(path, fake(str)) == [f"graph.yaml:4:27: {why}"]
    write(HEAD + "  a: {type: graph, graph: graph.yaml}")
    assert problems(tmp_path / "graph.yaml", fake(str)) == ["graph.yaml:4:27: `graph.yaml` includes itself"]
    path = write(HEAD + "  a: {type: graph, graph: 'their_nodes:number'}")
    assert "is not a LangGraph graph" in problems(path, fake(str))[0]


async def test_an_async_function_is_a_node(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    write("async def later(state): return {'late': True}\n", "their_async.py")
    text = HEAD.replace("nodes:", "state: {late: flag}\nnodes:") + "  a: {type: python, call: 'their_async:later'}"
    assert (await load_graph(write(text), fake(str)).ainvoke(ASK))["late"] is True


def test_models_and_tools_by_name(fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]) -> None:
    text = HEAD + "  a: {type: work, tools: [cancel], next: b}\n  b: {type: synthesis, model: poet}\n"
    plain, poet = fake(lambda _: "plain"), fake(lambda _: "rhyme")
    end = load_graph(write(text), {"default": plain, "poet": poet}, {t.name: t for t in shop_tools}).invoke(ASK)
    assert [message.content for message in end["messages"][1:]] == ["plain", "rhyme"]
    assert plain.asked[0].tools == ["cancel"]
    assert problems(write(text), {"pote": poet}, shop_tools) == [
        "graph.yaml:4:6: no model named `default` was given — models given: pote",
        "graph.yaml:5:31: no model named `poet` was given — did you mean `pote`?",
    ]
    assert (
        problems(write(text), plain, shop_tools[:1])[0] == "graph.yaml:4:27: there is no tool `cancel` — known: look_up"
    )
    assert "two tools are named `cancel`" in problems(write(text), plain, [*shop_tools, shop_tools[1]])[0]
    named = text.replace("nodes:", "tools: ['nowhere:tools']\nnodes:")
    assert problems(write(named), plain) == ["graph.yaml:3:9: there is no module `nowhere`"]


def test_what_is_wrong_with_a_file_is_said_with_its_place(write: Callable[..., Path]) -> None:
    text = (
        "version: 1\nname: bad\nstart: sort\nstate: {notes: text}\noutput: [nots]\nnodes:\n"
        "  sort:\n    type: triage\n    choices: {order: x, other: y}\n    otherwise: oder\n"
        "    prompt: 'See {note}'\n    next:\n"
        "      - {to: wrok, when: topic == 'oder'}\n"
        "      - {to: work, when: topics == 'order'}\n"
        "      - {to: work, when: len(topic)}\n"
        "      - {to: work}\n"
        "      - {to: work, when: notes}\n"
        "  work: {type: work, next: [{to: end, rounds: 2}, {to: work}]}\n"
        "  run: {type: execute, plan: plna, next: work}\n"
        "  each: {type: synthesis, for_each: things, writes: x, next: [work, run]}\n"
    )
    known = "known: messages, notes, results, topic, x; declare others under `state`"
    elsewhere = "put it on another node of the cycle"
    assert problems(write(text)) == [
        "graph.yaml:5:10: there is no key `nots` in the state — did you mean `notes`?",
        "graph.yaml:10:16: `oder` is not one of the choices — did you mean `order`?",
        "graph.yaml:11:13: there is no key `note` in the state — did you mean `notes`?",
        "graph.yaml:13:14: there is no node `wrok` — did you mean `work`?",
        "graph.yaml:13:26: `topic` is never 'oder' — did you mean `order`?",
        "graph.yaml:14:26: there is no key `topics` in the state — did you mean `topic`?",
        "graph.yaml:15:26: `len(topic)` is not understood in a condition — as in: topic == 'order' and not done",
        "graph.yaml:16:9: this always holds, so what follows is never reached — put it last",
        "graph.yaml:17:9: what if this does not hold? — add a last case with nothing but `to`",
        f"graph.yaml:18:47: runs of a `work` node are not counted, so `rounds` can't stand here — {elsewhere}",
        f"graph.yaml:19:30: there is no key `plna` in the state — {known}",
        f"graph.yaml:20:37: there is no key `things` in the state — {known}",
        "graph.yaml:20:62: a node with `for_each` goes on to one node only",
    ]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("  a: {type: synthesis, next: a}", "4:30: from `a` no way leads to the end — add a case to `end`"),
        ("  a: {type: synthesis}\n  b: {type: work}", "5:3: no way leads to `b` — name it in some `next`"),
        ("  end: {type: synthesis}", "4:3: `end` is the end of the run, not a node — name it otherwise"),
        (
            "  a: {type: synthesis, next: [{to: b, when: messages}, {to: end}]}\n  b: {type: work, join: true}",
            "5:25: `b` waits for `a`, which does not always lead here — only sure ways can be joined",
        ),
        (
            "  a: {type: work, next: b}\n  b: {type: work, join: true}",
            "5:25: only one way leads to `b` — leave `join` out",
        ),
        (
            "  a: {type: plan, next: b}\n  b: {type: plan, join: true, next: [b, end]}",
            "5:25: `b` waits for itself — lead it on to another node",
        ),
        ("  a: {type: triage, choices: {x: '', y: ''}, writes: request}", "3:1: `request` is a key of our own"),
        ("  a: {type: synthesis, next: []}", "4:30: nothing comes next — name a node, or write `end`"),
        ("  a: {type: wrok}", "4:13: unknown type 'wrok' — did you mean `work`?"),
        ("  a: {type: work, turns: 0}", "4:26: expected a whole number from 1 to 500, got 0"),
        ("  a: {type: work, trns: 3}", "4:19: unknown key `trns` — did you mean `turns`?"),
        ("  a: {type: work, prompt: 'my ${HOME}'}", "4:27: `${…}` is not allowed here"),
        ("  a: {type: python, call: nonsense}", "4:27: 'nonsense' does not have the form"),
        ("  a: {type: plan, writes: messages}", "4:27: a `plan` node can't write `messages` — name another key"),
        ("  a b: {type: work}", "4:3: `a b` can't be a key here"),
    ],
)
def test_one_thing_wrong(nodes: str, why: str, write: Callable[..., Path]) -> None:
    found = problems(write(HEAD + nodes))
    assert found[0].startswith(f"graph.yaml:{why}")


def test_the_schema_for_editors_takes_the_five_graphs_and_refuses_what_we_refuse() -> None:
    schema = json.loads(json.dumps(workflow_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    files = sorted(GRAPHS.glob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        jsonschema.validate(yaml.safe_load(file.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "name": "x", "nodes": {"a": {"type": "work", "trns": 3}}}, schema)


def test_a_history_that_ends_with_a_models_words_is_handed_on(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    model = fake(lambda _: "x")
    load_graph(write(HEAD + "  a: {type: synthesis, next: b}\n  b: {type: synthesis}"), model).invoke(ASK)
    assert isinstance(model.asked[1].messages[-1], HumanMessage)
    assert [message.type for message in model.asked[1].messages] == ["system", "human", "ai", "human"]
