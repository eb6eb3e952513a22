"""What every upstream must do.

Subclass `UpstreamConformance` and give it a fixture `upstream`: the upstream, and for each `Act` you can bring about
the model to ask for it, from a script or from a server of yours on loopback. What is not staged is skipped.

    class TestMine(UpstreamConformance):
        @pytest.fixture
        def upstream(self, server) -> Iterator[StagedUpstream]:
            mine = MyUpstream()
            yield StagedUpstream(mine, {Act.ANSWER: Model("mine/good", base_url=server.url), ...})
            mine.close()

The suite asks from threads and event loops of its own, and takes what does not come back for a failure, not for a
reason to wait.
"""
# ruff: noqa: D102, S101 - a suite asserts, and the names of its tests say what they are for

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import pytest

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Outcome, Reply, Tool
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.ports import Upstream

T = TypeVar("T")

PATIENCE_S = 10.0
"""The timeout of calls that should come to something."""
SHORT_S = 0.4
"""The timeout of calls to a provider that goes silent, or drips."""
LATE_S = 3.0
"""How much later than its timeout a call may come back before the suite says that it hangs."""
ODD = "the gnomes are on strike"
"""What the provider says of the trouble that nobody has heard of."""


class Act(StrEnum):
    """What the provider behind an upstream is made to do."""

    ANSWER = "answer"
    """Answers with a text of some words and says what it used."""
    TOOL_CALL = "tool_call"
    """Asks once for the tool it is offered, `look_up`, and says what it used."""
    DRIP = "drip"
    """Streams an answer for longer than `SHORT_S` in all, never silent for half as long."""
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    UNAUTHORISED = "unauthorised"
    CONTEXT_TOO_LONG = "context_too_long"
    MALFORMED = "malformed"
    """Answers what can't be read."""
    UNKNOWN = "unknown"
    """Reports trouble of no known kind, in the words of `ODD`."""
    SILENT = "silent"
    """Takes the request and says nothing."""
    STALLED = "stalled"
    """Begins a text and goes silent."""
    CUT = "cut"
    """Begins a text and breaks off without a word of why."""


LOOK_UP = Tool(
    "look_up",
    "Look an order up by its id.",
    '{"type":"object","properties":{"order_id":{"type":"string","description":"Order id such as W1001"}},'
    '"required":["order_id"]}',
)
TROUBLES = (Act.OVERLOADED, Act.RATE_LIMITED, Act.UNAUTHORISED, Act.CONTEXT_TOO_LONG, Act.MALFORMED, Act.UNKNOWN)
WAYS = ("send", "asend", "stream", "astream")


@dataclass(frozen=True)
class StagedUpstream:
    """An upstream and what brings its provider to act.

    `dropped` tells how many answers the provider has broken off so far because nobody wanted the rest.
    """

    upstream: Upstream
    models: Mapping[Act, Model]
    dropped: Callable[[], int] | None = None

    def model(self, act: Act) -> Model:
        """Return the model to ask, or skip the test that wants it."""
        if act not in self.models:
            pytest.skip(f"the fixture stages no {act.value!r}")
        return self.models[act]


def in_time(work: Callable[[], T], timeout_s: float) -> T:
    """Do something in a thread of its own; fail if it hangs."""
    results: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            results.put(([work()], None))
        except BaseException as error:  # noqa: BLE001 - raised below
            results.put(([], error))

    threading.Thread(target=attempt, daemon=True).start()
    try:
        result, error = results.get(timeout=timeout_s + LATE_S)
    except queue.Empty:
        pytest.fail(f"nothing came back within {timeout_s + LATE_S:g} s, though the timeout is {timeout_s:g} s")
    if error is not None:
        raise error
    return result[0]


def ask(staged: StagedUpstream, act: Act, how: str, timeout_s: float = PATIENCE_S) -> list[Reply | Chunk | Failure]:
    """Ask for an act in one of the four ways and return all that comes of it."""
    model = staged.model(act)
    tools = (LOOK_UP,) if act is Act.TOOL_CALL else ()
    call = Call("c1", (user("Please look my order W1001 up."),), tools, stream="stream" in how)
    upstream = staged.upstream
    if how == "send":
        return in_time(lambda: [upstream.send(model, call, timeout_s)], timeout_s)
    if how == "stream":
        return in_time(lambda: list(upstream.stream(model, call, timeout_s)), timeout_s)

    async def whole() -> list[Reply | Chunk | Failure]:
        try:
            if how == "asend":
                return [await upstream.asend(model, call, timeout_s)]
            return [item async for item in upstream.astream(model, call, timeout_s)]
        finally:
            await upstream.aclose()

    return in_time(lambda: asyncio.run(whole()), timeout_s)


