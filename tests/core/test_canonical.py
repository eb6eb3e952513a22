"""What is made equal before it is compared, and what is not."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.canonical import (
    alike,
    canonical_arguments,
    masked,
    reads_as_error,
    says_why,
    short_digest,
    text_marks,
    without_echo,
    without_numbers,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5))
def test_arguments_are_the_same_however_they_are_written(arguments: dict[str, object]) -> None:
    plain = canonical_arguments(json.dumps(arguments))
    backwards = dict(reversed(arguments.items()))
    assert canonical_arguments(json.dumps(backwards, indent=3)) == plain
    assert canonical_arguments(plain) == plain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"zip": "02139"}', '{"zip": "2139"}'),
        ('{"id": "#W1"}', '{"id": "#w1"}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": null}', '{"a": ""}'),
        ('{"a": true}', '{"a": 1}'),
        ("not json", "not  JSON"),
    ],
)
def test_arguments_that_differ_stay_different(one: str, other: str) -> None:
    assert canonical_arguments(one) != canonical_arguments(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("done at 2026-01-02T03:04:05Z", "done at 2026-01-02 03:04:09.123+01:00"),
        ("job 550e8400-e29b-41d4-a716-446655440000", "job 123e4567-e89b-12d3-a456-426614174000"),
        ('{"request_id": "a1", "n": 1}', '{"request_id": "b2", "n": 1}'),
        ('{"elapsed_ms": 12.5, "n": 1}', '{"elapsed_ms": 9, "n": 1}'),
        ("<obj at 0x7f01abcd1234>", "<obj at 0x7f01abcd9999>"),
        ("ts 1716239022", "ts 1716239999"),
        ("a  b\n c", "a b c "),
    ],
)
def test_volatile_parts_of_a_result_are_masked(one: str, other: str) -> None:
    assert masked(one) == masked(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10% done", "20% done"),
        ("order 7471004230", "order 7471004231"),
        ("due 2026-01-02", "due 2026-01-03"),
        ("price 466.75", "price 466.76"),
        ("x" * 30_000 + "a", "x" * 30_000 + "b"),
    ],
)
def test_what_a_result_says_is_not(one: str, other: str) -> None:
    assert masked(one) != masked(other)


@pytest.mark.parametrize(
    "part", ["1", "a1", "ab", "0x", '"took', "12:", "2026-01-", "exit ", "_", "a'", " ", "1,", "[:"]
)
def test_no_text_takes_long(part: str) -> None:
    text = part * (40_000 // len(part))
    started = time.process_time()
    for read in (masked, without_numbers, reads_as_error, says_why, text_marks, canonical_arguments):
        read(text)
    without_echo(text[:20_000], '{"a":"' + text[:300].replace('"', "") + '"}')
    assert time.process_time() - started < 2


ERRORS = [
    "Error: no",
    "404 Not Found",
    "ValueError: x",
    "not found",
    '{"error": "x"}',
    '{"success": false}',
    "Timed out",
]
FINE = ["ok", '{"error": null}', '{"error":   ""}', "500 items", "no errors", '{"status": "open"}', "", "Errors: 0"]


def test_errors_are_told_by_their_text() -> None:
    assert [text for text in ERRORS if not reads_as_error(text)] == []
    assert [text for text in FINE if reads_as_error(text)] == []


def test_a_failure_without_a_cause() -> None:
    assert not any(says_why(text) for text in ("exit code 1", "Error: command failed with exit code 2", "", "error"))
    assert all(says_why(text) for text in ("Error: timeout", "Error 503", "not found", "exit code 1: no such file"))


def test_an_echo_is_a_whole_value() -> None:
    assert without_echo("no user ann, annex empty", '{"name":"ann"}') == "no user #, annex empty"
    assert without_echo("12 of 120", '{"n":12}') == "# of 120"


WORDS = "the order was shipped on monday by the usual carrier and should reach you before the end of next week"


def test_similar_texts() -> None:
    first = text_marks(WORDS)
    assert text_marks(WORDS.upper() + "!!")[0] == first[0]
    assert alike(first[1], text_marks(WORDS.replace("monday", "tuesday"))[1])
    assert not alike(
        first[1], text_marks("please tell me your name and your street so that i can find what you bought here")[1]
    )
    assert alike(text_marks("Attempt 3 of 9")[1], text_marks("attempt 4 of 9")[1])
    assert not alike(text_marks("yes")[1], text_marks("no")[1])
    assert text_marks("") == (b"", 0)
    assert text_marks("?!")[0] != text_marks("...")[0]
    assert not alike(0, 0)


@given(st.text(max_size=300))
def test_marks_are_stable_and_fit(text: str) -> None:
    digest, sketch = text_marks(text)
    assert (digest, sketch) == text_marks(f"  {text}\n")
    assert len(digest) in (0, 8)
    assert 0 <= sketch < 2**64


def test_fields_do_not_run_together() -> None:
    assert short_digest("ab", "c") != short_digest("a", "bc")
