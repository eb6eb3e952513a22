"""Plans: checked, run in layers, planned anew where they failed, and never waiting for what hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError

from waywiser.core.plan import Plan, SubTask
from waywiser.errors import BudgetExceeded, PlanRefused
from waywiser.workflow import load_graph
from waywiser.workflow.execution import replaced

GRAPH = """
version: 1
name: planned
nodes:
  plan: {type: plan, max_tasks: %d, attempts: 2, if_flawed: %s, next: execute}
  execute: {type: execute, max_tasks: %d, deadline_s: %s, replans: %d, turns: 3, next: answer}
  answer: {type: synthesis, prompt: "Results:\\n{results}\\nFlaws:\\n{plan_flaws}"}
"""


def graph_text(tasks: int = 20, if_flawed: str = "stop", deadline_s: float = 30, replans: int = 1) -> str:
    return GRAPH % (tasks, if_flawed, tasks, deadline_s, replans)


def tasks(*written: str) -> dict[str, Any]:
    """Write a plan: "c after a b" is a task with two needs."""
    made = []
    for text in written:
        name, _, needs = text.partition(" after ")
        made.append({"id": name, "goal": f"do {name}", "tools": [], "depends_on": needs.split()})
    return {"tasks": made}


def run(graph: Any, **state: Any) -> dict[str, Any]:
    made: dict[str, Any] = graph.invoke({"messages": [("user", "please")], **state}, {"recursion_limit": 1000})
    return made


def goal(asked: Any) -> str:
    return str(asked.messages[1].content).splitlines()[0].removeprefix("do ")


def test_independent_tasks_run_together_and_results_come_in_the_order_of_the_plan(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    meet = threading.Barrier(3)
    written = tasks("c after a b", "a", "b", "d")

    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            return written
        if asked.kind == "synthesis":
            return asked.system
        if goal(asked) in "abd":
            meet.wait(timeout=10)  # passes only when all three are under way at the same time
        return f"{goal(asked)} is done"

    model = fake(answer)
    end = run(load_graph(write(graph_text()), model))
    assert [(result["id"], result["status"]) for result in end["results"]] == [(name, "done") for name in "cabd"]
    work_on_c = next(asked for asked in model.asked if asked.kind == "tool_call" and goal(asked) == "c")
    assert "a is done" in work_on_c.messages[1].content
    assert "b is done" in work_on_c.messages[1].content
    assert "d is done" not in work_on_c.messages[1].content
    said = str(end["messages"][-1].content)
    assert said.index("c is done") < said.index("a is done") < said.index("b is done") < said.index("d is done")


async def test_two_hundred_tasks(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    wide = [f"t{i}" for i in range(100)]
    deep = [f"t{i} after t{i - 1}" for i in range(100, 120)]
    join = [f"t{i} after t{i - 100} t119" for i in range(120, 200)]
    model = fake(lambda asked: tasks(*wide, *deep, *join) if asked.kind == "planning" else "done")
    graph = load_graph(write(graph_text(200)), model)
    sync = run(graph)
    end = await graph.ainvoke({"messages": [("user", "please")]}, {"recursion_limit": 1000})
    for results in (sync["results"], end["results"]):
        assert [result["id"] for result in results] == [f"t{i}" for i in range(200)]
        assert {result["status"] for result in results} == {"done"}


@pytest.mark.parametrize(
    ("flawed", "why"),
    [
        (tasks("a after b", "b after a"), "tasks wait for each other: a → b → a"),
        ({"tasks": [{"id": "a", "goal": "go", "tools": ["fly"], "depends_on": []}]}, "there is no tool `fly`"),
        (tasks(*[f"t{i}" for i in range(10_000)]), "the plan has 10000 tasks, more than the 20 allowed"),
        (tasks("a after nobody"), "depends on `nobody`, which is not in the plan"),
        ({"tasks": []}, "the plan has no tasks"),
        ({"tasks": [3, {"id": ["x"]}]}, "task number 1 has no id"),
        ({}, "the plan has no tasks"),
    ],
)
def test_a_flawed_plan_is_sent_back_and_then_ended_by_policy(
    flawed: Any, why: str, fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    plans = [flawed, tasks("a")]
    mends = fake(lambda asked: plans.pop(0) if asked.kind == "planning" else "done")
    end = run(load_graph(write(graph_text()), mends))
    assert [result["id"] for result in end["results"]] == ["a"]
    assert why in mends.asked[1].last
    assert len(str(mends.asked[1].messages)) < 60_000

    stubborn = fake(lambda asked: flawed if asked.kind == "planning" else asked.system)
    with pytest.raises(PlanRefused, match=why):
        run(load_graph(write(graph_text()), stubborn))
    assert len(stubborn.asked) == 2
    end = run(load_graph(write(graph_text(if_flawed="skip")), stubborn))
    assert end["results"] == []
    assert why in str(end["messages"][-1].content)


def test_a_plan_that_no_node_has_checked_is_checked_before_it_runs(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    text = "{version: 1, name: x, state: {plan: list}, nodes: {run: {type: execute}}}"
    with pytest.raises(PlanRefused, match="wait for each other"):
        run(load_graph(write(text), fake(lambda _: "x")), plan=tasks("a after b", "b after a")["tasks"])


def test_a_failed_task_is_planned_once_more_with_what_was_learned(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            return tasks("a", "b after a", "c after b")
        if asked.kind == "reflection":
            return tasks("b1 after a", "b2 after b1")
        if asked.kind == "synthesis":
            return "answer"
        return "FAILED: the door is shut" if goal(asked) == "b" else f"{goal(asked)} is done"

    model = fake(answer)
    end = run(load_graph(write(graph_text()), model))
    assert [(result["id"], result["status"]) for result in end["results"]] == [
        ("a", "done"), ("b1", "done"), ("b2", "done"), ("c", "done"),
    ]  # fmt: skip
    (replan,) = [asked for asked in model.asked if asked.kind == "reflection"]
    assert "the door is shut" in replan.messages[1].content
    assert "a is done" in replan.messages[1].content
    assert [goal(asked) for asked in model.asked if asked.kind == "tool_call"] == ["a", "b", "b1", "b2", "c"]


def test_what_fails_again_stays_failed_and_what_needs_it_is_not_begun(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            return tasks("a", "b", "c after a")
        if asked.kind == "reflection":
            return tasks("a2")
        if asked.kind == "synthesis":
            return "answer"
        if goal(asked) == "a":
            raise OSError("the line is dead")
        return "FAILED: still" if goal(asked) == "a2" else "done"

    model = fake(answer)
    end = run(load_graph(write(graph_text(replans=3)), model))
    assert [(result["id"], result["status"], result["text"]) for result in end["results"]] == [
        ("a2", "failed", "FAILED: still"),
        ("b", "done", "done"),
        ("c", "skipped", "not begun: a2 was not done"),
    ]
    assert len([asked for asked in model.asked if asked.kind == "reflection"]) == 1
    without = run(load_graph(write(graph_text(replans=0)), model))
    assert without["results"][0]["text"] == "OSError: the line is dead"


def test_a_useless_new_plan_changes_nothing(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    for useless in ({}, tasks("a"), tasks("x after y", "y after x"), "no idea", tasks("x after b")):
        plans = {"planning": tasks("a", "b after a"), "reflection": useless}
        model = fake(lambda asked, plans=plans: plans.get(asked.kind, "FAILED"))
        end = run(load_graph(write(graph_text()), model))
        assert [(result["id"], result["status"]) for result in end["results"]][-1] == ("b", "skipped")


@tool
def hang(seconds: float) -> str:
    """Never come back, or so it seems."""
    time.sleep(seconds)
    return "back"


@tool
async def ahang(seconds: float) -> str:
    """Never come back, or so it seems."""
    await asyncio.sleep(seconds)
    return "back"


def hanging(asked: Any) -> Any:
    """Plan two tasks; `slow` calls the tool that hangs."""
    if asked.kind == "planning":
        return tasks("slow", "quick")
    if asked.kind == "tool_call" and goal(asked) == "slow":
        return AIMessage("", tool_calls=[{"name": asked.tools[0], "args": {"seconds": 5}, "id": "x"}])
    return "done"


@pytest.mark.parametrize("way", ["sync", "async", "async with a blocking tool"])
def test_a_task_that_hangs_meets_its_deadline(way: str, fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    tools = [ahang if way == "async" else hang]
    graph = load_graph(write(graph_text(deadline_s=0.3, replans=0)), fake(hanging), tools)
    started = time.monotonic()
    state = {"messages": [("user", "please")]}
    end = graph.invoke(state) if way == "sync" else asyncio.run(graph.ainvoke(state))
    assert time.monotonic() - started < 3
    assert [(result["status"], result["text"]) for result in end["results"]] == [
        ("failed", "not done within 0.3 s"),
        ("done", "done"),
    ]


def test_a_model_that_hangs_meets_the_deadline_too(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "tool_call":
            time.sleep(2)
        return tasks("a") if asked.kind == "planning" else "done"

    end = run(load_graph(write(graph_text(deadline_s=0.2, replans=0)), fake(answer)))
    assert end["results"][0]["text"] == "not done within 0.2 s"


def test_a_refusal_of_the_budget_ends_the_run(fake: Callable[..., Any], write: Callable[..., Path]) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "tool_call":
            raise BudgetExceeded("nothing left")
        return tasks("a")

    with pytest.raises(BudgetExceeded):
        run(load_graph(write(graph_text()), fake(answer)))


def test_a_task_may_use_its_own_tools_only(
    fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind == "planning":
            return {"tasks": [{"id": "a", "goal": "do a", "tools": ["look_up"], "depends_on": []}]}
        if asked.kind != "tool_call":
            return "done"
        calls = [{"name": "cancel", "args": {"order": "W1"}, "id": "x"}]
        return asked.results[0] if asked.results else AIMessage("", tool_calls=calls)

    model = fake(answer)
    end = run(load_graph(write(graph_text()), model, shop_tools))
    assert [asked.tools for asked in model.asked if asked.kind == "tool_call"] == [["look_up"]] * 2
    assert end["results"][0]["text"] == "Error: cancel may not be used here."


def test_a_task_without_an_answer_in_its_turns_has_failed(
    fake: Callable[..., Any], write: Callable[..., Path], shop_tools: list[Any]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.kind in {"planning", "reflection"}:
            return tasks("a")
        call = {"name": "look_up", "args": {"order": str(len(asked.results))}, "id": f"x{len(asked.results)}"}
        return AIMessage("", tool_calls=[call]) if asked.tools else "done"

    model = fake(answer)
    end = run(load_graph(write(graph_text(replans=0)), model, shop_tools))
    assert end["results"][0]["text"] == "its turns were over before it had an answer"
    assert [asked.choice for asked in model.asked if asked.node == "model"] == ["", "", "none"]


def test_the_recursion_limit_of_the_run_holds_inside_as_well(
    fake: Callable[..., Any], write: Callable[..., Path]
) -> None:
    chain = tasks("t0", *[f"t{i} after t{i - 1}" for i in range(1, 20)])
    graph = load_graph(write(graph_text()), fake(lambda asked: chain if asked.kind == "planning" else "done"))
    with pytest.raises(GraphRecursionError):
        graph.invoke({"messages": [("user", "please")]}, {"recursion_limit": 12})


def test_new_tasks_stand_where_the_failed_ones_stood() -> None:
    a, b, c = SubTask("a", "x"), SubTask("b", "x", (), ("a",)), SubTask("c", "x", (), ("a", "b"))
    n, m = SubTask("n", "y"), SubTask("m", "y", (), ("n",))
    assert [task.id for task in replaced(Plan((a, b, c)), [a], Plan((n, m))).tasks] == ["n", "m", "b", "c"]
    assert replaced(Plan((a, b, c)), [a], Plan((n, m))).tasks[2:] == (
        SubTask("b", "x", (), ("m",)), SubTask("c", "x", (), ("b", "m")),
    )  # fmt: skip
