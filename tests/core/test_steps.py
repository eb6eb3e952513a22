from __future__ import annotations

from dataclasses import replace

import pytest

from waywiser.core.calls import Call, Chunk, ResponseFormat, ToolCallDelta
from waywiser.core.classification import Classification, Judged
from waywiser.core.messages import ToolCall, assistant, tool_result, user
from waywiser.core.steps import SURE, StepKind, decide_kind, revealed
from waywiser.testing.pieces import LOOK_UP, a_call, said

RESULTS = (user("hi"), assistant("", [ToolCall("t1", "look_up", "{}")]), tool_result("t1", "x"))
ENUM = '{"type":"object","properties":{"queue":{"enum":["a","b"]}}}'
PLAN = '{"type":"object","properties":{"steps":{"type":"array","items":{"type":"string"}}}}'
GRADE = '{"type":"object","properties":{"score":{"type":"number"}}}'


def learned(kind: str, confidence: float) -> Classification:
    sure = Judged("chat", 0.9)
    return Classification(sure, sure, (0.5, 0.9, 1.0), (), Judged("en", 1.0), 0.0, Judged(kind, confidence))


def shaped(call: Call, schema: str = "", choice: str = "", role: str = "") -> Call:
    return replace(
        call,
        response_format=ResponseFormat(schema) if schema else None,
        settings=replace(call.settings, tool_choice=choice),
        origin=replace(call.origin, kind="", node_role=role),
    )


@pytest.mark.parametrize(
    ("call", "kind", "by"),
    [
        (a_call(kind="planning"), "planning", "declared"),
        (shaped(a_call(tools=[LOOK_UP]), choice="required"), "tool_call", "shape"),
        (shaped(a_call(tools=[LOOK_UP]), choice="tool:look_up", role="final"), "tool_call", "shape"),
        (shaped(a_call(), schema=ENUM), "triage", "shape"),
        (shaped(a_call(), schema=PLAN), "planning", "shape"),
        (shaped(a_call(), schema=GRADE), "reflection", "shape"),
        (shaped(a_call()), "synthesis", "shape"),
        (shaped(a_call(*RESULTS)), "synthesis", "shape"),
        (shaped(a_call(tools=[LOOK_UP]), choice="none"), "synthesis", "shape"),
        (shaped(a_call(tools=[LOOK_UP]), role="final"), "synthesis", "graph"),
        (shaped(a_call(), role="fan_out"), "planning", "graph"),
        (shaped(a_call(tools=[LOOK_UP])), "tool_call", "shape"),
    ],
)
def test_who_decides_the_kind(call: Call, kind: str, by: str) -> None:
    step = decide_kind(call)
    assert (step.kind, step.by) == (kind, by)


def test_the_classifier_is_heard_only_where_the_others_are_unsure() -> None:
    unsure = shaped(a_call(tools=[LOOK_UP]))
    assert decide_kind(unsure).confidence < SURE
    assert decide_kind(unsure, learned("synthesis", 0.6)).by == "learned"
    assert decide_kind(shaped(a_call()), learned("tool_call", 0.99)).by == "shape"
    assert decide_kind(unsure, learned("no such kind", 0.9)).by == "shape"


def test_the_first_chunk_with_content_reveals_the_kind() -> None:
    assert revealed(Chunk()) is None
    assert revealed(Chunk("  \n")) is None
    assert revealed(Chunk("Well")) is StepKind.SYNTHESIS
    assert revealed(Chunk("Well", tool_calls=(ToolCallDelta(0, "t", "f"),))) is StepKind.TOOL_CALL
    assert revealed(said("x")) is StepKind.SYNTHESIS
