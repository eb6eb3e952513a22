from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.budget import Amounts, Limits, Scope, Shortfall, Standing
from waywiser.core.calls import Usage
from waywiser.core.claims import LEAST_OUTPUT_TOKENS, ask, keeps, left_nanos, scopes, spent_share, worst_nanos
from waywiser.core.models import Price, cost_nanos
from waywiser.core.policy import BudgetRule
from waywiser.core.quantiles import History
from waywiser.core.scoring import Candidate
from waywiser.core.steps import StepKind
from waywiser.testing.pieces import LOOK_UP, a_call, a_model

NOW_S = 1_800_000_000.0
SESSION = (Scope("session//s1", "session", Limits(nanos=1_000_000)),)


def from_origin(session: str, tenant: str = "", agent: str = "", budget: BudgetRule | None = None) -> list[str]:
    call = a_call()
    call = replace(call, origin=replace(call.origin, session=session, tenant=tenant, agent=agent))
    return [scope.key for scope in scopes(budget or BudgetRule(), call, NOW_S)]


def candidate(input_tokens: int = 10, output_tokens: int = 20) -> Candidate:
    model = a_model("a/x", 2, 4)
    usage = Usage(input_tokens, output_tokens)
    return Candidate(model, "standard", 1, usage, cost_nanos(model, usage))


def claimed(estimate: str, limit: int | None = None, room: Shortfall | None = None, **options: object) -> object:
    budget = BudgetRule(estimate=estimate)
    return ask(
        budget,
        a_call(tools=[LOOK_UP] if options.get("tools") else []),
        StepKind.SYNTHESIS,
        candidate(),
        SESSION,
        hold="h",
        output_limit=limit,
        now_s=NOW_S,
        history=options.get("history"),  # type: ignore[arg-type]
        room=room,
    )


def short(left: float, what: str = "nanos") -> Shortfall:
    return Shortfall("session//s1", "session", what, 1_000_000, left, 2_000_000, 0.0)


def test_scopes_go_from_the_root_to_the_leaf() -> None:
    assert from_origin("s1", "acme", "team/one") == [
        "tenant/acme/2027-01-15",
        "session/acme/s1",
    ]
    assert from_origin("s1", "acme", "team/one", BudgetRule(agent=Limits(nanos=1))) == [
        "tenant/acme/2027-01-15",
        "session/acme/s1",
        "agent/acme/s1/team",
        "agent/acme/s1/team/one",
    ]
    assert from_origin("s1") == ["session//s1"]


@given(
    st.text("ab/%", max_size=5), st.text("ab/%", max_size=5), st.text("ab/%", max_size=5), st.text("ab/%", max_size=5)
)
def test_no_two_sessions_share_an_account(session: str, tenant: str, other_session: str, other_tenant: str) -> None:
    same = (session, tenant) == (other_session, other_tenant)
    assert (from_origin(session, tenant)[-1] == from_origin(other_session, other_tenant)[-1]) == same


def test_what_a_person_granted_counts() -> None:
    path = (Scope("s", "session", Limits(nanos=100, llm_calls=4)),)
    standing = Standing("s", "session", Amounts(nanos=50, llm_calls=1), Amounts(nanos=30, llm_calls=1), NOW_S)
    assert spent_share(path, (standing,), NOW_S) == 0.8
    assert left_nanos(path, (standing,)) == 20
    granted = replace(standing, granted=Amounts(nanos=60))
    assert spent_share(path, (granted,), NOW_S) == 0.5
    assert left_nanos(path, (granted,)) == 80


def test_a_limit_of_nothing_is_spent() -> None:
    path = (Scope("s", "session", Limits(llm_calls=0)),)
    assert spent_share(path, (Standing("s", "session", Amounts(), Amounts(), 0.0),), NOW_S) == 1.0
    assert left_nanos(path, (Standing("s", "session", Amounts(), Amounts(), 0.0),)) is None


def test_strict_asks_for_the_worst_case_and_nothing_less() -> None:
    asked = claimed("strict", 30)
    assert asked.output_limit == 30  # type: ignore[attr-defined]
    claim = asked.claim  # type: ignore[attr-defined]
    assert claim.wanted == claim.least == Amounts(worst_nanos(candidate().model, 10, 30), 40, 1, 0)


@given(st.integers(0, 400_000), st.none() | st.integers(1, 64), st.sampled_from(["nanos", "tokens"]))
def test_strict_clamps_to_what_is_left_or_gives_up(left: int, limit: int | None, what: str) -> None:
    asked = claimed("strict", limit, short(left if what == "nanos" else left // 4000, what))
    if asked is None:
        return
    wanted = asked.claim.wanted  # type: ignore[attr-defined]
    assert (wanted.nanos if what == "nanos" else wanted.tokens) <= left
    assert asked.output_limit >= min(LEAST_OUTPUT_TOKENS, limit or 64)  # type: ignore[attr-defined]


def test_a_model_of_short_answers_can_be_claimed() -> None:
    small = replace(candidate(), model=replace(candidate().model, max_output_tokens=8))
    asked = ask(
        BudgetRule(estimate="strict"),
        a_call(),
        StepKind.TRIAGE,
        small,
        SESSION,
        hold="h",
        output_limit=None,
        now_s=NOW_S,
    )
    assert asked is not None
    assert asked.output_limit == 8


def test_a_free_answer_still_needs_its_prompt_paid() -> None:
    free = replace(candidate().model, prices=(Price(1_000_000, 0, 0, 0),))
    asked = ask(
        BudgetRule(estimate="strict"),
        a_call(),
        StepKind.TRIAGE,
        replace(candidate(), model=free),
        SESSION,
        hold="h",
        output_limit=None,
        now_s=NOW_S,
        room=short(5_000),
    )
    assert asked is None


def test_expected_asks_for_what_such_steps_cost_and_lives_with_less() -> None:
    claim = claimed("expected", tools=True).claim  # type: ignore[attr-defined]
    assert claim.wanted == Amounts(int(candidate().expected_nanos * 1.5), 30, 1, 1)
    assert claim.least == Amounts(1, 1, 1, 1)
    history = History()
    for cost in range(1, 101):
        history = history.added(cost * 1000, 10)
    learned = claimed("expected", history=history).claim  # type: ignore[attr-defined]
    assert learned.wanted.nanos == pytest.approx(90_000, rel=0.1)
    assert claimed("expected", room=short(5)) is None


def test_keeps_are_shares_of_the_sessions_money() -> None:
    (keep,) = keeps(BudgetRule(session=Limits(nanos=1000), keep={"synthesis": 0.2}))
    assert (keep.scope, keep.kind, keep.nanos) == ("session", "synthesis", 200)
    assert keeps(BudgetRule(keep={"synthesis": 0.2})) == ()


def test_the_worst_case_writes_the_whole_prompt_to_the_cache() -> None:
    dear = replace(a_model("a/x"), prices=(Price(1_000_000, 1_000_000, 100_000, 1_250_000),))
    assert worst_nanos(dear, 1000, 0) == 1_250_000
    assert pytest.approx(worst_nanos(dear, 0, 10)) == 10_000
