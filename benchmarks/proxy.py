"""What the proxy adds to a call, beside LiteLLM's proxy, over an instant loopback upstream.

    python benchmarks/proxy.py [--litellm PYTHON] [--calls 400] [--rounds 5] [--seconds 3] [--json]

`PYTHON` is the interpreter of an environment with `litellm[proxy]`; without it LiteLLM is left out, and said to be.
All subjects run in one go, in turn, round after round, one worker each; what counts are differences and ratios, not
absolute times. A call is a step of an agent: a system prompt, two tools, a history that grows over eight steps, then a
new session. Waywiser decides, budgets (SQLite), detects loops and keeps a receipt for each; once under a policy of one
fixed tier for a declared node, once under `auto`, where the classifier decides. Figures, each of the
round that others on the machine disturbed least, for every subject alike:

- `p50_ms`, with one client, and `added_ms`, what that is above asking the upstream directly;
- `rps`, requests a second with 32 clients, and `cpu_ms`, what each takes of the worker's CPU time: where others use the
  machine too, that is the steadier figure;
- `first_ms` and `first_added_ms`, the time to the first piece of a stream that says something, of steps that a person
  reads: no tools are offered. (What nobody reads is held until it is whole.)

Then the memory of the worker after 1000 and after 10 000 requests (`--memory`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
STEPS = 8
POLICY = """
version: 1
name: {name}
tiers:
  economy: [local/fast]
  premium: [local/best]
models:
  local/fast: {{base_url: "{url}/v1", price: {{input: 0.1, output: 0.4}}, context: 9000, abilities: [tools]}}
  local/best: {{base_url: "{url}/v1", price: {{input: 5, output: 25}}, context: 9000, abilities: [tools]}}
nodes: {{model: tool_call}}
steps:
  tool_call: {{tier: {tier}}}
  synthesis: {{tier: {tier}}}
budget: {{session: {{usd: 10, llm_calls: 100}}, tenant: {{usd_per_day: 100000}}, keep: {{synthesis: 20%}}}}
loops: {{after: 3}}
"""
LITELLM = """
model_list:
  - {{model_name: m, litellm_params: {{model: openai/ok, api_base: "{url}/v1", api_key: none}}}}
  - {{model_name: spare, litellm_params: {{model: openai/ok, api_base: "{url}/v1", api_key: none}}}}
router_settings: {{num_retries: 0, fallbacks: [{{"m": ["spare"]}}]}}
litellm_settings: {{telemetry: false}}
"""


@dataclass(frozen=True)
class Subject:
    name: str
    port: int
    model: str
    header: str
    pid: int


def bodies(model: str, *, stream: bool) -> list[bytes]:
    """The requests of one session's steps."""
    schema = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
    tools = [
        {"type": "function", "function": {"name": name, "description": f"{name} an order", "parameters": schema}}
        for name in ("find", "cancel")
    ]
    history: list[dict[str, object]] = [
        {"role": "system", "content": "You are a support agent of a small shop. " * 20},
        {"role": "user", "content": "Where are my orders? " * 8},
    ]
    found = []
    for step in range(STEPS):
        asked: dict[str, object] = {"model": model, "messages": history}
        found.append(json.dumps(asked | ({"stream": True} if stream else {"tools": tools})).encode())
        call = {
            "id": f"call_{step}",
            "type": "function",
            "function": {"name": "find", "arguments": f'{{"order":"W{step}"}}'},
        }
        history = [
            *history,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{step}", "content": f'{{"status": "shipped on day {step}"}}'},
        ]
    return found


