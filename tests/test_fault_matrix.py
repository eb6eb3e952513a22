"""The fault matrix, over real sockets: whatever a provider does, the caller gets one whole answer or one named error.

Each fault meets the engine and the chat model, blocking and async, streamed and not, in both dialects; with nobody to
fall back on, with another model, and with one that resumes what was cut. In every case nothing is truncated silently,
no token comes twice, no hold stays open, and what was charged is what the provider was asked for. (The raw HTTP
upstream goes through the same faults in `upstream/test_client.py`.)
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from waywiser.acceptance import Acceptance
from waywiser.clock import SystemClock
from waywiser.core.calls import Call, FailureKind, Origin, Tool
from waywiser.core.calls import FailureKind as K
from waywiser.core.messages import user
from waywiser.core.models import Ability, Model, Price
from waywiser.core.policy import FallbackRule, Policy, StepRule, Tier
from waywiser.core.steps import StepKind
from waywiser.engine import Answer, Engine
from waywiser.errors import UpstreamError
from waywiser.langgraph.chat_model import RoutedChatModel
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import Recorder
from waywiser.testing.pieces import CharacterCounter
from waywiser.upstream.client import HttpUpstream

SERVER = Path(__file__).resolve().parents[1] / "benchmarks" / "loopback.py"
WORDS = "The wheel measures the road as you go"
REST = " w0 w1 w2 w3 w4"
TIMEOUT_S = 0.4
PATIENCE_S = 10.0
LOOKUP = Tool(
    "lookup", "Look an order up", '{"type":"object","properties":{"order":{"type":"string"}},"required":["order"]}'
)

# fault: (what it is called, whether some of a streamed answer is shown before, whether the provider may charge for it)
FAULTS: dict[str, tuple[FailureKind | None, bool, bool]] = {
    "500": (K.OVERLOADED, False, False),
    "529": (K.OVERLOADED, False, False),
    "429": (K.RATE_LIMITED, False, False),
    "429-after-1": (K.RATE_LIMITED, False, False),
    "401": (K.UNAUTHORISED, False, False),
    "context": (K.CONTEXT_TOO_LONG, False, False),
    "filter": (K.REFUSED, True, True),
    "filter-400": (K.REFUSED, False, False),
    "timeout-headers": (K.TIMEOUT, False, True),
    "timeout-first-token": (K.TIMEOUT, False, True),
    "stall-midstream": (K.TIMEOUT, True, True),
    "cut": (K.CUT_SHORT, True, True),
    "reset": (K.CONNECTION, False, True),
    "malformed-json": (K.MALFORMED, True, True),
    "malformed-sse": (K.MALFORMED, True, True),
    "empty": (K.MALFORMED, False, True),
    "content-type": (K.MALFORMED, False, True),
    "error-midstream": (K.OVERLOADED, True, False),
    "bad-tool-args": (K.NOT_ACCEPTED, False, True),
    "refused-connection": (K.CONNECTION, False, False),
    "tls": (K.CONNECTION, False, False),
    "drip": (None, False, True),
}
SILENT = {"timeout-headers", "timeout-first-token", "stall-midstream"}
SURFACES = ["engine", "chat_model"]
HOW = ["complete", "acomplete", "stream", "astream"]


@dataclass
class Server:
    port: int

    def model(self, name: str, remote: str, api: str, quality: float) -> Model:
        base = f"http://127.0.0.1:{self.port}/v1"
        if remote == "fault:tls":
            base = base.replace("http:", "https:")
        if remote == "fault:refused-connection":
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                base = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        return Model(
            name,
            api,
            remote,
            base,
            context_tokens=8192 if "fault" in remote else 16384,
            abilities=frozenset({Ability.TOOLS, Ability.JSON_SCHEMA}),
            prices=(Price(1_000_000, 2_000_000, 100_000, 1_000_000),),
            quality=quality,
        )

    def requests(self, remote: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as response:
            return int(json.load(response).get(f"model {remote}", 0))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Server(int(process.stdout.readline()))
        process.stdin.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    made = HttpUpstream(lambda model: "sk-test")
    yield made
    made.close()


@dataclass
class Outcome:
    """What the caller of one case saw."""

    case: str
    streamed: bool
    text: str
    error: UpstreamError | None
    finishes: int
    tool_calls: int
    store: MemoryStore
    recorder: Recorder


def timeout_s(fault: str) -> float:
    """Short where the fault is silence; else so long that a busy machine never looks like a fault."""
    return TIMEOUT_S if fault in SILENT else PATIENCE_S


def engine(
    upstream: HttpUpstream, models: tuple[Model, ...], rule: FallbackRule
) -> tuple[Engine, MemoryStore, Recorder]:
    tiers = tuple(Tier(f"tier{rank}", (model,)) for rank, model in enumerate(models))
    steps = {kind: StepRule(tier="tier0", accept=("tool_arguments",)) for kind in StepKind}
    store, recorder = MemoryStore(), Recorder()
    made = Engine(
        Policy("matrix", tiers, steps, fallback=rule),
        store=store,
        upstreams={"openai": upstream, "anthropic": upstream},
        counter=CharacterCounter(),
        clock=SystemClock(),
        checker=Acceptance(),
        sinks=[recorder],
    )
    return made, store, recorder


def tool_of(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name, "parameters": json.loads(tool.parameters)}}


async def through_chat_model(made: Engine, how: str) -> tuple[str, int, int, UpstreamError | None]:
    model = RoutedChatModel(engine=made).bind_tools([tool_of(LOOKUP)])
    seen: list[Any] = []

    def drain() -> None:
        for chunk in model.stream("hi"):
            seen.append(chunk)  # noqa: PERF402 - what came before an error counts

    error: UpstreamError | None = None
    try:
        match how:
            case "complete":
                seen.append(await asyncio.to_thread(model.invoke, "hi"))
            case "acomplete":
                seen.append(await model.ainvoke("hi"))
            case "stream":
                await asyncio.to_thread(drain)
            case _:
                async for chunk in model.astream("hi"):
                    seen.append(chunk)  # noqa: PERF401 - as above
    except UpstreamError as raised:
        error = raised
    ends = [message for message in seen if message.response_metadata.get("finish_reason")]
    assert all(message.usage_metadata for message in ends)
    return "".join(message.text for message in seen), len(ends), sum(len(m.tool_calls) for m in seen), error


async def through_engine(made: Engine, how: str, number: int) -> tuple[str, int, int, UpstreamError | None]:
    origin = Origin(session=f"s{number}", kind="synthesis", kind_by="the test")
    call = Call(f"c{number}", (user("hi"),), (LOOKUP,), origin=origin, stream="stream" in how)
    seen: list[Any] = []

    def drain() -> None:
        for chunk in made.stream(call):
            seen.append(chunk)  # noqa: PERF402 - what came before an error counts

    error: UpstreamError | None = None
    replies: list[Answer] = []
    try:
        match how:
            case "complete":
                replies.append(await asyncio.to_thread(made.complete, call))
            case "acomplete":
                replies.append(await made.acomplete(call))
            case "stream":
                await asyncio.to_thread(drain)
            case _:
                async for chunk in made.astream(call):
                    seen.append(chunk)  # noqa: PERF401 - as above
    except UpstreamError as raised:
        error = raised
    text = "".join(answer.reply.text for answer in replies) + "".join(chunk.text for chunk in seen)
    ends = len(replies) + sum(chunk.finish is not None for chunk in seen)
    calls = sum(len(answer.reply.tool_calls) for answer in replies) + sum(len(chunk.tool_calls) for chunk in seen)
    return text, ends, calls, error


async def run_case(
    upstream: HttpUpstream, models: tuple[Model, ...], rule: FallbackRule, surface: str, how: str
) -> Outcome:
    made, store, recorder = engine(upstream, models, rule)
    if surface == "engine":
        text, ends, calls, error = await through_engine(made, how, 1)
    else:
        text, ends, calls, error = await through_chat_model(made, how)
    return Outcome(f"{surface} {how}", "stream" in how, text, error, ends, calls, store, recorder)


def books_are_right(outcome: Outcome, *, charged: bool) -> int:
    """No open hold, one receipt that says what the ledger was charged; the answer is the number of model calls."""
    assert outcome.store.holds(SystemClock().now()) == [], outcome.case
    (receipt,) = outcome.recorder.receipts
    spent = [row.used for row in outcome.store.spends()]
    assert sum(used.nanos for used in spent) == receipt.cost_nanos == sum(one.cost_nanos for one in receipt.attempts)
    first = receipt.attempts[0]
    assert (first.cost_nanos > 0) is charged, f"{outcome.case}: {first}"
    return sum(used.llm_calls for used in spent)


async def every_case(upstream: HttpUpstream, models: tuple[Model, ...], rule: FallbackRule) -> list[Outcome]:
    try:
        return await asyncio.gather(
            *(run_case(upstream, models, rule, surface, how) for surface in SURFACES for how in HOW)
        )
    finally:
        await upstream.aclose()


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_nobody_to_fall_back_on(server: Server, upstream: HttpUpstream, fault: str, api: str) -> None:
    kind, shown, charged = FAULTS[fault]
    before = server.requests(f"fault:{fault}")
    rule = FallbackRule(attempts=1, timeout_s=timeout_s(fault))
    outcomes = asyncio.run(every_case(upstream, (server.model("x/bad", f"fault:{fault}", api, 0.9),), rule))
    calls = 0
    for outcome in outcomes:
        calls += books_are_right(outcome, charged=charged or (fault == "error-midstream" and outcome.streamed))
        if kind is None:
            assert outcome.text == (WORDS if outcome.streamed else "ok"), outcome.case
            assert (outcome.error, outcome.finishes) == (None, 1)
            continue
        assert outcome.error is not None, f"{outcome.case} ended cleanly with {outcome.text!r}"
        assert outcome.error.failure.kind is kind, f"{outcome.case}: {outcome.error.failure}"
        assert outcome.error.receipt is not None
        assert "sk-test" not in str(outcome.error)
        assert outcome.finishes == 0, f"{outcome.case}: a cut answer looks finished"
        assert WORDS.startswith(outcome.text)
        assert bool(outcome.text) is (shown and outcome.streamed), outcome.case
        assert outcome.tool_calls == 0
    assert calls == server.requests(f"fault:{fault}") - before, "a call was lost, or counted twice"


@pytest.mark.parametrize("cut_stream", ["fail", "resume"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_another_model(server: Server, upstream: HttpUpstream, fault: str, api: str, cut_stream: str) -> None:
    kind, shown, _ = FAULTS[fault]
    before = server.requests(f"fault:{fault}") + server.requests("words:5")
    rule = FallbackRule(attempts=4, timeout_s=timeout_s(fault), cut_stream=cut_stream)
    bad, good = server.model("x/bad", f"fault:{fault}", api, 0.9), server.model("y/good", "words:5", api, 0.1)
    outcomes = asyncio.run(every_case(upstream, (bad, good), rule))
    calls = 0
    for outcome in outcomes:
        assert outcome.store.holds(SystemClock().now()) == [], outcome.case
        (receipt,) = outcome.recorder.receipts
        spent = [row.used for row in outcome.store.spends()]
        calls += sum(used.llm_calls for used in spent)
        assert sum(used.nanos for used in spent) == receipt.cost_nanos
        assert outcome.tool_calls == 0, "the tool call that failed its check was shown"
        if kind is None:
            assert outcome.text == (WORDS if outcome.streamed else "ok")
        elif shown and outcome.streamed and (cut_stream == "fail" or kind is K.REFUSED):
            assert outcome.error is not None
            assert outcome.error.failure.kind is kind
            assert (outcome.finishes, len(receipt.attempts)) == (0, 1)
            assert WORDS.startswith(outcome.text)
            assert outcome.text
            continue
        elif shown and outcome.streamed:
            assert outcome.text.count(REST) == 1
            begun = outcome.text.removesuffix(REST)
            assert begun
            assert WORDS.startswith(begun)
            assert "resumed" in receipt.attempts[-1].notes
        else:
            assert outcome.text == REST, outcome.case
        assert (outcome.error, outcome.finishes) == (None, 1), outcome.case
    assert calls == server.requests(f"fault:{fault}") + server.requests("words:5") - before


def test_a_connection_that_never_came_about_is_not_charged(upstream: HttpUpstream) -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in (first, second):  # the queue is full: who comes now waits for ever
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        model = Model(
            "x/deaf", base_url=base, prices=(Price(1_000_000, 1, 1, 1),), abilities=frozenset({Ability.TOOLS})
        )
        outcomes = asyncio.run(every_case(upstream, (model,), FallbackRule(attempts=1, timeout_s=TIMEOUT_S)))
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.failure.kind in (K.TIMEOUT, K.CONNECTION)
        assert books_are_right(outcome, charged=False) == 0, outcome.case
