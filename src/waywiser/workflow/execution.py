"""Running a plan: a small graph that starts, superstep by superstep, every sub-task whose needs are done.

`schedule` looks at what is done and sends what may run (`Send`, in parallel) to `task`; failed sub-tasks go once to
`replan`, which writes others in their place from what was learned; `gather` puts the results in the plan's order. A
sub-task is a tool loop of its own with a deadline; its failure is a result, never the end of the run.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from waywiser.core.plan import Plan, SubTask, check_plan, ready
from waywiser.errors import PlanRefused, RoutingRefused
from waywiser.langgraph.context import CALLS_KEY, KIND_KEY, VISITS_KEY
from waywiser.langgraph.ways import Way
from waywiser.workflow import prompts
from waywiser.workflow.asking import Ask, Body, State, Structured, Update, as_node, structured
from waywiser.workflow.deadline import Late, deadline
from waywiser.workflow.loop import Loop
from waywiser.workflow.planning import as_state, checked, plan_schema, read_plan
from waywiser.workflow.spec import ExecuteNode, kind_of
from waywiser.workflow.state import Builder, Compiled, TaskState, schema_of

Results: TypeAlias = dict[str, dict[str, str]]
FAILED = "FAILED"


def merged(old: Results, new: Results) -> Results:
    """Join the results of sub-tasks that ended at the same time."""
    return {**old, **new}


class Progress(TypedDict, total=False):
    """What a running plan knows besides the state around it: the plan now, results by task, and what was replanned."""

    run_plan: list[dict[str, object]]
    run_results: Annotated[Results, merged]
    run_retried: list[str]
    run_replans: int


@dataclass(frozen=True, slots=True)
class Execution:
    """What the running of a plan is made of."""

    name: str
    node: ExecuteNode
    model: BaseChatModel
    tools: Sequence[BaseTool]

    def compiled(self, schema: type, output: type) -> Compiled:
        """Make the graph, on states of `schema`; it gives back the results, of the schema `output`."""
        graph: Builder = StateGraph(
            schema_of("ExecutionState", schema, Progress), input_schema=schema, output_schema=output
        )
        loop = Loop("loop", self.model, self.tools, self.node.turns, kind_of(self.node), "{system}")
        runs = self.node.max_tasks * (1 + self.node.replans)
        graph.add_node("schedule", as_node("schedule", self._schedule), metadata={CALLS_KEY: 0})
        graph.add_node("task", self._task(loop.compiled(TaskState)), metadata={CALLS_KEY: 0, VISITS_KEY: runs})
        graph.add_node("gather", as_node("gather", self._gather), metadata={CALLS_KEY: 0})
        graph.add_edge(START, "schedule")
        graph.add_edge("task", "schedule")
        graph.add_edge("gather", END)
        ends = ["task", "gather"]
        if self.node.replans:
            ends.append("replan")
            metadata = {KIND_KEY: "reflection", CALLS_KEY: 1, VISITS_KEY: self.node.replans}
            graph.add_node("replan", as_node("replan", self._replan()), metadata=metadata)
            graph.add_edge("replan", "schedule")
        graph.add_conditional_edges("schedule", Way(self._way, copies={"task": runs}), ends)
        return graph.compile(name=self.name)

    def _schedule(self, state: State) -> Generator[Ask, object, Update]:
        """Take over the plan, once. A plan that no plan node has checked may be flawed."""
        yield from ()
        if state.get("run_plan") is not None:
            return {}
        plan = read_plan(state.get(self.node.plan))
        if plan.tasks and (flaws := check_plan(plan, [tool.name for tool in self.tools], self.node.max_tasks)):
            raise PlanRefused(flaws)
        return {"run_plan": as_state(plan), "run_results": {}, "run_retried": [], "run_replans": 0}

    def _way(self, state: State) -> list[str | Send]:
        plan, results = read_plan(state.get("run_plan")), _results(state)
        if self._to_replan(state):
            return ["replan"]
        done = {task for task, result in results.items() if result["status"] == "done"}
        sends: list[str | Send] = [Send("task", self._handed(task, plan, state)) for task in ready(plan, done, results)]
        return sends or ["gather"]

    def _to_replan(self, state: State) -> list[SubTask]:
        """The failed sub-tasks that may still be planned anew."""
        retried = state.get("run_retried")
        spent = state.get("run_replans") or 0
        if not isinstance(retried, list) or not isinstance(spent, int) or spent >= self.node.replans:
            return []
        results, plan = _results(state), read_plan(state.get("run_plan"))
        failed = {task for task, result in results.items() if result["status"] == "failed"}
        return [task for task in plan.tasks if task.id in failed and task.id not in retried]

    def _handed(self, task: SubTask, plan: Plan, state: State) -> Mapping[str, object]:
        """What a sub-task gets to see: its prompt, its goal, and the results it needs."""
        results = _results(state)
        needed = [{**results[other.id], "goal": other.goal} for other in plan.tasks if other.id in task.depends_on]
        known = f"\n\nWhat is known already:\n{prompts.shown(needed)}" if needed else ""
        return {
            "task": task.id,
            "system": prompts.filled(self.node.prompt or prompts.TASK, state),
            "messages": [HumanMessage(f"{task.goal}{known}")],
            "allowed": list(task.tools) or [tool.name for tool in self.tools],
        }

    def _task(self, loop: Compiled) -> RunnableLambda[Any, Update]:
        """One sub-task. Whatever goes wrong in it is its result, except for what concerns the whole run."""

        def task(state: State, config: RunnableConfig) -> Update:
            try:
                with deadline(self.node.deadline_s):
                    return _ended(state, loop.invoke(state, config))
            except (GraphBubbleUp, RoutingRefused):
                raise
            except Exception as error:  # noqa: BLE001 - any failure of a sub-task is a result
                return self._failed(state, error)

        async def atask(state: State, config: RunnableConfig) -> Update:
            try:
                with deadline(self.node.deadline_s):
                    return _ended(state, await loop.ainvoke(state, config))
            except (GraphBubbleUp, RoutingRefused):
                raise
            except Exception as error:  # noqa: BLE001 - any failure of a sub-task is a result
                return self._failed(state, error)

        return RunnableLambda(task, atask, name="task")

    def _failed(self, state: State, error: Exception) -> Update:
        if isinstance(error, Late):
            return _result(state, "failed", f"not done within {self.node.deadline_s:g} s")
        return _result(state, "failed", f"{type(error).__name__}: {error}")

    def _replan(self) -> Body:
        names = [tool.name for tool in self.tools]
        asked = Structured(self.model, plan_schema(names))

        def body(state: State) -> Generator[Ask, object, Update]:
            plan, failed = read_plan(state.get("run_plan")), self._to_replan(state)
            results = _results(state)
            told = [{**item, **results.get(str(item["id"]), {"status": "to come"})} for item in as_state(plan)]
            prompt = prompts.filled(self.node.replan_prompt or prompts.REPLAN, state)
            prompt = f"{prompt}\n\nThe tools:\n{prompts.listed_tools(self.tools)}"
            ids = ", ".join(task.id for task in failed)
            sent: list[AnyMessage] = [HumanMessage(f"The plan so far:\n{prompts.shown(told)}\n\nFailed: {ids}")]
            found, _ = structured((yield asked.ask(prompts.to_model(prompt, sent), "reflection")))
            retried = [*_texts(state.get("run_retried")), *(task.id for task in failed)]
            update: Update = {"run_retried": retried, "run_replans": int(str(state.get("run_replans") or 0)) + 1}
            new, _ = checked(found, names, self.node.max_tasks)
            whole = replaced(plan, failed, new)
            if new.tasks and not check_plan(whole, names, self.node.max_tasks * 2):
                update["run_plan"] = as_state(whole)
                update["run_retried"] = [*retried, *(task.id for task in new.tasks)]
            return update

        return body

    def _gather(self, state: State) -> Generator[Ask, object, Update]:
        """Put the results in the plan's order; what could not start says what it waited for."""
        yield from ()
        plan, results = read_plan(state.get("run_plan")), _results(state)
        gathered: list[dict[str, str]] = []
        for task in plan.tasks:
            missing = [need for need in task.depends_on if results.get(need, {}).get("status") != "done"]
            skipped = {"id": task.id, "status": "skipped", "text": f"not begun: {', '.join(missing)} was not done"}
            gathered.append({**results.get(task.id, skipped), "goal": task.goal})
        return {self.node.writes: gathered}


