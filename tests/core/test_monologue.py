"""A reply that repeats itself is cut while it streams; one that only has a pattern is not."""

from __future__ import annotations

import time

import pytest

from waywiser.core.monologue import Monologue


def cut_at(text: str, size: int = 7) -> int | None:
    watch = Monologue()
    for at in range(0, len(text), size):
        if watch.feed(text[at : at + size]):
            return at
    return None


PARAGRAPH = (
    "First we look at the order, which was delivered on Monday by the usual carrier. Then we consider whether the "
    "refund policy applies to it, given how long ago that was. Finally we decide what to tell the customer about it, "
    "in plain words and without promising anything that the policy forbids us to grant. "
)

STUCK = {
    "a sentence": "Let me think. " + "I will now check the order status and get back to you. " * 60,
    "a short phrase": "I am sorry. " * 200,
    "one word": "the " * 1000,
    "a paragraph": PARAGRAPH * 10,
    "two sentences in turn": "Wait, let me check the order again. Actually the order seems fine to me. " * 30,
    "no spaces between words": "我现在去检查订单的状态。" * 60,
    "a list that only counts": "".join(f"{n}. Check the logs and retry the request.\n" for n in range(300)),
    "code that never ends": "```python\n" + "    raise ValueError('no value given')\n" * 300,
}

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")

HEALTHY = {
    "a table": "| day | state | note |\n|---|---|---|\n" + "".join(f"| {n} | yes | no change |\n" for n in range(80)),
    "a table of empty cells": "| n/a | n/a | n/a |\n" * 60,
    "a matrix of zeros": "0, " * 600,
    "numbers": ", ".join(str(n) for n in range(2000)),
    "code": "```python\n" + "    assert x == 1\n" * 40 + "```\n",
    "JSON rows": "[" + '{"name": "", "value": null, "enabled": true},\n' * 40 + "]",
    "a list": "".join(f"- Ask {one} and then {two} about it\n" for one in NUMBERS for two in NUMBERS),
    "a training plan": "".join(f"Day {n}: run for {20 + n} minutes, then rest.\n" for n in range(1, 31)),
    "a poem with a refrain": "".join(
        f"The {one} ships went sailing out past {one} grey isles of stone\n"
        "Row, my brothers, row with me, the sea will bring us home\n"
        "Row, my brothers, row with me, the sea will bring us home\n"
        for one in NUMBERS
    ),
    "a chorus at the end": "Night falls upon the harbour town. " + "All we need is time and tide. " * 8,
    "a rule": "=" * 500 + "\n" + "- " * 200,
}


@pytest.mark.parametrize("size", [1, 7, 400])
@pytest.mark.parametrize("what", STUCK)
def test_a_stuck_reply_is_cut(what: str, size: int) -> None:
    at = cut_at(STUCK[what], size)
    assert at is not None
    assert at < len(STUCK[what]) * 0.9


@pytest.mark.parametrize("size", [1, 7, 400])
@pytest.mark.parametrize("what", HEALTHY)
def test_a_reply_with_a_pattern_is_not(what: str, size: int) -> None:
    assert cut_at(HEALTHY[what], size) is None


def test_it_is_cut_after_it_began_to_repeat_and_stays_cut() -> None:
    healthy = " ".join(f"word{n}" for n in range(3000)) + ". "
    at = cut_at(healthy + STUCK["a sentence"])
    assert at is not None
    assert len(healthy) < at < len(healthy) + 1000
    watch = Monologue()
    watch.feed(STUCK["a sentence"])
    assert watch.cut
    assert watch.feed("something else")


def test_a_stream_is_read_in_linear_time() -> None:
    def spent(words: int) -> float:
        watch = Monologue()
        pieces = [f"w{n * 7919 % 100_003} " for n in range(words)]
        started = time.process_time()
        for piece in pieces:
            watch.feed(piece)
        return time.process_time() - started

    short = min(spent(5000) for _ in range(3))
    assert spent(40_000) < short * 8 * 3
