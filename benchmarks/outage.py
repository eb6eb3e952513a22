"""An outage drill over real sockets: what agents notice of a provider that dies, comes back, or turns slow.

    python benchmarks/outage.py [--agents 16] [--dead 20] [--healthy 8] [--recovery 20] [--step-ms 100] [--redis]

Agents run tickets of a few steps, each on one of three models that a policy ranks first for its kind of step. Then the
first model dies (its connections are refused), and while it is dead the second one turns slow; both come back. Told at
the end: failed runs, how many failures it took to open the dead model's circuit, how many probes it took to close it
again, and the 95th percentile of a step before the outage and once the circuit was open. Every agent has its own
session; all share one engine, one store, one health board. Exits 1 if a promise is not kept.

With `--redis` the agents are divided among four processes that have nothing in common but a Redis server, started for
the purpose. Told is what the fleet as a whole asked of the dead model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waywiser.clock import SystemClock
from waywiser.core.calls import Call, Failure, Origin
from waywiser.core.health import Circuit, Health
from waywiser.core.messages import user
from waywiser.core.models import Model, Price
from waywiser.core.policy import FallbackRule, Policy, StepRule, Tier, Weights
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.errors import WaywiserError
from waywiser.health import HealthBoard
from waywiser.ports import SessionStore
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.testing.pieces import CharacterCounter
from waywiser.testing.redis_server import RedisServer
from waywiser.upstream.client import HttpUpstream

REPLY = json.dumps(
    {
        "id": "r",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5},
    }
).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)
PROCESSES = 4
DEAD = "p0/m"
STEPS = (StepKind.PLANNING, StepKind.TOOL_CALL, StepKind.TOOL_CALL, StepKind.SYNTHESIS)


class Provider:
    """One model's server on loopback: alive or dead, and so slow."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Close the port and reset whatever is under way, as a crashed gateway does."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                size = int(top.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(size)
                await asyncio.sleep(self.step_s * random.uniform(0.8, 1.2))
                writer.write(HEAD + REPLY)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@dataclass
class Watcher(HealthBoard):
    """A health board that remembers what the first model's circuit went through."""

    watched: str = ""
    failures_to_open: int = 0
    opened_s: float = 0.0
    closed_s: float = 0.0
    alive_s: float = 0.0
    probes_after: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def note(
        self, model: str, failure: Failure | None, took_s: float, now_s: float, first_s: float | None = None
    ) -> None:
        before = self.snapshot().get(model, Health()).circuit(now_s)
        super().note(model, failure, took_s, now_s, first_s)
        after = self.snapshot()[model].circuit(now_s)
        if model != self.watched:
            return
        if not self.opened_s:
            self.failures_to_open += failure is not None
            if after is Circuit.OPEN:
                self.opened_s = now_s
        elif not self.closed_s and self.alive_s and now_s - took_s > self.alive_s:
            self.probes_after += before is not Circuit.CLOSED
            if after is Circuit.CLOSED:
                self.closed_s = now_s


@dataclass
class Tape:
    """Every step of every agent: when it began, how long it took, what it came to."""

    steps: list[tuple[float, float, str]] = field(default_factory=list)
    runs: int = 0
    failed: list[str] = field(default_factory=list)

    def p95(self, since_s: float, until_s: float) -> float:
        took = sorted(took for began, took, _ in self.steps if since_s <= began < until_s)
        return statistics.quantiles(took, n=20)[-1] if len(took) > 20 else float("nan")


def policy(ports: list[int], step_ms: float) -> Policy:
    """Three models of one tier, so that only what they are good at and how they do decides between them."""
    price = Price(1_000_000, 2_000_000, 100_000, 1_000_000)
    models = tuple(
        Model(
            f"p{number}/m",
            remote=f"m{number}",
            base_url=f"http://127.0.0.1:{port}/v1",
            prices=(price,),
            quality=quality,
            latency_ms=step_ms,
        )
        for number, (port, quality) in enumerate(zip(ports, (0.9, 0.8, 0.7), strict=True))
    )
    tier = Tier("all", models)
    return Policy(
        "outage",
        (tier,),
        {kind: StepRule(tier="all") for kind in StepKind},
        weights=Weights(quality=1.0, cost=0.0, latency=0.5, health=1.0),
        fallback=FallbackRule(attempts=5, timeout_s=5.0, deadline_s=20.0),
    )


