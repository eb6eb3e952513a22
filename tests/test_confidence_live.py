"""Confidence over real sockets: what is asked of a provider, and what becomes of an answer that is unsure of itself.

The provider tells log-probabilities only to who asks for them, and refuses to beside tools in a stream, as llama.cpp's
server does. Its models are sure, unsure, sure at first, or mute. Each case meets the engine and the chat model,
blocking and async, streamed and not, through our own client and through a LangChain model.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from langchain_core.runnables.config import var_child_runnable_config
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from waywiser.acceptance import Acceptance
from waywiser.clock import SystemClock
from waywiser.core.calls import Call, FailureKind, Origin, Settings, Tool
from waywiser.core.confidence import UNCHECKED, min_logprob
from waywiser.core.messages import user
from waywiser.core.models import Ability, Model, Price
from waywiser.core.policy import FallbackRule, Policy, StepRule, Tier, UnsureRule
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.errors import UpstreamError
from waywiser.langgraph.chat_model import RoutedChatModel
from waywiser.ports import Upstream
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import Recorder
from waywiser.testing.pieces import CharacterCounter
from waywiser.upstream.client import HttpUpstream
from waywiser.upstream.langchain_model import LangChainUpstream

WORDS = [f"word{number} " for number in range(30)]
REST = "and this is certain."
SURE, UNSURE = -0.1, -3.0
TELLS: Mapping[str, list[tuple[str, float]]] = {
    "unsure": [(word, UNSURE) for word in WORDS],
    "fading": [(word, SURE if number < 10 else UNSURE) for number, word in enumerate(WORDS)],
    "sure": [(REST, SURE)],
    "mute": [(REST, SURE)],
}
LOOKUP = Tool("lookup")
WATCH = UnsureRule(below=-1.5, over=8)
HOW = ["complete", "acomplete", "stream", "astream"]
SURFACES = ["engine", "chat_model"]


@dataclass
class Provider:
    """What the server was asked."""

    base_url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def requests(self) -> Counter[str]:
        return Counter(body["model"] for body in self.bodies)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: ClassVar[Provider]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:  # the name that http.server looks for
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.provider.bodies.append(body)
        tells = body["model"] != "mute" and body.get("logprobs") is True
        if body.get("logprobs") and body.get("tools") and body.get("stream"):
            self._send(
                400, "application/json", [b'{"error": {"message": "logprobs is not supported with tools + stream"}}']
            )
        elif body.get("stream"):
            self._send(200, "text/event-stream", self._events(TELLS[body["model"]], tells=tells))
        else:
            words = TELLS[body["model"]]
            message = {"role": "assistant", "content": "".join(word for word, _ in words)}
            choice = {
                "index": 0,
                "message": message,
                "finish_reason": "stop",
                "logprobs": told(words) if tells else None,
            }
            self._send(200, "application/json", [dump({"choices": [choice], "usage": USAGE})])

    def _events(self, words: list[tuple[str, float]], *, tells: bool) -> Iterator[bytes]:
        for word in words:
            choice = {"index": 0, "delta": {"content": word[0]}, "finish_reason": None}
            yield b"data: %b\n\n" % dump({"choices": [choice | ({"logprobs": told([word])} if tells else {})]})
        yield b"data: %b\n\n" % dump({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield b"data: %b\n\ndata: [DONE]\n\n" % dump({"choices": [], "usage": USAGE})

    def _send(self, status: int, kind: str, pieces: Any) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for piece in (*pieces, b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        except OSError:  # the reader has gone: what a dropped stream looks like from here
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of readers who have gone."""


USAGE = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}


