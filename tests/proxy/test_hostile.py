"""Clients that are wrong, slow, endless or gone: nobody crashes the proxy, leaves a hold, or sees another's answer."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from waywiser.cli import main

if TYPE_CHECKING:
    from conftest import Proxy

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
GOOD = {
    "/v1/chat/completions": {
        "model": "auto", "messages": [{"role": "user", "content": "Hi"}], "tools": [], "stream": True, "n": 1,
        "tool_choice": "auto", "response_format": {"type": "text"}, "metadata": {}, "stop": "x", "max_tokens": 5,
    },
    "/v1/responses": {
        "model": "auto", "input": [{"role": "user", "content": "Hi"}], "text": {}, "tools": [], "stream": True,
    },
    "/v1/messages": {
        "model": "auto", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "system": "x", "tools": [],
        "stream": True, "tool_choice": {"type": "auto"}, "metadata": {},
    },
}  # fmt: skip


def test_the_openapi_document_holds(proxy: Proxy) -> None:
    schema = schemathesis.openapi.from_dict(httpx.get(f"{proxy.origin}/openapi.json").json())

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def run(case: schemathesis.Case) -> None:
        answer = case.call(base_url=proxy.origin, timeout=20)
        case.validate_response(answer, checks=[not_a_server_error])

    for result in schema.get_all_operations():
        given(case=result.ok().as_strategy())(run)()
    assert proxy.open_holds == 0


@pytest.mark.parametrize("path", PATHS)
def test_bent_bodies(proxy: Proxy, path: str) -> None:
    good = GOOD[path]
    with httpx.Client(base_url=proxy.origin, timeout=20) as client:

        @settings(max_examples=60, deadline=None, derandomize=True, database=None)
        @given(st.dictionaries(st.sampled_from(sorted(good)), JSON, min_size=1, max_size=2))
        def run(bent: dict[str, object]) -> None:
            answer = client.post(
                path, content=json.dumps(good | bent), headers={"x-waywiser-session": repr(random.random())}
            )
            assert answer.status_code < 500, answer.text

        run()
    assert proxy.open_holds == 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"a": 1e999}',
        b"[" * 100_000,
        b'{"messages": "\\ud800"}',
        b'{"model": 7}',
    ],
    ids=range(9),
)
def test_broken_bodies(proxy: Proxy, path: str, body: bytes) -> None:
    answer = httpx.post(proxy.origin + path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_lone_surrogates_and_nulls_pass(proxy: Proxy) -> None:
    body = b'{"model": "auto", "user": null, "messages": [{"role": "user", "content": "half an \\ud83d emoji"}]}'
    assert httpx.post(f"{proxy.base_url}/chat/completions", content=body).status_code == 200


def test_a_body_that_is_too_long(start: Callable[..., Proxy]) -> None:
    proxy = start(body_limit=10_000)
    assert proxy.chat("x" * 20_000).status_code == 413
    with socket.create_connection(("127.0.0.1", int(proxy.origin.rpartition(":")[2]))) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):  # the third is too much; the body has no end, and whatever is sent later may be cut off
            sock.sendall(b"fa0\r\n" + b"x" * 4000 + b"\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 413")
    assert proxy.chat("x" * 5000).status_code == 200


def test_a_body_that_never_comes(start: Callable[..., Proxy]) -> None:
    proxy = start(body_timeout_s=0.1)
    with socket.create_connection(("127.0.0.1", int(proxy.origin.rpartition(":")[2]))) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        assert sock.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_head_that_never_ends(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(proxy.origin.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        said = b""
        try:
            for number in range(3000):
                sock.sendall(b"x-%d: %s\r\n" % (number, b"y" * 60))
            said = sock.recv(1000)
        except OSError:
            pass
        assert said == b"" or said.startswith(b"HTTP/1.1 4")
    monkeypatch.setattr("waywiser.proxy.server.HEAD_TIMEOUT_S", 0.1)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nhost:")
        sock.settimeout(5)
        assert sock.recv(1000) == b""
    assert httpx.get(f"{proxy.origin}/healthz").status_code == 200


def test_a_client_that_does_not_read(start: Callable[..., Proxy], faulty_policy: str, tmp_path: Path) -> None:
    # The upstream gets all the time it wants: on a busy machine it would be the one that is too slow.
    hasty = Path(faulty_policy).read_text("utf-8")
    patient = tmp_path / "patient.yaml"
    patient.write_text(hasty.replace("timeout_s: 0.5, deadline_s: 3", "timeout_s: 60, deadline_s: 120"), "utf-8")
    assert patient.read_text("utf-8") != hasty
    proxy = start(str(patient), slow_client_s=0.4)
    body = json.dumps(
        {"model": "local/endless", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", int(proxy.origin.rpartition(":")[2])))
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-waywiser-session: deaf\r\n"
    sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    proxy.wait_for(lambda: proxy.service.store.receipts("deaf"), 30)
    proxy.wait_for(lambda: proxy.service.metrics.in_flight == 0, 30)
    assert proxy.open_holds == 0
    (receipt,) = proxy.service.store.receipts("deaf")
    assert receipt.refused == "cancelled"
    sock.close()


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_is_none(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--policy", "policies/simulated.yaml", "--store", ":memory:", "--port", str(port)]) == 2
    assert f"--port: expected a whole number from 0 to 65535, got {port}" in capsys.readouterr().err


async def test_clients_that_come_and_go_leave_nothing_and_mix_nothing(faulty: Proxy) -> None:
    """Many tenants ask at once, half of them leave early; whoever stays reads its own answer, and no hold stays."""
    chance = random.Random(7)

    async def visit(client: httpx.AsyncClient, number: int) -> None:
        model = chance.choice(["local/ok", "local/slow", "local/wordy", "local/cut", "local/broken", "local/stalled"])
        tenant = f"t{number % 5}"
        headers = {"x-waywiser-tenant": tenant, "x-waywiser-session": f"visit-{number}"}
        body = {
            "model": model,
            "stream": chance.random() < 0.7,
            "messages": [{"role": "user", "content": f"I am {number}"}],
        }
        try:
            async with asyncio.timeout(chance.choice([0.02, 0.1, 0.3, 5])):
                answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        except (TimeoutError, httpx.HTTPError):
            return
        receipt = faulty.service.store.receipt(answer.headers["x-waywiser-receipt"])
        assert (receipt.tenant, receipt.session) == (tenant, f"visit-{number}@{tenant}")

    async with httpx.AsyncClient(base_url=faulty.origin, timeout=10) as client:
        await asyncio.gather(*(visit(client, number) for number in range(80)))
    await asyncio.to_thread(faulty.wait_for, lambda: faulty.service.metrics.in_flight == 0, 10)
    assert faulty.open_holds == 0
    faulty.service.engines["faulty"].health._known.clear()


def test_no_secret_in_any_error(faulty: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    secret = "sk-very-secret-0123456789abcdef"
    headers = {"authorization": f"Bearer {secret}", "x-waywiser-key-openai": secret}
    for model in ("local/locked", "local/broken", "nobody"):
        assert secret not in faulty.chat(model=model, headers=headers).text
    faulty.service.engines["faulty"].health._known.clear()
    assert secret not in caplog.text
