"""Plans as they travel: the schema a model fills, the state they are kept in, and what becomes of flawed ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage

from waywiser.core.plan import Flaw, Plan, SubTask, check_plan

if TYPE_CHECKING:
    from waywiser.core.calls import JSON

Tasks: TypeAlias = list[dict[str, object]]
MAX_READ = 5_000  # tasks beyond these are counted, not read


def plan_schema(tools: Collection[str]) -> Mapping[str, JSON]:
    """The JSON schema of a plan whose tasks may name these tools."""
    allowed: list[JSON] = [*sorted(tools)]
    names: dict[str, JSON] = {"type": "string", "enum": allowed} if tools else {"type": "string"}
    text: dict[str, JSON] = {"type": "string"}
    fields: dict[str, JSON] = {
        "id": {**text, "description": "Short and unique."},
        "goal": {**text, "description": "What is to be found out or done, with all that is needed to do it."},
        "tools": {"type": "array", "items": names, "description": "Names of the tools it needs."},
        "depends_on": {"type": "array", "items": text, "description": "Ids of tasks whose results it needs."},
    }
    task: dict[str, JSON] = {
        "type": "object", "properties": fields, "required": [*fields], "additionalProperties": False,
    }  # fmt: skip
    return {
        "title": "plan",
        "description": "The sub-tasks of a plan.",
        "type": "object",
        "properties": {"tasks": {"type": "array", "items": task}},
        "required": ["tasks"],
        "additionalProperties": False,
    }


def read_plan(data: Mapping[str, object] | object) -> Plan:
    """Read what a model or a state holds as a plan. What is not a task counts as one without id and goal."""
    tasks = data.get("tasks") if isinstance(data, Mapping) else data
    if not isinstance(tasks, list):
        return Plan()
    read = tuple(_task(task) for task in tasks[:MAX_READ])
    return Plan(read + (SubTask("", ""),) * (len(tasks) - len(read)))


def as_state(plan: Plan) -> Tasks:
    """The plan in the form in which a state keeps it."""
    return [
        {"id": task.id, "goal": task.goal, "tools": list(task.tools), "depends_on": list(task.depends_on)}
        for task in plan.tasks
    ]


def without_unneeded(plan: Plan) -> Plan:
    """Drop dependencies named twice; models do that, and it means nothing."""
    return Plan(
        tuple(
            SubTask(task.id, task.goal, tuple(dict.fromkeys(task.tools)), tuple(dict.fromkeys(task.depends_on)))
            for task in plan.tasks
        )
    )


def checked(data: object, tools: Collection[str], max_tasks: int) -> tuple[Plan, tuple[Flaw, ...]]:
    """Read a plan and find its flaws."""
    plan = without_unneeded(read_plan(data))
    return plan, check_plan(plan, tools, max_tasks)


def sent_back(answer: AIMessage, plan: Plan, flaws: Sequence[Flaw]) -> list[AnyMessage]:
    """What to add to the conversation so that a model writes a flawed plan again: its plan, cut, and the flaws."""
    lines = [f"- {task.id}: {task.goal} (after {', '.join(task.depends_on) or 'nothing'})" for task in plan.tasks[:50]]
    said = str(answer.text) or "\n".join(lines) or "(no plan)"
    wrong = "\n".join(f"- {flaw.message}" for flaw in flaws[:20])
    return [AIMessage(said[:8_000]), HumanMessage(f"This plan cannot be run:\n{wrong}\nWrite the whole plan again.")]


def _task(data: object) -> SubTask:
    if not isinstance(data, Mapping):
        return SubTask("", "")
    return SubTask(
        _text(data.get("id")), _text(data.get("goal")), _texts(data.get("tools")), _texts(data.get("depends_on"))
    )


def _text(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return tuple(_text(item) for item in value) if isinstance(value, list) else ()