def replaced(plan: Plan, failed: Sequence[SubTask], new: Plan) -> Plan:
    """Put new sub-tasks in the place of failed ones. What waited for a failed one waits for the last of the new."""
    gone = {task.id for task in failed}
    needed = {need for task in new.tasks for need in task.depends_on}
    ends = [task.id for task in new.tasks if task.id not in needed]
    tasks: list[SubTask] = []
    for task in plan.tasks:
        if task.id in gone:
            tasks.extend(new.tasks if task.id == failed[0].id else ())
        elif gone.intersection(task.depends_on):
            kept = [need for need in task.depends_on if need not in gone]
            tasks.append(replace(task, depends_on=(*kept, *ends)))
        else:
            tasks.append(task)
    return Plan(tuple(tasks))


def _results(state: State) -> Results:
    found = state.get("run_results")
    return found if isinstance(found, dict) else {}


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _ended(state: State, end: Mapping[str, object]) -> Update:
    """Read the result of a sub-task off its last words."""
    last = prompts.messages_of(end)[-1]
    text = str(last.text).strip() if isinstance(last, AIMessage) else ""
    if not text:
        return _result(state, "failed", "its turns were over before it had an answer")
    return _result(state, "failed" if text.startswith(FAILED) else "done", text)


def _result(state: State, status: str, text: str) -> Update:
    task = str(state["task"])
    return {"run_results": {task: {"id": task, "status": status, "text": text}}}
