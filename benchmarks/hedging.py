"""What a hedge is worth and what it costs: the tail of a step, over real sockets, with and without.

    python benchmarks/hedging.py [--calls 1500] [--agents 12] [--step-ms 40] [--stall 0.04] [--json]

Two models of one tier answer with log-normal latency; now and then (`--stall`) the first one stalls for ten times as
long. The same number of calls goes through two engines at the same time, one whose policy hedges and one whose policy
does not, on the event loop, whole and streamed. Told: percentiles of a step (streamed: of its first words), how many
requests more and how much more money the hedge took. Exits 1 if a call failed, a hold is open, a receipt does not add
up with the ledger, or hedging costs more than one call in ten.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys

from waywiser.clock import SystemClock
from waywiser.core.calls import Call, Origin
from waywiser.core.messages import user
from waywiser.core.models import Model, Price
from waywiser.core.policy import Policy, StepRule, Tier
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.stores.memory import MemoryStore
from waywiser.testing.pieces import CharacterCounter
from waywiser.upstream.client import HttpUpstream

REPLY = json.dumps(
    {
        "id": "r",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 180},
    }
).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(REPLY), REPLY)
EVENTS = b"".join(
    b"data: %b\n\n" % (piece if isinstance(piece, bytes) else json.dumps(piece).encode())
    for piece in (
        {"id": "r", "choices": [{"index": 0, "delta": {"content": "done"}, "finish_reason": None}]},
        {"id": "r", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"id": "r", "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 180}},
        b"[DONE]",
    )
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)


class Provider:
    """A server on loopback whose answers take as long as chance has it."""

    def __init__(self, step_s: float, stall: float, seed: int) -> None:
        self.asked = 0
        self.port = 0
        self._step_s = step_s
        self._stall = stall
        self._chance = random.Random(seed)

    async def start(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                size = int(top.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
                self.asked += 1
                takes_s = self._step_s * self._chance.lognormvariate(0.0, 0.25)
                await asyncio.sleep(takes_s * (10 if self._chance.random() < self._stall else 1))
                writer.write(STREAM if b'"stream":true' in body.replace(b" ", b"") else WHOLE)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def policy(ports: list[int], step_ms: float, *, hedge: bool) -> Policy:
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
        for number, (port, quality) in enumerate(zip(ports, (0.9, 0.7), strict=True))
    )
    return Policy("hedging", (Tier("all", models),), {StepKind.SYNTHESIS: StepRule(tier="all", hedge=hedge)})


async def agent(engine: Engine, name: str, calls: int, *, stream: bool, took_s: list[float]) -> int:
    """Make calls one after another; the answer is how many failed."""
    failed = 0
    for number in range(calls):
        origin = Origin(session=f"{name}-{number}", kind="synthesis", kind_by="the benchmark")
        call = Call(engine.clock.new_id(), (user("Where is my order?"),), origin=origin, stream=stream)
        began_s = engine.clock.now()
        first_s = None
        if stream:
            text = ""
            async for chunk in engine.astream(call):
                if chunk.text and first_s is None:
                    first_s = engine.clock.now() - began_s
                text += chunk.text
        else:
            text = (await engine.acomplete(call)).reply.text
        took_s.append(first_s or engine.clock.now() - began_s)
        failed += text != "done"
    return failed


async def compare(options: argparse.Namespace, *, stream: bool) -> tuple[dict[str, dict[str, float]], bool]:
    """Run both engines side by side; tell the figures of each and whether all was well."""
    told: dict[str, dict[str, float]] = {}
    well = True
    runs = []
    for hedge in (False, True):
        providers = [Provider(options.step_ms / 1000, options.stall, 11), Provider(options.step_ms / 1000, 0.0, 12)]
        for provider in providers:
            await provider.start()
        engine = Engine(
            policy([provider.port for provider in providers], options.step_ms, hedge=hedge),
            store=MemoryStore(),
            upstreams={"openai": HttpUpstream(lambda model: "")},
            counter=CharacterCounter(),
            clock=SystemClock(),
        )
        took_s: list[float] = []
        agents = [
            asyncio.ensure_future(
                agent(engine, f"a{number}", options.calls // options.agents, stream=stream, took_s=took_s)
            )
            for number in range(options.agents)
        ]
        runs.append((hedge, providers, engine, took_s, agents))
    for hedge, providers, engine, took_s, agents in runs:
        failed = sum(await asyncio.gather(*agents))
        used = [row.used for row in engine.store.spends()]
        nanos, charged = sum(one.nanos for one in used), sum(one.llm_calls for one in used)
        quantiles = statistics.quantiles(took_s, n=100)
        told["hedged" if hedge else "plain"] = {
            "p50_ms": quantiles[49] * 1000,
            "p95_ms": quantiles[94] * 1000,
            "p99_ms": quantiles[98] * 1000,
            "requests_a_call": sum(provider.asked for provider in providers) / len(took_s),
            "charged_a_call": charged / len(took_s),
            "microdollars_a_call": nanos / 1000 / len(took_s),
        }
        well = well and not failed and not engine.store.holds(engine.clock.now())
        await engine.aclose()
    return told, well and told["hedged"]["charged_a_call"] < 1.1


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--agents", type=int, default=12)
    parser.add_argument("--step-ms", type=float, default=40.0)
    parser.add_argument("--stall", type=float, default=0.04)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    whole, well = await compare(options, stream=False)
    streamed, streams_well = await compare(options, stream=True)
    told = {"whole": whole, "streamed": streamed}
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for name, figures in told.items():
            for policy_name, row in figures.items():
                print(f"{name:9} {policy_name:7}", "  ".join(f"{key} {value:7.2f}" for key, value in row.items()))
            print(
                f"{name:9} p99 at {figures['hedged']['p99_ms'] / figures['plain']['p99_ms']:.2f} of unhedged, cost at "
                f"{figures['hedged']['microdollars_a_call'] / figures['plain']['microdollars_a_call']:.3f}"
            )
    return 0 if well and streams_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
