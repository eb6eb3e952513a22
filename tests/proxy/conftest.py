"""A proxy on a real socket, in a thread of the test's process: clients come over loopback, tests may look inside."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn

from waywiser.proxy.app import App
from waywiser.proxy.server import configured, listen
from waywiser.proxy.service import Options, Service, open_service

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = str(ROOT / "policies" / "simulated.yaml")

ROW = '  {name}: {{base_url: "{url}", remote: "{remote}", {rest}}}'
REST = "context: 900000, max_output: 400000, price: {input: 1, output: 4}, abilities: [tools, json_schema]"
FAULTY = """
version: 1
name: faulty
tiers:
  economy: [local/ok]
  standard: [{faults}]
  premium: [local/ok-best]
models:
{models}
steps: {{synthesis: {{tier: economy}}, tool_call: {{tier: economy}}}}
budget: {{session: {{usd: 1000}}}}
fallback: {{attempts: 2, timeout_s: 0.5, deadline_s: 3}}
"""
FAULTS = {
    "local/rate-limited": "fault:429-after-1", "local/broken": "fault:500", "local/silent": "fault:timeout-headers",
    "local/locked": "fault:401", "local/too-long": "fault:context", "local/cut": "fault:cut", "local/slow": "slow:300",
    "local/stalled": "fault:stall-midstream", "local/endless": "words:20000", "local/tools": "tools:1",
    "local/wordy": "words:50",
}  # fmt: skip


class Proxy:
    """A running proxy."""

    def __init__(self, options: Options) -> None:
        self.service: Service = open_service(options)
        sock = listen("127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.base_url = f"{self.origin}/v1"
        self.server = uvicorn.Server(configured(App(lambda: self.service), options))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[sock]), daemon=True)
        self.thread.start()
        self.wait_for(lambda: self.server.started)

    @property
    def open_holds(self) -> int:
        return len(self.service.store.holds(time.time()))

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.origin + path, json=body, headers=named, timeout=20)

    def chat(self, text: str = "Hello", **fields: object) -> httpx.Response:
        headers = fields.pop("headers", {})
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
        return self.post("/v1/chat/completions", body, **headers)

    @staticmethod
    def wait_for(happened: Callable[[], object], seconds: float = 5.0) -> None:
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.005)

    @staticmethod
    def events_of(text: str) -> list[dict[str, object]]:
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Proxy]]:
    running: list[Proxy] = []

    def begin(policy: str = SIMULATED, **options: object) -> Proxy:
        running.append(Proxy(replace(Options((policy,), ":memory:", grace_s=5), **options)))
        return running[-1]

    yield begin
    for proxy in running:
        proxy.stop()


@pytest.fixture(scope="session")
def proxy(start: Callable[..., Proxy]) -> Proxy:
    """A proxy on the simulated models."""
    return start()


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    """The address of a server that answers at once, or misbehaves on demand."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "benchmarks" / "loopback.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.stdin.close()
    process.wait(5)
    process.stdout.close()


@pytest.fixture(scope="session")
def faulty_policy(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    remotes = FAULTS | {"local/ok": "ok", "local/ok-best": "ok"}
    rows = [ROW.format(name=name, remote=remote, url=f"{upstream}/v1", rest=REST) for name, remote in remotes.items()]
    path = tmp_path_factory.mktemp("policies") / "faulty.yaml"
    path.write_text(FAULTY.format(faults=", ".join(FAULTS), models="\n".join(rows)))
    return str(path)


@pytest.fixture(scope="session")
def faulty(start: Callable[..., Proxy], faulty_policy: str) -> Proxy:
    """A proxy whose models can be told to misbehave: `local/cut`, `local/slow`, …"""
    return start(faulty_policy)
