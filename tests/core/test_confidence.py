"""How sure a model was: a reply below the bound goes a tier up, a running answer is cut, nobody is asked in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import replace
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.calls import Call, Chunk, Finish, Reply, Settings, Usage
from waywiser.core.confidence import LEAST, UNCHECKED, Doubt, bound_of, handed_on, mean, min_logprob, needed, unsure
from waywiser.core.models import Ability, Model
from waywiser.core.outbound import outbound
from waywiser.core.policy import FallbackRule, Policy, StepRule, Tier, UnsureRule
from waywiser.core.steps import StepKind
from waywiser.engine import Answer
from waywiser.errors import UpstreamError
from waywiser.testing import Rig
from waywiser.testing.pieces import STEPS, TIERS, a_call, a_policy, asked, said
from waywiser.testing.upstream import Scripted

BOUND = min_logprob(-0.8)
SURE, UNSURE = (-0.1, -0.3), (-0.5, -2.5)
WORDS = [f"word{number} " for number in range(12)]
DOUBT = UnsureRule(below=-1.5, over=5)


def telling(model: Model) -> Model:
    return replace(model, abilities=model.abilities | {Ability.LOGPROBS})


TELLING = tuple(Tier(tier.name, tuple(map(telling, tier.models))) for tier in TIERS)


def checking(tiers: Sequence[Tier] = TELLING, *, fallback: FallbackRule | None = None, escalate: str = "") -> Policy:
    """Every kind of step checked, where it goes by default."""
    steps = {kind: replace(rule, accept=(BOUND,), escalate=escalate) for kind, rule in STEPS.items()}
    return a_policy(tiers=tiers, steps=steps, fallback=fallback)


def watching(cut_stream: str = "fail", tiers: Sequence[Tier] = TELLING) -> Policy:
    return a_policy(tiers=tiers, fallback=FallbackRule(cut_stream=cut_stream, cut_unsure=DOUBT))


def told(text: str, logprobs: tuple[float, ...]) -> Reply:
    return replace(said(text), logprobs=logprobs)


def fading(words: Sequence[str] = WORDS, *, sure: int = 4) -> list[Chunk]:
    """A stream whose model is sure of so many words, and then of none."""
    logprobs = [-0.1 if number < sure else -3.0 for number in range(len(words))]
    pieces = [Chunk(word, logprobs=(logprob,)) for word, logprob in zip(words, logprobs, strict=True)]
    return [*pieces, Chunk(finish=Finish.STOP, usage=Usage(9, 12))]


async def run(rig: Rig, call: Call, how: str) -> tuple[str, list[Chunk], UpstreamError | None]:
    """What the caller gets, one of four ways: text, chunks, error."""
    chunks: list[Chunk] = []
    try:
        match how:
            case "complete":
                return rig.engine.complete(call).reply.text, [], None
            case "acomplete":
                return (await rig.engine.acomplete(call)).reply.text, [], None
            case "stream":
                chunks.extend(rig.engine.stream(replace(call, stream=True)))
            case _:
                async for chunk in rig.engine.astream(replace(call, stream=True)):
                    chunks.append(chunk)  # noqa: PERF401 - what came before an error counts
    except UpstreamError as error:
        return "".join(chunk.text for chunk in chunks), chunks, error
    return "".join(chunk.text for chunk in chunks), chunks, None


def drained(run: Generator[Chunk, None, Answer]) -> tuple[Answer, list[Chunk]]:
    chunks: list[Chunk] = []
    try:
        while True:
            chunks.append(next(run))
    except StopIteration as stop:
        return stop.value, chunks


def books_are_right(rig: Rig, attempts: int) -> None:
    assert rig.holds() == 0
    assert rig.spent() == (rig.receipt.cost_nanos, attempts)
    assert rig.receipt.cost_nanos == sum(attempt.cost_nanos for attempt in rig.receipt.attempts)
    assert all(attempt.cost_nanos for attempt in rig.receipt.attempts)


# A whole reply


@pytest.mark.parametrize("how", ["complete", "acomplete", "stream", "astream"])
def test_an_unsure_reply_that_nobody_has_seen_goes_a_tier_up(how: str) -> None:
    scripts: dict[str, list[Scripted]] = {"a/small": [told("Perhaps?", UNSURE)], "a/middle": [told("Yes.", SURE)]}
    rig = Rig(checking(), scripts)
    text, _, error = asyncio.run(run(rig, a_call(kind="triage"), how))
    assert (text, error) == ("Yes.", None)
    first, second = rig.receipt.attempts
    assert (first.failure, first.usage) == ("not_accepted", Usage(20, 10))
    assert first.detail == "min_logprob=-0.8: the mean log-probability is -1.50 over 2 tokens"
    assert second.notes == ("mean_logprob=-0.20",)
    books_are_right(rig, 2)


def test_the_policy_may_name_the_tier_and_the_top_one_has_nobody_above() -> None:
    rig = Rig(checking(escalate="premium"), {"a/small": [told("?", UNSURE)], "a/large": [told("Yes.", SURE)]})
    assert rig.engine.complete(a_call(kind="triage")).reply.text == "Yes."
    rig = Rig(checking(), {"a/large": [told("?", UNSURE)]})
    with pytest.raises(UpstreamError, match=r"min_logprob=-0\.8: the mean"):
        rig.engine.complete(a_call(kind="planning"))
    books_are_right(rig, 1)


def test_an_answer_shown_as_it_came_is_noted_and_kept() -> None:
    rig = Rig(checking(), {"a/middle": [told("Perhaps?", UNSURE)]})
    text, _, error = asyncio.run(run(rig, a_call(), "stream"))
    assert (text, error) == ("Perhaps?", None)
    assert rig.receipt.attempts[0].notes == ("mean_logprob=-1.50",)


def test_a_reply_without_log_probabilities_passes_with_a_note() -> None:
    rig = Rig(checking(), {"a/small": [said("ok")]})
    assert rig.engine.complete(a_call(kind="triage")).receipt.attempts[0].notes == (UNCHECKED,)
    rig = Rig(checking(TIERS), {"a/small": [said("ok")]})
    assert rig.engine.complete(a_call(kind="triage")).receipt.attempts[0].notes == (UNCHECKED,)


# A running answer


@pytest.mark.parametrize("how", ["stream", "astream"])
def test_an_answer_that_turns_unsure_goes_on_a_tier_higher(how: str) -> None:
    rig = Rig(watching("resume"), {"a/middle": [fading()], "a/large": [told("and the rest.", SURE)]})
    text, chunks, error = asyncio.run(run(rig, a_call(), how))
    assert error is None
    assert text == "".join(WORDS[:6]) + "and the rest."  # the seventh word brings the mean of five below -1.5
    assert [chunk.finish for chunk in chunks if chunk.finish] == [Finish.STOP]
    first, second = rig.receipt.attempts
    assert (first.failure, first.detail) == (
        "not_accepted",
        "stopped: the mean log-probability fell to -1.84 over 5 tokens",
    )
    assert second.notes == ("resumed", "mean_logprob=-0.20")
    assert rig.asked == ["a/middle", "a/large"], "another model of its own tier would be no surer"
    assert rig.upstream.closed == 1
    books_are_right(rig, 2)


def test_tokens_that_were_told_one_by_one_are_charged_however_short_they_are() -> None:
    rig = Rig(watching(), {"a/middle": [fading(["a"] * 12)]})
    asyncio.run(run(rig, a_call(), "stream"))
    assert rig.receipt.attempts[0].usage.output_tokens == 7


@pytest.mark.parametrize("how", ["stream", "astream"])
def test_or_it_ends_in_an_error_by_name(how: str) -> None:
    rig = Rig(watching(), {"a/middle": [fading()]})
    text, chunks, error = asyncio.run(run(rig, a_call(), how))
    assert error is not None
    assert (error.failure.kind, text) == ("not_accepted", "".join(WORDS[:6]))
    assert not any(chunk.finish for chunk in chunks)
    assert rig.receipt.attempts[0].usage.output_tokens > 0
    books_are_right(rig, 1)


def test_one_that_nobody_has_seen_is_replaced_unseen_and_stopped_early() -> None:
    rig = Rig(watching(), {"a/small": [fading(sure=0)], "a/middle": [told("Sorted.", SURE)]})
    text, _, error = asyncio.run(run(rig, a_call(kind="triage"), "stream"))
    assert (text, error) == ("Sorted.", None)
    first, _ = rig.receipt.attempts
    assert first.usage.output_tokens == 8, "five words, counted by their characters, and no more"
    assert rig.upstream.closed == 1
    books_are_right(rig, 2)


def test_nothing_is_cut_that_is_short_sure_whole_or_not_told() -> None:
    for stream in (
        fading(WORDS[:4], sure=0),
        fading(sure=12),
        [Chunk(word) for word in WORDS] + [Chunk(finish=Finish.STOP)],
    ):
        rig = Rig(watching(), {"a/middle": [stream]})
        text, _, error = asyncio.run(run(rig, a_call(), "stream"))
        assert (text, error) == ("".join(piece.text for piece in stream), None)
    at_the_end = [Chunk("".join(WORDS)), Chunk(finish=Finish.STOP, usage=Usage(9, 12), logprobs=(-9.0,) * 12)]
    rig = Rig(watching(), {"a/middle": [at_the_end]})
    assert asyncio.run(run(rig, a_call(), "stream"))[2] is None, "the end has come: there is nothing left to save"


def test_a_whole_reply_is_not_watched() -> None:
    rig = Rig(watching(), {"a/middle": [told("x", UNSURE)]})
    answer = rig.engine.complete(a_call())
    assert answer.receipt.attempts[0].notes == ()
    assert not rig.upstream.asked[0][1].settings.confidence


# Who is asked, and who is told


@pytest.mark.parametrize("tiers", [TELLING, TIERS])
def test_log_probabilities_are_asked_for_only_where_they_are_looked_at_and_told(tiers: Sequence[Tier]) -> None:
    steps = {**STEPS, StepKind.TRIAGE: StepRule(tier="economy", accept=("not_empty", BOUND))}
    rig = Rig(a_policy(tiers=tiers, steps=steps), {"a/small": [said("ok")], "a/middle": [said("ok")]})
    rig.engine.complete(a_call(kind="triage"))
    rig.engine.complete(a_call(call_id="c2", kind="synthesis"))
    wants = [call.settings.confidence for _, call in rig.upstream.asked]
    assert wants == [tiers is TELLING, False]
    assert all(call.settings.logprobs is None for _, call in rig.upstream.asked)


@pytest.mark.parametrize("how", ["complete", "stream"])
@pytest.mark.parametrize("wanted", [None, 0])
def test_what_only_the_policy_asked_for_stays_out_of_the_answer(how: str, wanted: int | None) -> None:
    policy = replace(checking(), fallback=FallbackRule(cut_unsure=DOUBT))
    rig = Rig(
        policy, {"a/middle": [[Chunk("Yes", logprobs=SURE), Chunk(".", logprobs=(-0.2,)), Chunk(finish=Finish.STOP)]]}
    )
    call = replace(a_call(), settings=Settings(logprobs=wanted))
    if how == "complete":
        seen = rig.engine.complete(call).reply.logprobs
    else:
        end, chunks = drained(rig.engine.stream(replace(call, stream=True)))
        seen = tuple(logprob for chunk in chunks for logprob in chunk.logprobs)
        assert end.reply.logprobs == seen
    assert seen == (() if wanted is None else (*SURE, -0.2))
    assert rig.receipt.attempts[0].notes == ("mean_logprob=-0.20",)


def test_the_outbound_copy_says_what_is_wanted() -> None:
    call, model = a_call(), telling(TIERS[0].models[0])
    assert outbound(call, model, None, "") == (call, ())
    sent, notes = outbound(call, model, 50, "", confidence=True)
    assert sent == replace(call, settings=Settings(max_output_tokens=50, confidence=True))
    assert notes == ()
    assert outbound(call, TIERS[0].models[0], None, "", confidence=True) == (call, (UNCHECKED,))
    assert not call.settings.confidence


def test_what_is_needed() -> None:
    policy = a_policy(steps={StepKind.TRIAGE: StepRule(accept=("not_empty", BOUND))})
    assert needed(policy, StepKind.TRIAGE, streamed=False)
    assert not needed(policy, StepKind.PLANNING, streamed=True)
    assert [needed(watching(), StepKind.PLANNING, streamed=streamed) for streamed in (True, False)] == [True, False]


def test_a_tool_call_is_judged_where_its_provider_tells() -> None:
    policy = a_policy(tiers=TELLING, steps={StepKind.TOOL_CALL: StepRule(tier="economy", accept=(BOUND,))})
    rig = Rig(policy, {"a/small": [replace(asked(), logprobs=UNSURE)], "a/middle": [asked()]})
    assert rig.engine.complete(a_call(kind="tool_call")).receipt.model == "a/middle"


# The arithmetic


@given(st.floats(LEAST, -1e-9))
def test_the_bound_of_a_check_comes_back_exactly(bound: float) -> None:
    assert bound_of(min_logprob(bound)) == bound


def test_other_checks_have_no_bound() -> None:
    assert [bound_of(check) for check in ("not_empty", "json_schema", "own.checks:polite")] == [None] * 3


def test_one_impossible_token_does_not_drown_the_others() -> None:
    assert mean((-0.1, -9999.0, -0.1)) == pytest.approx((LEAST - 0.2) / 3)
    assert mean((1e-6, -0.2)) == -0.1, "rounding made one a little likelier than certain"
    assert unsure(told("x", (-0.8, -0.8)), -0.8) == ""
    assert unsure(said("x"), -0.8) == ""
    assert handed_on(a_call(), said("x")) == said("x")


LOGPROBS = st.lists(st.floats(-30.0, 0.0), max_size=60)


@given(LOGPROBS, st.integers(1, 20), st.floats(-10.0, -0.01), st.data())
def test_a_doubt_is_the_mean_of_the_newest_tokens_however_they_come(
    logprobs: list[float], over: int, below: float, data: st.DataObject
) -> None:
    doubt, at, seen = Doubt(UnsureRule(below, over)), 0, False
    while at < len(logprobs) and not seen:
        size = data.draw(st.integers(1, 5))
        seen = bool(doubt.feed(logprobs[at : at + size]))
        at += size
    counted = [max(value, LEAST) for value in logprobs]
    windows = [fsum(counted[end - over : end]) / over for end in range(over, len(counted) + 1)]
    if all(abs(value - below) > 1e-6 for value in windows):
        assert seen is any(value < below for value in windows)