class Client(asyncio.Protocol):
    """One connection that asks, and tells when the answer has begun and when it is there."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.first: float = 0.0
        self.done: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.first and b'"content":"' in self.buffer.replace(b'": "', b'":"').replace(b'"content":""', b""):
            self.first = time.perf_counter()
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        at = head.find(b"content-length:")
        if at >= 0:
            whole = len(self.buffer) >= end + 4 + int(head[at + 15 :].split(b"\r", 1)[0])
        else:
            whole = self.buffer.endswith(b"0\r\n\r\n")
        if whole and self.done is not None and not self.done.done():
            self.done.set_result(bytes(self.buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes) -> bytes:
        self.buffer.clear()
        self.first = 0.0
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.done


def request(subject: Subject, body: bytes, number: int) -> bytes:
    session = (
        f"{subject.header}: bench-{number // STEPS}-{time.monotonic_ns()}\r\n"
        if not number % STEPS
        else SESSION.get(number // STEPS, "")
    )
    SESSION[number // STEPS] = session
    if "fixed" in subject.name and b'"tools"' in body:
        session += "x-waywiser-node: model\r\n"
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\n{session}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


SESSION: dict[int, str] = {}
KEY = f"sk-{secrets.token_hex(24)}"  # LiteLLM refuses to start without a strong one


async def connect(subject: Subject) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", subject.port)
    return client


async def one_at_a_time(subject: Subject, calls: int, *, stream: bool = False) -> float:
    """The median time of a call (or to the first piece of its stream), in ms."""
    asked, took = bodies(subject.model, stream=stream), []
    client = await connect(subject)
    for number in range(calls):
        began = time.perf_counter()
        answer = await client.ask(request(subject, asked[number % STEPS], number))
        took.append(((client.first if stream else time.perf_counter()) - began) * 1000)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{subject.name}: {answer[:600]!r}")
    client.transport.close()
    return statistics.median(took)


async def at_once(subject: Subject, seconds: float, width: int = 32, most: int = 10**9) -> tuple[float, float]:
    """Requests a second with `width` clients, and the CPU time that each takes of the worker, in ms."""
    asked = bodies(subject.model, stream=False)
    count, until = 0, time.perf_counter() + seconds

    async def follow(first: int) -> None:
        nonlocal count
        client, number = await connect(subject), first * 1_000_000 * STEPS
        while time.perf_counter() < until and count < most:
            count += 1
            answer = await client.ask(request(subject, asked[number % STEPS], number))
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{subject.name}: {answer[:600]!r}")
            number += 1
        client.transport.close()

    began, worked = time.perf_counter(), cpu_s(subject.pid)
    await asyncio.gather(*(follow(first + 1) for first in range(width)))
    SESSION.clear()
    return count / (time.perf_counter() - began), (cpu_s(subject.pid) - worked) / count * 1000


def cpu_s(pid: int) -> float:
    """The CPU time a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def wait_until_up(port: int, path: str, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
        except OSError:
            if time.monotonic() > until:
                raise SystemExit(f"nothing came up on port {port}") from None
            time.sleep(0.1)
        else:
            return


def begin(args: argparse.Namespace, folder: Path, running: list[subprocess.Popen[bytes]]) -> list[Subject]:
    """Start the upstream and every proxy."""
    upstream = subprocess.Popen([sys.executable, ROOT / "loopback.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    running.append(upstream)
    port = int(upstream.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    subjects = [Subject("direct", port, "ok", "x-session", upstream.pid)]
    for name, tier in (("fixed", "premium"), ("auto", "auto")):
        (folder / f"{name}.yaml").write_text(POLICY.format(name=name, url=url, tier=tier))
        own = free_port()
        command = [sys.executable, "-m", "waywiser.cli", "serve", "--policy", folder / f"{name}.yaml"]
        command += ["--store", folder / f"{name}.sqlite", "--port", str(own)]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_until_up(own, "/healthz")
        subjects.append(Subject(f"waywiser, {name}", own, "auto", "x-waywiser-session", running[-1].pid))
    if args.litellm:
        (folder / "litellm.yaml").write_text(LITELLM.format(url=url))
        own = free_port()
        command = [
            Path(args.litellm).parent / "litellm",
            "--config",
            folder / "litellm.yaml",
            "--port",
            str(own),
            "--num_workers",
            "1",
        ]
        quiet = {
            **os.environ,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MASTER_KEY": KEY,
        }
        running.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet, cwd=folder)
        )
        wait_until_up(own, "/health/liveliness")
        subjects.append(Subject("litellm", own, "m", "x-session", running[-1].pid))
    else:
        print("no --litellm: LiteLLM is left out", file=sys.stderr)
    return subjects


async def measure(args: argparse.Namespace, subjects: list[Subject]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {
        s.name: {"p50_ms": [], "rps": [], "cpu_ms": [], "first_ms": []} for s in subjects
    }
    for subject in subjects:
        await one_at_a_time(subject, 40)
        await one_at_a_time(subject, 40, stream=True)
    for _ in range(args.rounds):
        for subject in subjects:
            calls = args.calls if subject.name != "litellm" else max(args.calls // 4, 40)
            found[subject.name]["p50_ms"].append(await one_at_a_time(subject, calls))
            found[subject.name]["first_ms"].append(await one_at_a_time(subject, calls // 2, stream=True))
            rps, cpu_ms = await at_once(subject, args.seconds)
            found[subject.name]["rps"].append(rps)
            found[subject.name]["cpu_ms"].append(cpu_ms)
    best = {"p50_ms": min, "first_ms": min, "rps": max, "cpu_ms": min}
    out = {name: {key: best[key](values) for key, values in row.items()} for name, row in found.items()}
    direct = out["direct"]
    for row in out.values():
        row["added_ms"] = row["p50_ms"] - direct["p50_ms"]
        row["first_added_ms"] = row["first_ms"] - direct["first_ms"]
    if args.memory:
        for subject in subjects:
            if subject.name.startswith("waywiser"):
                await at_once(subject, 600, most=1000)
                early = resident_mb(subject.pid)
                await at_once(subject, 600, most=9000)
                out[subject.name] |= {"mb_after_1000": early, "mb_after_10000": resident_mb(subject.pid)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", default="", help="the Python of an environment with litellm[proxy]")
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            out = asyncio.run(measure(args, begin(args, Path(folder), running)))
        finally:
            for process in reversed(running):
                process.send_signal(signal.SIGTERM)
            for process in running:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    if args.json:
        print(json.dumps(out))
        return
    for name, row in out.items():
        print(f"{name:18}" + "  ".join(f"{key} {value:9.2f}" for key, value in row.items()))
    if "litellm" in out:
        for name in ("waywiser, fixed", "waywiser, auto"):
            rps, cpu = (out[name]["rps"] / out["litellm"]["rps"], out["litellm"]["cpu_ms"] / out[name]["cpu_ms"])
            print(f"{name}: {rps:.1f} times LiteLLM's requests a second, {cpu:.1f} times as many for the same CPU time")


if __name__ == "__main__":
    main()
