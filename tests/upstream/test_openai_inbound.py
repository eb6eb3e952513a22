"""Requests of clients: everything wrong is named by its place."""

# ruff: noqa: E501 - tables of wire data read best one row a line

from __future__ import annotations

import json
from typing import Any

import pytest

from waywiser.core.calls import Chunk, Finish, ResponseFormat, Usage
from waywiser.core.messages import Role, Text
from waywiser.errors import BadInput
from waywiser.upstream.openai_inbound import read_call, read_json, write_chunk

USER = {"role": "user", "content": "hi"}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {"a": {}, "b": True}, "required": ["a"]}},
}


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER]} | more


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"model": "m"}, "messages: expected an array"),
        (body(messages=[]), "messages: empty"),
        (body(messages=[USER, "hi"]), r"messages\[1\]: expected an object"),
        (body(messages=[{"role": "robot", "content": "x"}]), r"messages\[0\]\.role"),
        (body(messages=[{"role": "user"}]), r"messages\[0\]\.content: missing"),
        (body(messages=[{"role": "user", "content": 7}]), r"messages\[0\]\.content"),
        (body(messages=[{"role": "user", "content": [{"type": "text"}]}]), r"messages\[0\]\.content\[0\]\.text: missing"),
        (body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), r"image_url\.url: missing"),
        (body(messages=[USER, {"role": "tool", "content": "x", "tool_call_id": "c1"}]), r"messages\[1\]\.tool_call_id: no earlier"),
        (body(messages=[USER, CALLS, {"role": "tool", "content": "x"}]), r"messages\[2\]\.tool_call_id: missing"),
        (body(messages=[USER, CALLS, {"role": "tool", "content": "x", "tool_call_id": "c2"}]), r"messages\[2\]\.tool_call_id"),
        (body(messages=[USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}]), r"messages\[1\]\.tool_calls\[0\]\.function: missing"),
        (body(tools=[{"type": "function"}]), r"tools\[0\]\.function: missing"),
        (body(tools=[{"function": {"name": "f", "parameters": []}}]), r"tools\[0\]\.function\.parameters: expected an object"),
        (body(tools=[{"function": {"name": "f", "parameters": {"type": "array"}}}]), r"parameters\.type"),
        (body(tools=[{"function": {"name": "f"}}] * 2), r"tools\[1\]\.function\.name"),
        (body(tools=[{"function": {"name": "f", "parameters": {"properties": [1]}}}]), r"tools\[0\]\.function\.parameters\.properties: expected an object"),
        (body(tools=[{"function": {"name": "f", "parameters": {"properties": {"a": 1}}}}]), r"parameters\.properties\.a: expected an object"),
        (body(tools=[{"function": {"name": "f", "parameters": {"required": "a"}}}]), r"parameters\.required: expected an array"),
        (body(messages=[USER, CALLS | {"tool_calls": CALLS["tool_calls"] * 2}]), r"messages\[1\]\.tool_calls\[1\]\.id: a call before it"),
        (body(temperature="hot"), "temperature: expected a number"),
        (body(max_tokens=-1), "max_tokens: expected a whole number of at least 1"),
        (body(stop=[1]), "stop"),
        (body(n=3), "n: only one"),
        (body(stream="yes"), "stream: expected true or false"),
        (body(tool_choice="maybe"), "tool_choice"),
        (body(response_format={"type": "xml"}), "response_format.type"),
        (body(response_format={"type": "json_schema"}), "response_format.json_schema: missing"),
        (body(functions=[]), "functions: no longer"),
        (body(model=3), "model: expected text"),
    ],
)  # fmt: skip
def test_bad_input_names_its_place(data: dict[str, Any], place: str) -> None:
    with pytest.raises(BadInput, match=place):
        read_call(data, "1")


@pytest.mark.parametrize(
    ("raw", "what"),
    [(b"\xff{}", "not UTF-8 at byte 0"), (b"{", "not JSON"), (b"[]", "JSON object"), (b"[" * 100_000, "not JSON")],
)
def test_bodies_that_are_none(raw: bytes, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        read_json(raw)


def test_a_full_request() -> None:
    call = read_call(
        body(
            messages=[{"role": "developer", "content": [{"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}}]}, USER],
            max_completion_tokens=5, stream=True, stream_options={"include_usage": True}, logprobs=True, user="u1", tool_choice="none",
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, seed=-1,
        ),
        "id",
    )  # fmt: skip
    assert call.messages[0].role is Role.SYSTEM
    assert call.messages[0].parts == (Text("rules", cache=True),)
    assert (call.settings.max_output_tokens, call.settings.logprobs, call.settings.seed) == (5, 0, -1)
    assert call.settings.extra == {"user": "u1"}
    assert (call.stream, call.model, call.settings.tool_choice) == (True, "m", "none")
    assert call.response_format == ResponseFormat('{"type":"object"}', "a")


def test_a_tool_that_is_offered_may_be_chosen() -> None:
    call = read_call(body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}), "1")
    assert call.settings.tool_choice == "tool:f"
    assert read_call(body(tools=[TOOL], tool_choice="required"), "1").settings.tool_choice == "required"


def test_names_of_tools_are_found_for_their_results() -> None:
    call = read_call(body(messages=[USER, CALLS, {"role": "tool", "content": "x", "tool_call_id": "c1"}]), "1")
    assert call.messages[2].tool_name == "f"


def test_chunks_are_written_with_role_first_and_usage_last() -> None:
    head = write_chunk(Chunk(text="a"), reply_id="r", model="m", created=1, first=True)
    tail = write_chunk(Chunk(finish=Finish.STOP, usage=Usage(1, 2)), reply_id="r", model="m", created=1)
    assert json.loads(json.dumps(head))[0]["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert [len(event["choices"]) for event in tail] == [1, 0]  # type: ignore[arg-type]
    assert write_chunk(Chunk(), reply_id="r", model="m", created=1) == []
    assert (
        len(write_chunk(Chunk(finish=Finish.STOP, usage=Usage(1, 2)), reply_id="r", model="m", created=1, usage=False))
        == 1
    )
