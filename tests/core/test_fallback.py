"""`next_move` as a state machine: whatever fails in whatever order, its laws hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from waywiser.core.calls import Failure, FailureKind, Usage
from waywiser.core.fallback import BASE_S, CAP_S, GiveUp, Tried, Try, first_rung, next_move
from waywiser.core.policy import FallbackRule
from waywiser.core.scoring import Candidate
from waywiser.testing.pieces import a_model

FINAL = {
    FailureKind.INVALID_REQUEST,
    FailureKind.UNAUTHORISED,
    FailureKind.CONTEXT_TOO_LONG,
    FailureKind.REFUSED,
    FailureKind.NOT_ACCEPTED,
}


def a_candidate(name: str, rank: int = 0, context_tokens: int = 8192) -> Candidate:
    return Candidate(a_model(name, context_tokens=context_tokens), f"tier{rank}", rank, Usage(10, 10), 100)


class Fallback(RuleBasedStateMachine):
    """A call that goes where `next_move` sends it, and fails there."""

    @initialize(
        ladder=st.lists(
            st.builds(
                a_candidate,
                st.sampled_from(["a/1", "a/2", "b/1", "b/2", "c/1"]),
                st.integers(0, 2),
                st.sampled_from([1000, 8000, 100_000]),
            ),
            min_size=1,
            max_size=6,
            unique_by=lambda candidate: (candidate.model.name, candidate.rank),
        ),
        attempts=st.integers(1, 8),
        deadline=st.sampled_from([0.1, 5.0, 120.0]),
        escalate=st.integers(0, 2),
    )
    def start(self, ladder: list[Candidate], attempts: int, deadline: float, escalate: int) -> None:
        # One model has one context window, wherever it stands.
        windows = {c.model.name: c.model for c in ladder}
        self.ladder = [replace(c, model=windows[c.model.name]) for c in ladder]
        self.rule = FallbackRule(attempts=attempts, deadline_s=deadline)
        self.escalate = escalate
        self.tried: list[Tried] = []
        self.now_s = 0.0
        self.at: int | None = 0

    @precondition(lambda self: self.at is not None)
    @rule(
        kind=st.sampled_from(FailureKind),
        retry_after=st.none() | st.sampled_from([0.2, 3.0, 90.0]),
        took=st.sampled_from([0.0, 0.3, 30.0]),
        jitter=st.integers(0, 64).map(lambda part: part / 64),
    )
    def fail(self, kind: FailureKind, retry_after: float | None, took: float, jitter: float) -> None:
        assert self.at is not None
        candidate = self.ladder[self.at]
        earlier = list(self.tried)
        self.now_s += took
        self.tried.append(Tried(candidate, Failure(kind, "scripted", retry_after_s=retry_after)))
        move = next_move(
            self.rule,
            self.ladder,
            self.tried,
            made=len(self.tried),
            escalate_rank=self.escalate,
            left_s=self.rule.deadline_s - self.now_s,
            jitter=jitter,
        )
        if isinstance(move, GiveUp):
            assert move.why
            self.at = None
            return
        self.check(move, candidate, jitter, earlier)
        self.now_s += move.delay_s
        self.at = move.index

    @precondition(lambda self: self.at is None)
    @rule()
    def call_again(self) -> None:
        self.tried, self.at, self.now_s = [], 0, 0.0

    def check(self, move: Try, last: Candidate, jitter: float, earlier: list[Tried]) -> None:
        target = self.ladder[move.index]
        name = target.model.name
        said = [entry.failure for entry in self.tried if entry.name == name]
        assert not any(failure.kind in FINAL for failure in said), "asked again after a final answer"
        assert self.now_s + move.delay_s < self.rule.deadline_s
        if said:
            asked_for = said[-1].retry_after_s or 0.0
            assert move.delay_s >= asked_for
            assert move.delay_s <= max(asked_for, jitter * CAP_S)
            assert move.delay_s <= max(asked_for, jitter * BASE_S * 2 ** len(said))
        for entry in self.tried:
            failed = entry.candidate.model
            if entry.failure.kind is FailureKind.CONTEXT_TOO_LONG:
                assert target.model.context_tokens > failed.context_tokens
            if entry.failure.kind in {FailureKind.REFUSED, FailureKind.UNAUTHORISED}:
                assert target.model.provider != failed.provider
        if self.tried[-1].failure.kind is FailureKind.NOT_ACCEPTED and not said:
            assert target.rank >= self.escalate

    @invariant()
    def never_more_than_attempts(self) -> None:
        if hasattr(self, "tried"):
            assert len(self.tried) + (self.at is not None) <= max(self.rule.attempts, 1)


Fallback.TestCase.settings = settings(max_examples=200, stateful_step_count=10, deadline=None)
TestFallback = Fallback.TestCase


def after(*kinds: str, jitter: float = 0.5, retry_after_s: float | None = None) -> Try | GiveUp:
    """What follows when the rungs of a three-rung ladder fail so, in order."""
    ladder = [a_candidate("a/1", 0), a_candidate("b/1", 1), a_candidate("c/1", 2)]
    tried = [
        Tried(ladder[index], Failure(FailureKind(kind), "x", retry_after_s=retry_after_s))
        for index, kind in enumerate(kinds)
    ]
    return next_move(
        FallbackRule(attempts=9), ladder, tried, made=len(tried), escalate_rank=2, left_s=100.0, jitter=jitter
    )


@pytest.mark.parametrize(
    ("kind", "index", "waits"),
    [
        ("rate_limited", 1, False),
        ("overloaded", 1, False),
        ("timeout", 1, False),
        ("connection", 0, True),
        ("malformed", 0, True),
        ("cut_short", 1, False),
        ("unknown", 1, False),
        ("refused", 1, False),
        ("unauthorised", 1, False),
        ("invalid_request", 1, False),
        ("not_accepted", 2, False),
    ],
)
def test_the_table(kind: str, index: int, waits: bool) -> None:
    move = after(kind)
    assert isinstance(move, Try)
    assert (move.index, move.delay_s > 0) == (index, waits)


def test_context_too_long_needs_more_room() -> None:
    assert isinstance(after("context_too_long"), GiveUp)


def test_the_last_hope_waits_as_long_as_was_asked_for() -> None:
    move = after("rate_limited", "rate_limited", "rate_limited", retry_after_s=7.0)
    assert move == Try(0, 7.0, "rate_limited: a/1 again")
    assert isinstance(after("rate_limited", "invalid_request", "refused", retry_after_s=101.0), GiveUp)


def test_on_a_new_ladder_what_was_ruled_out_stays_so() -> None:
    ladder = [a_candidate("a/1"), a_candidate("b/1"), a_candidate("b/2")]
    assert first_rung(ladder, []) == 0
    assert first_rung(ladder, [Tried(a_candidate("a/1"), Failure(FailureKind.OVERLOADED, ""))]) == 0
    assert first_rung(ladder, [Tried(a_candidate("a/1"), Failure(FailureKind.INVALID_REQUEST, ""))]) == 1
    refused = [Tried(a_candidate(name), Failure(FailureKind.UNAUTHORISED, "")) for name in ("a/9", "b/9")]
    assert first_rung(ladder, refused) is None


def test_an_attempt_that_never_left_does_not_use_up_the_only_one() -> None:
    ladder = [Candidate(a_model(name), "t", 0, Usage(10, 10), 100) for name in ("a/x", "b/y")]
    once = FallbackRule(attempts=1)
    unasked = Failure(FailureKind.OVERLOADED, "its circuit is open", sent=False)

    def after(*failures: Failure) -> object:
        tried = [Tried(candidate, failure) for candidate, failure in zip(ladder, failures, strict=False)]
        return next_move(once, ladder, tried, made=len(tried), escalate_rank=0, left_s=9.0, jitter=0.5)

    move = after(unasked)
    assert isinstance(move, Try)
    assert move.index == 1
    assert isinstance(after(replace(unasked, sent=True)), GiveUp)
    assert isinstance(after(unasked, unasked), GiveUp)
