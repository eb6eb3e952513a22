"""Conditions on the state are parsed, checked and never evaluated as code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.workflow.conditions import parse_condition

STATE = {"topic": "order", "count": 3, "tags": ["a", "b"], "empty": [], "done": False, "name": ""}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("topic == 'order'", True),
        ("topic != 'order'", False),
        ("topic in ['order', 'refund']", True),
        ("topic not in ('order', 'refund')", False),
        ("'a' in tags", True),
        ("'rd' in topic", True),
        ("count > 2 and count <= 3", True),
        ("1 < count < 3", False),
        ("not done", True),
        ("done == false", True),
        ("missing == nothing", True),
        ("missing", False),
        ("tags and not empty", True),
        ("(done or name) and topic", False),
        ("count == -3", False),
        ("count < 'x'", False),
        ("missing > 3", False),
        ("'x' in missing", False),
        ("count in count", False),
    ],
)
def test_what_holds(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(STATE) is holds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("topic = 'order'", "is not a condition"),
        ("topic ==", "is not a condition"),
        ("", "is not a condition"),
        ("len(topic) > 3", r"`len\(topic\)` is not understood"),
        ("__import__('os').system('true')", "is not understood"),
        ("topic.upper == 'X'", "`topic.upper` is not understood"),
        ("tags[0] == 'a'", r"`tags\[0\]` is not understood"),
        ("count + 1 > 3", r"`count \+ 1` is not understood"),
        ("(lambda: 1)()", "is not understood"),
        ("[x for x in tags]", "is not understood"),
        ("topic is None", "is not understood"),
        ("f'{topic}'", "is not understood"),
        ("b'x' == topic", "is not understood"),
        ("(" * 300, "is not a condition"),
        ("not " * 120 + "x", None),
        ("x" * 501, "500 characters"),
    ],
)
def test_what_is_refused(text: str, why: str | None) -> None:
    if why is None:
        assert parse_condition(text).names == ("x",)
        return
    with pytest.raises(ValueError, match=why):
        parse_condition(text)


def test_what_a_condition_reads() -> None:
    parsed = parse_condition("topic in ['a', 'b'] and 'c' == topic or not done and count != 3 and 'z' in tags")
    assert parsed.names == ("topic", "done", "count", "tags")
    assert sorted(parsed.literals, key=str) == [("count", 3), ("topic", "a"), ("topic", "b"), ("topic", "c")]


@given(st.text(max_size=40) | st.text(alphabet="abtopic()[]'\"=!<>not in and or.,-0123", max_size=40))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - a refusal with words is as good as a condition
    else:
        assert condition.holds(STATE) in {True, False}