async def agent(engine: Engine, number: int, until_s: float, tape: Tape, think_s: float) -> None:
    run = 0
    while engine.clock.now() < until_s:
        run += 1
        tape.runs += 1
        for step, kind in enumerate(STEPS):
            origin = Origin(session=f"a{number}-{run}", kind=kind, kind_by="the drill")
            call = Call(engine.clock.new_id(), (user(f"step {step}"),), origin=origin)
            began = engine.clock.now()
            try:
                answer = await engine.acomplete(call)
            except WaywiserError as error:
                tape.failed.append(f"{began:.1f}: {error}")
                break
            tape.steps.append((began, engine.clock.now() - began, answer.receipt.model))
            await asyncio.sleep(think_s * random.uniform(0.5, 1.5))


def engine_over(
    ports: list[int], step_ms: float, upstream: HttpUpstream, store: SessionStore, health: HealthBoard
) -> Engine:
    return Engine(
        policy(ports, step_ms),
        store=store,
        upstreams={"openai": upstream},
        counter=CharacterCounter(),
        clock=SystemClock(),
        health=health,
    )


async def drill(options: argparse.Namespace) -> int:
    random.seed(7)
    step_s = options.step_ms / 1000
    providers = [Provider(step_s), Provider(step_s), Provider(step_s)]
    for provider in providers:
        await provider.start()
    board, clock, tape, store = Watcher(watched=DEAD), SystemClock(), Tape(), MemoryStore()
    upstream = HttpUpstream(lambda model: "")
    engine = engine_over([provider.port for provider in providers], options.step_ms, upstream, store, board)
    start = clock.now()
    total = options.healthy + options.dead + options.recovery
    agents = [
        asyncio.create_task(agent(engine, number, start + total, tape, step_s)) for number in range(options.agents)
    ]
    await asyncio.sleep(options.healthy)
    died = clock.now()
    await providers[0].die()
    await asyncio.sleep(options.dead / 2)
    slowed = clock.now()
    providers[1].step_s = step_s * options.slow
    await asyncio.sleep(options.dead / 2)
    await providers[0].start()
    board.alive_s = back = clock.now()
    await asyncio.sleep(options.recovery)
    await asyncio.gather(*agents)
    providers[1].step_s = step_s
    await upstream.aclose()
    for provider in providers:
        await provider.die()

    healthy, after = tape.p95(start + 1, died), tape.p95(board.opened_s, back)
    slow = [model for began, _, model in tape.steps if began >= slowed + 1]
    told = {
        "agents": options.agents,
        "runs": tape.runs,
        "steps": len(tape.steps),
        "failed_runs": len(tape.failed),
        "failures_until_open": board.failures_to_open,
        "open_after_s": round(board.opened_s - died, 3),
        "probes_until_closed": board.probes_after,
        "closed_after_s": round(board.closed_s - back, 2) if board.closed_s else None,
        "p95_healthy_ms": round(healthy * 1000, 1),
        "p95_after_open_ms": round(after * 1000, 1),
        "p95_ratio": round(after / healthy, 2),
        "share_on_slow_model_after_it_slowed": round(slow.count("p1/m") / len(slow), 3),
        "open_holds": len(store.holds(clock.now())),
    }
    tell(told, tape, options)
    kept = (
        not tape.failed
        and 0 < board.failures_to_open <= 5
        and bool(board.closed_s)
        and board.probes_after <= 2
        and after < 1.5 * healthy
        and not told["open_holds"]
    )
    return 0 if kept else 1


def tell(told: dict[str, Any], tape: Tape, options: argparse.Namespace) -> None:
    print(
        json.dumps(told, indent=2) if options.json else "\n".join(f"{name:38} {value}" for name, value in told.items())
    )
    for line in tape.failed[:5]:
        print("failed:", line, file=sys.stderr)


# A fleet


@dataclass
class Asked:
    """What one process asked of the model that dies: when each request began and ended, and whether it failed."""

    requests: list[tuple[float, float, bool]] = field(default_factory=list)

    def listen(self, board: HealthBoard) -> None:
        """Have the board tell of every request to that model."""
        note = board.note

        def noted(
            model: str, failure: Failure | None, took_s: float, now_s: float, first_s: float | None = None
        ) -> None:
            if model == DEAD:
                self.requests.append((now_s - took_s, now_s, failure is not None))
            note(model, failure, took_s, now_s, first_s)

        board.note = noted  # type: ignore[method-assign]


