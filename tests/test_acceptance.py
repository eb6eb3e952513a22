"""The checks of `accept`: what passes, what does not, and what is said about it."""

import pytest

from waywiser.acceptance import Acceptance, invalid
from waywiser.core.calls import Call, Finish, Reply, ResponseFormat, Tool
from waywiser.core.messages import Text, ToolCall, user

SCHEMA = '{"type":"object","properties":{"id":{"type":"string"}},"required":["id"],"additionalProperties":false}'
CALL = Call("c", (user("hi"),), tools=(Tool("look", parameters=SCHEMA),))
ASKED = Call("c", (user("hi"),), response_format=ResponseFormat(SCHEMA))


def said(text: str) -> Reply:
    return Reply((Text(text),))


def asked(arguments: str, name: str = "look") -> Reply:
    return Reply(tool_calls=(ToolCall("1", name, arguments),), finish=Finish.TOOL_CALLS)


@pytest.mark.parametrize(
    ("check", "call", "reply", "wrong"),
    [
        ("not_empty", CALL, said("x"), ""),
        ("not_empty", CALL, asked("{}"), ""),
        ("not_empty", CALL, said(" \n"), "neither text nor a tool call"),
        ("not_refusal", CALL, said("I can't find the order, but here is what I know."), ""),
        ("not_refusal", CALL, said("I'm sorry, but I can't help with that."), "declines"),
        ("not_refusal", CALL, Reply((Text("x"),), finish=Finish.CONTENT_FILTER), "content filter"),
        ("tool_arguments", CALL, said("no call at all"), ""),
        ("tool_arguments", CALL, asked('{"id": "7"}'), ""),
        ("tool_arguments", CALL, asked('{"id": 7}'), "look: $.id: 7 is not of type 'string'"),
        ("tool_arguments", CALL, asked("{}"), "'id' is a required property"),
        ("tool_arguments", CALL, asked('{"id": "7"'), "not JSON"),
        ("tool_arguments", CALL, asked('{"id": "7"}', "lock"), "there is no tool 'lock'"),
        ("json_schema", CALL, said("free text"), ""),
        ("json_schema", ASKED, said('{"id": "7"}'), ""),
        ("json_schema", ASKED, said('Here you are: {"id": "7"}'), "not JSON"),
        ("json_schema", ASKED, said('{"id": "7", "more": 1}'), "more"),
        ("min_logprob=-0.8", CALL, Reply((Text("x"),), logprobs=(-0.1, -1.5)), ""),
        ("min_logprob=-0.8", CALL, Reply((Text("x"),), logprobs=(-0.1, -1.6)), "is -0.85 over 2 tokens"),
        ("min_logprob=-0.8", CALL, Reply((Text("x"),), logprobs=(-9999.0,)), "is -20.00 over 1 tokens"),
        ("min_logprob=-0.8", CALL, said("nobody told"), ""),
    ],
)
def test_each_check(check: str, call: Call, reply: Reply, wrong: str) -> None:
    found = Acceptance()(call, reply, (check,))
    assert (wrong in found) if wrong else (found == "")


def test_the_first_check_that_fails_is_named() -> None:
    assert Acceptance()(CALL, said(""), ("tool_arguments", "not_empty", "not_refusal")).startswith("not_empty: ")


def test_a_function_of_ones_own() -> None:
    checks = Acceptance({"polite": lambda _, reply: "" if "please" in reply.text else "no please"})
    assert checks(CALL, said("please"), ("polite",)) == ""
    assert checks(CALL, said("now"), ("polite",)) == "polite: no please"


def test_a_schema_that_cannot_be_used_is_no_crash() -> None:
    assert "the schema itself" in invalid('{"type": 7}', "{}")


def test_a_schema_is_never_fetched() -> None:
    assert "can't be used" in invalid('{"$ref": "http://127.0.0.1:9/other.json"}', "{}")
