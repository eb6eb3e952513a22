"""What may stand in a workflow file: the pydantic schema. What its parts mean to each other is `checks`' business."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Object = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", description="`module:object`")]
Kind: TypeAlias = Literal["triage", "planning", "tool_call", "synthesis", "reflection", "other", "auto"]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Case(_Form):
    """A conditional way on: taken when `when` holds, in the first `rounds` runs of this node. The first one wins."""

    to: Name
    when: str = Field("", description="A condition on the state; empty: always.")
    rounds: int | None = Field(None, ge=1, le=1000, description="Open only in the first so many runs of the node.")


class _Node(_Form):
    """What every node has. `next` is one node, a list of nodes that all start at once, or a list of cases."""

    next: Name | list[Name] | list[Case] = Field("end", description="What runs after this node; `end` ends the run.")
    join: bool = Field(False, description="Wait for every node that leads here, not just for the first.")


class _Speaking(_Node):
    """A node that calls a model."""

    prompt: str = Field("", max_length=20_000, description="System prompt; `{key}` stands for a value of the state.")
    kind: Kind | None = Field(None, description="The step kind its calls are declared as; `auto` declares none.")
    model: str = Field("", description="Which of the models given to `load_graph` answers; empty: the default one.")


class TriageNode(_Speaking):
    """Chooses one of several words, and writes it to a key of the state."""

    type: Literal["triage"]
    choices: dict[Name, str] = Field(min_length=2, description="Each word with what it stands for.")
    writes: Key = Field("topic", description="The key the choice goes to.")
    otherwise: str = Field("", description="The choice when the model makes none; empty: the last one.")


class ReflectNode(_Speaking):
    """Judges what was done: chooses a word, and says why in `<writes>_why`."""

    type: Literal["reflect"]
    choices: dict[Name, str] = Field(
        {"good": "It may go out as it is.", "again": "It must be done again."}, min_length=2
    )
    writes: Key = "verdict"
    otherwise: str = ""


class PlanNode(_Speaking):
    """Splits the request into sub-tasks and checks the plan; a flawed one is sent back with what is wrong with it."""

    type: Literal["plan"]
    tools: list[str] | None = Field(None, description="The tools sub-tasks may name; left out: all.")
    max_tasks: int = Field(20, ge=1, le=1000)
    attempts: int = Field(2, ge=1, le=5, description="How often to ask for a plan without flaws.")
    if_flawed: Literal["stop", "skip"] = Field("stop", description="Stop with an error, or go on without a plan.")
    writes: Key = "plan"


class WorkNode(_Speaking):
    """A tool loop: the model calls tools until it has no more to call, for `turns` model calls at most."""

    type: Literal["work"]
    tools: list[str] | None = Field(None, description="The tools it may use; left out: all.")
    turns: int = Field(12, ge=1, le=500)


class ExecuteNode(_Speaking):
    """Runs a plan: tasks without mutual dependencies at the same time, each in a tool loop of its own."""

    type: Literal["execute"]
    plan: Key = Field("plan", description="The key that holds the plan.")
    tools: list[str] | None = Field(None, description="The tools tasks may use; left out: all.")
    turns: int = Field(6, ge=1, le=500, description="Model calls of one task at most.")
    deadline_s: float = Field(120.0, gt=0, le=86_400, description="Seconds one task may take.")
    max_tasks: int = Field(20, ge=1, le=1000, description="Tasks that may run, those of new plans not counted.")
    replans: int = Field(1, ge=0, le=5, description="How often failed tasks are planned anew; each task once at most.")
    replan_prompt: str = Field("", max_length=20_000)
    writes: Key = "results"


class _Each(_Form):
    """Runs a node once for every item of a list, all at the same time."""

    for_each: Key | None = Field(None, description="A key that holds a list; `{item}` is the item in the prompt.")
    max_items: int = Field(16, ge=1, le=1000, description="Further items are left out.")


class SynthesisNode(_Speaking, _Each):
    """Writes text: the answer, into `messages`, or something on the way to it, into a key of its own."""

    type: Literal["synthesis"]
    writes: Key = "messages"
    history: bool = Field(True, description="Whether the model sees the conversation.")


class PythonNode(_Node, _Each):
    """Calls a Python function with the state; what it returns updates the state, or the key it writes."""

    type: Literal["python"]
    call: Object
    writes: Key | None = Field(None, description="The key the result goes to; left out: the result is an update.")
    calls: int = Field(0, ge=0, le=1000, description="Model calls one run of the function makes at most.")
    kind: Kind | None = None


class GraphNode(_Node):
    """Runs another graph, which shares the keys of the state that it has too."""

    type: Literal["graph"]
    graph: str = Field(description="Another workflow file, relative to this one, or `module:object`.")


Node: TypeAlias = Annotated[
    TriageNode | PlanNode | WorkNode | ExecuteNode | SynthesisNode | ReflectNode | PythonNode | GraphNode,
    Field(discriminator="type"),
]
StateType: TypeAlias = Literal["text", "number", "flag", "list", "mapping"]


class WorkflowSpec(_Form):
    """A workflow file."""

    model_config = ConfigDict(title="Waywiser workflow", extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    name: Name
    description: str = ""
    tools: list[Object] = Field([], description="Tools, lists of tools, or functions that return them.")
    state: dict[Key, StateType] = Field({}, description="Keys besides `messages` and what nodes write.")
    output: list[Key] | None = Field(None, description="The keys a run returns; left out: all.")
    supersteps: int | None = Field(None, ge=1, le=100_000, description="LangGraph's recursion limit for this graph.")
    start: Name | None = Field(None, description="The node that runs first; left out: the first one here.")
    nodes: dict[Name, Node] = Field(min_length=1)


KINDS: dict[str, str] = {
    "triage": "triage",
    "plan": "planning",
    "work": "tool_call",
    "execute": "tool_call",
    "synthesis": "synthesis",
    "reflect": "reflection",
    "python": "other",
}


def kind_of(node: Node) -> str:
    """The step kind a node declares for its model calls; empty when it leaves that to the router."""
    declared = getattr(node, "kind", None)
    if declared == "auto" or isinstance(node, GraphNode):
        return ""
    return declared or KINDS[node.type]
