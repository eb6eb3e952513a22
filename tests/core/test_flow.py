"""The pipeline, end to end over scripted outcomes: what is tried, what is charged, what the receipt says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, FailureKind, Finish, Reply, ToolCallDelta, Usage
from waywiser.core.conclude import NOTICE_MODEL
from waywiser.core.messages import Image, Message, Role, ToolCall, assistant, tool_result, user
from waywiser.core.models import cost_nanos
from waywiser.core.policy import BudgetRule, FallbackRule, LoopControl, Pressure, StepRule
from waywiser.core.steps import StepKind
from waywiser.errors import BadInput, BudgetExceeded, LoopDetected, NoEligibleModel, UpstreamError
from waywiser.testing import Rig, chunks
from waywiser.testing.pieces import LOOK_UP, STEPS, a_call, a_model, a_policy, asked, failed, said

REVEALING = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="premium")}
"""Text belongs to a dear tier and tool calls to a cheap one: a step that is either had better reveal itself."""


def test_the_good_path_leaves_one_receipt_that_adds_up() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("It is on its way.")]})
    answer = rig.engine.complete(a_call())
    receipt = answer.receipt
    assert answer.reply.text == "It is on its way."
    assert (receipt.kind, receipt.kind_by, receipt.tier, receipt.model) == (
        "synthesis",
        "declared",
        "standard",
        "a/middle",
    )
    assert receipt.cost_nanos == cost_nanos(a_model("a/middle", 2, 4), Usage(20, 10)) == 80_000
    assert receipt.top_tier_nanos == cost_nanos(a_model("a/large", 4, 8), Usage(20, 10))
    assert rig.spent() == (80_000, 1)
    assert rig.holds() == 0
    assert rig.store.receipt(receipt.id) == receipt
    assert rig.recorder.receipts == [receipt]


def test_failures_are_charged_and_the_next_model_answers() -> None:
    cut = failed("cut_short")
    rig = Rig(a_policy(), {"a/middle": [cut], "b/middle": [said("whole")]})
    answer = rig.engine.complete(a_call())
    assert answer.reply.text == "whole"
    assert [attempt.failure for attempt in answer.receipt.attempts] == ["cut_short", ""]
    first, second = answer.receipt.attempts
    assert first.cost_nanos > 0
    assert first.usage.estimated
    assert answer.receipt.cost_nanos == first.cost_nanos + second.cost_nanos == rig.spent()[0]
    assert rig.spent()[1] == 2


def test_a_refused_connection_is_no_call() -> None:
    rig = Rig(a_policy(), {"a/middle": [failed("connection"), said("here")]})
    receipt = rig.engine.complete(a_call()).receipt
    assert rig.asked == ["a/middle", "a/middle"]
    assert rig.spent() == (receipt.attempts[1].cost_nanos, 1)


def test_a_bad_tool_call_is_escalated_and_charged() -> None:
    rig = Rig(a_policy(), {"a/small": [asked(arguments='{"wrong":1}')], "a/large": [asked()]})
    answer = rig.engine.complete(a_call(kind="tool_call", tools=[LOOK_UP]))
    assert answer.reply.tool_calls[0].arguments == '{"id":"W1"}'
    assert rig.asked == ["a/small", "a/large"]
    assert [a.failure for a in answer.receipt.attempts] == ["not_accepted", ""]
    assert answer.receipt.attempts[0].usage == Usage(20, 10)


def test_every_attempt_failing_ends_with_the_last_failure_and_a_receipt() -> None:
    names = ["a/middle", "b/middle", "a/large", "c/large", "a/small", "b/small"]
    rig = Rig(a_policy(), {name: [failed("overloaded")] for name in names})
    with pytest.raises(UpstreamError, match="overloaded") as caught:
        rig.engine.complete(a_call())
    assert caught.value.receipt == rig.receipt == rig.store.receipt("c1")
    assert len(rig.receipt.attempts) == 4
    assert rig.receipt.refused == "overloaded"
    assert rig.asked == ["a/middle", "b/middle", "a/large", "c/large"]


def test_an_exception_below_the_engine_leaves_no_hold_and_a_receipt() -> None:
    rig = Rig(a_policy(), {"a/middle": [ValueError("a bug in an adapter")]})
    with pytest.raises(ValueError, match="a bug"):
        rig.engine.complete(a_call())
    assert rig.holds() == 0
    assert rig.receipt.refused == "broken"
    assert rig.receipt.attempts[0].detail == "ValueError below the engine"
    assert rig.spent()[1] == 1


def test_a_check_that_raises_is_charged_for_what_the_reply_really_used() -> None:
    def check(call: Call, reply: Reply) -> str:
        raise ValueError("a user's own check")

    steps = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", accept=("own",))}
    rig = Rig(a_policy(steps=steps), {"a/middle": [said("x", tokens=(7, 3))]}, checks={"own": check})
    with pytest.raises(ValueError, match="own check"):
        rig.engine.complete(a_call())
    assert rig.receipt.usage == Usage(7, 3)
    assert rig.holds() == 0


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (Call("c", ()), "messages: the history is empty"),
        (a_call(user("hi"), tool_result("t9", "x")), r"messages\[1\]\.tool_call_id: 't9' answers no call"),
        (
            a_call(user("hi"), assistant("", [ToolCall("t1", "look_up", "{}")]), user("and?")),
            r"messages\[1\]\.tool_calls\[0\]: the call 't1' of 'look_up' has no result",
        ),
        (replace(a_call(), tier="gold"), "tier: 'gold' is none of economy, standard, premium"),
        (a_call(kind="musing"), "kind: 'musing' is none of"),
        (a_call(tools=[LOOK_UP, LOOK_UP]), r"tools\[1\]\.name: 'look_up' is offered twice"),
    ],
)
def test_what_no_model_could_take_is_refused_with_its_place(call: Call, place: str) -> None:
    rig = Rig(a_policy(), {})
    with pytest.raises(BadInput, match=place):
        rig.engine.complete(call)
    with pytest.raises(BadInput, match=place):
        next(rig.engine.stream(call))
    assert rig.holds() == 0


def test_the_last_turn_may_ask_for_tools() -> None:
    rig = Rig(a_policy(), {"a/middle": [said("ok")]})
    answer = rig.engine.complete(a_call(user("hi"), assistant("", [ToolCall("t1", "look_up", "{}")])))
    assert answer.reply.text == "ok"


def test_no_eligible_model_says_why_for_each() -> None:
    rig = Rig(a_policy(), {})
    seeing = Message(Role.USER, (Image("data:image/png;base64,AAAA"),))
    with pytest.raises(NoEligibleModel, match="a/small: cannot do vision; b/small: another model is pinned"):
        rig.engine.complete(replace(a_call(seeing), model="a/small"))
    assert rig.receipt.refused == "no_eligible_model"


# Fallback across ladders


def test_attempts_count_over_reveal_and_fallback_together() -> None:
    scripts = {"a/small": [said("text")], "a/large": [failed("overloaded")], "c/large": [said("text")]}
    rig = Rig(a_policy(steps=REVEALING, reveal_below=0.9, fallback=FallbackRule(attempts=2)), scripts)
    with pytest.raises(UpstreamError):
        rig.engine.complete(a_call(kind="", tools=[LOOK_UP]))
    assert rig.asked == ["a/small", "a/large"]


def test_a_model_that_refused_the_request_is_not_the_cheaper_way_out() -> None:
    budget = BudgetRule(session=Limits(nanos=130_000), on_exhausted="stop", estimate="strict")
    rig = Rig(
        a_policy(budget=budget, steps={**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", max_output_tokens=20)}),
        {"a/middle": [failed("invalid_request")], "b/middle": [failed("invalid_request")], "a/small": [said("x")]},
    )
    rig.engine.complete(a_call())
    # The large ones do not fit; what is cheaper than they are must not be a model that has failed already.
    assert rig.asked == ["a/middle", "b/middle", "a/small"]


def test_the_deadline_ends_a_call() -> None:
    policy = a_policy(fallback=FallbackRule(attempts=9, timeout_s=60, deadline_s=25))
    names = ["a/middle", "b/middle", "a/large", "c/large", "a/small", "b/small"]
    rig = Rig(policy, {name: [failed("timeout")] * 3 for name in names}, takes_s=10.0)
    with pytest.raises(UpstreamError):
        rig.engine.complete(a_call())
    assert rig.asked == names[:3]


# Revealing


@pytest.mark.parametrize("stream", [False, True])
def test_reveal_drops_the_cheap_stream_charges_it_and_goes_to_the_tier_of_the_true_kind(stream: bool) -> None:
    rig = Rig(
        a_policy(steps=REVEALING, reveal_below=0.9), {"a/small": [said("cheap text")], "a/large": [said("good text")]}
    )
    call = a_call(kind="", tools=[LOOK_UP], stream=stream)
    text = "".join(chunk.text for chunk in rig.engine.stream(call)) if stream else rig.engine.complete(call).reply.text
    assert text == "good text"
    assert rig.asked == ["a/small", "a/large"]
    assert rig.upstream.closed == 1
    dropped, used = rig.receipt.attempts
    assert (dropped.failure, dropped.detail) == ("revealed", "turned out to be synthesis")
    assert dropped.cost_nanos > 0
    assert rig.receipt.kind_by == "revealed"
    assert rig.spent() == (dropped.cost_nanos + used.cost_nanos, 2)
    assert rig.holds() == 0


def test_a_step_that_reveals_itself_as_guessed_stays() -> None:
    rig = Rig(a_policy(steps=REVEALING, reveal_below=0.9), {"a/small": [asked()]})
    answer = rig.engine.complete(a_call(kind="", tools=[LOOK_UP]))
    assert answer.reply.tool_calls
    assert (rig.asked, answer.receipt.kind_by) == (["a/small"], "shape")


def test_a_failed_reveal_is_revealed_by_the_next_model() -> None:
    scripts = {"a/small": [failed("overloaded")], "b/small": [said("text")], "a/large": [said("text")]}
    rig = Rig(a_policy(steps=REVEALING, reveal_below=0.9), scripts)
    assert rig.engine.complete(a_call(kind="", tools=[LOOK_UP])).receipt.model == "a/large"
    assert rig.asked == ["a/small", "b/small", "a/large"]


def test_a_step_does_not_reveal_itself_where_that_costs_more_than_it_saves() -> None:
    steps = {**STEPS, StepKind.TOOL_CALL: StepRule(tier="premium")}
    rig = Rig(a_policy(steps=steps, reveal_below=0.9), {"a/large": [asked()]})
    rig.engine.complete(a_call(kind="", tools=[LOOK_UP]))
    assert rig.asked == ["a/large"]


# Budgets


def test_stop_refuses_with_a_receipt() -> None:
    rig = Rig(a_policy(budget=BudgetRule(session=Limits(llm_calls=1))), {"a/middle": [said("1")]})
    rig.engine.complete(a_call(call_id="c1"))
    with pytest.raises(BudgetExceeded, match="the session's limit of 1 model calls is reached"):
        rig.engine.complete(a_call(call_id="c2"))
    assert rig.receipt.refused == "budget_exceeded"
    assert rig.asked == ["a/middle"]


def test_conclude_asks_for_an_answer_without_tools_from_what_is_kept() -> None:
    budget = BudgetRule(
        session=Limits(nanos=1_000_000), keep={"synthesis": 0.5}, estimate="strict", on_exhausted="conclude"
    )
    rig = Rig(
        a_policy(budget=budget),
        {"a/small": [asked(tokens=(400_000 // 1000, 50))], "b/middle": [], "a/middle": [said("the end")]},
    )
    call = a_call(kind="tool_call", tools=[LOOK_UP])
    rig.engine.complete(call)
    answer = rig.engine.complete(rig.next_call(call))
    sent = rig.upstream.asked[-1][1]
    assert answer.reply.text == "the end"
    assert answer.receipt.kind == "synthesis"
    assert sent.settings.tool_choice == "none"
    assert sent.tools == (LOOK_UP,)
    assert "has to end here" in sent.messages[-1].text
    spent = rig.spent()[0]
    assert spent <= 1_000_000


def test_when_nothing_is_left_at_all_a_notice_says_so_and_costs_nothing() -> None:
    budget = BudgetRule(session=Limits(llm_calls=1), on_exhausted="conclude")
    rig = Rig(a_policy(budget=budget), {"a/small": [asked()]})
    call = a_call(kind="tool_call", tools=[LOOK_UP])
    first = rig.engine.complete(call)
    history = (*call.messages, first.reply.as_message("a/small"), tool_result("t1", "W1 left on Monday"))
    answer = rig.engine.complete(rig.next_call(replace(call, messages=history)))
    assert answer.receipt.model == NOTICE_MODEL
    assert "W1 left on Monday" in answer.reply.text
    assert answer.receipt.cost_nanos == 0
    assert rig.asked == ["a/small"]
    streamed = list(rig.engine.stream(rig.next_call(replace(call, messages=history, stream=True))))
    assert "W1 left on Monday" in streamed[0].text
    assert streamed[-1].finish is Finish.STOP


def test_strict_clamps_the_answer_to_what_is_left() -> None:
    # The prompt of 8 tokens costs 16 000 on a/middle; 30 tokens of answer cost 120 000.
    budget = BudgetRule(session=Limits(nanos=136_000), estimate="strict", on_exhausted="stop")
    rig = Rig(a_policy(budget=budget), {"a/middle": [said("x", tokens=(8, 30))]})
    rig.engine.complete(a_call())
    limit = rig.upstream.asked[0][1].settings.max_output_tokens
    assert limit is not None
    assert 16 <= limit <= 30
    assert rig.spent()[0] <= 136_000


def test_strict_clamps_to_the_tightest_of_money_and_tokens() -> None:
    for limits in (Limits(nanos=150_000, tokens=30), Limits(nanos=90_000, tokens=60)):
        budget = BudgetRule(session=limits, estimate="strict", on_exhausted="stop")
        rig = Rig(a_policy(budget=budget), {"a/middle": [said("x", tokens=(8, 1))]})
        rig.engine.complete(a_call())
        limit = rig.upstream.asked[0][1].settings.max_output_tokens
        assert limit is not None
        held = rig.recorder.receipts[0].held_nanos
        assert held <= (limits.nanos or 0)
        assert rig.receipt.attempts[0].model == "a/middle"


def test_what_does_not_fit_is_answered_by_a_cheaper_model() -> None:
    budget = BudgetRule(session=Limits(nanos=60_000), estimate="strict", on_exhausted="stop")
    rig = Rig(a_policy(budget=budget), {"a/small": [said("cheap", tokens=(8, 10))]})
    answer = rig.engine.complete(a_call())
    assert answer.receipt.model == "a/small"
    assert "a/middle does not fit what is left" in answer.receipt.reasons


def test_pressure_lowers_the_ceiling() -> None:
    budget = BudgetRule(session=Limits(llm_calls=2), pressure=(Pressure(0.5, "economy"),))
    rig = Rig(a_policy(budget=budget), {"a/middle": [said("1")], "a/small": [said("2")]})
    rig.engine.complete(a_call(call_id="c1"))
    receipt = rig.engine.complete(a_call(call_id="c2")).receipt
    assert receipt.tier == "economy"
    assert "50% of the budget is spent: no higher than economy" in receipt.reasons


def test_money_that_others_hold_is_waited_for() -> None:
    budget = BudgetRule(session=Limits(llm_calls=1), on_exhausted="stop", lease_s=1.0)
    rig = Rig(a_policy(budget=budget), {"a/middle": [said("1"), said("2")]})
    running = rig.engine.stream(replace(a_call(call_id="c1"), stream=True))
    next(running)
    # The first call never ends; its lease does, and the second call waits for that.
    answer = rig.engine.complete(a_call(call_id="c2"))
    assert answer.reply.text == "2"
    assert sum(rig.clock.slept) >= 1.0
    running.close()
    assert rig.holds() == 0


# Loops


def test_the_ladder_of_a_loop_end_to_end() -> None:
    """A scripted agent makes the same call with the same result for ever; the ladder ends that."""
    rig = Rig(
        a_policy(loops=LoopControl(after=3)),
        {
            "a/small": [asked()] * 20,
            "a/middle": [said("I have to leave it there.")] * 3 + [asked()] * 20,
            "a/large": [asked()] * 20,
        },
    )
    history = [user("Where is W1?")]
    rungs: list[str] = []
    sent: list[Call] = []
    stopped: LoopDetected | None = None
    for step in range(30):
        try:
            answer = rig.engine.complete(a_call(*history, call_id=f"c{step}", kind="tool_call", tools=[LOOK_UP]))
        except LoopDetected as error:
            stopped = error
            break
        rungs.append(answer.receipt.loop)
        sent.append(rig.upstream.asked[-1][1])
        history += [
            assistant("", [ToolCall(f"t{step}", "look_up", '{"id":"W1"}')]),
            tool_result(f"t{step}", "no order"),
        ]
    used = [rung for rung in rungs if rung]
    assert used == ["hint", "escalate", "conclude"]
    assert stopped is not None
    assert stopped.receipt is not None
    assert (stopped.receipt.refused, stopped.receipt.loop) == ("loop_detected", "stop")
    assert rig.store.receipt(stopped.receipt.id) == stopped.receipt
    hinted, escalated, concluded = (rungs.index(rung) for rung in used)
    assert "no progress" in sent[hinted].messages[-1].text
    receipts = rig.recorder.receipts
    assert receipts[hinted].tier == "economy"
    assert receipts[escalated].tier == "standard"
    assert sent[concluded].settings.tool_choice == "none"
    assert receipts[concluded].kind == "synthesis"
    # Nothing that the router added is part of the history it judges by.
    assert hinted == 3
    # A person's new turn ends the loop.
    history.append(user("Then look up W2."))
    assert rig.engine.complete(a_call(*history, call_id="after", kind="tool_call", tools=[LOOK_UP])).receipt.loop == ""


def test_another_agent_is_not_pinned_to_the_tier_of_a_loop() -> None:
    rig = Rig(
        a_policy(loops=LoopControl(after=3, ladder=("escalate",))),
        {"a/small": [asked()] * 9, "a/middle": [asked()] * 9},
    )
    history = [user("Where is W1?")]
    for step in range(4):
        call = a_call(*history, call_id=f"c{step}", kind="tool_call", tools=[LOOK_UP])
        rig.engine.complete(replace(call, origin=replace(call.origin, agent="one")))
        history += [assistant("", [ToolCall(f"t{step}", "look_up", '{"id":"W1"}')]), tool_result(f"t{step}", "none")]
    assert rig.receipt.tier == "standard"
    other = a_call(user("Something else"), call_id="x", kind="tool_call", tools=[LOOK_UP])
    assert rig.engine.complete(replace(other, origin=replace(other.origin, agent="two"))).receipt.tier == "economy"


# Deciding without sending


def test_deciding_sends_nothing_and_holds_nothing() -> None:
    rig = Rig(a_policy(), {})
    receipt = rig.engine.decide(a_call())
    assert (receipt.model, receipt.tier, receipt.attempts) == ("a/middle", "standard", ())
    assert rig.holds() == 0
    assert rig.store.receipt("c1") is None


def test_a_tool_stream_is_whole_before_it_is_seen() -> None:
    pieces = [
        Chunk(tool_calls=(ToolCallDelta(0, "t1", "look_up"),)),
        Chunk(tool_calls=(ToolCallDelta(0, arguments="{"),)),
    ]
    rig = Rig(a_policy(), {"a/small": [[*pieces, failed("cut_short")]], "b/small": [chunks(asked())]})
    seen = list(rig.engine.stream(a_call(kind="tool_call", tools=[LOOK_UP], stream=True)))
    assert "".join(delta.arguments for chunk in seen for delta in chunk.tool_calls) == '{"id":"W1"}'
    assert rig.receipt.attempts[0].failure == FailureKind.CUT_SHORT
    assert rig.receipt.attempts[0].usage.output_tokens > 0
