"""The two drivers: the same receipts for the same outcomes, and nothing left open however a call is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, FailureKind, Finish, ToolCallDelta, Usage
from waywiser.core.confidence import min_logprob
from waywiser.core.health import TRIP_AFTER
from waywiser.core.models import Ability
from waywiser.core.policy import BudgetRule, FallbackRule, LoopControl, StepRule, Tier, UnsureRule
from waywiser.core.receipt import Receipt
from waywiser.core.steps import StepKind
from waywiser.engine import Answer
from waywiser.errors import BudgetExceeded, StoreError, WaywiserError
from waywiser.testing import Rig, chunks
from waywiser.testing.pieces import LOOK_UP, STEPS, TIERS, a_call, a_policy, asked, failed, said

MODELS = [model.name for tier in TIERS for model in tier.models]
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Random scripts

failures = st.builds(failed, st.sampled_from(FailureKind), retry_after_s=st.none() | st.sampled_from([0.1, 2.0, 500.0]))
tokens = st.tuples(st.integers(0, 20), st.integers(0, 16))
replies = st.builds(said, st.text("abc ", max_size=12), tokens=tokens) | st.builds(
    asked, arguments=st.sampled_from(['{"id":"W1"}', "{", '{"no":1}']), tokens=tokens
)
plain_streams = st.builds(lambda reply, size: list(chunks(reply, size=size)), replies, st.integers(1, 5))
telling_streams = st.builds(
    lambda stream, told: [replace(piece, logprobs=(told[at % 3],)) for at, piece in enumerate(stream)],
    plain_streams,
    st.tuples(*[st.sampled_from([-0.1, -3.0])] * 3),
)
whole_streams = plain_streams | telling_streams
cut_streams = st.builds(
    lambda stream, at, end: [*stream[: at % len(stream)], *([end] if end else [])],
    whole_streams,
    st.integers(0, 30),
    st.none() | failures,
)
outcomes = replies | failures | whole_streams | cut_streams | st.just(ValueError("a bug below"))
scripts = st.fixed_dictionaries({name: st.lists(outcomes, min_size=6, max_size=6) for name in MODELS})
money = st.none() | st.integers(0, 900_000)
budgets = st.builds(
    BudgetRule,
    session=st.builds(
        Limits, nanos=money, tokens=st.none() | st.integers(0, 300), llm_calls=st.none() | st.integers(0, 5)
    ),
    tenant=st.builds(Limits, nanos=money),
    keep=st.sampled_from([{}, {"synthesis": 0.3}]),
    estimate=st.sampled_from(["strict", "expected"]),
    on_exhausted=st.sampled_from(["conclude", "stop"]),
)
TELLING = tuple(
    Tier(tier.name, tuple(replace(model, abilities=model.abilities | {Ability.LOGPROBS}) for model in tier.models))
    for tier in TIERS
)
policies = st.builds(
    a_policy,
    tiers=st.sampled_from([TIERS, TELLING]),
    budget=budgets,
    fallback=st.builds(
        FallbackRule,
        attempts=st.integers(1, 5),
        deadline_s=st.sampled_from([0.5, 20.0, 120.0]),
        cut_stream=st.sampled_from(["fail", "resume"]),
        cut_unsure=st.sampled_from([None, UnsureRule(below=-1.0, over=2)]),
    ),
    steps=st.sampled_from(
        [
            STEPS,
            {**STEPS, StepKind.SYNTHESIS: StepRule(tier="premium", accept=("not_empty",))},
            {kind: replace(rule, accept=(min_logprob(-0.8),)) for kind, rule in STEPS.items()},
        ]
    ),
    reveal_below=st.sampled_from([0.0, 0.9]),
    loops=st.sampled_from([None, LoopControl(after=2)]),
)
calls = st.lists(
    st.builds(
        lambda kind, stream, tools: replace(
            a_call(kind=kind, stream=stream, tools=[LOOK_UP] if tools else []),
        ),
        st.sampled_from(["", "synthesis", "tool_call", "planning"]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


def numbered(given_calls: Sequence[Call]) -> list[Call]:
    return [
        replace(call, id=f"c{number}", origin=replace(call.origin, tenant="acme"))
        for number, call in enumerate(given_calls)
    ]


def blocking(rig: Rig, call: Call) -> tuple[object, list[Chunk]]:
    seen: list[Chunk] = []
    try:
        if not call.stream:
            return rig.engine.complete(call), seen
        stream = rig.engine.stream(call)
        while True:
            try:
                seen.append(next(stream))
            except StopIteration as stop:
                return stop.value, seen
    except (WaywiserError, ValueError) as error:
        return error, seen


async def in_a_loop(rig: Rig, call: Call) -> tuple[object, list[Chunk]]:
    seen: list[Chunk] = []
    answers: list[Answer] = []
    try:
        if not call.stream:
            return await rig.engine.acomplete(call), seen
        async for chunk in rig.engine.astream(call, answers):
            seen.append(chunk)  # noqa: PERF401 - what was seen before an error counts
    except (WaywiserError, ValueError) as error:
        return error, seen
    return answers[0], seen


def told(result: object) -> tuple[str, str]:
    return (type(result).__name__, str(result)) if isinstance(result, Exception) else ("", repr(result))


def books_are_right(rig: Rig, strict: bool = False) -> None:
    """No hold is open, and what the receipts say is what the ledger was charged, attempt by attempt."""
    assert rig.holds() == 0
    charged = sum(attempt.cost_nanos for receipt in rig.recorder.receipts for attempt in receipt.attempts)
    assert rig.spent()[0] == charged == sum(receipt.cost_nanos for receipt in rig.recorder.receipts)
    assert rig.spent()[1] <= len(rig.asked)
    for receipt in rig.recorder.receipts:
        assert rig.store.receipt(receipt.id) == receipt
    limit = rig.policy.budget.session.nanos
    if strict and limit is not None:
        assert rig.spent()[0] <= limit


@MANY
@given(policies, scripts, calls)
def test_both_drivers_do_the_same_and_the_books_are_right(
    policy: Any, given_scripts: Mapping[str, list[Any]], given_calls: list[Call]
) -> None:
    one, two = Rig(policy, given_scripts, takes_s=0.3), Rig(policy, given_scripts, takes_s=0.3)
    for call in numbered(given_calls):
        result, seen = blocking(one, call)
        aresult, aseen = asyncio.run(in_a_loop(two, call))
        assert told(result) == told(aresult)
        assert seen == aseen
        assert not any(chunk.logprobs for chunk in seen)  # nobody asked for them but the policy
        if isinstance(result, Answer) and call.stream:
            # What was emitted is the answer: no token twice, none lost.
            assert "".join(chunk.text for chunk in seen) == result.reply.text
            assert seen[-1].finish is not None
        asked_for = [entry for entry in one.recorder.receipts[-1].attempts if not entry.detail.startswith("not asked")]
        assert len(asked_for) <= policy.fallback.attempts
    assert one.recorder.receipts == two.recorder.receipts
    assert one.asked == two.asked
    assert one.spent() == two.spent()
    books_are_right(one)
    books_are_right(two)


@MANY
@given(policies, scripts, calls)
def test_strict_never_overspends(policy: Any, given_scripts: Mapping[str, list[Any]], given_calls: list[Call]) -> None:
    policy = replace(policy, budget=replace(policy.budget, estimate="strict"))
    rig = Rig(policy, {name: [_within_limits(one) for one in script] for name, script in given_scripts.items()})
    for call in numbered(given_calls):
        blocking(rig, call)
        books_are_right(rig, strict=True)


def _within_limits(outcome: Any) -> Any:
    """A provider that keeps to the limit it was given: prompts as counted (8 and up), answers of at most 16 tokens."""
    if hasattr(outcome, "usage") and not hasattr(outcome, "kind"):
        return replace(outcome, usage=Usage(8, min(outcome.usage.output_tokens, 16)))
    if isinstance(outcome, list):
        return [
            replace(piece, usage=Usage(8, 4)) if isinstance(piece, Chunk) and piece.usage else piece
            for piece in outcome
        ]
    return outcome


@MANY
@given(policies, scripts, calls, st.integers(0, 12))
def test_a_task_cancelled_anywhere_leaves_no_hold(
    policy: Any, given_scripts: Mapping[str, list[Any]], given_calls: list[Call], turns: int
) -> None:
    rig = Rig(policy, given_scripts)

    async def cancelled(call: Call) -> None:
        task = asyncio.create_task(in_a_loop(rig, call))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for call in numbered(given_calls):
        asyncio.run(cancelled(call))
        books_are_right(rig)


@MANY
@given(policies, scripts, calls, st.integers(0, 6))
def test_a_stream_closed_anywhere_leaves_no_hold(
    policy: Any, given_scripts: Mapping[str, list[Any]], given_calls: list[Call], pieces: int
) -> None:
    rig = Rig(policy, given_scripts)
    for call in numbered(given_calls):
        try:
            with closing(rig.engine.stream(replace(call, stream=True))) as stream:
                for _, _ in zip(range(pieces), stream, strict=False):
                    pass
        except (WaywiserError, ValueError):
            pass
        books_are_right(rig)


def test_threads_under_a_strict_limit_never_overspend() -> None:
    budget = BudgetRule(session=Limits(nanos=1_000_000), estimate="strict", on_exhausted="stop")
    rig = Rig(a_policy(budget=budget), {name: [said("x", tokens=(8, 16))] * 64 for name in MODELS})

    def work(number: int) -> None:
        with suppress(BudgetExceeded):
            rig.engine.complete(a_call(call_id=f"c{number}"))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(64)))
    books_are_right(rig, strict=True)
    assert rig.spent()[0] > 900_000  # nor is money left that a call could have had


# Stopping, by hand

LONG = "It left the warehouse on Monday."


def test_a_closed_stream_is_charged_for_its_prompt_and_what_came_back() -> None:
    rig = Rig(a_policy(), {"a/middle": [said(LONG)]})
    with closing(rig.engine.stream(a_call(stream=True))) as stream:
        assert next(stream).text == "It l"
        assert next(stream).text == "eft "
    assert rig.holds() == 0
    assert rig.receipt.refused == "cancelled"
    assert rig.receipt.attempts[0].usage == Usage(8, 2, estimated=True)
    assert rig.spent() == (rig.receipt.cost_nanos, 1)
    assert rig.upstream.closed == 1


async def test_an_exception_in_the_consumer_settles_the_stream() -> None:
    rig = Rig(a_policy(), {"a/middle": [said(LONG)]})

    async def consume() -> None:
        async with aclosing(rig.engine.astream(a_call(stream=True))) as stream:
            async for _ in stream:
                raise KeyError("the consumer's own")

    with pytest.raises(KeyError):
        await consume()
    books_are_right(rig)
    assert rig.receipt.refused == "cancelled"


async def test_a_cancelled_call_is_charged_for_its_prompt() -> None:
    rig = Rig(a_policy(), {"a/middle": [said(LONG)]})
    task = asyncio.create_task(rig.engine.acomplete(a_call()))
    await asyncio.sleep(0)
    assert rig.asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.receipt.attempts[0].usage == Usage(8, 0, estimated=True)
    assert rig.spent()[1] == 1
    books_are_right(rig)


def test_a_call_cancelled_while_it_waits_to_retry_keeps_its_receipt() -> None:
    rig = Rig(a_policy(), {"a/middle": [failed("malformed"), said("x")]})

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    rig.clock.sleep = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        rig.engine.complete(a_call())
    assert rig.receipt.refused == "cancelled"
    assert len(rig.receipt.attempts) == 1
    books_are_right(rig)


def test_a_broken_store_does_not_hide_what_stopped_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(a_policy(), {"a/middle": [ValueError("first")]})

    def settle(settlement: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(rig.store, "settle", settle)
    with pytest.raises(ValueError, match="first"):
        rig.engine.complete(a_call())


def test_a_sink_that_fails_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(a_policy(), {"a/middle": [said("x")]})

    class Broken:
        def emit(self, receipt: Receipt) -> None:
            raise OSError("disk full")

    rig.engine.sinks = (Broken(), *rig.engine.sinks)
    assert rig.engine.complete(a_call()).reply.text == "x"
    assert rig.receipt.model == "a/middle"
    assert "disk full" in caplog.text


# Streams


def test_text_goes_out_at_once_and_tools_when_they_are_whole() -> None:
    mixed = [
        Chunk("Let me "),
        Chunk("look."),
        Chunk(tool_calls=(ToolCallDelta(0, "t1", "look_up", '{"id"'),)),
        Chunk(" One moment."),
        Chunk(tool_calls=(ToolCallDelta(0, arguments=':"W1"}'),)),
    ]
    end = Chunk(finish=Finish.TOOL_CALLS, usage=Usage(8, 9))
    rig = Rig(a_policy(), {"a/middle": [[*mixed, end], [*mixed, failed("overloaded")]]})
    assert list(rig.engine.stream(a_call(stream=True))) == [*mixed, end]
    seen: list[Chunk] = []
    with pytest.raises(WaywiserError, match="overloaded"):
        seen.extend(rig.engine.stream(a_call(call_id="c2", stream=True)))
    result, seen = blocking(Rig(a_policy(), {"a/middle": [[*mixed, failed("overloaded")]]}), a_call(stream=True))
    assert [chunk.text for chunk in seen] == ["Let me ", "look."]
    assert isinstance(result, WaywiserError)


def test_before_the_first_token_a_failover_is_invisible_after_it_an_error() -> None:
    early = [Chunk(), failed("overloaded")]
    rig = Rig(a_policy(), {"a/middle": [early], "b/middle": [said(LONG)]})
    assert "".join(chunk.text for chunk in rig.engine.stream(a_call(stream=True))) == LONG
    late = [Chunk("It left"), failed("overloaded")]
    rig = Rig(a_policy(), {"a/middle": [late], "b/middle": [said(LONG)]})
    result, seen = blocking(rig, a_call(stream=True))
    assert isinstance(result, WaywiserError)
    assert [chunk.text for chunk in seen] == ["It left"]
    assert rig.asked == ["a/middle"]
    assert rig.receipt.attempts[0].usage == Usage(8, 2, estimated=True)
    books_are_right(rig)


def test_an_answer_that_had_finished_is_whole_whatever_comes_after() -> None:
    rig = Rig(a_policy(), {"a/middle": [[Chunk("done"), Chunk(finish=Finish.STOP), failed("connection")]]})
    assert "".join(chunk.text for chunk in rig.engine.stream(a_call(stream=True))) == "done"


def test_a_held_stream_that_drips_is_given_up_at_the_deadline() -> None:
    policy = a_policy(fallback=FallbackRule(deadline_s=10.0))
    drip = [Chunk(tool_calls=(ToolCallDelta(0, "t1", "look_up", " "),))] * 1000
    rig = Rig(policy, {"a/small": [drip]}, takes_s=1.0)
    with pytest.raises(WaywiserError, match="not whole by the deadline"):
        list(rig.engine.stream(a_call(kind="tool_call", tools=[LOOK_UP], stream=True)))
    assert rig.upstream.closed == 1
    assert rig.receipt.attempts[0].usage.output_tokens > 0
    books_are_right(rig)


# Circuits


def test_an_open_circuit_is_not_asked_and_not_charged() -> None:
    steps = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard")}
    policy = a_policy(tiers=TIERS[1:2], steps=steps, fallback=FallbackRule(attempts=2))
    rig = Rig(policy, {"a/middle": [failed("overloaded")] * 20, "b/middle": [said("x")] * 20})
    for number in range(10):
        rig.engine.complete(a_call(call_id=f"c{number}"))
    assert rig.asked.count("a/middle") <= TRIP_AFTER
    assert rig.receipt.attempts[0].model == "b/middle"
    only = replace(policy, tiers=(replace(TIERS[1], models=TIERS[1].models[:1]),))
    rig = Rig(only, {"a/middle": [failed("overloaded")] * 20})
    for number in range(TRIP_AFTER):
        blocking(rig, a_call(call_id=f"c{number}"))
    assert rig.spent()[1] == len(rig.asked) == TRIP_AFTER
    assert "circuit is open" in rig.receipt.attempts[-1].detail


def test_a_stream_that_just_stops_counts_against_the_model() -> None:
    rig = Rig(a_policy(), {"a/middle": [[Chunk("half")]]})
    blocking(rig, a_call(stream=True))
    assert rig.engine.health.snapshot()["a/middle"].failures_in_a_row == 1