def outcome(items: list[Reply | Chunk | Failure]) -> Outcome:
    """What all that came makes together. A stream without a finish comes to a failure."""
    last = items[-1] if items else None
    if isinstance(last, Failure | Reply):
        return last
    assembly = Assembly()
    for item in items:
        assert isinstance(item, Chunk), "a failure is the last item"
        assembly.feed(item)
    assert assembly.finish is not None, "a stream ends with a chunk that says why, or with a failure"
    return assembly.reply()


def text_of(items: list[Reply | Chunk | Failure]) -> str:
    """The text among what came."""
    return "".join(item.text for item in items if isinstance(item, Reply | Chunk))


def failure_of(items: list[Reply | Chunk | Failure]) -> Failure:
    """The failure that has to be there, once and last."""
    failures = [item for item in items if isinstance(item, Failure)]
    assert len(failures) == 1, f"one failure is expected, there are {len(failures)}"
    assert items[-1] is failures[0], "a failure is the last item"
    assert not any(isinstance(item, Chunk) and item.finish for item in items), "what failed has not finished"
    assert failures[0].message, "a failure says what happened"
    return failures[0]


class UpstreamConformance:
    """The suite. Every test is independent of the others."""

    @pytest.mark.parametrize("how", WAYS)
    def test_an_answer_is_whole_and_says_what_it_used(self, upstream: StagedUpstream, how: str) -> None:
        items = ask(upstream, Act.ANSWER, how)
        reply = outcome(items)
        assert isinstance(reply, Reply), reply
        assert reply.text.strip()
        assert reply.finish is Finish.STOP
        assert reply.usage.input_tokens > 0
        assert reply.usage.output_tokens > 0
        assert not reply.usage.estimated

    @pytest.mark.parametrize("how", ["stream", "astream"])
    @pytest.mark.parametrize("act", [Act.ANSWER, Act.TOOL_CALL])
    def test_nothing_is_said_after_the_finish(self, upstream: StagedUpstream, act: Act, how: str) -> None:
        items = ask(upstream, act, how)
        ends = [place for place, item in enumerate(items) if isinstance(item, Chunk) and item.finish is not None]
        assert len(ends) == 1
        after = [item for item in items[ends[0] + 1 :] if isinstance(item, Chunk)]
        assert not any(item.text or item.thinking or item.tool_calls for item in after)

    @pytest.mark.parametrize("how", WAYS)
    def test_a_tool_call_is_put_together(self, upstream: StagedUpstream, how: str) -> None:
        reply = outcome(ask(upstream, Act.TOOL_CALL, how))
        assert isinstance(reply, Reply), reply
        (call,) = reply.tool_calls
        assert call.name == LOOK_UP.name
        assert call.id
        assert isinstance(json.loads(call.arguments), dict)
        assert reply.finish is Finish.TOOL_CALLS

    @pytest.mark.parametrize(("how", "ahow"), [("send", "asend"), ("stream", "astream")])
    @pytest.mark.parametrize("act", [Act.ANSWER, Act.TOOL_CALL, *TROUBLES, Act.CUT])
    def test_an_event_loop_gets_the_same(self, upstream: StagedUpstream, act: Act, how: str, ahow: str) -> None:
        one, other = outcome(ask(upstream, act, how)), outcome(ask(upstream, act, ahow))
        if isinstance(one, Failure) or isinstance(other, Failure):
            assert isinstance(one, Failure)
            assert isinstance(other, Failure)
            assert (one.kind, one.status, one.retry_after_s) == (other.kind, other.status, other.retry_after_s)
            return
        assert (one.text, one.finish, one.usage) == (other.text, other.finish, other.usage)
        wanted = [(call.name, json.loads(call.arguments)) for call in one.tool_calls]
        assert [(call.name, json.loads(call.arguments)) for call in other.tool_calls] == wanted

    @pytest.mark.parametrize("how", WAYS)
    @pytest.mark.parametrize("act", TROUBLES)
    def test_trouble_is_a_failure_of_its_kind(self, upstream: StagedUpstream, act: Act, how: str) -> None:
        failure = failure_of(ask(upstream, act, how))
        assert failure.kind is FailureKind(act.value), failure
        if act is Act.UNKNOWN:
            assert ODD in failure.message, "what nobody understands is told as it was said"

    @pytest.mark.parametrize("how", WAYS)
    @pytest.mark.parametrize("act", [Act.SILENT, Act.STALLED])
    def test_a_silence_is_waited_for_no_longer_than_agreed(self, upstream: StagedUpstream, act: Act, how: str) -> None:
        items = ask(upstream, act, how, SHORT_S)
        failure = failure_of(items)
        assert failure.kind is FailureKind.TIMEOUT, failure
        assert failure.sent
        assert failure.usage.estimated or failure.usage.input_tokens, "what was sent may be charged"
        _keeps_what_was_said(failure, items)

    @pytest.mark.parametrize("how", WAYS)
    def test_an_answer_that_breaks_off_is_never_whole(self, upstream: StagedUpstream, how: str) -> None:
        items = ask(upstream, Act.CUT, how)
        failure = failure_of(items)
        assert failure.kind is FailureKind.CUT_SHORT or ("stream" not in how and not failure.usage.output_tokens)
        _keeps_what_was_said(failure, items)

    @pytest.mark.parametrize("how", ["stream", "astream"])
    def test_a_stream_may_take_longer_than_any_silence_in_it(self, upstream: StagedUpstream, how: str) -> None:
        upstream.model(Act.DRIP)
        begun = time.monotonic()
        reply = outcome(in_time(lambda: ask(upstream, Act.DRIP, how, SHORT_S), PATIENCE_S))
        assert isinstance(reply, Reply), reply
        assert reply.text
        assert time.monotonic() - begun > SHORT_S, "the fixture's answer is too quick to show anything"

    def test_a_stream_that_is_closed_stops_the_provider(self, upstream: StagedUpstream) -> None:
        model, dropped = _droppable(upstream)
        before = dropped()

        def listen() -> None:
            with closing(upstream.upstream.stream(model, _call(), PATIENCE_S)) as pieces:
                assert any(isinstance(piece, Chunk) and piece.text for piece in pieces)

        in_time(listen, PATIENCE_S)
        assert _soon(lambda: dropped() > before), "the provider goes on, though nobody listens"

    def test_an_async_stream_that_is_closed_stops_the_provider(self, upstream: StagedUpstream) -> None:
        model, dropped = _droppable(upstream)
        before = dropped()

        async def listen() -> None:
            async with aclosing(upstream.upstream.astream(model, _call(), PATIENCE_S)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Chunk) and piece.text:
                        break
            assert await asyncio.to_thread(_soon, lambda: dropped() > before), "the provider goes on"
            await upstream.upstream.aclose()

        in_time(lambda: asyncio.run(listen()), PATIENCE_S)

    @pytest.mark.parametrize("how", ["asend", "astream"])
    def test_a_cancelled_task_stops_the_provider(self, upstream: StagedUpstream, how: str) -> None:
        model, dropped = _droppable(upstream)
        before = dropped()

        async def listen() -> None:
            task = asyncio.create_task(_listen(upstream.upstream, model, how))
            await asyncio.sleep(SHORT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(_soon, lambda: dropped() > before), "the provider goes on"
            await upstream.upstream.aclose()

        in_time(lambda: asyncio.run(listen()), PATIENCE_S)

    def test_many_threads_and_loops_ask_at_once(self, upstream: StagedUpstream) -> None:
        ways = [WAYS[number % len(WAYS)] for number in range(24)]
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(lambda how: outcome(ask(upstream, Act.ANSWER, how)), ways))
        assert all(isinstance(reply, Reply) for reply in outcomes), outcomes

    def test_closing_twice_is_fine(self, upstream: StagedUpstream) -> None:
        ask(upstream, Act.ANSWER, "send")

        async def close() -> None:
            await upstream.upstream.aclose()
            await upstream.upstream.aclose()

        asyncio.run(close())
        upstream.upstream.close()
        upstream.upstream.close()


def _call() -> Call:
    return Call("c1", (user("Where is my order?"),), stream=True)


async def _listen(upstream: Upstream, model: Model, how: str) -> None:
    if how == "asend":
        await upstream.asend(model, _call(), PATIENCE_S)
    else:
        async for _ in upstream.astream(model, _call(), PATIENCE_S):
            pass


def _droppable(staged: StagedUpstream) -> tuple[Model, Callable[[], int]]:
    model = staged.model(Act.STALLED)
    if staged.dropped is None:
        pytest.skip("the fixture can't tell what was dropped")
    return model, staged.dropped


def _soon(happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + LATE_S
    while not happened():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _keeps_what_was_said(failure: Failure, items: list[Reply | Chunk | Failure]) -> None:
    said = text_of(items)
    assert (failure.partial.text if failure.partial is not None else "") == said, "what was said is what is kept"
