"""The public suite for upstreams finds what it is there to find: each of these upstreams breaks one law."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace

import pytest

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Outcome, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Text
from waywiser.core.models import Model
from waywiser.testing import upstreams
from waywiser.testing.upstreams import ODD, Act, StagedUpstream, UpstreamConformance

SUITE = UpstreamConformance()
SILENCE = SUITE.test_a_silence_is_waited_for_no_longer_than_agreed
ANSWER = Reply((Text("It left on Monday."),), usage=Usage(20, 5))
SOUND = (Chunk("It left"), Chunk(" on Monday."), Chunk(finish=Finish.STOP, usage=Usage(20, 5)))


class Plain:
    """Keeps every law that can be kept without a provider; what breaks one overrides a method."""

    whole: Outcome = ANSWER
    pieces: tuple[Chunk | Failure, ...] = SOUND

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return self.whole

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return self.send(model, call, timeout_s)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        yield from self.pieces

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        for piece in self.stream(model, call, timeout_s):
            yield piece

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Raises(Plain):
    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        raise ValueError("whatever the package raised")


class Guesses(Plain):
    whole = Failure(FailureKind.OVERLOADED, ODD)


class Mute(Plain):
    whole = Failure(FailureKind.UNKNOWN, "something went wrong")


class EndsInNothing(Plain):
    pieces = SOUND[:2]


class FailsAfterTheFinish(Plain):
    pieces = (*SOUND, Failure(FailureKind.CUT_SHORT, "after all"))


class ForgetsWhatWasSaid(Plain):
    pieces = (Chunk("It left"), Failure(FailureKind.CUT_SHORT, "the connection broke"))


class SaysMoreAfterTheEnd(Plain):
    pieces = (*SOUND, Chunk("and another thing"))


class CountsNothing(Plain):
    whole = replace(ANSWER, usage=Usage(estimated=True))


class DiffersOnALoop(Plain):
    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return replace(ANSWER, usage=Usage(20, 6))


class LosesArguments(Plain):
    pieces = (Chunk(tool_calls=(ToolCallDelta(0, "c1", "look_up", '{"order_id":'),)), Chunk(finish=Finish.TOOL_CALLS))


class Hangs(Plain):
    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        threading.Event().wait(5)
        return Failure(FailureKind.TIMEOUT, "at last", usage=Usage(estimated=True))


class HangsOnALoop(Plain):
    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        await asyncio.sleep(5)
        return Failure(FailureKind.TIMEOUT, "at last", usage=Usage(estimated=True))


BROKEN: list[tuple[type[Plain], Callable[[StagedUpstream], None]]] = [
    (Raises, lambda staged: SUITE.test_trouble_is_a_failure_of_its_kind(staged, Act.OVERLOADED, "send")),
    (Guesses, lambda staged: SUITE.test_trouble_is_a_failure_of_its_kind(staged, Act.UNKNOWN, "asend")),
    (Mute, lambda staged: SUITE.test_trouble_is_a_failure_of_its_kind(staged, Act.UNKNOWN, "send")),
    (Plain, lambda staged: SUITE.test_an_answer_that_breaks_off_is_never_whole(staged, "stream")),
    (EndsInNothing, lambda staged: SUITE.test_an_answer_is_whole_and_says_what_it_used(staged, "stream")),
    (FailsAfterTheFinish, lambda staged: SUITE.test_an_answer_that_breaks_off_is_never_whole(staged, "astream")),
    (ForgetsWhatWasSaid, lambda staged: SUITE.test_an_answer_that_breaks_off_is_never_whole(staged, "stream")),
    (SaysMoreAfterTheEnd, lambda staged: SUITE.test_nothing_is_said_after_the_finish(staged, Act.ANSWER, "stream")),
    (CountsNothing, lambda staged: SUITE.test_an_answer_is_whole_and_says_what_it_used(staged, "send")),
    (DiffersOnALoop, lambda staged: SUITE.test_an_event_loop_gets_the_same(staged, Act.ANSWER, "send", "asend")),
    (LosesArguments, lambda staged: SUITE.test_a_tool_call_is_put_together(staged, "stream")),
    (Hangs, lambda staged: SILENCE(staged, Act.SILENT, "send")),
    (HangsOnALoop, lambda staged: SILENCE(staged, Act.SILENT, "asend")),
    (Plain, lambda staged: SUITE.test_a_stream_may_take_longer_than_any_silence_in_it(staged, "stream")),
    (Plain, SUITE.test_a_stream_that_is_closed_stops_the_provider),
    (Plain, SUITE.test_an_async_stream_that_is_closed_stops_the_provider),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_a_broken_law_is_found(
    broken: type[Plain], test: Callable[[StagedUpstream], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "LATE_S", 0.3)
    monkeypatch.setattr(upstreams, "SHORT_S", 0.1)
    staged = StagedUpstream(broken(), {act: Model(f"m/{act}") for act in Act}, dropped=lambda: 0)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        test(staged)


def test_a_sound_upstream_passes_and_what_is_not_staged_is_skipped() -> None:
    staged = StagedUpstream(Plain(), {Act.ANSWER: Model("m/answer")})
    for how in upstreams.WAYS:
        SUITE.test_an_answer_is_whole_and_says_what_it_used(staged, how)
    SUITE.test_many_threads_and_loops_ask_at_once(staged)
    SUITE.test_closing_twice_is_fine(staged)
    with pytest.raises(pytest.skip.Exception, match="stages no 'cut'"):
        SUITE.test_an_answer_that_breaks_off_is_never_whole(staged, "send")
