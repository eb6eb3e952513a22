"""Everything at once, over real sockets: faults at random, hedging, cut streams, callers who leave, 32 calls at a time.

Whatever happens to a call, the laws of the executor hold: one whole answer or one named error, no word lost or doubled,
every request charged once, no hold, thread, task, socket or probe left behind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from waywiser.clock import SystemClock
from waywiser.core.budget import Limits
from waywiser.core.calls import Call, Chunk, Failure, Origin, Outcome, Settings
from waywiser.core.health import HEDGE_AFTER_CALLS
from waywiser.core.messages import user
from waywiser.core.models import Model, Price
from waywiser.core.policy import BudgetRule, FallbackRule, Policy, StepRule, Tier
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.errors import BudgetExceeded, UpstreamError
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import Recorder
from waywiser.testing.pieces import CharacterCounter
from waywiser.upstream.client import HttpUpstream

SERVER = Path(__file__).resolve().parents[1] / "benchmarks" / "loopback.py"
FAULTS = (
    "500", "529", "429", "401", "context", "filter", "filter-400", "timeout-headers", "timeout-first-token",
    "stall-midstream", "cut", "reset", "drip", "odd", "malformed-json", "malformed-sse", "empty", "content-type",
    "error-midstream",
)  # fmt: skip
ANSWERS = (
    ("The", " wheel", " measures", " the", " road", " as", " you", " go"),
    (" w0", " w1", " w2", " w3", " w4"),
)
WHOLE = {"ok", *("".join(words) for words in ANSWERS)}
BEGUN = {"".join(words[:count]) for words in ANSWERS for count in range(1, len(words) + 1)}
CALLS, AT_ONCE, SESSIONS = 64, 32, 8
TIMEOUT_S = 0.3
STRICT_NANOS = 2_000_000


def told(text: str, *, whole: bool) -> bool:
    """Whether a text is made of begun answers, one after the other, and (`whole`) ends with a whole one."""
    if text in WHOLE or (text in BEGUN and not whole):
        return True
    return any(text.startswith(begun) and told(text[len(begun) :], whole=whole) for begun in BEGUN if begun != text)


@dataclass
class Moody:
    """An HTTP upstream whose every request meets another mood of the provider."""

    chance: random.Random
    http: HttpUpstream = field(default_factory=lambda: HttpUpstream(lambda model: "sk-test"))
    asked: int = 0

    def _mood(self, model: Model) -> Model:
        self.asked += 1
        what = self.chance.random()
        if what < 0.35:
            return replace(model, remote="fault:" + self.chance.choice(FAULTS))
        return replace(model, remote=self.chance.choice(["slow:60", "slow:120", *["words:5"] * 6]))

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return self.http.send(self._mood(model), call, timeout_s)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        return await self.http.asend(self._mood(model), call, timeout_s)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        return self.http.stream(self._mood(model), call, timeout_s)

    def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        return self.http.astream(self._mood(model), call, timeout_s)

    def close(self) -> None:
        self.http.close()

    async def aclose(self) -> None:
        await self.http.aclose()


@dataclass
class Server:
    port: int

    def requests(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as response:
            return int(json.load(response).get("requests", 0))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Server(int(process.stdout.readline()))
        process.stdin.close()


@dataclass
class Drill:
    """An engine in chaos, and what its callers saw."""

    server: Server
    seed: int
    hedge: bool
    cut_stream: str
    strict: bool
    store: MemoryStore = field(default_factory=MemoryStore)
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.upstream = Moody(random.Random(self.seed))
        budget = BudgetRule(session=Limits(nanos=STRICT_NANOS), estimate="strict") if self.strict else BudgetRule()
        names = {"a/one": "openai", "b/two": "anthropic", "c/three": "openai", "d/four": "anthropic"}
        models = [self._model(name, api) for name, api in names.items()]
        tiers = (Tier("low", tuple(models[:2])), Tier("high", (*models[2:], models[0])))  # one model stands in both
        rule = FallbackRule(attempts=4, timeout_s=TIMEOUT_S, deadline_s=4.0, cut_stream=self.cut_stream)
        steps = {kind: StepRule(tier="low", hedge=self.hedge) for kind in StepKind}
        self.engine = Engine(
            Policy("chaos", tiers, steps, budget=budget, fallback=rule),
            store=self.store,
            upstreams={"openai": self.upstream, "anthropic": self.upstream},
            counter=CharacterCounter(),
            clock=SystemClock(),
            sinks=[self.recorder],
        )
        for model in models:
            for _ in range(HEDGE_AFTER_CALLS):
                self.engine.health.note(model.name, None, 0.03, time.time(), 0.03)

    def _model(self, name: str, api: str) -> Model:
        price = Price(1_000_000, 2_000_000, 100_000, 1_000_000)
        base = f"http://127.0.0.1:{self.server.port}/v1"
        return Model(name, api, "", base, context_tokens=8192, max_output_tokens=64, prices=(price,), quality=0.5)

    def _call(self, number: int, *, stream: bool) -> Call:
        origin = Origin(session=f"s{number % SESSIONS}", kind="synthesis", kind_by="the test")
        return Call(f"c{number}", (user("hi"),), origin=origin, stream=stream, settings=Settings(max_output_tokens=50))

    def one(self, number: int) -> None:
        """Make a blocking call: whole, streamed, or streamed and left early."""
        chance = random.Random(self.seed * 10_007 + number)
        stream, leaves_after = chance.random() < 0.7, chance.choice([99, 99, 0, 1, 3])
        text, gone = "", False
        try:
            if not stream:
                text = self.engine.complete(self._call(number, stream=False)).reply.text
            else:
                with closing(self.engine.stream(self._call(number, stream=True))) as pieces:
                    for count, chunk in enumerate(pieces):
                        text += chunk.text
                        if gone := count >= leaves_after:
                            break
        except (UpstreamError, BudgetExceeded):
            gone = True
        self._saw(text, gone=gone)

    async def aone(self, number: int) -> None:
        """Make a call on an event loop; some callers give up after a while."""
        chance = random.Random(self.seed * 10_007 + number)
        stream, leaves_after = chance.random() < 0.7, chance.choice([99, 99, 0, 1, 3])
        patience_s = chance.choice([None, None, None, 0.001, 0.03, 0.1, 0.4])
        text, gone = "", False
        try:
            async with asyncio.timeout(patience_s):
                if not stream:
                    text = (await self.engine.acomplete(self._call(number, stream=False))).reply.text
                else:
                    count = 0
                    async with aclosing(self.engine.astream(self._call(number, stream=True))) as pieces:
                        async for chunk in pieces:
                            text, count = text + chunk.text, count + 1
                            if gone := count > leaves_after:
                                break
        except TimeoutError:
            assert patience_s is not None
            gone = True
        except (UpstreamError, BudgetExceeded):
            gone = True
        self._saw(text, gone=gone)

    def _saw(self, text: str, *, gone: bool) -> None:
        assert (gone and not text) or told(text, whole=not gone), f"{text!r}, {gone=}"
        if self.cut_stream == "fail":
            assert text in WHOLE | BEGUN | {""}, f"{text!r} was joined"

    def books_are_right(self, seen: int, *, cancelled: bool) -> None:
        """Nothing is held, receipts and ledger agree, and what was counted is what the server saw."""
        assert self.store.holds(time.time()) == []
        receipts = {receipt.id: receipt for receipt in self.recorder.receipts}
        assert len(receipts) == len(self.recorder.receipts)
        for receipt in receipts.values():
            assert receipt.cost_nanos == sum(attempt.cost_nanos for attempt in receipt.attempts)
        spent = [row.used for row in self.store.spends()]
        assert sum(used.nanos for used in spent) == sum(one.cost_nanos for one in receipts.values())
        counted = sum(used.llm_calls for used in spent)
        if cancelled:  # of a request that was stopped nobody can tell whether it had arrived
            assert seen <= counted <= self.upstream.asked
        else:
            assert counted == seen == self.upstream.asked
        if self.strict:
            for session in range(SESSIONS):
                of_session = [one for one in receipts.values() if one.session == f"s{session}"]
                assert sum(one.cost_nanos for one in of_session) <= STRICT_NANOS
        for name, health in self.engine.health.snapshot().items():
            assert not health.probing_s, f"the probe of {name} never ended"


def run_blocking(drill: Drill) -> None:
    threads = threading.active_count()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(drill.one, range(CALLS)))
    end_s = time.monotonic() + 10 * TIMEOUT_S
    while threading.active_count() > threads and time.monotonic() < end_s:
        time.sleep(0.01)
    assert threading.active_count() <= threads, "a request that was outrun outlives its time-out"


def run_on_a_loop(drill: Drill) -> None:
    async def run() -> None:
        at_once = asyncio.Semaphore(AT_ONCE)

        async def limited(number: int) -> None:
            async with at_once:
                await drill.aone(number)

        await asyncio.gather(*(limited(number) for number in range(CALLS)))
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await drill.engine.aclose()

    def report(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        reports.append(str(context["message"]))

    reports: list[str] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(report)
        runner.run(run())
        gc.collect()
    assert reports == []


@pytest.mark.parametrize("run", [run_blocking, run_on_a_loop])
@pytest.mark.parametrize(
    ("hedge", "cut_stream", "strict"),
    [(False, "resume", False), (False, "fail", True), (True, "resume", True), (True, "fail", False)],
)
def test_the_laws_hold_in_chaos(server: Server, hedge: bool, cut_stream: str, strict: bool, run) -> None:  # type: ignore[no-untyped-def]
    seed = 2 * hedge + strict
    drill, before = Drill(server, seed, hedge, cut_stream, strict), server.requests()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(drill)
        gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning | RuntimeWarning)] == []
    drill.books_are_right(server.requests() - before, cancelled=run is run_on_a_loop)
    if hedge:
        assert any(one.failure == "outrun" for receipt in drill.recorder.receipts for one in receipt.attempts)
    drill.engine.close()
