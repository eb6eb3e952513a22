"""Hedging for real: two drivers, requests that take time, and whoever is slow is left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from waywiser.clock import SystemClock
from waywiser.core.calls import Call, Chunk, Failure, Outcome, Reply
from waywiser.core.health import HEDGE_AFTER_CALLS
from waywiser.core.models import Model
from waywiser.core.policy import Policy, StepRule
from waywiser.core.steps import StepKind
from waywiser.engine import Answer, Engine
from waywiser.stores.memory import MemoryStore
from waywiser.testing import chunks
from waywiser.testing.pieces import STEPS, CharacterCounter, a_call, a_policy, failed, said

HEDGED = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", hedge=True)}
PATIENCE_S = 0.05
LATE_S = 1.0
LONG_S = 5.0
"""A test that waited for this would fail by its clock."""

Paced = tuple[float, Reply | Failure | Exception]


@dataclass
class PacedUpstream:
    """Answers after a while. `over` is set when a request to a model has come to its end, however it ended."""

    scripts: Mapping[str, Sequence[Paced]]
    asked: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    over: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def _next(self, model: Model) -> Paced:
        self.asked.append(model.name)
        return self.scripts[model.name][self.asked.count(model.name) - 1]

    @staticmethod
    def _come(outcome: Reply | Failure | Exception) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        wait_s, outcome = self._next(model)
        time.sleep(wait_s)
        self.over.release()
        return self._come(outcome)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        wait_s, outcome = self._next(model)
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            self.closed.append(model.name)
            raise
        return self._come(outcome)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        wait_s, outcome = self._next(model)
        try:
            time.sleep(wait_s)
            yield from self._pieces(outcome)
        except GeneratorExit:
            self.closed.append(model.name)
            raise
        finally:
            self.over.release()

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        wait_s, outcome = self._next(model)
        try:
            await asyncio.sleep(wait_s)
            for piece in self._pieces(outcome):
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.closed.append(model.name)
            raise

    def _pieces(self, outcome: Reply | Failure | Exception) -> tuple[Chunk | Failure, ...]:
        come = self._come(outcome)
        return chunks(come) if isinstance(come, Reply) else (come,)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def an_engine(scripts: Mapping[str, Sequence[Paced]], policy: Policy | None = None) -> tuple[Engine, PacedUpstream]:
    upstream = PacedUpstream(scripts)
    engine = Engine(
        policy or a_policy(steps=HEDGED),
        store=MemoryStore(),
        upstreams={"scripted": upstream},
        counter=CharacterCounter(),
        clock=SystemClock(),
    )
    for _ in range(HEDGE_AFTER_CALLS):
        engine.health.note("a/middle", None, PATIENCE_S, time.time(), PATIENCE_S)
    return engine, upstream


def blocking(engine: Engine, call: Call) -> tuple[Answer, str]:
    if not call.stream:
        answer = engine.complete(call)
        return answer, answer.reply.text
    stream, text = engine.stream(call), ""
    while True:
        try:
            text += next(stream).text
        except StopIteration as stop:
            return stop.value, text


def in_a_loop(engine: Engine, call: Call) -> tuple[Answer, str]:
    async def run() -> tuple[Answer, str]:
        if not call.stream:
            answer = await engine.acomplete(call)
            return answer, answer.reply.text
        answers: list[Answer] = []
        text = "".join([chunk.text async for chunk in engine.astream(call, answers)])
        return answers[0], text

    return asyncio.run(run())


def ends(answer: Answer) -> list[tuple[str, str]]:
    return [(attempt.model, attempt.failure) for attempt in answer.receipt.attempts]


def spent(engine: Engine) -> tuple[int, int]:
    rows = [row.used for row in engine.store.spends()]
    return sum(used.nanos for used in rows), sum(used.llm_calls for used in rows)


both = pytest.mark.parametrize("run", [blocking, in_a_loop])
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@both
@either
def test_whoever_is_slow_is_left_behind(run, stream) -> None:  # type: ignore[no-untyped-def]
    scripts = {"a/middle": [(LATE_S, said("late"))], "b/middle": [(0.0, said("in time"))]}
    engine, upstream = an_engine(scripts)
    began_s = time.monotonic()
    answer, text = run(engine, a_call(stream=stream))
    assert time.monotonic() - began_s < LATE_S
    assert text == answer.reply.text == "in time"
    assert ends(answer) == [("a/middle", "outrun"), ("b/middle", "")]
    assert spent(engine) == (answer.receipt.cost_nanos, 2)
    assert engine.store.holds(time.time()) == []
    known = engine.health.snapshot()
    assert known["a/middle"].failures_in_a_row == 0
    assert known["a/middle"].patience_s(first=stream) > PATIENCE_S  # type: ignore[operator]
    if run is in_a_loop:
        assert upstream.closed == ["a/middle"]
    elif stream:
        assert upstream.over.acquire(timeout=LONG_S)
        assert upstream.over.acquire(timeout=LONG_S)
        assert upstream.closed == ["a/middle"]


@both
@either
def test_whoever_fails_leaves_it_to_the_other(run, stream) -> None:  # type: ignore[no-untyped-def]
    scripts = {"a/middle": [(0.15, failed("overloaded"))], "b/middle": [(0.3, said("whole"))]}
    engine, upstream = an_engine(scripts)
    answer, text = run(engine, a_call(stream=stream))
    assert text == "whole"
    assert ends(answer) == [("a/middle", "overloaded"), ("b/middle", "")]
    assert "b/middle" not in upstream.closed
    assert engine.health.snapshot()["a/middle"].failures_in_a_row == 1
    assert engine.store.holds(time.time()) == []


@both
@either
def test_a_bug_in_one_of_them_is_not_swallowed(run, stream) -> None:  # type: ignore[no-untyped-def]
    scripts = {"a/middle": [(0.3, said("late"))], "b/middle": [(0.0, ValueError("a bug in an adapter"))]}
    engine, _ = an_engine(scripts)
    with pytest.raises(ValueError, match="a bug"):
        run(engine, a_call(stream=stream))
    assert engine.store.holds(time.time()) == []
    assert spent(engine)[1] == 2


@either
def test_a_task_cancelled_in_the_race_leaves_nothing_open(stream: bool) -> None:
    scripts = {"a/middle": [(LONG_S, said("late"))], "b/middle": [(LONG_S, said("later"))]}
    engine, upstream = an_engine(scripts)

    async def run() -> None:
        call = a_call(stream=stream)
        work = engine.acomplete(call) if not stream else anext(engine.astream(call))
        task = asyncio.ensure_future(work)
        while len(upstream.asked) < 2:  # noqa: ASYNC110 - the blocking side of it has no event
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert sorted(upstream.closed) == ["a/middle", "b/middle"]
    assert engine.store.holds(time.time()) == []
    (receipt,) = engine.store.receipts("s1")
    assert receipt.refused == "cancelled"
    assert spent(engine) == (receipt.cost_nanos, 2)


def test_a_stream_closed_early_stops_the_winner() -> None:
    scripts = {"a/middle": [(0.3, said("late"))], "b/middle": [(0.0, said("a long answer that goes on"))]}
    engine, upstream = an_engine(scripts)
    with closing(engine.stream(a_call(stream=True))) as stream:
        next(stream)
    assert "b/middle" in upstream.closed
    assert engine.store.holds(time.time()) == []


def test_hedging_adds_about_one_call_in_twenty() -> None:
    """Latencies of one distribution: the second model is asked for the slowest 5% of them, whatever they are."""
    pace = [0.001 if number % 25 else 0.03 for number in range(1, 301)]
    scripts = {"a/middle": [(wait_s, said("a")) for wait_s in pace], "b/middle": [(0.0, said("b"))] * 300}
    engine, upstream = an_engine(scripts)
    for number in range(300):
        engine.complete(a_call(call_id=f"c{number}", session=f"s{number}"))
    assert 0.01 <= upstream.asked.count("b/middle") / 300 <= 0.12