def told(words: list[tuple[str, float]]) -> dict[str, Any]:
    return {"content": [{"token": word, "bytes": list(word.encode()), "logprob": value} for word, value in words]}


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Server(("127.0.0.1", 0), Handler)
    Handler.provider = Provider(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Handler.provider
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Outcome:
    """What the caller of one case saw, and the books of its engine."""

    case: str
    streamed: bool
    store: MemoryStore
    recorder: Recorder
    text: str = ""
    finishes: int = 0
    error: UpstreamError | None = None
    logprobs: int = 0

    @property
    def notes(self) -> list[tuple[str, ...]]:
        return [attempt.notes for attempt in self.recorder.receipts[0].attempts]

    def books_are_right(self) -> int:
        """No open hold, one receipt that says what the ledger was charged; the answer is the number of model calls."""
        assert self.store.holds(SystemClock().now()) == [], self.case
        (receipt,) = self.recorder.receipts
        spent = [row.used for row in self.store.spends()]
        assert sum(used.nanos for used in spent) == receipt.cost_nanos, self.case
        assert receipt.cost_nanos == sum(attempt.cost_nanos for attempt in receipt.attempts)
        assert all(attempt.cost_nanos for attempt in receipt.attempts), self.case
        return sum(used.llm_calls for used in spent)


class Bench:
    """Engines over the provider's models, one tier each, lowest first."""

    def __init__(self, provider: Provider, api: str, names: list[str], rule: FallbackRule, *, accept: bool) -> None:
        self.tiers = tuple(
            Tier(
                name,
                (
                    Model(
                        f"x/{name}",
                        api,
                        name,
                        provider.base_url,
                        abilities=frozenset({Ability.TOOLS, Ability.LOGPROBS}),
                        prices=(Price(1_000_000, 2_000_000, 100_000, 1_000_000),),
                    ),
                ),
            )
            for name in names
        )
        checks = (min_logprob(-0.8),) if accept else ()
        steps = {kind: StepRule(tier=names[0], accept=checks) for kind in StepKind}
        self.policy = Policy("confidence", self.tiers, steps, fallback=rule)
        key = SecretStr("x")
        chats = {
            f"x/{name}": ChatOpenAI(
                model=name, base_url=provider.base_url, api_key=key, max_retries=0, stream_usage=True
            )
            for name in names
        }
        self.http = HttpUpstream(lambda _: "sk")
        self.upstreams: Mapping[str, Upstream] = {"openai": self.http, "langchain": LangChainUpstream(chats)}

    async def every(self, kind: str, tools: tuple[Tool, ...] = (), settings: Settings | None = None) -> list[Outcome]:
        """Every surface, each way."""
        try:
            cases = [(surface, how) for surface in SURFACES for how in HOW]
            return await asyncio.gather(*(self._run(*case, kind, tools, settings or Settings()) for case in cases))
        finally:
            await self.http.aclose()
            self.http.close()

    async def _run(self, surface: str, how: str, kind: str, tools: tuple[Tool, ...], settings: Settings) -> Outcome:
        store, recorder = MemoryStore(), Recorder()
        engine = Engine(
            self.policy,
            store=store,
            upstreams=self.upstreams,
            counter=CharacterCounter(),
            clock=SystemClock(),
            checker=Acceptance(),
            sinks=[recorder],
        )
        outcome = Outcome(f"{surface} {how}", "stream" in how, store, recorder)
        try:
            if surface == "engine":
                await through_engine(engine, how, outcome, kind, tools, settings)
            else:
                await through_chat_model(engine, how, outcome, kind, tools, settings)
        except UpstreamError as error:
            outcome.error = error
        return outcome


async def through_engine(
    engine: Engine, how: str, outcome: Outcome, kind: str, tools: tuple[Tool, ...], settings: Settings
) -> None:
    origin = Origin(session="s", kind=kind, kind_by="the test")
    call = Call("c1", (user("hi"),), tools, settings=settings, origin=origin, stream=outcome.streamed)

    def see(text: str, logprobs: tuple[float, ...], *, last: bool) -> None:
        outcome.text += text
        outcome.logprobs += len(logprobs)
        outcome.finishes += last

    def drain() -> None:
        for chunk in engine.stream(call):
            see(chunk.text, chunk.logprobs, last=chunk.finish is not None)

    match how:
        case "complete":
            reply = (await asyncio.to_thread(engine.complete, call)).reply
            see(reply.text, reply.logprobs, last=True)
        case "acomplete":
            reply = (await engine.acomplete(call)).reply
            see(reply.text, reply.logprobs, last=True)
        case "stream":
            await asyncio.to_thread(drain)
        case _:
            async for chunk in engine.astream(call):
                see(chunk.text, chunk.logprobs, last=chunk.finish is not None)


async def through_chat_model(
    engine: Engine, how: str, outcome: Outcome, kind: str, tools: tuple[Tool, ...], settings: Settings
) -> None:
    named = [{"type": "function", "function": {"name": tool.name, "parameters": {}}} for tool in tools]
    wanted = {} if settings.logprobs is None else {"logprobs": True}
    chat = RoutedChatModel(engine=engine)
    model = (chat.bind_tools(named) if named else chat).bind(**wanted)
    var_child_runnable_config.set({"tags": [f"kind:{kind}"]})  # as in a node of a graph

    def see(message: Any) -> None:
        outcome.text += message.text
        outcome.logprobs += len(message.response_metadata.get("logprobs", {}).get("content", ()))
        outcome.finishes += bool(message.response_metadata.get("finish_reason"))

    def drain() -> None:
        for chunk in model.stream("hi"):
            see(chunk)

    match how:
        case "complete":
            see(await asyncio.to_thread(model.invoke, "hi"))
        case "acomplete":
            see(await model.ainvoke("hi"))
        case "stream":
            await asyncio.to_thread(drain)
        case _:
            async for chunk in model.astream("hi"):
                see(chunk)


APIS = pytest.mark.parametrize("api", ["openai", "langchain"])


@APIS
def test_an_unsure_reply_that_nobody_reads_goes_a_tier_up_unseen(provider: Provider, api: str) -> None:
    bench = Bench(provider, api, ["unsure", "sure"], FallbackRule(), accept=True)
    calls = 0
    for outcome in asyncio.run(bench.every("planning")):
        calls += outcome.books_are_right()
        assert (outcome.text, outcome.finishes, outcome.error) == (REST, 1, None), outcome.case
        first, second = outcome.recorder.receipts[0].attempts
        assert first.failure == "not_accepted"
        assert first.detail == "min_logprob=-0.8: the mean log-probability is -3.00 over 30 tokens"
        assert second.notes == ("mean_logprob=-0.10",)
        assert outcome.logprobs == 0, f"{outcome.case}: the policy's question leaks into the answer"
    assert provider.requests() == {"unsure": 8, "sure": 8}
    assert calls == 16
    assert all(body["logprobs"] is True and body["top_logprobs"] == 1 for body in provider.bodies)


@APIS
@pytest.mark.parametrize("cut_stream", ["resume", "fail"])
def test_a_running_answer_that_turns_unsure_is_cut(provider: Provider, api: str, cut_stream: str) -> None:
    rule = FallbackRule(cut_stream=cut_stream, cut_unsure=WATCH)
    bench = Bench(provider, api, ["fading", "sure"], rule, accept=False)
    calls = 0
    for outcome in asyncio.run(bench.every("synthesis")):
        calls += outcome.books_are_right()
        assert outcome.logprobs == 0
        if not outcome.streamed:  # an answer asked for whole is not watched, nor is the provider asked
            assert (outcome.text, outcome.error, outcome.notes) == ("".join(WORDS), None, [()])
            continue
        first = outcome.recorder.receipts[0].attempts[0]
        assert first.failure == "not_accepted"
        assert first.detail == "stopped: the mean log-probability fell to -1.55 over 8 tokens"
        assert 14 <= first.usage.output_tokens < 30, "what was dropped is charged, and no more"
        shown = "".join(WORDS[:13])  # the fourteenth brings the mean of eight below -1.5
        if cut_stream == "resume":
            assert (outcome.text, outcome.finishes, outcome.error) == (shown + REST, 1, None), outcome.case
            assert outcome.notes == [(), ("resumed", "mean_logprob=-0.10")]
        else:
            assert outcome.error is not None, f"{outcome.case} ended cleanly"
            assert outcome.error.failure.kind is FailureKind.NOT_ACCEPTED
            assert (outcome.text, outcome.finishes) == (shown, 0)
    assert calls == len(provider.bodies)


@APIS
def test_one_that_nobody_has_seen_is_replaced(provider: Provider, api: str) -> None:
    bench = Bench(provider, api, ["unsure", "sure"], FallbackRule(cut_unsure=WATCH), accept=False)
    for outcome in asyncio.run(bench.every("planning")):
        outcome.books_are_right()
        assert (outcome.text, outcome.finishes) == (REST if outcome.streamed else "".join(WORDS), 1), outcome.case


@APIS
def test_a_provider_that_tells_nothing_is_believed_and_noted(provider: Provider, api: str) -> None:
    bench = Bench(provider, api, ["mute", "sure"], FallbackRule(cut_unsure=WATCH), accept=True)
    for outcome in asyncio.run(bench.every("planning")):
        outcome.books_are_right()
        assert (outcome.text, outcome.notes) == (REST, [(UNCHECKED,)])
    assert provider.requests() == {"mute": 8}


@APIS
def test_tools_in_a_stream_go_out_without_the_question(provider: Provider, api: str) -> None:
    bench = Bench(provider, api, ["sure"], FallbackRule(attempts=1, cut_unsure=WATCH), accept=True)
    for outcome in asyncio.run(bench.every("tool_call", (LOOKUP,))):
        outcome.books_are_right()
        assert (outcome.text, outcome.error) == (REST, None)
        assert outcome.notes == [(UNCHECKED,) if outcome.streamed else ("mean_logprob=-0.10",)]


@APIS
def test_a_caller_who_asked_gets_what_was_told(provider: Provider, api: str) -> None:
    bench = Bench(provider, api, ["fading"], FallbackRule(), accept=False)
    for outcome in asyncio.run(bench.every("synthesis", settings=Settings(logprobs=0))):
        assert (outcome.logprobs, outcome.text) == (30, "".join(WORDS)), outcome.case
        assert outcome.notes == [()]
    assert all("top_logprobs" not in body for body in provider.bodies)
