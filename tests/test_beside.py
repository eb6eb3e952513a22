"""What goes wrong beside a race: late failures, streams that cling to their task, losers that will not stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, closing
from contextvars import ContextVar
from dataclasses import dataclass, field

import pytest

from waywiser.clock import SystemClock
from waywiser.core.budget import Claim, Hold, Shortfall
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome
from waywiser.core.health import HEDGE_AFTER_CALLS, TRIP_AFTER
from waywiser.core.models import Model
from waywiser.core.policy import StepRule
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.stores.memory import MemoryStore
from waywiser.testing import chunks
from waywiser.testing.pieces import STEPS, CharacterCounter, a_call, a_policy, failed, said

PATIENCE_S = 0.05
LONG_S = 5.0
HEDGED = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", hedge=True)}
Behaviour = Callable[[], AsyncGenerator[Chunk | Failure, None]]


@dataclass
class Odd:
    """Each model behaves as a function says: an async one for event loops, a blocking one for the rest."""

    apart: Mapping[str, Behaviour] = field(default_factory=dict)
    blocking: Mapping[str, Callable[[], Generator[Chunk | Failure, None, None]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        self.asked.append(model.name)
        (outcome,) = self.blocking[model.name]()
        assert not isinstance(outcome, Chunk)
        return outcome

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        text = ""
        async for piece in self.apart[model.name]():
            if isinstance(piece, Failure):
                return piece
            text += piece.text
        return said(text)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        self.asked.append(model.name)
        yield from self.blocking[model.name]()

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        self.asked.append(model.name)
        async with aclosing(self.apart[model.name]()) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def an_engine(upstream: Odd, store: MemoryStore | None = None) -> Engine:
    engine = Engine(
        a_policy(steps=HEDGED),
        store=store or MemoryStore(),
        upstreams={"scripted": upstream},
        counter=CharacterCounter(),
        clock=SystemClock(),
    )
    for _ in range(HEDGE_AFTER_CALLS):
        engine.health.note("a/middle", None, PATIENCE_S, time.time(), PATIENCE_S)
    return engine


async def told(engine: Engine) -> str:
    return "".join([chunk.text async for chunk in engine.astream(a_call(stream=True))])


def after(seconds: float, text: str) -> Behaviour:
    async def pieces() -> AsyncGenerator[Chunk | Failure, None]:
        await asyncio.sleep(seconds)
        for chunk in chunks(said(text)):
            yield chunk

    return pieces


WHERE: ContextVar[str] = ContextVar("WHERE")


def test_a_stream_is_read_by_one_task_from_its_first_piece_to_its_last() -> None:
    """Such as one that entered a context or a timeout: it must be left where it was entered."""

    async def clinging() -> AsyncGenerator[Chunk | Failure, None]:
        token = WHERE.set("here")
        async with asyncio.timeout(0.3):
            for chunk in chunks(said("one two three")):
                yield chunk
            await asyncio.sleep(0)
        WHERE.reset(token)

    async def stuck() -> AsyncGenerator[Chunk | Failure, None]:
        yield Chunk("one")
        try:
            async with asyncio.timeout(0.05):
                yield Chunk(" two")
                await asyncio.sleep(LONG_S)
        except TimeoutError:
            yield failed("timeout")

    assert asyncio.run(told(an_engine(Odd({"a/middle": clinging})))) == "one two three"
    with pytest.raises(Exception, match="scripted timeout"):
        asyncio.run(told(an_engine(Odd({"a/middle": stuck}))))


def test_whoever_will_not_stop_does_not_hold_up_who_was_quicker() -> None:
    async def stubborn() -> AsyncGenerator[Chunk | Failure, None]:
        end_s = time.monotonic() + LONG_S
        while time.monotonic() < end_s:
            try:
                await asyncio.sleep(LONG_S / 10)
            except asyncio.CancelledError:
                if end_s - time.monotonic() < LONG_S * 0.7:  # the loop itself ends
                    raise
        yield failed("timeout")

    async def run(call: Call) -> float:
        engine, began_s = an_engine(Odd({"a/middle": stubborn, "b/middle": after(0, "in time")})), time.monotonic()
        if call.stream:
            assert await told(engine) == "in time"
        else:
            assert (await engine.acomplete(call)).reply.text == "in time"
        assert engine.store.holds(time.time()) == []
        return time.monotonic() - began_s

    async def both() -> list[float]:
        return [await run(a_call(stream=stream)) for stream in (False, True)]

    loop = asyncio.new_event_loop()
    try:
        assert max(loop.run_until_complete(both())) < LONG_S / 4
    finally:
        for task in asyncio.all_tasks(loop):
            task.get_coro().close()  # they would take their time
        loop.close()


def test_who_is_stopped_twice_leaves_nobody_behind() -> None:
    stopped: list[str] = []

    def slow_to_stop(name: str) -> Behaviour:
        async def pieces() -> AsyncGenerator[Chunk | Failure, None]:
            try:
                await asyncio.sleep(LONG_S)
                yield failed("timeout")
            finally:
                stopped.append(name)
                await asyncio.sleep(0.05)

        return pieces

    upstream = Odd({name: slow_to_stop(name) for name in ("a/middle", "b/middle")})

    async def run() -> None:
        task = asyncio.ensure_future(told(an_engine(upstream)))
        while len(upstream.asked) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.02)
        assert sorted(stopped) == ["a/middle", "b/middle"]
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_stream_that_cancels_itself_ends_the_call() -> None:
    """As one does whose package lets a cancellation of its own escape. It must not be waited for any longer."""

    async def at_once() -> AsyncGenerator[Chunk | Failure, None]:
        raise asyncio.CancelledError
        yield

    async def later() -> AsyncGenerator[Chunk | Failure, None]:
        yield Chunk("one")
        yield Chunk(" two")
        raise asyncio.CancelledError

    async def run(cancelling: Behaviour) -> None:
        engine = an_engine(Odd({"a/middle": cancelling}))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(told(engine), LONG_S)
        assert engine.store.holds(time.time()) == []

    for cancelling in (at_once, later):
        asyncio.run(run(cancelling))


def test_a_stream_that_ends_without_a_word_has_not_won() -> None:
    async def mute() -> AsyncGenerator[Chunk | Failure, None]:
        yield Chunk(model="b")

    engine = an_engine(Odd({"a/middle": after(0.2, "in the end"), "b/middle": mute}))
    assert asyncio.run(told(engine)) == "in the end"
    assert engine.health.snapshot()["b/middle"].failures_in_a_row == 1

    def blocking_mute() -> Generator[Chunk | Failure, None, None]:
        yield Chunk(model="b")

    def late() -> Generator[Chunk | Failure, None, None]:
        time.sleep(0.2)
        yield from chunks(said("in the end"))

    engine = an_engine(Odd(blocking={"a/middle": late, "b/middle": blocking_mute}))
    assert "".join(chunk.text for chunk in engine.stream(a_call(stream=True))) == "in the end"


def test_a_stream_that_failed_in_a_race_is_closed_before_the_other_goes_on() -> None:
    closed: list[str] = []

    async def failing() -> AsyncGenerator[Chunk | Failure, None]:
        try:
            yield failed("overloaded")
        finally:
            closed.append("async")

    def blocking_failing() -> Generator[Chunk | Failure, None, None]:
        try:
            yield failed("overloaded")
        finally:
            closed.append("blocking")

    def late() -> Generator[Chunk | Failure, None, None]:
        time.sleep(0.2)
        yield from chunks(said("in the end"))

    async def run() -> None:
        engine = an_engine(Odd({"a/middle": after(0.2, "in the end"), "b/middle": failing}))
        async with aclosing(engine.astream(a_call(stream=True))) as stream:
            await anext(stream)
            assert closed == ["async"]

    asyncio.run(run())
    with closing(
        an_engine(Odd(blocking={"a/middle": late, "b/middle": blocking_failing})).stream(a_call(stream=True))
    ) as stream:
        next(stream)
        assert closed == ["async", "blocking"]


class Slow(MemoryStore):
    """While the second hold is made the first model answers, and the second one's circuit opens."""

    engine: Engine
    asked = 0

    def reserve(self, claim: Claim) -> Hold | Shortfall:
        self.asked += 1
        if self.asked > 1:
            time.sleep(3 * PATIENCE_S)
            for _ in range(TRIP_AFTER):
                self.engine.health.note("b/middle", failed("overloaded"), 0.1, time.time())
        return super().reserve(claim)


