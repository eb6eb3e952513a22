"""One stream, driven by a list: what goes out when, what is held, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Reply, ToolCallDelta, Usage
from waywiser.core.draft import InFlight
from waywiser.core.effects import Emit, Pull, Pulled, StartStream, StopStream
from waywiser.core.messages import Thinking
from waywiser.core.policy import FallbackRule
from waywiser.core.scoring import Candidate
from waywiser.core.steps import Step, StepKind
from waywiser.core.streams import Dropped, Watched, watch
from waywiser.testing.pieces import LOOK_UP, a_call, a_model, failed

END = Chunk(finish=Finish.STOP, usage=Usage(8, 3))
TOOL = Chunk(tool_calls=(ToolCallDelta(0, "t1", "look_up", "{}"),))


def watched(
    pieces: Sequence[Chunk | Failure | None],
    kind: str = "synthesis",
    confidence: float = 1.0,
    *,
    call: Call | None = None,
    revealing: bool = False,
    until_s: float = 1000.0,
) -> tuple[Watched, list[Chunk], bool]:
    """What came of a stream, what was emitted, and whether the provider was told to stop. A piece a second."""
    call = call or a_call(stream=True, tools=[LOOK_UP])
    candidate = Candidate(a_model("a/x"), "t", 0, Usage(8, 20), 100)
    flight = InFlight("h", candidate, StepKind(kind), sent=True)
    step, rule = Step(StepKind(kind), "test", confidence), FallbackRule(cut_repetition=False)
    run = watch(call, StartStream(candidate.model, call, 9.0), step, flight, until_s, revealing=revealing, rule=rule)
    emitted: list[Chunk] = []
    left, now_s, stopped = list(pieces), 0.0, False
    result: object = None
    try:
        while True:
            match run.send(result):
                case StartStream():
                    result = now_s
                case Pull():
                    now_s += 1.0
                    result = Pulled(left.pop(0), now_s, 0.5)
                case Emit(chunk):
                    emitted.append(chunk)
                    result = None
                case StopStream():
                    stopped, result = True, None
                case other:
                    raise AssertionError(other)
    except StopIteration as stop:
        return stop.value, emitted, stopped


def test_text_for_a_reader_goes_out_at_once() -> None:
    end, emitted, _ = watched([Chunk("one "), Chunk("two"), END, None])
    assert emitted == [Chunk("one "), Chunk("two"), END]
    assert (end.held, end.emitted) == ((), True)
    assert isinstance(end.outcome, Reply)
    assert end.outcome.text == "one two"


@pytest.mark.parametrize("kind", ["triage", "planning", "tool_call", "reflection"])
def test_what_nobody_reads_is_held_to_its_end(kind: str) -> None:
    end, emitted, _ = watched([Chunk("one"), END, None], kind)
    assert emitted == []
    assert end.held == (Chunk("one"), END)


def test_where_the_kind_is_unsure_the_first_content_decides() -> None:
    _, emitted, _ = watched([Chunk(), Chunk("text"), END, None], "tool_call", 0.55)
    assert emitted == [Chunk(), Chunk("text"), END]
    end, emitted, _ = watched([Chunk(), TOOL, Chunk("after"), END, None], "tool_call", 0.55)
    assert emitted == []
    assert end.held == (Chunk(), TOOL, Chunk("after"), END)


def test_thinking_is_not_yet_a_token_for_the_reader() -> None:
    thinking = Chunk(thinking=Thinking("hm"))
    end, emitted, _ = watched([thinking, failed("overloaded")])
    assert emitted == []
    assert isinstance(end.outcome, Failure)
    assert not end.emitted
    _, emitted, _ = watched([thinking, Chunk("so"), END, None])
    assert emitted == [thinking, Chunk("so"), END]


def test_tool_calls_after_text_are_held_until_they_are_whole() -> None:
    end, emitted, _ = watched([Chunk("let me look"), TOOL, Chunk(" now"), failed("cut_short")])
    assert emitted == [Chunk("let me look")]
    assert end.held == ()
    assert isinstance(end.outcome, Failure)


@pytest.mark.parametrize("last", [None, failed("cut_short"), failed("overloaded"), failed("timeout")])
def test_a_cut_stream_is_never_a_finished_one(last: Failure | None) -> None:
    end, _, _ = watched([Chunk("half"), last])
    assert isinstance(end.outcome, Failure)
    assert end.outcome.kind == (last.kind if last else FailureKind.CUT_SHORT)
    assert end.outcome.partial is not None
    assert end.outcome.partial.text == "half"


def test_after_the_finish_only_a_broken_line_is_forgiven() -> None:
    assert isinstance(watched([Chunk("x"), END, failed("connection")])[0].outcome, Reply)
    assert isinstance(watched([Chunk("x"), END, failed("malformed")])[0].outcome, Failure)


def test_revealing_drops_at_the_first_content_of_another_kind() -> None:
    end, emitted, stopped = watched([Chunk(), Chunk("text")], "tool_call", 0.5, revealing=True)
    assert end.outcome == Dropped(StepKind.SYNTHESIS, Usage(8, 1, estimated=True))
    assert (emitted, stopped) == ([], True)
    end, _, stopped = watched([TOOL, END, None], "tool_call", 0.5, revealing=True)
    assert isinstance(end.outcome, Reply)
    assert not stopped


def test_nobody_waits_for_a_held_stream_beyond_the_deadline() -> None:
    end, emitted, stopped = watched([TOOL] * 9, "tool_call", until_s=5.0)
    assert isinstance(end.outcome, Failure)
    assert end.outcome.kind is FailureKind.TIMEOUT
    assert (emitted, stopped, end.now_s) == ([], True, 5.0)
    # A reader who is being served is not cut off.
    end, _, stopped = watched([Chunk("word ")] * 8 + [END, None], until_s=5.0)
    assert isinstance(end.outcome, Reply)
    assert not stopped


def test_what_is_not_streamed_to_anybody_leaves_nothing_held() -> None:
    end, emitted, _ = watched([Chunk("x"), END, None], call=a_call(), revealing=True)
    assert (end.held, emitted) == ((), [])
