"""The reader of event streams: the same events however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.upstream.sse import Event, EventParser


def read(*pieces: bytes) -> list[Event]:
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.end()


LINES = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=12)


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["", "delta", "error"]), st.lists(LINES, min_size=1, max_size=3)), max_size=5
    ),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
    comment=st.booleans(),
    bom=st.booleans(),
    last=st.booleans(),
)
def test_any_cut_gives_the_same_events(
    events: list[tuple[str, list[str]]], newline: str, cuts: list[int], comment: bool, bom: bool, last: bool
) -> None:
    text = "\ufeff" if bom else ""
    for name, lines in events:
        text += f": ping{newline}" if comment else ""
        text += f"event: {name}{newline}" if name else ""
        text += "".join(f"data: {line}{newline}" for line in lines) + newline
    data = text.encode()
    if not last:
        data = data.rstrip(b"\r\n")
    places = sorted({min(cut, len(data)) for cut in cuts})
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert read(*pieces) == [Event(name, "\n".join(lines)) for name, lines in events]


def test_an_event_is_returned_as_soon_as_its_blank_line_is_there() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [Event("", "a")]


def test_no_space_is_needed_and_only_one_is_taken() -> None:
    assert read(b"data:a\ndata:  b\n\n") == [Event("", "a\n b")]


def test_an_event_without_data_is_none() -> None:
    assert read(b"event: ping\n\nid: 7\n\ndata: x\n\n") == [Event("", "x")]


@pytest.mark.parametrize(
    ("line", "stray"), [("<html>", True), ('{"error": 1}', True), ("foo: bar", False), (": hi", False)]
)
def test_what_is_no_field_is_noticed(line: str, stray: bool) -> None:
    parser = EventParser()
    parser.feed(f"{line}\n\n".encode())
    assert bool(parser.stray) is stray


def test_broken_utf8_is_replaced() -> None:
    assert read(b"data: a\xff\n\n") == [Event("", "a\ufffd")]
