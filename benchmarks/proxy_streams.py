"""Many streams open at once on one worker of the proxy: none may be lost, and what they take in memory is told.

    python benchmarks/proxy_streams.py [--streams 1000] [--words 20] [--pause 0.4] [--json]

The upstream, in this process, says a word every `--pause` seconds; a stream is lost unless every word and the end came.
`at_once` is how many streams the proxy had open at the same time, as its own metrics say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from proxy import free_port, resident_mb, wait_until_up

POLICY = """
version: 1
name: streams
tiers: {{only: [local/slow]}}
models: {{local/slow: {{base_url: "http://127.0.0.1:{port}/v1", price: {{input: 1, output: 4}}, context: 9000}}}}
steps: {{synthesis: {{tier: only}}}}
budget: {{session: {{usd: 10}}, tenant: {{usd_per_day: 1000}}}}
"""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(data: str) -> bytes:
    text = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: int, pause: float) -> None:
    """One connection of the upstream: a word at a time."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(HEAD)
            for number in range(words):
                writer.write(event(json.dumps({"choices": [{"index": 0, "delta": {"content": f"w{number} "}}]})))
                await asyncio.sleep(pause)
            writer.write(event('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'))
            writer.write(event("[DONE]") + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()  # the proxy has closed, or the benchmark is over


async def follow(port: int, number: int, words: int) -> bool:
    """One client; whether everything came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(
        {"model": "auto", "stream": True, "messages": [{"role": "user", "content": f"{number}"}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    text = await reader.read(-1)
    writer.close()
    return all(b"w%d " % word in text for word in range(words)) and b"[DONE]" in text


def open_streams(port: int) -> int:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
    return int(re.search(rb"open_streams\{[^}]*\} (\d+)", text)[1])


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    upstream = await asyncio.start_server(
        lambda reader, writer: answer(reader, writer, args.words, args.pause), "127.0.0.1", 0, backlog=4096
    )
    port = free_port()
    policy = folder / "streams.yaml"
    policy.write_text(POLICY.format(port=upstream.sockets[0].getsockname()[1]))
    command = [sys.executable, "-m", "waywiser.cli", "serve", "--policy", policy, "--port", str(port)]
    command += ["--store", folder / "s.sqlite"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - once, before the clock runs
    try:
        await asyncio.to_thread(wait_until_up, port, "/healthz")
        idle_mb, most, open_mb = resident_mb(process.pid), 0, 0.0
        began = time.perf_counter()
        tasks = [asyncio.create_task(follow(port, number, args.words)) for number in range(args.streams)]
        while not all(task.done() for task in tasks):
            now = await asyncio.to_thread(open_streams, port)
            if now >= most:
                most, open_mb = now, resident_mb(process.pid)
            await asyncio.sleep(0.2)
        whole = sum(task.result() for task in tasks)
        took_s = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(20)
    return {
        "streams": args.streams, "whole": whole, "at_once": most, "took_s": round(took_s, 1), "idle_mb": round(idle_mb),
        "open_mb": round(open_mb), "kb_a_stream": round((open_mb - idle_mb) * 1024 / max(most, 1), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        out = asyncio.run(measure(args, Path(folder)))
    print(json.dumps(out) if args.json else "  ".join(f"{name} {value}" for name, value in out.items()))
    if out["whole"] < out["streams"]:
        raise SystemExit("streams were lost")


if __name__ == "__main__":
    main()
