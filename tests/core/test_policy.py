from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from waywiser.core.calls import Call
from waywiser.core.classification import Classification, Head, Judged
from waywiser.core.policy import BudgetRule, Condition, Policy, Pressure, Rule, StepRule, Target, aim, heads_needed
from waywiser.core.steps import Step, StepKind
from waywiser.testing.pieces import STEPS, a_call, a_policy

TOOL = Step(StepKind.TOOL_CALL, "declared", 1.0)
SYNTHESIS = Step(StepKind.SYNTHESIS, "declared", 1.0)
AUTO = {**STEPS, StepKind.TOOL_CALL: StepRule()}


def seen(
    *enough: float, risk: str = "", language: str = "en", time_sensitive: float = 0.0, task: str = "chat"
) -> Classification:
    return Classification(
        Judged(task, 0.9),
        Judged("simple", 0.9),
        enough or (0.3, 0.85, 0.95),
        (Judged(risk, 0.9),) if risk else (),
        Judged(language, 0.9),
        time_sensitive,
        Judged("tool_call", 0.9),
    )


def aimed(
    policy: Policy,
    step: Step = TOOL,
    known: Classification | None = None,
    call: Call | None = None,
    share: float = 0.0,
    pinned: str = "",
    tokens: int = 10,
) -> Target:
    return aim(policy, call or a_call(), step, known, input_tokens=tokens, spent_share=share, pinned=pinned)


def ruled(*rules: Rule, steps: dict[StepKind, StepRule] | None = None) -> Policy:
    return a_policy(rules=rules, steps=steps or STEPS)


def test_a_steps_tier_is_its_rules() -> None:
    target = aimed(a_policy())
    assert (target.rank, target.floor, target.ceiling) == (0, 0, 2)
    assert target.reasons == ("tool_call steps go to economy",)


def test_auto_is_the_cheapest_that_is_enough() -> None:
    policy = a_policy(steps=AUTO)
    assert aimed(policy, known=seen(0.9, 0.95, 1.0)).rank == 0
    assert aimed(policy, known=seen(0.3, 0.85, 0.95)).rank == 1
    assert aimed(policy, known=seen(0.1, 0.2, 0.3)).rank == 2
    assert aimed(policy, known=None).rank == 2


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([Rule("r", Condition(), floor="standard")], (1, 1, 2)),
        ([Rule("r", Condition(), ceiling="economy")], (0, 0, 0)),
        ([Rule("r", Condition(), tier="premium")], (2, 0, 2)),
        # A floor beats a ceiling: quality that a rule demands is not traded for money.
        ([Rule("a", Condition(), ceiling="economy"), Rule("b", Condition(), floor="premium")], (2, 2, 2)),
        # A later rule may narrow what an earlier one said, never widen it.
        ([Rule("a", Condition(), floor="premium"), Rule("b", Condition(), floor="economy")], (2, 2, 2)),
    ],
)
def test_rules_in_order(rules: Sequence[Rule], expected: tuple[int, int, int]) -> None:
    target = aimed(ruled(*rules))
    assert (target.rank, target.floor, target.ceiling) == expected
    assert len(target.reasons) == 1 + len(rules)


def test_a_rule_says_what_the_classifier_found_that_it_asks_about() -> None:
    known = seen(risk="medical", language="de", time_sensitive=0.75, task="code")
    asks = Rule(
        "rule 1", Condition(risk=frozenset({"medical", "legal"}), language_not=frozenset({"en"})), floor="standard"
    )
    more = Rule("rule 2", Condition(task=frozenset({"code"}), time_sensitive=True), floor="premium")
    plain = Rule("rule 3", Condition(node=()), ceiling="premium")
    assert aimed(ruled(asks, more, plain), known=known).reasons[1:] == (
        "rule 1: at least standard (risk medical, language de)",
        "rule 2: at least premium (task code, time-sensitive 0.75)",
        "rule 3: at most premium",
    )


def test_auto_says_why_also_where_no_tier_is_enough() -> None:
    known = replace(seen(0.1, 0.2, 0.3), why=("the newest result is an error", "tool turn 7"))
    (reason,) = aimed(a_policy(steps=AUTO), known=known).reasons
    assert reason == "auto: no tier reaches 0.80, so the top one (the newest result is an error; tool turn 7)"


