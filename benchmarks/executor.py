"""What the executor itself costs on the good path: pipeline and driver, with an upstream that answers at once.

    python benchmarks/executor.py [--calls 3000] [--messages 20] [--profile]

One process, memory store, no network. A session grows by a tool call and its result with every call, up to
`--messages`, then a new one begins. Told per call: the whole, what of it was the store (its three round trips), and
what is left, which is the executor's own: classify by shape, aim, rank six models, portability, budget, receipt. Also
the same for a stream of eight chunks and for the event loop. Exits 1 if the executor takes 60 µs or more.
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
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace

from waywiser.catalog.tokens import TokenEstimator
from waywiser.clock import SystemClock
from waywiser.core.calls import Call, Chunk, Failure, Finish, Origin, Outcome, Reply, Tool, Usage
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
        began = time.perf_counter()
        try:
            return work(*args)
        finally:
            self.took_s += time.perf_counter() - began

    def open(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().open, *args)

    def reserve(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().reserve, *args)

    def settle(self, *args: object) -> object:  # type: ignore[override]
        return self._timed(super().settle, *args)


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


def measure(work: Callable[[Engine, list[Call]], None], given: list[Call]) -> tuple[float, float]:
    """The whole and the store's part, in µs a call; the median of batches, so that a hiccup does not count."""
    store = TimedStore()
    instant = Instant()
    engine = Engine(
        policy(),
        store=store,
        upstreams={"openai": instant, "anthropic": instant},
        counter=TokenEstimator(),
        clock=SystemClock(),
    )
    work(engine, [replace(call, id=f"w{call.id}") for call in given[:100]])
    wholes, stores = [], []
    gc.collect()
    gc.disable()
    for at in range(0, len(given), 100):
        batch = given[at : at + 100]
        store.took_s, began = 0.0, time.perf_counter()
        work(engine, batch)
        wholes.append((time.perf_counter() - began) / len(batch))
        stores.append(store.took_s / len(batch))
    gc.enable()
    return statistics.median(wholes) * 1e6, statistics.median(stores) * 1e6


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
        whole, store = measure(work, calls(options.calls, options.messages, stream=streams))
        told[name] = {"whole_us": round(whole, 1), "store_us": round(store, 1), "executor_us": round(whole - store, 1)}
    print(json.dumps(told, indent=2) if options.json else "\n".join(f"{name:10} {row}" for name, row in told.items()))
    sys.exit(told["complete"]["executor_us"] >= BUDGET_US)


if __name__ == "__main__":
    main()
