"""What is wrong about a tool or a setting is told where it is given, before any call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from waywiser import BadInput, ConfigError, Router

POLICY = Path(__file__).resolve().parents[2] / "policies" / "simulated.yaml"


@pytest.fixture
def router() -> Iterator[Router]:
    with Router.from_policy(POLICY, store=":memory:") as made:
        yield made


def offered(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", **parameters}}}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"properties": [1]}, "properties: expected an object"),
        ({"properties": {"id": 1}}, "properties.id: expected an object, got 1"),
        ({"properties": {"a": {"type": "array", "items": "string"}}}, "properties.a.items: expected an object"),
        ({"properties": {"a": {"properties": {"b": []}}}}, "properties.a.properties.b: expected an object, got []"),
        ({"properties": {"a": {"anyOf": {"type": "string"}}}}, "properties.a.anyOf: expected an array of schemas"),
        ({"properties": {"a": {"anyOf": [{}, 3]}}}, "properties.a.anyOf[1]: expected an object, got 3"),
        ({"properties": {"a": {"enum": "x"}}}, "properties.a.enum: expected an array of values"),
        ({"properties": {"a": {"type": 5}}}, "properties.a.type: expected a type's name"),
        ({"required": "id"}, "required: expected an array of names"),
        ({"$defs": {"a": 1}}, "$defs.a: expected an object"),
        ({"type": "string"}, "type: must be 'object'"),
        ({"properties": {"a": {"default": int}}}, "not JSON"),
    ],
)
def test_a_broken_schema_is_refused_with_its_place(router: Router, parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=re.escape(problem)) as caught:
        router.chat_model().bind_tools([offered(), offered(**parameters)])
    assert str(caught.value).startswith("tools[1].function.parameters")


def test_a_schema_within_itself_is_refused(router: Router) -> None:
    inner: dict[str, Any] = {"type": "object"}
    inner["properties"] = {"again": inner}
    with pytest.raises(BadInput, match="nested too deeply"):
        router.chat_model().bind_tools([offered(properties={"a": inner})])


def test_sound_schemas_of_all_kinds_pass(router: Router) -> None:
    class Line(BaseModel):
        item: str
        count: int | None = None

    class Order(BaseModel):
        """Place an order."""

        lines: list[Line]
        notes: dict[str, list[str]] = {}

    odd = {
        "properties": {
            "pair": {"items": [{"type": "string"}, {"type": "number"}]},
            "either": {"type": ["string", "null"], "oneOf": [{"minLength": 1}, True]},
            "any": True,
            "properties": {"type": "string", "enum": ["a", 1, None]},
        },
        "additionalProperties": False,
        "$defs": {"a": {"not": {}}},
    }
    bound = router.chat_model().bind_tools([Order, offered(**odd)])
    assert bound.invoke([HumanMessage("hi")]).text


def test_what_is_handed_over_has_to_be_a_chat_model() -> None:
    with pytest.raises(ConfigError, match="models: own/a: expected a LangChain chat model, got int"):
        Router.from_policy(POLICY, store=":memory:", models={"own/a": 3})  # type: ignore[dict-item]


def test_receipts_are_those_of_a_session_by_its_name(router: Router) -> None:
    assert router.receipts("nobody") == []
    with pytest.raises(BadInput, match="session_id: expected text, got int"):
        router.receipts(3)  # type: ignore[arg-type]


def test_a_setting_that_there_is_not_is_refused(router: Router) -> None:
    with pytest.raises(BadInput, match="chat_model: there is no setting 'temprature'; did you mean `temperature`"):
        router.chat_model(temprature=0.3)
    with pytest.raises(BadInput, match=r"there is no setting 'foo'; .*bind"):
        router.chat_model(foo=1)
    with pytest.raises(BadInput, match="no setting 'engine'"):
        router.middleware(engine=1)
    model = router.chat_model(temperature=0.3, name="mine", tags=["a"], disable_streaming=True)
    assert (model.temperature, model.name) == (0.3, "mine")