def process(number: int, url: str, ports: list[int], options: argparse.Namespace, until_s: float, out: Any) -> None:
    """One process of the fleet: a few agents, an engine and a store of its own."""
    random.seed(number)
    tape, asked, store, upstream = Tape(), Asked(), RedisStore(url), HttpUpstream(lambda model: "")
    asked.listen(store.health)
    engine = engine_over(ports, options.step_ms, upstream, store, store.health)

    async def work() -> None:
        # The first request of a process imports the client: that is not to be held against the model it went to.
        await upstream.asend(engine.policy.tiers[0].models[2], Call("warm", (user("hello"),)), 5.0)
        share = options.agents // PROCESSES
        names = range(number * share, (number + 1) * share)
        await asyncio.gather(*(agent(engine, name, until_s, tape, options.step_ms / 1000) for name in names))
        await upstream.aclose()
        await store.aclose()

    asyncio.run(work())
    store.close()
    out.put((tape, asked))


async def fleet_drill(options: argparse.Namespace, url: str) -> int:
    step_s = options.step_ms / 1000
    providers = [Provider(step_s), Provider(step_s), Provider(step_s)]
    for provider in providers:
        await provider.start()
    clock, spawn = SystemClock(), multiprocessing.get_context("spawn")
    start = clock.now() + 6.0  # a process takes a while to import everything
    until_s = start + options.healthy + options.dead + options.recovery
    out = spawn.Queue()
    ports = [provider.port for provider in providers]
    fleet = [
        spawn.Process(target=process, args=(number, url, ports, options, until_s, out)) for number in range(PROCESSES)
    ]
    for member in fleet:
        member.start()
    await asyncio.sleep(start + options.healthy - clock.now())
    died = clock.now()
    await providers[0].die()
    await asyncio.sleep(options.dead)
    await providers[0].start()
    back = clock.now()
    tape, asked = Tape(), Asked()
    for _ in fleet:
        theirs, requests = await asyncio.to_thread(out.get)
        tape.steps += theirs.steps
        tape.runs += theirs.runs
        tape.failed += theirs.failed
        asked.requests += requests.requests
    for member in fleet:
        member.join()
    for provider in providers:
        await provider.die()

    requests = sorted(asked.requests)
    failures = [(began, ended) for began, ended, failed in requests if failed and died <= ended < back]
    new = [began for began, _ in failures if began >= died]
    first_rest = [began for began in new if began < died + 1.0]
    picked_up = min((ended for began, ended, failed in requests if began >= back and not failed), default=None)
    late = [began for began, _, failed in requests if began >= back and failed]
    healthy, after = tape.p95(start + 1, died), tape.p95(died + 0.5, back)
    told = {
        "processes": PROCESSES,
        "agents": options.agents,
        "runs": tape.runs,
        "steps": len(tape.steps),
        "failed_runs": len(tape.failed),
        "in_flight_when_it_died": len(failures) - len(new),
        "asked_until_all_stopped": len(first_rest),
        "all_stopped_after_s": round(max(first_rest, default=died) - died, 3),
        "probes_while_dead": len(new) - len(first_rest),
        "failed_probes_after": len(late),
        "picked_up_after_s": None if picked_up is None else round(picked_up - back, 2),
        "p95_healthy_ms": round(healthy * 1000, 1),
        "p95_dead_ms": round(after * 1000, 1),
        "p95_ratio": round(after / healthy, 2),
    }
    tell(told, tape, options)
    kept = (
        not tape.failed and len(first_rest) <= 5 and picked_up is not None and len(late) <= 1 and after < 1.5 * healthy
    )
    return 0 if kept else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=16)
    parser.add_argument("--healthy", type=float, default=8.0, help="seconds before the outage")
    parser.add_argument("--dead", type=float, default=20.0, help="seconds the first model is dead")
    parser.add_argument("--recovery", type=float, default=20.0, help="seconds after it came back")
    parser.add_argument("--step-ms", type=float, default=100.0, help="what an answer takes")
    parser.add_argument("--slow", type=float, default=6.0, help="how many times longer the second model takes")
    parser.add_argument("--redis", action="store_true", help=f"{PROCESSES} processes that share a Redis server")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.redis:
        sys.exit(asyncio.run(drill(options)))
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            sys.exit(asyncio.run(fleet_drill(options, server.url)))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
