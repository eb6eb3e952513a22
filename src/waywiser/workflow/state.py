"""The state of a workflow: a TypedDict made from what its file declares and what its nodes write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, get_type_hints

from langchain_core.messages import AnyMessage
from langgraph.graph import StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph

from waywiser.workflow.spec import (
    Case,
    ExecuteNode,
    Node,
    PlanNode,
    PythonNode,
    ReflectNode,
    StateType,
    SynthesisNode,
    TriageNode,
    WorkflowSpec,
)

# The types of a graph's state, context, input and output are made at run time.
Compiled: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]
Builder: TypeAlias = StateGraph[Any, Any, Any, Any]
ROUNDS = "node_rounds"
KeyType: TypeAlias = StateType | Literal["any"]
_TYPES: dict[KeyType, object] = {
    "text": str, "number": float, "flag": bool, "list": list, "mapping": dict, "any": Any,
}  # fmt: skip


class Messages(TypedDict):
    """The conversation, which every workflow has."""

    messages: Annotated[list[AnyMessage], add_messages]


class TaskState(Messages, total=False):
    """The state of a loop that works on one sub-task: its system prompt, and the names of the tools it may use."""

    system: str
    allowed: list[str]


class Runs(TypedDict):
    """How often a node has run for one request of a person."""

    request: str
    count: int


def counted(old: dict[str, Runs] | None, new: dict[str, Runs]) -> dict[str, Runs]:
    """Count runs of nodes. A new request begins at one again, also on a thread that goes on for days."""
    sums = dict(old or {})
    for name, runs in new.items():
        before = sums.get(name)
        same = before is not None and before["request"] == runs["request"]
        sums[name] = {**runs, "count": runs["count"] + (before["count"] if before and same else 0)}
    return sums


def one_run(name: str, state: Mapping[str, object]) -> dict[str, Runs]:
    """The count that a run of a node adds. A request is known by the id of the person's last message."""
    messages = state.get("messages")
    asked = [message for message in messages if message.type == "human"] if isinstance(messages, list) else []
    return {name: {"request": str(asked[-1].id) if asked else "", "count": 1}}


def has_rounds(node: Node) -> bool:
    """Whether a way on from a node closes after some runs of it, so that they have to be counted."""
    return not isinstance(node.next, str) and any(isinstance(case, Case) and case.rounds for case in node.next)


def runs_of(name: str, state: Mapping[str, object]) -> int:
    """How often a node has run for the request of this state."""
    rounds = state.get(ROUNDS)
    runs = rounds.get(name) if isinstance(rounds, dict) else None
    return int(runs["count"]) if runs else 0


class Piece(TypedDict):
    """What one of several runs at the same time adds to a list. The first begins it anew."""

    begins: bool
    item: Any


def piece(state: Mapping[str, object], item: object) -> Piece:
    """Make the piece that a run with this state adds."""
    return {"begins": state.get("item_number") == 0, "item": item}


def pieced(old: list[Any] | None, new: Piece | list[Any]) -> list[Any]:
    """Put a list together from what several runs of a node write; LangGraph applies it in the order of the runs."""
    if not isinstance(new, dict):
        return list(new)
    return [new["item"]] if new["begins"] else [*(old or []), new["item"]]


def schema_of(name: str, *parts: type | Mapping[str, object]) -> type:
    """Join TypedDicts and mappings of types to one TypedDict. Later parts win."""
    hints: dict[str, object] = {}
    for part in parts:
        hints.update(part if isinstance(part, Mapping) else get_type_hints(part, include_extras=True))
    made: type = TypedDict(name, hints, total=False)  # type: ignore[misc] # made at run time
    return made


def keys_of(spec: WorkflowSpec) -> dict[str, KeyType]:
    """The keys of a workflow's state with their types, `messages` among them. The file's own declarations win."""
    keys: dict[str, KeyType] = {"messages": "list"}
    for node in spec.nodes.values():
        keys.update(_written(node))
    return {**keys, **spec.state}


def _written(node: object) -> dict[str, KeyType]:
    if isinstance(node, PlanNode):
        return {node.writes: "list", f"{node.writes}_flaws": "list"}
    if isinstance(node, ExecuteNode):
        return {node.writes: "list"}
    if isinstance(node, ReflectNode):
        return {node.writes: "text", f"{node.writes}_why": "text"}
    if isinstance(node, TriageNode):
        return {node.writes: "text"}
    if isinstance(node, SynthesisNode):
        return {node.writes: "list" if node.for_each or node.writes == "messages" else "text"}
    if isinstance(node, PythonNode) and node.writes:
        return {node.writes: "list" if node.for_each else "any"}
    return {}


def collected(spec: WorkflowSpec) -> set[str]:
    """The keys that several runs of one node write at the same time: their lists are joined."""
    nodes = [node for node in spec.nodes.values() if isinstance(node, SynthesisNode | PythonNode) and node.for_each]
    return {node.writes for node in nodes if node.writes and node.writes != "messages"}


def state_of(spec: WorkflowSpec) -> type:
    """Make the TypedDict of a workflow's state."""
    joined = collected(spec)
    counting = any(has_rounds(node) for node in spec.nodes.values())
    hints: dict[str, object] = {ROUNDS: Annotated[dict[str, Runs], counted]} if counting else {}
    for key, kind in keys_of(spec).items():
        hints[key] = Annotated[list[Any], pieced] if key in joined else _TYPES[kind]
    return schema_of(f"{spec.name}_state", hints, Messages)


def part_of(state: type, keys: list[str], name: str) -> type:
    """Make the TypedDict of some keys of a state."""
    hints = get_type_hints(state, include_extras=True)
    return schema_of(name, {key: hints[key] for key in keys})
