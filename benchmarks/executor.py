"""What the executor itself costs on the good path: pipeline and driver, with an upstream that answers at once.

    python benchmarks/executor.py [--calls 3000] [--messages 20] [--profile]

One process, memory store, no network; CPU time, since the machine may be busy. A session grows by a tool call and its
result with every call, up to `--messages`, then a new one begins. Told per call, in µs:

    whole     everything
    store     its three round trips
    decide    counting the new messages, loops, kind, aim, ranking six models with portability
    execute   the rest: hold, port, send, settle, receipt, driver

the same for the event loop, and for a stream of eight chunks. What it takes to read the clock around the store is
measured and taken off. The yardstick, `sum(range(1000))`, tells machines apart.
Exits 1 if executing takes 60 µs or more.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import statistics
import sys
import time
import timeit
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace

from waywiser.catalog.tokens import TokenEstimator
from waywiser.clock import SystemClock
from waywiser.core.calls import Call, Chunk, Failure, Finish, Origin, Outcome, Reply, Tool, Usage
from waywiser.core.effects import Open, Reserve
from waywiser.core.flow import Pipeline
from waywiser.core.messages import Text, assistant, system, tool_result, user
from waywiser.core.messages import ToolCall as Asked
from waywiser.core.models import Ability, Model, Price
from waywiser.core.policy import Policy, StepRule, Tier
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.stores.memory import MemoryStore

REPLY = Reply((Text("done"),), usage=Usage(400, 20, 300))
CHUNKS = (*(Chunk("word ") for _ in range(7)), Chunk("end", finish=Finish.STOP, usage=Usage(400, 20, 300)))
BUDGET_US = 60.0


class Instant:
    """An upstream that has the answer ready."""

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return REPLY

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return REPLY

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        yield from CHUNKS

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        for chunk in CHUNKS:
            yield chunk

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class TimedStore(MemoryStore):
    """A memory store that adds up the time spent in it."""

    took_s = 0.0

    def _timed(self, work: Callable[..., object], *args: object) -> object:
        began = time.process_time()
        try:
            return work(*args)
        finally:
            self.took_s += time.process_time() - began

    @classmethod
    def clock_s(cls, times: int = 20_000) -> float:
        """What timing costs beside what it measures, in seconds a trip to the store."""
        store, began = cls(), time.process_time()
        for _ in range(times):
            store._timed(int)
        return (time.process_time() - began - store.took_s) / times

    def open(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().open, *args)

    def reserve(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().reserve, *args)

    def settle(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().settle, *args)

    async def aopen(self, *args: object) -> object:  # type: ignore[override]
        return self.open(*args)

    async def areserve(self, *args: object) -> object:  # type: ignore[override]
        return self.reserve(*args)

    async def asettle(self, *args: object) -> object:  # type: ignore[override]
        return self.settle(*args)


def policy() -> Policy:
    price = Price(1_000_000, 2_000_000, 100_000, 1_000_000)
    abilities = frozenset({Ability.TOOLS, Ability.JSON_SCHEMA})
    names = (("openai/a", "google/b"), ("anthropic/c", "openai/d"), ("anthropic/e", "openai/f"))
    tiers = tuple(
        Tier(
            tier,
            tuple(
                Model(
                    name,
                    "anthropic" if name.startswith("anthropic") else "openai",
                    abilities=abilities,
                    prices=(price,),
                    context_tokens=128_000,
                    cache_ttl_s=300,
                    quality=0.5 + 0.1 * rank,
                )
                for name in models
            ),
        )
        for rank, (tier, models) in enumerate(zip(("economy", "standard", "premium"), names, strict=True))
    )
    steps = {kind: StepRule(tier="economy") for kind in StepKind} | {StepKind.PLANNING: StepRule(tier="premium")}
    return Policy("executor", tiers, steps)


def calls(count: int, messages: int, *, stream: bool) -> list[Call]:
    """Growing sessions of an agent; their messages' digests are not computed before the clock runs."""
    tools = tuple(Tool(f"tool_{number}", "Does something", '{"type":"object","properties":{}}') for number in range(12))
    made: list[Call] = []
    session = 0
    history = [system("Help people with their orders."), user("Where is order W1?")]
    for number in range(count):
        if len(history) + 2 > messages:
            session += 1
            history = [system("Help people with their orders."), user(f"Where is order W{session}?")]
        origin = Origin(session=f"s{session}", node="agent", kind="tool_call", kind_by="the benchmark")
        made.append(Call(f"c{number}", tuple(history), tools, origin=origin, stream=stream))
        call_id = f"call_{number:024d}"
        history += [
            assistant(tool_calls=[Asked(call_id, "tool_1", f'{{"id":{number}}}')]),
            tool_result(call_id, f"{number}"),
        ]
    return made


