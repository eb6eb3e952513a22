"""From a target to a ladder: who is a candidate, in which order, and when the session stays where it is warm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from waywiser.core.calls import Call, ResponseFormat
from waywiser.core.health import Health
from waywiser.core.messages import Image, Message, Role, user
from waywiser.core.models import Ability, Model
from waywiser.core.policy import Policy, Target, Tier
from waywiser.core.scoring import EXPECTED_OUTPUT_TOKENS, expected_output, prefix_digest, scored, warm_tokens, warmed
from waywiser.core.steps import Step, StepKind
from waywiser.core.trail import StepRecord, Trail
from waywiser.core.verdict import Verdict, evaluate
from waywiser.testing.pieces import LOOK_UP, TIERS, a_call, a_model, a_policy

NOW_S = 1_800_000_000.0
STANDARD = Target(rank=1, floor=0, ceiling=2)
STEP = Step(StepKind.SYNTHESIS, "declared", 1.0)


def ranked(
    policy: Policy | None = None,
    call: Call | None = None,
    target: Target = STANDARD,
    *,
    trail: Trail | None = None,
    tokens: int = 100,
    health: Mapping[str, Health] | None = None,
) -> Verdict:
    return evaluate(
        policy or a_policy(),
        call or a_call(),
        STEP,
        target,
        trail=trail or Trail(),
        tokens={"o200k_base": tokens},
        health=health or {},
        now_s=NOW_S,
    )


def names(verdict: Verdict) -> list[str]:
    return [candidate.model.name for candidate in verdict.ladder]


def why_not(verdict: Verdict, model: str) -> str:
    return next(entry.excluded for entry in verdict.considered if entry.model == model)


def test_the_steps_tier_first_then_up_then_down() -> None:
    assert names(ranked()) == ["a/middle", "b/middle", "a/large", "c/large", "a/small", "b/small"]


def test_floor_and_ceiling_bound_the_ladder() -> None:
    verdict = ranked(target=Target(rank=1, floor=1, ceiling=1))
    assert names(verdict) == ["a/middle", "b/middle"]
    assert why_not(verdict, "a/small") == "below the floor"
    assert why_not(verdict, "a/large") == "above the ceiling"


def test_every_model_is_considered_with_its_terms_or_its_reason() -> None:
    verdict = ranked(target=Target(rank=0, floor=0, ceiling=0))
    assert len(verdict.considered) == 6
    for entry in verdict.considered:
        assert bool(entry.excluded) != bool(entry.terms)
        assert entry.score == pytest.approx(sum(term.weighted for term in entry.terms))


def test_abilities_room_and_regions_exclude() -> None:
    picture = Message(Role.USER, (Image("https://example.org/a.png"),))
    assert why_not(ranked(call=a_call(picture)), "a/middle") == "cannot do vision"
    web = replace(STANDARD, require=frozenset({Ability.WEB_SEARCH}))
    assert why_not(ranked(target=web), "a/middle") == "cannot do web_search"
    assert "does not fit" in why_not(ranked(tokens=8190), "a/middle")
    assert why_not(ranked(target=replace(STANDARD, regions=frozenset({"eu"}))), "a/middle") == (
        "not known to stay in the region"
    )
    assert why_not(ranked(target=replace(STANDARD, exclude=("a/*",))), "a/middle") == "excluded by a rule"
    plain = a_policy(tiers=[Tier("only", (replace(a_model("a/plain"), abilities=frozenset()),))])
    only = Target(rank=0, floor=0, ceiling=0)
    assert why_not(ranked(plain, a_call(tools=[LOOK_UP]), only), "a/plain") == "takes neither tools nor a JSON schema"
    assert names(ranked(plain, a_call(), only)) == ["a/plain"]
    asked = replace(a_call(), response_format=ResponseFormat("{}"))
    assert why_not(ranked(plain, asked, only), "a/plain") == "cannot do json_schema"


def test_an_open_circuit_goes_to_the_end() -> None:
    health = {"a/middle": Health(open_until_s=NOW_S + 5, failures_in_a_row=4)}
    assert names(ranked(health=health))[-1] == "a/middle"


def test_a_model_that_fails_often_loses_to_its_neighbour() -> None:
    assert names(ranked(health={"a/middle": Health(calls=9, error_rate=0.9)}))[0] == "b/middle"


# Warm prefixes


def warm_trail(model: Model, messages: Sequence[Message], tokens: int, at_s: float = NOW_S) -> Trail:
    return Trail(warm=(warmed(model, (), messages, tokens, at_s),))


LONG = tuple(user(f"turn {number}") for number in range(4))


def test_a_prefix_is_warm_until_it_changes_or_cools() -> None:
    model = TIERS[1].models[0]
    trail = warm_trail(model, LONG[:3], 5000)
    assert warm_tokens(model, trail, (), LONG, NOW_S) == 5000
    assert warm_tokens(model, trail, (), LONG, NOW_S + model.cache_ttl_s + 1) == 0
    assert warm_tokens(model, trail, (), (user("another beginning"), *LONG[1:]), NOW_S) == 0
    assert warm_tokens(model, trail, (LOOK_UP,), LONG, NOW_S) == 0
    assert warm_tokens(model, trail, (), LONG[:2], NOW_S) == 0
    assert warm_tokens(TIERS[0].models[0], trail, (), LONG, NOW_S) == 0
    assert warm_tokens(model, warm_trail(model, LONG[:3], 100), (), LONG, NOW_S) == 0
    assert prefix_digest((), LONG, 3) != prefix_digest((), LONG, 2)


def test_the_session_stays_where_it_is_warm_unless_a_move_saves_enough() -> None:
    warm = warm_trail(TIERS[1].models[1], LONG, 5000)
    verdict = ranked(call=a_call(*LONG), trail=warm, tokens=5100)
    assert names(verdict)[0] == "b/middle"
    # A cheap tier whose prompt is cold can cost more than a dear one whose prompt is warm.
    dear = warm_trail(TIERS[2].models[0], LONG, 8000)
    down = ranked(call=a_call(*LONG), target=Target(rank=0, floor=0, ceiling=2), trail=dear, tokens=8100)
    assert names(down)[0] == "a/large"
    assert any("stays on a/large" in reason for reason in down.reasons)
    moved = ranked(replace(a_policy(), min_saving=-9.0), a_call(*LONG), Target(0, 0, 2), trail=dear, tokens=8100)
    assert names(moved)[0] == "a/small"


# Scores


def test_expected_output_leans_from_the_table_to_the_session() -> None:
    prior = EXPECTED_OUTPUT_TOKENS[StepKind.SYNTHESIS]
    assert expected_output((), StepKind.SYNTHESIS, None) == prior
    record = StepRecord(1, NOW_S, "synthesis", "t", "m", output_tokens=20)
    assert 20 < expected_output((record,) * 20, StepKind.SYNTHESIS, None) < 60
    assert expected_output((), StepKind.SYNTHESIS, 50) == 50


def test_terms_are_in_0_to_1_and_compare() -> None:
    verdict = ranked()
    for candidate in verdict.ladder:
        assert all(0 <= term.value <= 1 for term in candidate.terms)
        assert [term.name for term in candidate.terms] == ["quality", "cost", "latency", "health"]
    slow = scored(verdict.ladder, a_policy().weights, {"a/middle": Health(calls=3, latency_s=30.0)}, 0.0)
    # Latency is relative to the slowest: the slow one falls behind its neighbour, which had been second.
    assert verdict.ladder[0].score > verdict.ladder[1].score
    assert slow[0].score < slow[1].score
    assert scored([], a_policy().weights, {}, 0.0) == []
