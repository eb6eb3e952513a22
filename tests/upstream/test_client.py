"""The HTTP client over real sockets: every fault, blocking and async, streamed and not, in both dialects."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, Finish, Reply, Settings, Usage
from waywiser.core.calls import FailureKind as K
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.upstream.client import HttpUpstream, key_from_environment

CALL = Call("1", (user("hi"),))
TIMEOUT_S = 0.25
WORDS = "The wheel measures the road as you go"
USAGE = {"openai": Usage(20, 8, 4), "anthropic": Usage(20, 8, 4, 4)}
HOW = ["send", "asend", "stream", "astream"]
DIALECTS = ["openai", "anthropic"]

# fault: (kind of a whole call, kind of a stream; what was said before a stream failed), None where an answer comes
FAULTS: dict[str, tuple[K | None, K | None, str]] = {
    "500": (K.OVERLOADED, K.OVERLOADED, ""),
    "529": (K.OVERLOADED, K.OVERLOADED, ""),
    "429": (K.RATE_LIMITED, K.RATE_LIMITED, ""),
    "429-after-1": (K.RATE_LIMITED, K.RATE_LIMITED, ""),
    "401": (K.UNAUTHORISED, K.UNAUTHORISED, ""),
    "context": (K.CONTEXT_TOO_LONG, K.CONTEXT_TOO_LONG, ""),
    "filter": (K.REFUSED, K.REFUSED, "The"),
    "filter-400": (K.REFUSED, K.REFUSED, ""),
    "timeout-headers": (K.TIMEOUT, K.TIMEOUT, ""),
    "timeout-first-token": (K.TIMEOUT, K.TIMEOUT, ""),
    "stall-midstream": (K.TIMEOUT, K.TIMEOUT, "The wheel"),
    "cut": (K.CUT_SHORT, K.CUT_SHORT, "The wheel"),
    "reset": (K.CONNECTION, K.CONNECTION, ""),
    "malformed-json": (K.MALFORMED, K.MALFORMED, "The"),
    "malformed-sse": (K.MALFORMED, K.MALFORMED, "The"),
    "empty": (K.MALFORMED, K.MALFORMED, ""),
    "content-type": (K.MALFORMED, K.MALFORMED, ""),
    "error-midstream": (K.OVERLOADED, K.OVERLOADED, "The wheel"),
    "drip": (None, None, WORDS),
    "bad-tool-args": (None, None, ""),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[HttpUpstream]:
    made = HttpUpstream(lambda model: "sk-test-key-1234")
    yield made
    made.close()


async def ask(upstream: HttpUpstream, how: str, model: Model, call: Call = CALL) -> list[Reply | Chunk | Failure]:
    if how == "send":
        return [await asyncio.to_thread(upstream.send, model, call, TIMEOUT_S)]
    if how == "asend":
        return [await upstream.asend(model, call, TIMEOUT_S)]
    if how == "stream":
        return await asyncio.to_thread(lambda: list(upstream.stream(model, call, TIMEOUT_S)))
    return [item async for item in upstream.astream(model, call, TIMEOUT_S)]


def text_of(items: list[Reply | Chunk | Failure]) -> str:
    return "".join(item.text for item in items if isinstance(item, Chunk | Reply))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("api", DIALECTS)
async def test_a_good_answer(upstream: HttpUpstream, loopback, api: str, how: str) -> None:
    items = await ask(upstream, how, loopback.model("good", api))
    last = items[-1]
    assert isinstance(last, Reply | Chunk)
    assert (last.finish, last.usage) == (Finish.STOP, USAGE[api])
    assert text_of(items) == (WORDS if "stream" in how else "ok")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_faults(upstream: HttpUpstream, loopback, fault: str, api: str, how: str) -> None:
    whole, streamed, said = FAULTS[fault]
    model = loopback.model(f"fault:{fault}", api)
    before = loopback.stats().get(f"model fault:{fault}", 0)
    items = await ask(upstream, how, model)
    assert loopback.stats()[f"model fault:{fault}"] - before == 1, "nobody retries here"
    last = items[-1]
    assert sum(isinstance(item, Failure) for item in items) == isinstance(last, Failure), "a failure is the last item"
    kind = streamed if "stream" in how else whole
    if kind is None:
        assert isinstance(last, Reply | Chunk)
        assert last.finish in (Finish.STOP, Finish.TOOL_CALLS)
        return
    assert isinstance(last, Failure)
    assert last.kind is kind
    assert last.message
    assert "sk-test" not in last.message
    assert last.retry_after_s == (1.0 if fault == "429-after-1" else None)
    if "stream" in how:
        shown = text_of(items)
        assert WORDS.startswith(shown)
        assert shown.startswith(said)
        assert (last.partial.text if last.partial is not None else "") == shown, "what was said is what is kept"
    charged_for_nothing = last.status in (400, 401, 429, 500, 529) or kind is K.CONNECTION
    if not charged_for_nothing and fault not in ("error-midstream",):
        assert last.usage.estimated or last.usage.input_tokens, "what may have been charged is not taken for free"


@pytest.mark.parametrize("how", HOW)
async def test_broken_tool_arguments_arrive_as_the_model_wrote_them(upstream: HttpUpstream, loopback, how: str) -> None:
    items = await ask(upstream, how, loopback.model("fault:bad-tool-args"))
    assembly = Assembly()
    for item in items:
        if isinstance(item, Chunk):
            assembly.feed(item)
    reply = items[0] if isinstance(items[0], Reply) else assembly.reply()
    assert reply.tool_calls[0].arguments == '{"order": "W1'


@pytest.mark.parametrize("how", HOW)
async def test_nobody_listens(upstream: HttpUpstream, how: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    (failure,) = await ask(upstream, how, Model("a/b", base_url=f"http://127.0.0.1:{port}/v1"))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.usage) == (K.CONNECTION, Usage())


@pytest.mark.parametrize("how", HOW)
async def test_tls_that_is_none(upstream: HttpUpstream, loopback, how: str) -> None:
    model = Model("a/b", base_url=f"https://127.0.0.1:{loopback.port}/v1")
    (failure,) = await ask(upstream, how, model)
    assert isinstance(failure, Failure)
    assert failure.kind is K.CONNECTION
    assert "TLS failure" in failure.message
    assert failure.usage == Usage()


@pytest.mark.parametrize("how", HOW)
async def test_what_can_not_be_sent_is_a_failure_too(upstream: HttpUpstream, loopback, how: str) -> None:
    model = loopback.model("good")
    for broken, call in (
        (replace(model, api="pigeon"), CALL),
        (replace(model, base_url="ftp://127.0.0.1/v1"), CALL),
        (replace(model, base_url="nowhere"), CALL),
        (model, replace(CALL, settings=Settings(extra={"x": float}))),  # type: ignore[dict-item]
    ):
        (failure,) = await ask(upstream, how, broken, call)
        assert isinstance(failure, Failure)
        assert failure.kind is K.INVALID_REQUEST, failure
        assert not failure.usage.input_tokens


def test_a_missing_key_is_named_and_nothing_is_sent(loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    before = loopback.stats().get("requests", 0)
    failure = HttpUpstream(key_from_environment).send(replace(loopback.model("good"), key_env="NO_SUCH_KEY"), CALL, 1)
    assert isinstance(failure, Failure)
    assert failure.kind is K.UNAUTHORISED
    assert "NO_SUCH_KEY" in failure.message
    assert loopback.stats().get("requests", 0) == before


def test_a_blocking_connection_is_used_again(loopback) -> None:
    upstream = HttpUpstream(lambda model: "")
    model = loopback.model("good")
    upstream.send(model, CALL, 1)
    before = loopback.stats()["connections"]
    for _ in range(5):
        assert isinstance(upstream.send(model, CALL, 1), Reply)
        assert list(upstream.stream(model, CALL, 1))
    upstream.send(loopback.model("fault:500"), CALL, 1)
    assert loopback.stats()["connections"] - before <= 2, "the two look-ups of the statistics themselves"
    upstream.close()


async def test_an_async_connection_is_used_again(loopback) -> None:
    upstream = HttpUpstream(lambda model: "")
    model = loopback.model("good")
    await upstream.asend(model, CALL, 1)
    before = loopback.stats()["connections"]
    for _ in range(5):
        assert isinstance(await upstream.asend(model, CALL, 1), Reply)
        assert [item async for item in upstream.astream(model, CALL, 1)]
    assert loopback.stats()["connections"] - before <= 2
    await upstream.aclose()


def test_a_connection_that_died_while_idle_is_not_used() -> None:
    """A server that closes after each answer without having said so."""
    body = b'{"choices":[{"message":{"content":"hello"}}]}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    def serve(listener: socket.socket) -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        upstream = HttpUpstream(lambda model: "")
        model = Model("a/b", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        for _ in range(3):
            outcome = upstream.send(model, CALL, 1)
            assert isinstance(outcome, Reply), outcome
            time.sleep(0.02)


def abandoned(loopback, before: int) -> bool:
    for _ in range(50):
        if loopback.stats().get("abandoned", 0) > before:
            return True
        time.sleep(0.02)
    return False


def test_closing_a_blocking_stream_closes_its_connection(loopback) -> None:
    upstream = HttpUpstream(lambda model: "")
    before = loopback.stats().get("abandoned", 0)
    stream = upstream.stream(loopback.model("fault:stall-midstream"), CALL, 5)
    assert isinstance(next(stream), Chunk)
    stream.close()  # type: ignore[attr-defined]
    assert abandoned(loopback, before)


async def test_closing_an_async_stream_closes_its_connection(loopback) -> None:
    upstream = HttpUpstream(lambda model: "")
    before = loopback.stats().get("abandoned", 0)
    stream: AsyncIterator[Chunk | Failure] = upstream.astream(loopback.model("fault:stall-midstream"), CALL, 5)
    assert isinstance(await anext(stream), Chunk)
    await stream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(abandoned, loopback, before)


@pytest.mark.parametrize("how", ["asend", "astream"])
async def test_cancelling_closes_the_connection(loopback, how: str) -> None:
    upstream = HttpUpstream(lambda model: "")
    before = loopback.stats().get("abandoned", 0)

    async def wait() -> None:
        if how == "asend":
            await upstream.asend(loopback.model("fault:timeout-headers"), CALL, 5)
        else:
            async for _ in upstream.astream(loopback.model("fault:stall-midstream"), CALL, 5):
                pass

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(abandoned, loopback, before)


def test_one_upstream_serves_many_event_loops_and_leaves_nothing_open(
    loopback, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = HttpUpstream(lambda model: "")
    for _ in range(3):
        assert isinstance(asyncio.run(upstream.asend(loopback.model("good"), CALL, 1)), Reply)
    del upstream
    assert "Unclosed" not in caplog.text


def test_many_threads_at_once(loopback) -> None:
    upstream = HttpUpstream(lambda model: "")
    outcomes: list[object] = []

    def work() -> None:
        outcomes.extend(upstream.send(loopback.model("good"), CALL, 5) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 160
    assert all(isinstance(outcome, Reply) for outcome in outcomes)


def test_a_server_that_does_not_stream_is_understood() -> None:
    made = b'{"id":"c","function":{"name":"f","arguments":"{}"}}'
    body = b'{"choices":[{"message":{"content":"hello","tool_calls":[%b]}}]}' % made
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        model = Model("a/b", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        items = list(HttpUpstream(lambda model: "").stream(model, CALL, 1))
    assert [item.text for item in items if isinstance(item, Chunk)] == ["hello", "", ""]
    assert isinstance(items[-1], Chunk)
    assert items[-1].finish is Finish.TOOL_CALLS


def test_neither_http_library_is_imported_before_it_is_needed() -> None:
    code = "import sys, waywiser.upstream.client as c; c.HttpUpstream(); print({'aiohttp', 'httpx'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("how", HOW)
async def test_the_proxy_of_the_environment_is_used(loopback, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{loopback.port}")
    upstream = HttpUpstream(lambda model: "")
    items = await ask(upstream, how, Model("a/b", remote="good", base_url="http://models.invalid/v1"))
    assert not isinstance(items[-1], Failure), items[-1]
    upstream.close()
    await upstream.aclose()
