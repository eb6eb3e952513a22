"""An answer that is cut: held ones fail over unseen, shown ones go on elsewhere or end in an error, never cleanly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Usage
from waywiser.core.messages import Image, Message, Role, Text
from waywiser.core.models import Ability
from waywiser.core.policy import BudgetRule, FallbackRule, StepRule, Tier
from waywiser.core.resume import Seam, continued, remaining
from waywiser.core.steps import StepKind
from waywiser.engine import Answer
from waywiser.errors import NoEligibleModel, UpstreamError
from waywiser.testing import Rig
from waywiser.testing.pieces import LOOK_UP, a_call, a_model, a_policy, asked, said

WORDS = [f"word{number} " for number in range(30)]
CUT = [Chunk(word) for word in WORDS]
REST = said("and the rest.", tokens=(60, 4))
RESUME = FallbackRule(cut_stream="resume")


def streamed(rig: Rig, call: Call) -> tuple[Answer | UpstreamError, str, list[Chunk]]:
    chunks: list[Chunk] = []
    run = rig.engine.stream(call)
    try:
        while True:
            chunks.append(next(run))
    except StopIteration as stop:
        end: Answer | UpstreamError = stop.value
    except UpstreamError as error:
        end = error
    return end, "".join(chunk.text for chunk in chunks), chunks


@pytest.mark.parametrize("kind", ["cut_short", "timeout", "overloaded", "connection", "malformed", "unknown"])
def test_a_synthesis_cut_after_30_tokens_ends_whole_under_resume(kind: str) -> None:
    rig = Rig(
        a_policy(fallback=RESUME), {"a/middle": [[*CUT, Failure(FailureKind(kind), "gone")], REST], "b/middle": [REST]}
    )
    end, text, chunks = streamed(rig, a_call(stream=True))
    assert isinstance(end, Answer)
    assert text == "".join(WORDS) + "and the rest." == end.reply.text
    assert [chunk.finish for chunk in chunks if chunk.finish] == [Finish.STOP]
    assert rig.receipt.attempts[-1].notes == ("resumed",)
    # What was said is charged although its end never came, and the second prompt holds it.
    assert rig.receipt.attempts[0].usage.output_tokens > 0
    assert rig.spent() == (rig.receipt.cost_nanos, 2)
    assert rig.holds() == 0
    _, resumed = rig.upstream.asked[-1]
    assert resumed.messages[-2] == Message(Role.ASSISTANT, (Text("".join(WORDS)),))
    assert resumed.messages[-1].role is Role.USER


def test_a_synthesis_cut_after_30_tokens_ends_in_an_error_under_fail() -> None:
    rig = Rig(a_policy(), {"a/middle": [CUT]})
    end, text, chunks = streamed(rig, a_call(stream=True))
    assert isinstance(end, UpstreamError)
    assert end.failure.kind is FailureKind.CUT_SHORT
    assert text == "".join(WORDS)
    assert not any(chunk.finish for chunk in chunks)
    assert rig.spent() == (rig.receipt.cost_nanos, 1)
    assert rig.receipt.cost_nanos > 0
    assert rig.holds() == 0


def test_both_drivers_resume_alike() -> None:
    scripts = {"a/middle": [[*CUT]], "b/middle": [REST]}
    one, two = Rig(a_policy(fallback=RESUME), scripts), Rig(a_policy(fallback=RESUME), scripts)
    _, text, _ = streamed(one, a_call(stream=True))

    async def run() -> str:
        return "".join([chunk.text async for chunk in two.engine.astream(a_call(stream=True))])

    assert asyncio.run(run()) == text
    assert one.receipt == two.receipt


def test_an_answer_cut_twice_goes_on_twice() -> None:
    scripts = {"a/middle": [CUT[:10]], "b/middle": [CUT[10:20]], "a/large": [said("".join(WORDS[20:]))]}
    rig = Rig(a_policy(fallback=RESUME), scripts)
    end, text, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, Answer)
    assert text == "".join(WORDS) == end.reply.text
    assert [attempt.failure for attempt in rig.receipt.attempts] == ["cut_short", "cut_short", ""]


def test_no_word_is_read_twice_when_the_next_model_begins_again() -> None:
    rig = Rig(a_policy(fallback=RESUME), {"a/middle": [CUT], "b/middle": [said("".join(WORDS) + "and the rest.")]})
    end, text, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, Answer)
    assert text == "".join(WORDS) + "and the rest." == end.reply.text


def test_an_answer_the_provider_refused_is_not_continued() -> None:
    rig = Rig(a_policy(fallback=RESUME), {"a/middle": [[*CUT, Failure(FailureKind.REFUSED, "filtered")]]})
    end, _, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, UpstreamError)
    assert end.failure.kind is FailureKind.REFUSED


def test_an_answer_that_can_not_be_paid_to_its_end_is_no_answer() -> None:
    policy = a_policy(fallback=RESUME, budget=BudgetRule(session=Limits(llm_calls=1), on_exhausted="conclude"))
    rig = Rig(policy, {"a/middle": [CUT]})
    end, text, chunks = streamed(rig, a_call(stream=True))
    assert isinstance(end, UpstreamError)
    assert text == "".join(WORDS)
    assert not any(chunk.finish for chunk in chunks)
    assert rig.holds() == 0


def test_a_model_that_can_continue_is_not_asked_to() -> None:
    plain = replace(a_model("openai/x"), api="openai")
    able = replace(plain, abilities=plain.abilities | {Ability.PREFILL})
    assert continued(a_call(), "so far", able).messages[-1].role is Role.ASSISTANT
    assert continued(a_call(), "so far", plain).messages[-1].role is Role.USER
    assert continued(a_call(), "  ", plain) == a_call()


def test_the_limit_covers_both_parts_of_an_answer() -> None:
    assert remaining(None, "x" * 300) is None
    assert remaining(200, "") == 200
    assert remaining(200, "x" * 300) == 100
    assert remaining(100, "x" * 900) == 16


LOOP = [Chunk("I will check that for you right now. ") for _ in range(80)]


def test_a_running_synthesis_that_repeats_itself_is_switched() -> None:
    rig = Rig(
        a_policy(fallback=RESUME),
        {"a/middle": [[*LOOP, Chunk(finish=Finish.STOP, usage=Usage(9, 9))]], "b/middle": [said("Done.")]},
    )
    end, text, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, Answer)
    assert text.endswith("right now. Done.")
    assert len(text) < len("".join(chunk.text for chunk in LOOP))
    assert rig.upstream.closed == 1
    assert rig.receipt.attempts[0].detail == "stopped: it repeats itself"
    assert rig.receipt.attempts[0].usage.output_tokens > 80


def test_one_that_nobody_has_seen_is_replaced_and_one_that_was_shown_fails() -> None:
    looping = [*LOOP, Chunk(finish=Finish.STOP)]
    rig = Rig(a_policy(), {"a/large": [looping], "c/large": [said("A plan.")]})
    end, text, _ = streamed(rig, a_call(kind="planning", stream=True))
    assert isinstance(end, Answer)
    assert text == "A plan."
    rig = Rig(a_policy(), {"a/middle": [looping]})
    end, _, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, UpstreamError)
    rig = Rig(a_policy(fallback=FallbackRule(cut_repetition=False)), {"a/middle": [looping]})
    end, text, _ = streamed(rig, a_call(stream=True))
    assert isinstance(end, Answer)
    assert text == "".join(chunk.text for chunk in LOOP)


def test_a_held_tool_call_that_fails_its_check_is_escalated_unseen() -> None:
    rig = Rig(a_policy(), {"a/small": [asked(arguments='{"no":1}')], "a/large": [asked(arguments='{"id":"W9"}')]})
    end, _, chunks = streamed(rig, a_call(kind="tool_call", tools=[LOOK_UP], stream=True))
    assert isinstance(end, Answer)
    seen = "".join(delta.arguments for chunk in chunks for delta in chunk.tool_calls)
    assert seen == '{"id":"W9"}'
    assert [attempt.failure for attempt in rig.receipt.attempts] == ["not_accepted", ""]
    assert rig.spent() == (rig.receipt.cost_nanos, 2)


def test_the_receipt_names_the_repairs_and_the_models_that_can_not_be_asked() -> None:
    picture = Message(Role.USER, (Text("What is it?"), Image("data:image/gif;base64,R0lGODlh")))
    eyes = frozenset({Ability.VISION})
    gemini = replace(a_model("google/g"), api="openai", abilities=eyes)
    claude = replace(a_model("anthropic/c", 2), api="anthropic", abilities=eyes)
    policy = a_policy(tiers=[Tier("one", (gemini, claude))], steps={StepKind.SYNTHESIS: StepRule(tier="one")})
    call = a_call(Message(Role.USER, (Text("hi"),), name="ann"), picture)
    rig = Rig(policy, {"anthropic/c": [said("a wheel")]})
    rig.engine._upstreams = {"anthropic": rig.upstream}  # type: ignore[assignment]  # the same scripts, another wire
    answer = rig.engine.complete(call)
    assert answer.receipt.attempts[0].notes == ("name_dropped",)
    assert rig.upstream.asked[0][1].messages[0].name == ""
    why = {entry.model: entry.excluded for entry in answer.receipt.considered}
    assert why["google/g"] == "the conversation can't go there: google takes no image/gif image"
    alone = a_policy(tiers=[Tier("one", (gemini,))], steps={StepKind.SYNTHESIS: StepRule(tier="one")})
    with pytest.raises(NoEligibleModel, match="image/gif"):
        Rig(alone, {}).engine.complete(call)


# The seam


def fed(seam: Seam, text: str, size: int) -> str:
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]
    return "".join(seam.feed(piece, last=number == len(pieces) - 1) for number, piece in enumerate(pieces))


@given(st.text("abc de.", max_size=80), st.text("xyz-uv;", max_size=80), st.integers(1, 90), st.integers(0, 80))
def test_whatever_is_repeated_of_the_end_comes_out_once(before: str, new: str, size: int, back: int) -> None:
    assume(before.strip())
    tail = before[max(len(before) - back, 0) :]
    text = fed(Seam(before), tail + new, size)
    assert text == (new if len(tail) >= 12 else text)
    assert (tail + new).endswith(text)
    assert text.endswith(new)


@given(st.text("ab ", max_size=200), st.text("ab ", max_size=200), st.integers(1, 300))
def test_nothing_but_a_repetition_is_ever_taken_out(before: str, new: str, size: int) -> None:
    text = fed(Seam(before), new, size)
    taken = new[: len(new) - len(text)]
    assert new == taken + text
    assert before.endswith(taken)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("before", "new", "rest"),
    [
        ("The wheel", "The wheel measures the road.", " measures the road."),  # begun anew, however little was said
        ("The wheel", " wheel measures", " wheel measures"),  # a short end that comes again may be meant
        ("Ha", "Ha, ha!", "Ha, ha!"),
    ],
)
def test_a_short_text_that_is_told_all_over_again_is_told_once(before: str, new: str, rest: str, size: int) -> None:
    assert fed(Seam(before), new, size) == rest
