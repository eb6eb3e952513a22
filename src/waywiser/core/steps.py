"""What kind of step a coming call is, who decided it, and how sure that is.

Decided in this order, the first that is sure enough wins:

1. declared   the policy, the graph file, a tag or a header names the kind
2. graph      the node's role in the compiled graph, unless the request itself is surer (a tool call is required)
3. shape      what the messages and the offered tools show (the table in `_by_shape`)
4. learned    the classifier's head for kinds

A step that stays unsure may *reveal* itself: see `core/flow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from waywiser.core.calls import Call, Chunk, Reply
from waywiser.core.classification import Classification
from waywiser.core.messages import Role

SURE = 0.8


class StepKind(StrEnum):
    """The kinds of step an agent takes."""

    TRIAGE = "triage"
    PLANNING = "planning"
    TOOL_CALL = "tool_call"
    SYNTHESIS = "synthesis"
    REFLECTION = "reflection"
    OTHER = "other"


KINDS = frozenset(kind.value for kind in StepKind)
UNREAD = frozenset({StepKind.TRIAGE, StepKind.PLANNING, StepKind.TOOL_CALL, StepKind.REFLECTION})
"""Kinds that no person reads while they stream."""


@dataclass(frozen=True, slots=True)
class Step:
    """The kind of the coming call, who decided it (`by`), and the probability that it is right."""

    kind: StepKind
    by: str
    confidence: float
    why: str = ""

    @property
    def unread(self) -> bool:
        """Whether it is sure that no person reads the reply while it streams."""
        return self.kind in UNREAD and self.confidence >= SURE


_ROLES = {
    "final": Step(StepKind.SYNTHESIS, "graph", 0.9, "the last node before the end"),
    "fan_out": Step(StepKind.PLANNING, "graph", 0.85, "the node hands out work to parallel branches"),
}
ROLE_KINDS = {role: step.kind for role, step in _ROLES.items()}
"""The kinds that the role of a node tells."""

_PLAN_WORDS = ("depends_on", "subtasks", "sub_tasks", "steps", "tasks", "plan")
_JUDGE_WORDS = ("score", "critique", "feedback", "grade", "verdict", "is_correct", "grounded")


def decide_kind(call: Call, learned: Classification | None = None) -> Step:
    """Decide the kind of the coming call; `learned` is asked only when declaration, graph and shape are unsure."""
    origin = call.origin
    if origin.kind:
        return Step(StepKind(origin.kind), "declared", 1.0, origin.kind_by or "declared by the caller")
    shape = _by_shape(call)
    graph = _ROLES.get(origin.node_role)
    if graph is not None and shape.confidence <= graph.confidence:
        return graph
    if shape.confidence >= SURE:
        return shape
    if learned is not None and learned.kind.label in KINDS:
        return Step(StepKind(learned.kind.label), "learned", learned.kind.confidence, "as learned from recorded steps")
    return shape


def _by_shape(call: Call) -> Step:
    """Read the kind off the request alone. Confidences are what such calls showed on recorded sessions, rounded."""
    choice = call.settings.tool_choice
    if choice == "required" or choice.startswith("tool:"):
        return Step(StepKind.TOOL_CALL, "shape", 0.98, "a tool call is required")
    if call.response_format is not None and not call.tools:
        return _by_schema(call.response_format.schema)
    if not call.tools or choice == "none":
        if any(message.role is Role.TOOL for message in call.messages):
            return Step(StepKind.SYNTHESIS, "shape", 0.9, "tool results to answer from, no tools offered")
        return Step(StepKind.SYNTHESIS, "shape", 0.8, "no tools offered: the reply is read as it is")
    last = call.messages[-1] if call.messages else None
    if last is not None and last.role is Role.TOOL and last.is_error:
        return Step(StepKind.TOOL_CALL, "shape", 0.7, "a tool failed: its call is repaired")
    return Step(StepKind.TOOL_CALL, "shape", 0.55, "tools offered, the choice is the model's")


def _by_schema(schema: str) -> Step:
    if any(f'"{word}"' in schema for word in _PLAN_WORDS) and '"array"' in schema:
        return Step(StepKind.PLANNING, "shape", 0.85, "a list of sub-tasks is asked for")
    if any(f'"{word}"' in schema for word in _JUDGE_WORDS):
        return Step(StepKind.REFLECTION, "shape", 0.8, "a judgement of earlier work is asked for")
    if '"enum"' in schema or '"const"' in schema or '"boolean"' in schema:
        return Step(StepKind.TRIAGE, "shape", 0.85, "a choice among named values is asked for")
    return Step(StepKind.OTHER, "shape", 0.8, "structured output is asked for")


def revealed(first: Chunk | Reply) -> StepKind | None:
    """Tell what a reply turns out to be from its first chunk with content (or whole); None while it is still empty."""
    if first.tool_calls:
        return StepKind.TOOL_CALL
    return StepKind.SYNTHESIS if first.text.strip() else None
