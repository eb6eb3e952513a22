"""Tools as a schema: what goes out is a valid schema, what comes back is what a tool-calling model would say."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import Role, Text, Thinking, ToolCall, assistant, system, tool_result, user
from waywiser.core.models import Ability, Model
from waywiser.upstream.reading import chunks_of
from waywiser.upstream.schema_tools import NOTE, Held, as_schema, as_tools, needed
from waywiser.upstream.wire import Unencodable

MODEL = Model("local/qwen", abilities=frozenset({Ability.JSON_SCHEMA}))
LOOKUP = Tool(
    "lookup",
    "Find an order",
    '{"type":"object","properties":{"id":{"type":"string"}},"required":["id"],"additionalProperties":false}',
)
REFUND = Tool(
    "refund",
    "Pay back",
    '{"type":"object","properties":{"to":{"$ref":"#/$defs/Way"}},"required":["to"],"$defs":{"Way":{"enum":["card","credit"]}}}',
)
CALL = Call("1", (system("help"), user("where is W1?")), (LOOKUP, REFUND))


def schema_of(call: Call) -> dict:
    formed = as_schema(call).response_format
    assert formed is not None
    return json.loads(formed.schema)


def said(value: object, **more: object) -> Reply:
    return Reply((Text(value if isinstance(value, str) else json.dumps(value)),), usage=Usage(9, 4), **more)  # type: ignore[arg-type]


def test_when_it_is_needed() -> None:
    assert needed(MODEL, CALL)
    assert not needed(replace(MODEL, abilities=frozenset({Ability.JSON_SCHEMA, Ability.TOOLS})), CALL)
    assert not needed(replace(MODEL, abilities=frozenset()), CALL)
    assert not needed(MODEL, Call("1", (user("hi"),)))
    assert needed(MODEL, Call("1", (user("hi"), assistant("", [ToolCall("c", "f", "{}")]), tool_result("c", "x"))))


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"tool": "lookup", "arguments": {"id": "W1"}}, True),
        ({"tool": "refund", "arguments": {"to": "card"}}, True),
        ({"tool": "answer", "arguments": {"text": "hello"}}, True),
        ({"tool": "refund", "arguments": {"to": "cash"}}, False),
        ({"tool": "lookup", "arguments": {}}, False),
        ({"tool": "hack", "arguments": {}}, False),
        ({"tool": "answer", "arguments": {"text": "hello"}, "more": 1}, False),
    ],
)
def test_the_schema_says_what_may_be_said(value: object, valid: bool) -> None:
    assert jsonschema.Draft202012Validator(schema_of(CALL)).is_valid(value) is valid
    assert not as_schema(CALL).tools


def test_tool_choice_narrows_the_schema() -> None:
    names = {
        choice: [
            one["properties"]["tool"]["const"]
            for one in schema_of(replace(CALL, settings=Settings(tool_choice=choice))).get("anyOf", [])
        ]
        for choice in ("", "auto", "required")
    }
    assert names == {
        "": ["lookup", "refund", "answer"],
        "auto": ["lookup", "refund", "answer"],
        "required": ["lookup", "refund"],
    }
    one = replace(CALL, settings=Settings(tool_choice="tool:refund"))
    assert schema_of(one)["properties"]["tool"] == {"const": "refund"}
    none = as_schema(replace(CALL, settings=Settings(tool_choice="none")))
    assert none.response_format is None
    plain = as_tools(said("hello"), replace(CALL, settings=Settings(tool_choice="none")))
    assert isinstance(plain, Reply)
    assert (plain.text, plain.notes) == ("hello", (NOTE,))


def test_the_history_is_told_in_words_that_alternate() -> None:
    calls = [ToolCall("c1", "lookup", '{"id":"W1"}'), ToolCall("c2", "lookup", '{"id":"W2"}')]
    history = (
        *CALL.messages,
        assistant("one moment", calls),
        tool_result("c1", "sent"),
        tool_result("c2", "lost", is_error=True),
        user("and?"),
    )
    told = as_schema(replace(CALL, messages=history)).messages
    assert [message.role for message in told] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]
    assert (
        told[2].text
        == 'one moment\n{"tool":"lookup","arguments":{"id":"W1"}}\n{"tool":"lookup","arguments":{"id":"W2"}}'
    )
    assert told[3].text == "[lookup returned]\nsent\n[lookup failed]\nlost\nand?"
    assert told[0].text.startswith("help")
    assert "lookup(id: string): Find an order" in told[0].text
    assert not any(message.tool_calls or message.tool_call_id for message in told)


def test_the_prompt_stays_the_same_from_step_to_step() -> None:
    later = replace(
        CALL, messages=(*CALL.messages, assistant("", [ToolCall("c", "lookup", "{}")]), tool_result("c", "x"))
    )
    assert as_schema(CALL).messages[:2] == as_schema(later).messages[:2]


def test_a_tool_call_comes_back() -> None:
    reply = as_tools(
        replace(
            said({"tool": "lookup", "arguments": {"id": "W1"}}),
            parts=(Thinking("hm"), Text('{"tool":"lookup","arguments":{"id":"W1"}}')),
        ),
        CALL,
    )
    assert isinstance(reply, Reply)
    (call,) = reply.tool_calls
    assert (call.name, call.arguments, bool(call.id)) == ("lookup", '{"id":"W1"}', True)
    assert (reply.parts, reply.finish, reply.usage, reply.notes) == (
        (Thinking("hm"),),
        Finish.TOOL_CALLS,
        Usage(9, 4),
        (NOTE,),
    )


def test_an_answer_comes_back() -> None:
    reply = as_tools(said({"tool": "answer", "arguments": {"text": "It was sent."}}), CALL)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.tool_calls, reply.finish) == ("It was sent.", (), Finish.STOP)


def test_a_tool_called_answer_is_not_mistaken() -> None:
    call = replace(CALL, tools=(Tool("answer", parameters=LOOKUP.parameters),))
    reply = as_tools(said({"tool": "answer", "arguments": {"id": "W1"}}), call)
    assert isinstance(reply, Reply)
    assert reply.tool_calls[0].name == "answer"
    assert jsonschema.Draft202012Validator(schema_of(call)).is_valid(
        {"tool": "final_answer", "arguments": {"text": "x"}}
    )


def test_structured_output_and_tools_together() -> None:
    call = replace(
        CALL,
        response_format=ResponseFormat('{"type":"object","properties":{"sum":{"type":"integer"}},"required":["sum"]}'),
    )
    reply = as_tools(said({"tool": "answer", "arguments": {"sum": 3}}), call)
    assert isinstance(reply, Reply)
    assert json.loads(reply.text) == {"sum": 3}
    assert not jsonschema.Draft202012Validator(schema_of(call)).is_valid({"tool": "answer", "arguments": {"text": "x"}})


@pytest.mark.parametrize(
    "reply",
    [
        said('{"tool": "lookup", "argu', finish=Finish.LENGTH),
        said("I think I should look it up"),
        said({"tool": "hack", "arguments": {}}),
        said({"tool": "lookup", "arguments": "W1"}),
        said({"tool": "answer", "arguments": {"text": " "}}),
        said([1]),
    ],
)
def test_what_keeps_no_form_is_malformed_and_charged(reply: Reply) -> None:
    failure = as_tools(reply, CALL)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.usage) == (FailureKind.MALFORMED, Usage(9, 4))


def test_a_stream_is_held_and_comes_out_as_a_tool_call() -> None:
    held = Held(CALL)
    text = json.dumps({"tool": "lookup", "arguments": {"id": "W1"}})
    items = [out for start in range(0, len(text), 5) for out in held.take(Chunk(text=text[start : start + 5]))]
    assert items
    assert all(isinstance(item, Chunk) and not item.text for item in items)
    last = list(held.take(Chunk(finish=Finish.STOP, usage=Usage(9, 4))))
    assert isinstance(last[0], Chunk)
    assert last[0].tool_calls[0].arguments == '{"id":"W1"}'
    assert isinstance(last[-1], Chunk)
    assert (last[-1].finish, last[-1].usage) == (Finish.TOOL_CALLS, Usage(9, 4))


def test_a_stream_that_fails_lets_no_half_json_out() -> None:
    held = Held(CALL)
    list(held.take(Chunk(text='{"tool"')))
    (failure,) = held.take(Failure(FailureKind.CUT_SHORT, "cut", partial=said('{"tool"')))
    assert isinstance(failure, Failure)
    assert failure.partial is None


def test_thinking_passes_once() -> None:
    held = Held(CALL)
    reply = replace(
        said({"tool": "answer", "arguments": {"text": "hi"}}),
        parts=(Thinking("hm"), Text('{"tool":"answer","arguments":{"text":"hi"}}')),
    )
    out = [item for chunk in chunks_of(reply) for item in held.take(chunk)]
    assert [item.thinking.text for item in out if isinstance(item, Chunk) and item.thinking] == ["hm"]
    assert "".join(item.text for item in out if isinstance(item, Chunk)) == "hi"


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = Tool("tree", parameters='{"type":"object","properties":{"child":{"$ref":"#"}}}')
    jsonschema.Draft202012Validator.check_schema(schema_of(replace(CALL, tools=(tree,))))


def test_a_broken_schema_names_its_tool() -> None:
    with pytest.raises(Unencodable, match=r"tools\[0\]"):
        as_schema(replace(CALL, tools=(Tool("x", parameters="{"),)))


def test_where_no_tool_may_be_called_the_history_shows_none_being_written() -> None:
    asked = assistant("", [ToolCall("c1", "look_up", '{"id":"W1"}')])
    call = Call("c", (user("Where is W1?"), asked, tool_result("c1", "shipped")), settings=Settings(tool_choice="none"))
    sent = as_schema(replace(call, tools=(Tool("look_up"),)))
    assert [message.role for message in sent.messages] == [Role.USER]
    assert '"tool"' not in sent.messages[0].text
    assert '[look_up {"id":"W1"} returned]\nshipped' in sent.messages[0].text
    assert sent.tools == ()
    assert sent.response_format is None