@pytest.mark.parametrize("stream", [False, True])
def test_who_was_never_asked_is_not_charged_as_outrun(stream: bool) -> None:
    def late() -> Generator[Chunk | Failure, None, None]:
        time.sleep(2 * PATIENCE_S)
        if stream:
            yield from chunks(said("whole"))
        else:
            yield said("whole")  # type: ignore[misc]  # see `send`

    store = Slow()
    store.engine = engine = an_engine(Odd(blocking={"a/middle": late}), store)
    for _ in engine.stream(a_call(stream=True)) if stream else [engine.complete(a_call())]:
        pass
    (receipt,) = store.receipts("s1")
    assert [(one.model, one.failure) for one in receipt.attempts] == [
        ("b/middle", FailureKind.OVERLOADED),
        ("a/middle", ""),
    ]
    assert receipt.attempts[0].cost_nanos == 0
    assert sum(row.used.llm_calls for row in store.spends()) == 1


@pytest.mark.parametrize("hedge", [False, True])
def test_a_stream_that_breaks_when_it_is_closed_leaves_no_hold(hedge: bool) -> None:
    async def breaking() -> AsyncGenerator[Chunk | Failure, None]:
        try:
            for chunk in chunks(said("one two three")):
                yield chunk
        finally:
            raise ValueError("a bug in an adapter")

    def blocking() -> Generator[Chunk | Failure, None, None]:
        try:
            yield from chunks(said("one two three"))
        finally:
            raise ValueError("a bug in an adapter")

    engine = an_engine(Odd({"a/middle": breaking}, {"a/middle": blocking}))
    if not hedge:
        engine.policy = a_policy()
    with pytest.raises(ValueError, match="a bug"), closing(engine.stream(a_call(stream=True))) as stream:
        next(stream)
    assert engine.store.holds(time.time()) == []

    async def run() -> None:
        async with aclosing(engine.astream(a_call(stream=True, call_id="c2"))) as stream:
            await anext(stream)

    try:
        asyncio.run(run())
    except ValueError as error:
        assert str(error) == "a bug in an adapter"  # noqa: PT017 - a stream that is read in a task of its own keeps it
    assert engine.store.holds(time.time()) == []


def test_an_upstream_need_not_be_hashable() -> None:
    engine = an_engine(Odd())  # a dataclass that compares by what is in it
    engine.close()
    asyncio.run(engine.aclose())
