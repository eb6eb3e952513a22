"""Which way to move a small request and its answer costs least: the measurement behind `upstream/connections.py`.

    python benchmarks/transports.py [--calls 1500] [--json]

Each row is one way over an instant server on loopback, one call at a time and 32 at once, in milliseconds a call (wall
and CPU of this process). The ratios to the cheapest are what counts: the absolute numbers are the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import httpx

from waywiser.core.calls import Call
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.upstream.client import HttpUpstream

BODY = json.dumps({"model": "x", "messages": [{"role": "user", "content": "hello " * 200}]}).encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer key"}
CALL = Call("1", (user("hello " * 200),))
AT_ONCE = (1, 32)


class Row(dict[str, float | str | int]):
    """One measurement."""


def row(name: str, at_once: int, calls: int, wall: float, cpu: float) -> Row:
    return Row(way=name, at_once=at_once, wall_ms=round(1e3 * wall / calls, 3), cpu_ms=round(1e3 * cpu / calls, 3))


def measure(name: str, call: Callable[[], object], at_once: int, calls: int) -> Row:
    call()

    def work() -> None:
        for _ in range(calls // at_once):
            call()

    wall, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return row(name, at_once, calls // at_once * at_once, time.perf_counter() - wall, time.process_time() - cpu)


async def ameasure(name: str, call: Callable[[], Awaitable[object]], at_once: int, calls: int) -> Row:
    await call()

    async def work() -> None:
        for _ in range(calls // at_once):
            await call()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return row(name, at_once, calls // at_once * at_once, time.perf_counter() - wall, time.process_time() - cpu)


def blocking(port: int, calls: int) -> list[Row]:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    client, transport, kept = httpx.Client(), httpx.HTTPTransport(), threading.local()
    upstream, model = HttpUpstream(lambda _: "key"), Model("a/b", base_url=f"http://127.0.0.1:{port}/v1")

    def over_transport() -> None:
        response = transport.handle_request(httpx.Request("POST", url, content=BODY, headers=HEADERS))
        response.read()
        response.close()

    def over_standard_library() -> None:
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection("127.0.0.1", port)
        kept.connection.request("POST", "/v1/chat/completions", BODY, HEADERS)
        kept.connection.getresponse().read()

    ways: dict[str, Callable[[], object]] = {
        "httpx.Client": lambda: client.post(url, content=BODY, headers=HEADERS).content,
        "httpx.HTTPTransport": over_transport,
        "http.client": over_standard_library,
        "HttpUpstream.send (encodes and decodes too)": lambda: upstream.send(model, CALL, 5),
    }
    return [measure(name, call, at_once, calls) for at_once in AT_ONCE for name, call in ways.items()]


async def on_a_loop(port: int, calls: int) -> list[Row]:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    upstream, model = HttpUpstream(lambda _: "key"), Model("a/b", base_url=f"http://127.0.0.1:{port}/v1")
    connector = aiohttp.TCPConnector(limit=0)
    async with httpx.AsyncClient() as plain, aiohttp.ClientSession(connector=connector) as session:

        async def over_httpx() -> None:
            await plain.post(url, content=BODY, headers=HEADERS)

        async def over_aiohttp() -> None:
            async with session.post(url, data=BODY, headers=HEADERS) as response:
                await response.read()

        async def over_ours() -> None:
            await upstream.asend(model, CALL, 5)

        ways = {"httpx.AsyncClient": over_httpx, "aiohttp": over_aiohttp, "HttpUpstream.asend": over_ours}
        return [await ameasure(name, call, at_once, calls) for at_once in AT_ONCE for name, call in ways.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    command = [sys.executable, str(Path(__file__).with_name("loopback.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        port = int(server.stdout.readline())
        rows = blocking(port, arguments.calls) + asyncio.run(on_a_loop(port, arguments.calls))
        server.stdin.close()
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for one in rows:
        print(
            f"{one['way']:44} {one['at_once']:>3} at once  {one['wall_ms']:7.3f} ms wall  {one['cpu_ms']:7.3f} ms CPU"
        )


if __name__ == "__main__":
    main()
