"""The demo's customers are served by simulated models: the right things happen in the shop, and only those."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conversation import converse, count
from support_desk.make_shop import make_shop
from support_desk.tools import support_tools

from waywiser.core.calls import Call, ResponseFormat
from waywiser.core.messages import Role, system, user
from waywiser.core.models import Model
from waywiser.upstream.simulated import MARK, simulate

TASKS = [
    json.loads(line)
    for line in (Path(__file__).resolve().parents[2] / "examples/support_desk/tasks.jsonl").read_text().splitlines()
]
MODELS = [Model(f"simulated/{name}", api="simulated") for name in ("economy", "standard", "premium")]


@pytest.mark.parametrize("model", MODELS[1:], ids=lambda model: model.name)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["id"])
def test_every_task_ends_with_an_answer_and_the_shop_as_it_should_be(
    shop: Path, ask: Callable[[str], object], task: dict[str, str], model: Model
) -> None:
    history = converse(model, support_tools(shop), *task["says"])
    assert ask(task["query"]) == task["is"]
    assert history[-1].text.startswith(MARK)
    calls = [(call.name, call.arguments) for message in history for call in message.tool_calls]
    assert len(calls) <= 6 * len(task["says"])
    made = [pair for message in history if not message.is_error for pair in message.tool_calls]
    assert made or task["id"] == "stranger"


def test_economy_slips_now_and_then_but_does_most_and_breaks_nothing(tmp_path: Path) -> None:
    right, slips = 0, 0
    for task in TASKS:
        path = tmp_path / f"{task['id']}.sqlite"
        make_shop(path)
        history = converse(MODELS[0], support_tools(path), *task["says"])
        slips += sum(message.is_error and "validation" in message.text for message in history)
        with closing(sqlite3.connect(path)) as db:
            right += db.execute(task["query"]).fetchone()[0] == task["is"]
        assert history[-1].text.startswith(MARK)
    assert right >= 6
    assert slips >= 1


def test_premium_never_repeats_a_call_and_never_errs_in_form(shop: Path) -> None:
    for task in TASKS:
        history = converse(MODELS[2], support_tools(shop), *task["says"])
        calls = [(call.name, call.arguments) for message in history for call in message.tool_calls]
        assert len(set(calls)) == len(calls)
        assert not [m.text for m in history if m.is_error and "validation" in m.text]


def test_a_missing_detail_is_asked_for_and_then_used(shop: Path) -> None:
    history = converse(MODELS[2], support_tools(shop), *TASKS[1]["says"])
    asked, done = (m.text for m in history if m.role is Role.ASSISTANT and m.text)
    assert "zip code" in asked
    assert "I have cancelled the order" in done
    assert "98.00 USD" in done


def test_an_order_of_another_shop_is_not_found_and_not_invented(shop: Path) -> None:
    history = converse(MODELS[2], support_tools(shop), "Where is my order #W4316152?")
    assert "was not found" in history[-1].text


def test_a_policy_question_changes_nothing_and_is_answered_from_the_handbook(shop: Path) -> None:
    before = shop.read_bytes()
    history = converse(MODELS[2], support_tools(shop), "How long do I have to return a delivered item?")
    assert "30 days" in history[-1].text
    assert shop.read_bytes() == before


def test_a_planned_run_passes_what_it_found_from_sub_task_to_sub_task_in_words(
    shop: Path, ask: Callable[[str], object]
) -> None:
    """What an executor of plans does: each sub-task alone with its own tool, the findings before it in the prompt."""
    tools = {tool.name: tool for tool in support_tools(shop)}
    said = str(TASKS[0]["says"][0])
    listed = "\n".join(f"- {tool.name}: {tool.description}" for tool in tools.values())
    schema = {
        "type": "object",
        "properties": {
            "tasks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "goal": {"type": "string"},
                        "tools": {"type": "array", "items": {"enum": list(tools)}},
                        "depends_on": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["id", "goal", "tools", "depends_on"],
                },
            }
        },
        "required": ["tasks"],
    }
    prompt = (system(f"Make a plan with these tools:\n{listed}"), user(said))
    call = Call("1", prompt, response_format=ResponseFormat(json.dumps(schema)))
    plan = json.loads(simulate(MODELS[2], call, count).text)
    found: dict[str, str] = {}
    for task in plan["tasks"]:
        before = "\n".join(found[need] for need in task["depends_on"])
        history = converse(
            MODELS[1], [tools[name] for name in task["tools"]], f"{task['goal']}\n\nFound so far:\n{before}"
        )
        found[task["id"]] = history[-1].text
    assert [task["tools"] for task in plan["tasks"]] == [["find_customer"], ["get_order"], ["cancel_order"]]
    assert ask(TASKS[0]["query"]) == "cancelled"
