"""Replaying a run's own receipts under its own policy gives the same decisions: whatever happened in the run."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson
import pytest

from waywiser.catalog.tokens import TokenEstimator
from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish, Origin, Outcome, Reply, Usage
from waywiser.core.health import HEDGE_AFTER_CALLS
from waywiser.core.hedge import OUTRUN
from waywiser.core.messages import Message, Text, ToolCall, tool_result, user
from waywiser.core.models import Model
from waywiser.core.policy import BudgetRule, FallbackRule, LoopControl, Policy, Pressure
from waywiser.core.receipt import Receipt
from waywiser.engine import Engine
from waywiser.errors import RoutingRefused, UpstreamError
from waywiser.replay.receipts import read_session
from waywiser.replay.recording import Session
from waywiser.replay.simulate import replay
from waywiser.runtime import LazyClassifier
from waywiser.stores.codec import encode_receipt
from waywiser.stores.memory import MemoryStore
from waywiser.testing import FrozenClock, chunks
from waywiser.testing.pieces import LOOK_UP, STEPS, a_policy

CLASSIFIER = LazyClassifier()
BUDGET = BudgetRule(
    session=Limits(nanos=12_000_000, llm_calls=14),
    keep={"synthesis": 0.2},
    pressure=(Pressure(0.6, "standard"), Pressure(0.85, "economy")),
    on_exhausted="conclude",
)


HESITATES_S = 0.01


class RunningClock(FrozenClock):
    """A clock that runs, and can be told to jump."""

    def now(self) -> float:
        return super().now() + time.monotonic()


@dataclass
class Moody:
    """An upstream that repeats itself, fails now and then, and tells what it used."""

    chance: random.Random
    hesitates_s: float = 0.0
    counter: TokenEstimator = field(default_factory=TokenEstimator)
    seen: dict[str, int] = field(default_factory=dict)

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        if self.hesitates_s and self.chance.random() < 0.5:
            time.sleep(self.hesitates_s * self.chance.randint(1, 3))
        if self.chance.random() < 0.1:
            return Failure(FailureKind.OVERLOADED, "busy")
        tokens = self.counter.messages(call.messages, model.encoding) + self.counter.tools(call.tools, model.encoding)
        usage = Usage(tokens, self.chance.randint(5, 60), cached_tokens=self.seen.get(model.name, 0))
        self.seen[model.name] = tokens
        if call.tools and call.settings.tool_choice != "none" and self.chance.random() < 0.9:
            wanted = "W1" if self.chance.random() < 0.85 else f"W{self.chance.randint(2, 99)}"
            asked = ToolCall(f"t{self.chance.random()}", "look_up", f'{{"id":"{wanted}"}}')
            return Reply((), (asked,), Finish.TOOL_CALLS, usage)
        return Reply((Text(f"Here is what I know, take {self.chance.randint(1, 3)}."),), usage=usage)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Iterator[Chunk | Failure]:
        outcome = self.send(model, call, timeout_s)
        if isinstance(outcome, Failure):
            yield outcome
        else:
            yield from chunks(outcome)


def run(policy: Policy, seed: int) -> list[Receipt]:
    """Let an agent work one session and return its receipts."""
    hedging = any(rule.hedge for rule in policy.steps.values())
    chance, store = random.Random(seed), MemoryStore()
    clock = RunningClock() if hedging else FrozenClock()
    engine = Engine(
        policy,
        store=store,
        upstreams={"scripted": Moody(chance, HESITATES_S if hedging else 0.0)},
        counter=TokenEstimator(),
        clock=clock,
        classifier=CLASSIFIER,
    )
    if hedging:
        for _ in range(HEDGE_AFTER_CALLS):
            for tier in policy.tiers:
                for model in tier.models:
                    engine.health.note(model.name, None, HESITATES_S / 2, clock.now())
    history: list[Message] = [user("Where is my order W1? I want to return half of it and exchange the rest.")]
    for number in range(18):
        origin = Origin(session="s", kind="planning" if number == 0 else "", kind_by="the test" if number == 0 else "")
        call = Call(f"c{number}", tuple(history), (LOOK_UP,), origin=origin)
        clock.advance(chance.choice((1.0, 5.0, 400.0)))
        try:
            reply = engine.complete(call).reply
        except (RoutingRefused, UpstreamError):
            break
        history.append(reply.as_message(""))
        history += [tool_result(asked.id, f"about {asked.arguments}", name=asked.name) for asked in reply.tool_calls]
        if not reply.tool_calls:
            break
    return list(store.receipts("s"))


def recorded(receipts: list[Receipt], patience: int = 3) -> Session:
    rows = [(f"run:{number}", orjson.loads(encode_receipt(receipt))) for number, receipt in enumerate(receipts)]
    session = read_session(rows, (), patience)
    assert isinstance(session, Session)
    return session


POLICIES = {
    "plain": a_policy(),
    "budget": a_policy(budget=BUDGET),
    "strict": a_policy(budget=replace(BUDGET, estimate="strict", on_exhausted="stop")),
    "loops": a_policy(loops=LoopControl()),
    "patient": a_policy(loops=LoopControl(after=4, ladder=("hint", "stop")), fallback=FallbackRule(attempts=2)),
    "reveal": a_policy(reveal_below=0.95),
    "hedge": a_policy(steps={kind: replace(rule, hedge=True) for kind, rule in STEPS.items()}, budget=BUDGET),
    "all": a_policy(budget=BUDGET, loops=LoopControl(ladder=("escalate", "conclude"))),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_decisions(name: str) -> None:
    policy = POLICIES[name]
    happened = set()
    for seed in range(10):
        receipts = run(policy, seed)
        result = replay(recorded(receipts, (policy.loops or LoopControl()).after), policy, CLASSIFIER, decisions=True)
        assert [(one.kind, one.tier, one.model, one.refused, one.cost_nanos) for one in result.decisions] == [
            (one.kind, one.tier, one.model, one.refused, one.cost_nanos) for one in receipts
        ], seed
        assert result.cost_nanos == result.recorded_nanos
        happened |= {one.loop for one in receipts} | {one.refused for one in receipts}
        happened |= {"failed" for one in receipts for attempt in one.attempts if attempt.failure}
        happened |= {attempt.failure for one in receipts for attempt in one.attempts}
    assert "failed" in happened
    assert (OUTRUN in happened) == (name == "hedge")
    if policy.loops is not None:
        assert happened & {"hint", "escalate", "conclude", "stop"}