def measure(work: Callable[[Engine, list[Call]], None], given: list[Call]) -> dict[str, float]:
    """What each part takes, in µs a call; the median of batches, so that a hiccup does not count."""
    store, instant = TimedStore(), Instant()
    engine = Engine(
        policy(),
        store=store,
        upstreams={"openai": instant, "anthropic": instant},
        counter=TokenEstimator(),
        clock=SystemClock(),
    )
    work(engine, [replace(call, id=f"w{call.id}") for call in given[:100]])
    parts: dict[str, list[float]] = {"whole": [], "store": [], "decide": [], "execute": []}
    clock_s = TimedStore.clock_s()
    gc.collect()
    gc.disable()
    for at in range(100, len(given), 100):
        batch = given[at : at + 100]
        # Decided first: so what is computed once a message is computed there.
        store.took_s, began = 0.0, time.process_time()
        for call in batch:
            decided(engine, store, call)
        decide = time.process_time() - began - store.took_s
        store.took_s, began = 0.0, time.process_time()
        work(engine, batch)
        again, stored = time.process_time() - began, store.took_s
        # The batch decides again, with everything remembered; how long that takes is taken off.
        store.took_s, began = 0.0, time.process_time()
        for call in batch:
            decided(engine, store, call)
        remembered = time.process_time() - began - store.took_s
        # A call makes three trips to the store, a decision one: two more clocks were read.
        execute = again - stored - remembered - 2 * clock_s * len(batch)
        for name, took in (
            ("store", stored),
            ("decide", decide),
            ("execute", execute),
            ("whole", stored + decide + execute),
        ):
            parts[name].append(took / len(batch) * 1e6)
    gc.enable()
    return {name: round(statistics.median(took), 1) for name, took in parts.items()}


def decided(engine: Engine, store: TimedStore, call: Call) -> None:
    """Take a call to its first hold, and no further: no receipt is written."""
    run = Pipeline(call, engine.policy, now_s=engine.clock.now()).run()
    effect = next(run)
    assert isinstance(effect, Open)
    effect = run.send(
        engine._situation(effect, store.open(call.origin.session, effect.path, effect.now_s, effect.policy))
    )
    assert isinstance(effect, Reserve)
    run.close()


def complete(engine: Engine, batch: list[Call]) -> None:
    for call in batch:
        engine.complete(call)


def stream(engine: Engine, batch: list[Call]) -> None:
    for call in batch:
        for _ in engine.stream(call):
            pass


def acomplete(engine: Engine, batch: list[Call]) -> None:
    async def run() -> None:
        for call in batch:
            await engine.acomplete(call)

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.profile:
        given = calls(options.calls, options.messages, stream=False)
        with cProfile.Profile() as profile:
            measure(complete, given)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
        return
    told = {}
    for name, work, streams in (
        ("complete", complete, False),
        ("acomplete", acomplete, False),
        ("stream", stream, True),
    ):
        told[name] = measure(work, calls(options.calls, options.messages, stream=streams))
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for name, parts in told.items():
            print(f"{name:10}", "  ".join(f"{part} {took:6.1f}" for part, took in parts.items()), "µs")
        yardstick = min(timeit.repeat(lambda: sum(range(1000)), timer=time.process_time, number=1000)) * 1e3
        print(f"yardstick {yardstick:.1f} µs")
    sys.exit(told["complete"]["execute"] >= BUDGET_US)


if __name__ == "__main__":
    main()
