"""A run can always afford its answer: money and a model call are kept for it, through every driver."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from waywiser.core.budget import Keep, Limits
from waywiser.core.claims import keeps
from waywiser.core.policy import BudgetRule
from waywiser.testing import Rig
from waywiser.testing.pieces import LOOK_UP, a_call, a_policy, asked, said

LIMITS = Limits(llm_calls=3)
KEPT = BudgetRule(session=LIMITS, keep={"synthesis": 0.2}, on_exhausted="conclude")


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(), ()),
        (Limits(tokens=100), ()),
        (Limits(nanos=1000), (Keep("session", "synthesis", 200, 0),)),
        (Limits(llm_calls=5), (Keep("session", "synthesis", 0, 1),)),
        (Limits(nanos=1000, llm_calls=5), (Keep("session", "synthesis", 200, 1),)),
    ],
)
def test_a_keep_is_money_where_money_is_limited_and_a_call_where_calls_are(
    limits: Limits, kept: tuple[Keep, ...]
) -> None:
    assert keeps(BudgetRule(session=limits, keep={"synthesis": 0.2})) == kept


@pytest.mark.parametrize("driver", ["complete", "acomplete"])
def test_the_last_call_is_the_answer(driver: str) -> None:
    rig = Rig(a_policy(budget=KEPT), {"a/small": [asked(), asked()], "a/middle": [said("It left on Monday.")]})

    def ask(number: int) -> str:
        call = a_call(call_id=f"c{number}", kind="tool_call", tools=[LOOK_UP])
        answer = asyncio.run(rig.engine.acomplete(call)) if driver == "acomplete" else rig.engine.complete(call)
        return answer.reply.text

    assert [ask(1), ask(2), ask(3)] == ["", "", "It left on Monday."]
    assert rig.asked == ["a/small", "a/small", "a/middle"]
    assert not rig.upstream.asked[-1][1].tools or rig.upstream.asked[-1][1].settings.tool_choice == "none"
    assert "the session's limit of 3 model calls is reached" in rig.receipt.reasons
    assert rig.spent()[1] == 3
    assert "model calls" in ask(4), "and then there is only the notice"
    assert rig.spent()[1] == 3
    assert rig.holds() == 0


def test_an_answer_before_does_not_use_the_kept_call_up() -> None:
    rig = Rig(a_policy(budget=KEPT), {"a/small": [asked()], "a/middle": [said("So far so good."), said("The end.")]})
    rig.engine.complete(a_call(call_id="c1"))
    rig.engine.complete(a_call(call_id="c2", kind="tool_call", tools=[LOOK_UP]))
    answer = rig.engine.complete(a_call(call_id="c3", kind="tool_call", tools=[LOOK_UP]))
    assert answer.reply.text == "The end."


def test_without_a_keep_all_calls_are_anybodys() -> None:
    rig = Rig(a_policy(budget=replace(KEPT, keep={})), {"a/small": [asked(), asked(), asked()]})
    for number in range(3):
        rig.engine.complete(a_call(call_id=f"c{number}", kind="tool_call", tools=[LOOK_UP]))
    notice = rig.engine.complete(a_call(call_id="c4", kind="tool_call", tools=[LOOK_UP])).reply
    assert "model calls" in notice.text
    assert rig.spent()[1] == 3
