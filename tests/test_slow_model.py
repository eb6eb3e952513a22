"""A model that turns slow loses its traffic before anything fails, and has it back when it is quick again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field, replace

import pytest

from waywiser.core.calls import Call, Chunk, Failure, Finish, Outcome, Usage
from waywiser.core.models import Model
from waywiser.core.policy import Tier, Weights
from waywiser.engine import Engine
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import FrozenClock
from waywiser.testing.pieces import CharacterCounter, a_call, a_model, a_policy, said

GOOD, SPARE = "a/good", "b/spare"
USUAL_S = 1.0


@dataclass
class Paced:
    """Answers everything; each model takes so long to its first piece and, beyond that, to the end."""

    clock: FrozenClock
    pace: dict[str, tuple[float, float]] = field(default_factory=lambda: {GOOD: (0.5, 0.5), SPARE: (0.5, 0.5)})
    asked: list[str] = field(default_factory=list)

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        self.asked.append(model.name)
        self.clock.advance(sum(self.pace[model.name]))
        return said("done")

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return self.send(model, call, timeout_s)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        self.asked.append(model.name)
        first_s, rest_s = self.pace[model.name]
        self.clock.advance(first_s)
        yield Chunk("do")
        self.clock.advance(rest_s)
        yield Chunk("ne", finish=Finish.STOP, usage=Usage(20, 10))

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        for chunk in self.stream(model, call, timeout_s):
            yield chunk

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class Traffic:
    """An engine over two models of one tier, of which the first is a little better; every call is a session."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.upstream = Paced(self.clock)
        models = tuple(
            replace(a_model(name), quality=quality, latency_ms=USUAL_S * 1000, cache_ttl_s=0.0)
            for name, quality in ((GOOD, 0.8), (SPARE, 0.75))
        )
        tiers = (Tier("standard", models), *a_policy().tiers[2:])
        steps = {kind: replace(rule, tier="standard", escalate="") for kind, rule in a_policy().steps.items()}
        policy = replace(a_policy(tiers=tiers, steps=steps), weights=Weights())
        self.engine = Engine(
            policy,
            store=MemoryStore(),
            upstreams={"scripted": self.upstream},
            counter=CharacterCounter(),
            clock=self.clock,
        )

    def run(self, calls: int, *, every_s: float = 1.0, stream: bool = False) -> float:
        """Make calls and return the good model's share of them."""
        before = len(self.upstream.asked)
        for _ in range(calls):
            name = self.clock.new_id()
            call = a_call(call_id=name, session=name, stream=stream)
            if stream:
                list(self.engine.stream(call))
            else:
                self.engine.complete(call)
            self.clock.advance(every_s)
        asked = self.upstream.asked[before:]
        return asked.count(GOOD) / len(asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_turns_slow_loses_its_traffic_and_gets_it_back(stream: bool) -> None:
    traffic = Traffic()
    assert traffic.run(20, stream=stream) == 1.0
    traffic.upstream.pace[GOOD] = (4.0, 4.0)
    traffic.run(5, stream=stream)
    slow = traffic.run(100, stream=stream)
    assert slow < 0.1  # now and then it is looked at again
    health = traffic.engine.health.snapshot()[GOOD]
    assert (health.failures_in_a_row, health.open_until_s) == (0, 0.0)
    traffic.upstream.pace[GOOD] = (0.5, 0.5)
    traffic.run(100, stream=stream)
    assert traffic.run(20, stream=stream) == 1.0


def test_a_slow_beginning_counts_for_whom_it_is_read_and_not_for_the_others() -> None:
    read, unread = Traffic(), Traffic()
    for traffic in (read, unread):
        traffic.upstream.pace = {GOOD: (0.9, 0.1), SPARE: (0.1, 0.9)}
        traffic.run(4, stream=True)
        traffic.engine.health.note(SPARE, None, 1.0, traffic.clock.now(), 0.1)
    assert read.run(10, stream=True) == 0.0
    assert unread.run(10, stream=False) == 1.0


def test_a_beginning_that_was_never_timed_is_not_compared_as_a_whole() -> None:
    traffic = Traffic()
    traffic.upstream.pace = {GOOD: (0.25, 0.75), SPARE: (0.25, 0.75)}
    traffic.run(4, stream=True)
    # Nothing but whole answers of the spare one are known: they take as long, so there is no reason to change.
    traffic.engine.health.note(SPARE, None, 1.0, traffic.clock.now())
    receipt = traffic.engine.decide(a_call(stream=True))
    latencies = {
        entry.model: term.value for entry in receipt.considered for term in entry.terms if term.name == "latency"
    }
    assert latencies[GOOD] == pytest.approx(latencies[SPARE], rel=0.05)
