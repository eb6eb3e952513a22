"""Hedging, driven by a list: who is asked when, who wins, what it costs. Time is simulated, to the tick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Reply
from waywiser.core.effects import (
    Begin,
    Check,
    Drop,
    Effect,
    Emit,
    Follow,
    Heard,
    Open,
    Pull,
    Pulled,
    Record,
    Reserve,
    Send,
    Sent,
    Settle,
    Situation,
    Sleep,
    StartStream,
    StopStream,
    Wait,
)
from waywiser.core.flow import Done, Pipeline
from waywiser.core.health import HEDGE_AFTER_CALLS, Health
from waywiser.core.models import cost_nanos
from waywiser.core.policy import BudgetRule, FallbackRule, Policy, StepRule
from waywiser.core.session import Settlement
from waywiser.core.steps import StepKind
from waywiser.stores.memory import MemoryStore
from waywiser.testing import chunks
from waywiser.testing.pieces import STEPS, a_call, a_model, a_policy, failed, said

HEDGED = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", hedge=True)}
KNOWN = Health(calls=50, latency_s=1.0, slow_s=2.0, slow_first_s=2.0, timed=50, timed_first=50)

Paced = tuple[float, Reply | Failure]
"""After how many seconds a request comes to what."""


@dataclass
class Sim:
    """A driver in which requests take as long as they are told to, and nobody waits."""

    policy: Policy
    scripts: Mapping[str, Sequence[Paced]]
    health: Mapping[str, Health] = field(default_factory=lambda: {"a/middle": KNOWN})
    now_s: float = 1000.0
    store: MemoryStore = field(default_factory=MemoryStore)
    asked: list[tuple[str, float]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    shown: list[Chunk] = field(default_factory=list)

    def run(self, call: Call) -> Done:  # noqa: C901 - one branch an effect
        pipeline = Pipeline(call, self.policy, now_s=self.now_s)
        run, result = pipeline.run(), None
        lanes: dict[int, tuple[float, Reply | Failure]] = {}
        left = {name: list(script) for name, script in self.scripts.items()}
        stream: Iterator[Chunk | Failure] = iter(())
        heard: set[int] = set()
        while True:
            try:
                effect: Effect[object] = run.send(result)
            except StopIteration as stop:
                assert pipeline.abandon(self.now_s) == ()
                return stop.value
            match effect:
                case Open():
                    opened = self.store.open(call.origin.session, effect.path, effect.now_s)
                    tokens = dict.fromkeys(effect.encodings, 20)
                    result = Situation(opened.trail, opened.standings, tokens, self.health)
                case Reserve():
                    result = self.store.reserve(effect.claim)
                case Settle():
                    self.settled.append(effect.settlement)
                    result = self.store.settle(effect.settlement)
                case Begin() | Send() | StartStream():
                    self.asked.append((effect.model.name, self.now_s))
                    takes_s, outcome = left[effect.model.name].pop(0)
                    if isinstance(effect, Begin):
                        heard.discard(effect.lane)
                        lanes[effect.lane] = (self.now_s + takes_s, outcome)
                        result = self.now_s
                    elif isinstance(effect, Send):
                        began_s, self.now_s = self.now_s, self.now_s + takes_s
                        result = Sent(outcome, began_s, self.now_s, 0.5)
                    else:
                        result, self.now_s = self.now_s, self.now_s + takes_s
                        stream = self._pieces(outcome)
                case Wait():
                    lane = min(lanes.keys() - heard, key=lambda lane: lanes[lane][0])
                    at_s, outcome = lanes[lane]
                    if effect.patience_s is not None and at_s > self.now_s + effect.patience_s:
                        self.now_s += effect.patience_s
                        result = Heard(None, None, self.now_s, 0.5)
                    else:
                        heard.add(lane)
                        self.now_s = max(self.now_s, at_s)
                        speaks = call.stream and isinstance(outcome, Reply)
                        result = Heard(lane, None if speaks else outcome, self.now_s, 0.5)
                case Follow():
                    stream, result = self._pieces(lanes.pop(effect.lane)[1]), self.now_s
                case Drop():
                    self.dropped.append(effect.lane)
                    at_s, outcome = lanes.pop(effect.lane)
                    speaks = call.stream and isinstance(outcome, Reply)
                    result = None if at_s > self.now_s or speaks else outcome
                case Pull():
                    result = Pulled(next(stream, None), self.now_s, 0.5)
                case StopStream():
                    result = None
                case Emit():
                    self.shown.append(effect.chunk)
                    result = None
                case Check():
                    result = "" if effect.reply.text else "empty"
                case Sleep():
                    self.now_s += effect.seconds
                    result = Pulled(None, self.now_s, 0.5)
                case Record():
                    self.store.record(effect.receipt)
                    result = None
                case _:
                    raise AssertionError(effect)

    @staticmethod
    def _pieces(outcome: Reply | Failure) -> Iterator[Chunk | Failure]:
        return iter(chunks(outcome) if isinstance(outcome, Reply) else (outcome,))

    def spent(self) -> tuple[int, int]:
        rows = [row.used for row in self.store.spends()]
        return sum(used.nanos for used in rows), sum(used.llm_calls for used in rows)


def ends(done: Done) -> list[tuple[str, str]]:
    return [(attempt.model, attempt.failure) for attempt in done.receipt.attempts]


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_model_is_outrun_and_both_are_paid_for(stream: bool) -> None:
    sim = Sim(a_policy(steps=HEDGED), {"a/middle": [(9.0, said("late"))], "b/middle": [(0.5, said("in time"))]})
    done = sim.run(a_call(stream=stream))
    assert done.reply is not None
    assert done.reply.text == "in time"
    assert sim.asked == [("a/middle", 1000.0), ("b/middle", 1002.0)]
    assert sim.now_s == 1002.5
    assert sim.dropped == [0]
    assert ends(done) == [("a/middle", "outrun"), ("b/middle", "")]
    outrun, answered = done.receipt.attempts
    assert outrun.usage.estimated
    assert (outrun.usage.output_tokens == 0) == stream  # a stream is stopped; a whole answer can't be
    assert sim.spent() == (outrun.cost_nanos + answered.cost_nanos, 2) == (done.receipt.cost_nanos, 2)
    assert answered.cost_nanos == cost_nanos(a_model("b/middle", 2, 6), said("").usage)
    assert done.receipt.model == "b/middle"
    assert "a/middle is slow: b/middle is asked as well" in done.receipt.reasons
    assert sim.store.holds(sim.now_s) == []
    assert "".join(chunk.text for chunk in sim.shown) == ("in time" if stream else "")


def test_a_quick_model_is_asked_alone() -> None:
    sim = Sim(a_policy(steps=HEDGED), {"a/middle": [(1.9, said("quick"))]})
    assert ends(sim.run(a_call())) == [("a/middle", "")]
    assert sim.spent()[1] == 1


def test_the_first_may_win_after_all() -> None:
    sim = Sim(a_policy(steps=HEDGED), {"a/middle": [(3.0, said("first"))], "b/middle": [(5.0, said("second"))]})
    done = sim.run(a_call())
    assert ends(done) == [("b/middle", "outrun"), ("a/middle", "")]
    assert sim.dropped == [1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("slow", "quick"), [("a/middle", "b/middle"), ("b/middle", "a/middle")])
def test_when_one_fails_the_other_goes_on(slow: str, quick: str, stream: bool) -> None:
    sim = Sim(a_policy(steps=HEDGED), {quick: [(2.5, failed("overloaded"))], slow: [(6.0, said("whole"))]})
    done = sim.run(a_call(stream=stream))
    assert ends(done) == [(quick, "overloaded"), (slow, "")]
    assert sim.dropped == []
    assert sim.spent()[1] == 2


def test_an_answer_that_comes_just_too_late_is_paid_for_as_it_was() -> None:
    late = said("too late", tokens=(7, 3))
    sim = Sim(a_policy(steps=HEDGED), {"a/middle": [(2.5, said("first"))], "b/middle": [(0.5, late)]})
    done = sim.run(a_call())
    assert ends(done) == [("b/middle", "outrun"), ("a/middle", "")]
    assert done.receipt.attempts[0].usage == late.usage
    assert sim.spent() == (done.receipt.cost_nanos, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_that_comes_just_too_late_is_a_failure_all_the_same(stream: bool) -> None:
    unasked = replace(failed("overloaded"), sent=False)
    sim = Sim(a_policy(steps=HEDGED), {"a/middle": [(2.5, said("first"))], "b/middle": [(0.5, unasked)]})
    done = sim.run(a_call(stream=stream))
    assert ends(done) == [("b/middle", "overloaded"), ("a/middle", "")]
    assert sim.spent() == (done.receipt.attempts[1].cost_nanos, 1)


def test_nobody_stands_in_after_the_deadline() -> None:
    policy = a_policy(steps=HEDGED, fallback=FallbackRule(deadline_s=1.0))
    sim = Sim(policy, {"a/middle": [(5.0, said("long, but without a silence"))]})
    assert ends(sim.run(a_call())) == [("a/middle", "")]


def test_when_both_fail_the_next_model_is_asked() -> None:
    scripts = {
        "a/middle": [(4.0, failed("overloaded"))],
        "b/middle": [(1.0, failed("refused"))],
        "a/large": [(1.0, said("at last"))],
    }
    done = Sim(a_policy(steps=HEDGED), scripts).run(a_call())
    assert ends(done) == [("b/middle", "refused"), ("a/middle", "overloaded"), ("a/large", "")]


def test_a_reply_that_is_not_accepted_is_escalated_as_ever() -> None:
    steps = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", hedge=True, accept=("not_empty",))}
    scripts = {"a/middle": [(9.0, said("late"))], "b/middle": [(1.0, said(""))], "a/large": [(1.0, said("good"))]}
    done = Sim(a_policy(steps=steps), scripts).run(a_call())
    assert ends(done) == [("a/middle", "outrun"), ("b/middle", "not_accepted"), ("a/large", "")]


@pytest.mark.parametrize(
    ("policy", "health"),
    [
        (a_policy(), {"a/middle": KNOWN}),  # the policy does not hedge
        (a_policy(steps=HEDGED), {}),  # nobody knows how long is long
        (a_policy(steps=HEDGED), {"a/middle": replace(KNOWN, timed=HEDGE_AFTER_CALLS - 1)}),
        (a_policy(steps=HEDGED, fallback=FallbackRule(attempts=1)), {"a/middle": KNOWN}),
        (
            a_policy(steps=HEDGED, budget=BudgetRule(session=Limits(llm_calls=1))),  # no money for a second
            {"a/middle": KNOWN},
        ),
        (
            a_policy(steps=HEDGED),
            {"a/middle": KNOWN, **{n: Health(open_until_s=2e9) for n in ("b/middle", "a/large", "c/large")}},
        ),
    ],
    ids=["not asked for", "not known", "too few", "one attempt", "no money", "circuits open"],
)
def test_who_is_not_hedged_waits(policy: Policy, health: Mapping[str, Health]) -> None:
    sim = Sim(policy, {"a/middle": [(30.0, said("slow"))]}, health)
    assert ends(sim.run(a_call())) == [("a/middle", "")]
    assert sim.store.holds(sim.now_s) == []


def test_a_request_of_a_lower_tier_never_stands_in() -> None:
    steps = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="premium", hedge=True)}
    sim = Sim(a_policy(steps=steps), {"a/large": [(9.0, said("late"))], "c/large": [(9.5, said("later"))]})
    sim.health = {"a/large": KNOWN}
    assert ends(sim.run(a_call())) == [("c/large", "outrun"), ("a/large", "")]


@pytest.mark.parametrize("at", range(1, 12))
def test_a_call_stopped_anywhere_settles_both(at: int) -> None:  # noqa: C901 - one branch an effect
    """The driver stops after so many effects; with what `abandon` returns each request is charged once."""
    store, begun = MemoryStore(), 0
    pipeline = Pipeline(a_call(), a_policy(steps=HEDGED), now_s=1000.0)
    run, result = pipeline.run(), None
    for _ in range(at):
        try:
            effect = run.send(result)
        except StopIteration:
            break
        match effect:
            case Open():
                opened = store.open("s1", effect.path, effect.now_s)
                result = Situation(
                    opened.trail, opened.standings, dict.fromkeys(effect.encodings, 20), {"a/middle": KNOWN}
                )
            case Reserve():
                result = store.reserve(effect.claim)
            case Begin():
                begun += 1
                result = 1000.0
            case Wait() if effect.patience_s is not None:
                result = Heard(None, None, 1002.0, 0.5)
            case Wait():
                result = Heard(1, said("x"), 1003.0, 0.5)
            case Settle():
                result = store.settle(effect.settlement)
            case _:
                result = None
    run.close()
    for last in pipeline.abandon(1004.0):
        if isinstance(last, Settle):
            store.settle(last.settlement)
        else:
            store.record(last.receipt)
    spent = [row.used for row in store.spends()]
    assert store.holds(1004.0) == []
    assert sum(used.llm_calls for used in spent) == begun
    receipts = store.receipts("s1")
    assert sum(used.nanos for used in spent) == sum(receipt.cost_nanos for receipt in receipts)
    assert len(receipts) == (at > 1)  # from the first hold on


outcomes = st.tuples(
    st.sampled_from([0.1, 1.0, 2.5, 4.0, 8.0, 50.0]),
    st.builds(said, st.sampled_from(["one", "two words", ""]), tokens=st.tuples(st.integers(0, 20), st.integers(0, 9)))
    | st.builds(failed, st.sampled_from(FailureKind)),
)
MODELS = ("a/middle", "b/middle", "a/large", "c/large", "a/small", "b/small")


@settings(max_examples=300, deadline=None)
@given(
    scripts=st.fixed_dictionaries({name: st.lists(outcomes, min_size=6, max_size=6) for name in MODELS}),
    known=st.sets(st.sampled_from(MODELS)),
    stream=st.booleans(),
    attempts=st.integers(1, 6),
    money=st.none() | st.integers(0, 900_000),
    estimate=st.sampled_from(["strict", "expected"]),
    accept=st.sampled_from([(), ("not_empty",)]),
)
def test_whatever_happens_each_attempt_is_charged_once_and_no_hold_stays(
    scripts: dict[str, list[Paced]],
    known: set[str],
    stream: bool,
    attempts: int,
    money: int | None,
    estimate: str,
    accept: tuple[str, ...],
) -> None:
    steps = {**STEPS, StepKind.SYNTHESIS: StepRule(tier="standard", hedge=True, accept=accept)}
    budget = BudgetRule(session=Limits(nanos=money), estimate=estimate)
    policy = a_policy(steps=steps, budget=budget, fallback=FallbackRule(attempts=attempts))
    sim = Sim(policy, scripts, dict.fromkeys(known, KNOWN))
    done = sim.run(a_call(stream=stream))
    assert sim.store.holds(sim.now_s) == []
    holds = [settlement.hold for settlement in sim.settled]
    assert len(holds) == len(set(holds)) == len(done.receipt.attempts) == len(sim.asked)
    assert sim.spent()[0] == done.receipt.cost_nanos
    assert len(sim.asked) <= attempts
    if estimate == "strict" and money is not None:
        assert sim.spent()[0] <= money
    if done.reply is not None and stream and done.receipt.attempts:
        assert "".join(chunk.text for chunk in sim.shown) == done.reply.text
    assert (done.reply is None) == (bool(done.failure) or bool(done.refused))