def test_pressure_lowers_the_ceiling_but_not_below_a_floor() -> None:
    budget = BudgetRule(pressure=(Pressure(0.6, "standard"), Pressure(0.85, "economy")))
    policy = a_policy(budget=budget)
    planning = Step(StepKind.PLANNING, "declared", 1.0)
    assert [aimed(policy, planning, share=share).rank for share in (0.5, 0.6, 0.9)] == [2, 1, 0]
    floored = replace(policy, rules=(Rule("r", Condition(), floor="standard"),))
    assert aimed(floored, planning, share=0.9).rank == 1


def test_a_loop_pins_from_below() -> None:
    assert aimed(a_policy(), pinned="standard").rank == 1
    assert aimed(a_policy(), SYNTHESIS, pinned="standard").rank == 1
    assert aimed(a_policy(), Step(StepKind.PLANNING, "declared", 1.0), pinned="standard").rank == 2
    assert aimed(a_policy(), pinned="a tier of yesterday's policy").rank == 0


def test_the_caller_may_ask_for_a_tier_or_a_model() -> None:
    assert aimed(a_policy(), call=replace(a_call(), tier="premium")).rank == 2
    assert aimed(a_policy(), call=replace(a_call(), model="a/large")).models == ("a/large",)


@pytest.mark.parametrize(
    ("condition", "known", "holds"),
    [
        (Condition(kind=frozenset({"tool_call"})), None, True),
        (Condition(kind=frozenset({"planning"})), None, False),
        (Condition(session=("vip-*",)), None, True),
        (Condition(session=("other-*",)), None, False),
        (Condition(node=("draft*", "agent")), None, True),
        (Condition(tag=("kind:*",)), None, True),
        (Condition(label={"residency": "eu"}), None, True),
        (Condition(label={"residency": "us"}), None, False),
        (Condition(label={"absent": "x"}), None, False),
        (Condition(input_tokens_above=9), None, True),
        (Condition(input_tokens_above=10), None, False),
        (Condition(risk=frozenset({"medical"})), seen(risk="medical"), True),
        (Condition(risk=frozenset({"medical"})), seen(), False),
        (Condition(risk=frozenset({"medical"})), None, False),
        (Condition(language_not=frozenset({"en"})), seen(language="de"), True),
        (Condition(language_not=frozenset({"en"})), seen(language="en"), False),
        (Condition(language_not=frozenset({"en"})), seen(language="unsure"), False),
        (Condition(language=frozenset({"de"})), seen(language="de"), True),
        (Condition(time_sensitive=True), seen(time_sensitive=0.8), True),
        (Condition(time_sensitive=False), seen(time_sensitive=0.8), False),
        (Condition(task=frozenset({"code"}), difficulty=frozenset({"simple"})), seen(task="code"), True),
        (Condition(task=frozenset({"code"}), difficulty=frozenset({"complex"})), seen(task="code"), False),
    ],
)
def test_when_a_condition_holds(condition: Condition, known: Classification | None, holds: bool) -> None:
    call = a_call(session="vip-7")
    origin = replace(call.origin, node="agent", tags=frozenset({"kind:tool_call"}), labels={"residency": "eu"})
    assert condition.holds(replace(call, origin=origin), TOOL, known, 10) is holds


def test_the_classifier_is_asked_only_when_something_hangs_on_it() -> None:
    assert not heads_needed(a_policy(), a_call(), TOOL)
    assert heads_needed(a_policy(steps=AUTO), a_call(), TOOL) == {Head.SUFFICIENCY}
    assert not heads_needed(a_policy(steps=AUTO), replace(a_call(), tier="premium"), TOOL)
    legal = Rule("r", Condition(risk=frozenset({"legal"}), language_not=frozenset({"en"})), floor="premium")
    assert heads_needed(ruled(legal), a_call(), TOOL) == {Head.RISK, Head.LANGUAGE}


def test_an_unsure_step_needs_its_kind_and_what_it_may_turn_out_to_be() -> None:
    unsure = Step(StepKind.TOOL_CALL, "shape", 0.55)
    assert heads_needed(a_policy(), a_call(), unsure) == {Head.KIND}
    spoken = a_policy(steps={**STEPS, StepKind.SYNTHESIS: StepRule()})
    assert heads_needed(spoken, a_call(), unsure) == {Head.KIND, Head.SUFFICIENCY}
    assert not heads_needed(spoken, a_call(), TOOL)


def test_a_policy_finds_its_tiers_and_nodes() -> None:
    policy = replace(a_policy(), nodes=(("plan*", "planning"),))
    assert (policy.rank("standard"), policy.rank_or("gone", 1)) == (1, 1)
    assert (policy.declared("planner"), policy.declared("other"), policy.declared("")) == ("planning", "", "")
    assert replace(policy, steps={}).step_rule(StepKind.OTHER) == StepRule()
