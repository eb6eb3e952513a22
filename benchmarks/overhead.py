"""What a routed call costs, beside an unrouted ChatOpenAI and litellm.Router, over an instant loopback upstream.

    python benchmarks/overhead.py [--calls 400] [--rounds 5] [--json]

All subjects run in one process, in turn, round after round; the figures are medians over rounds, and what counts are the
ratios. `cpu` is the process's CPU time a call, `wall` the time a call with one caller, or the time a call takes up with 32
callers at once (wall time of the round over its calls). The routed model has decision, budget (SQLite) and receipt on.
litellm.Router is left out, and said to be, where litellm is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGCHAIN_TRACING_V2="false", LITELLM_LOG="ERROR")
sys.path.insert(0, str(Path(__file__).parent))

POLICY = """
version: 1
name: bench
tiers:
  economy: [local/fast]
  premium: [local/best]
models:
  local/fast: {{base_url: "{url}/v1", context: 32000, price: {{input: 0.1, output: 0.4}}, abilities: [tools]}}
  local/best: {{base_url: "{url}/v1", remote: "{remote}", context: 32000, price: {{input: 5, output: 25}}, abilities: [tools]}}
steps:
  tool_call: {{tier: premium}}
  synthesis: {{tier: premium}}
nodes: {{model: tool_call}}
budget: {{session: {{usd: 1000}}, keep: {{synthesis: 20%}}}}
loops: {{after: 3}}
"""
MESSAGES = [("system", "You are a support agent of a small shop."), ("user", "Where is my order W0000123? " * 4)]


class Loopback:
    def __enter__(self) -> str:
        script = Path(__file__).with_name("loopback.py")
        self.process = subprocess.Popen(
            [sys.executable, script, "--port", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(5)


def subjects(url: str, folder: str) -> dict[str, tuple[Callable[[], Any], Callable[[], Awaitable[Any]]]]:
    from langchain_openai import ChatOpenAI

    from waywiser import Router

    policy = Path(folder) / "policy.yaml"
    policy.write_text(POLICY.format(url=url, remote="ok"))
    router = Router.from_policy(policy, store=Path(folder) / "bench.sqlite")
    routed = router.chat_model()
    plain = ChatOpenAI(model="ok", base_url=f"{url}/v1", api_key="none", max_retries=0)
    found: dict[str, Any] = {
        "ChatOpenAI": (lambda: plain.invoke(MESSAGES), lambda: plain.ainvoke(MESSAGES)),
        "waywiser": (lambda: routed.invoke(MESSAGES), lambda: routed.ainvoke(MESSAGES)),
    }
    try:
        import litellm
    except ImportError:
        print("litellm is not installed: left out", file=sys.stderr)
        return found
    litellm.suppress_debug_info = True
    rows = [
        {"model_name": name, "litellm_params": {"model": "openai/ok", "api_base": f"{url}/v1", "api_key": "none"}}
        for name in ("a", "a", "b")
    ]
    other = litellm.Router(model_list=rows, fallbacks=[{"a": ["b"]}], num_retries=0)
    history = [{"role": role, "content": text} for role, text in MESSAGES]
    found["litellm.Router"] = (
        lambda: other.completion(model="a", messages=history),
        lambda: other.acompletion(model="a", messages=history),
    )
    return found


def one_at_a_time(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1000, (time.process_time() - cpu) / calls * 1000


async def at_once(call: Callable[[], Awaitable[Any]], calls: int, width: int = 32) -> tuple[float, float]:
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await call()

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(width)))
    return (time.perf_counter() - began) / calls * 1000, (time.process_time() - cpu) / calls * 1000


def agents(url: str, folder: str) -> dict[str, Callable[[], Any]]:
    """A four-step create_agent loop: three tool calls, then the answer."""
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    from waywiser import Router

    @tool
    def get_order(order_id: str = "1") -> str:
        """Look an order up by its id."""
        return '{"status": "shipped"}'

    policy = Path(folder) / "agent.yaml"
    policy.write_text(POLICY.format(url=url, remote="tools:3"))
    router = Router.from_policy(policy, store=Path(folder) / "agent.sqlite")
    plain = ChatOpenAI(model="tools:3", base_url=f"{url}/v1", api_key="none", max_retries=0)
    question = {"messages": [("user", "Where is my order?")]}
    made = {
        "ChatOpenAI": create_agent(plain, [get_order]),
        "waywiser": create_agent(router.chat_model(), [get_order]),
    }

    def run(graph: Any) -> Callable[[], Any]:
        def once() -> None:
            steps = sum(message.type == "ai" for message in graph.invoke(question)["messages"])
            if steps != 4:
                raise SystemExit(f"expected four model calls, saw {steps}")

        return once

    return {name: run(graph) for name, graph in made.items()}


def sessions(url: str, folder: str) -> dict[str, float]:
    """The time of the 10th and of the 200th step of one session whose history grows, in milliseconds of CPU."""
    from langchain_core.messages import HumanMessage

    from waywiser import Router

    policy = Path(folder) / "policy.yaml"
    model = Router.from_policy(policy, store=Path(folder) / "steps.sqlite").chat_model()
    times: dict[int, list[float]] = {}
    for session in range(5):
        history: list[Any] = [HumanMessage("hello")]
        for step in range(1, 204):
            cpu = time.process_time()
            answer = model.invoke(history, {"metadata": {"waywiser_session": f"s{session}"}})
            times.setdefault(step, []).append((time.process_time() - cpu) * 1000)
            history += [answer, HumanMessage(f"question {step} about order W{step:07d}")]
    tenth = statistics.median(value for step in range(8, 13) for value in times[step])
    late = statistics.median(value for step in range(198, 203) for value in times[step])
    return {"step_10_cpu_ms": tenth, "step_200_cpu_ms": late, "ratio": late / tenth}


def decisions(folder: str) -> dict[str, float]:
    """How long `waywiser route` takes to decide a call of 2000 tokens, as it says itself (`decision_ms`)."""
    words = " ".join(
        f"The customer says that parcel {n} came late and asks for a refund of {n} dollars." for n in range(110)
    )
    lines = "".join(
        json.dumps({"id": n, "messages": [{"role": "user", "content": f"{n}: {words}"}]}) + "\n" for n in range(200)
    )
    done = subprocess.run(
        [sys.executable, "-m", "waywiser.cli", "route", "--policy", str(Path(folder) / "policy.yaml")],
        input=lines.encode(),
        capture_output=True,
        check=True,
    )
    times = [json.loads(line)["decision_ms"] for line in done.stdout.splitlines()]
    return {
        "first_ms": times[0],
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20)[18],
    }


def import_ms() -> float:
    code = "import time; t = time.perf_counter(); import waywiser; print((time.perf_counter() - t) * 1000)"
    return statistics.median(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Loopback() as url, asyncio.Runner() as runner:
        found = subjects(url, folder)
        loops = agents(url, folder)
        rounds: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(args.rounds + 1):
            calls = args.calls if number else 20  # the first round only warms up
            for name, (call, acall) in found.items():
                rounds.setdefault((name, "one at a time"), []).append(one_at_a_time(call, calls))
                rounds.setdefault((name, "32 at once"), []).append(runner.run(at_once(acall, calls)))
            for name, loop in loops.items():
                rounds.setdefault((name, "create_agent, 4 steps"), []).append(one_at_a_time(loop, max(calls // 8, 5)))
        for (name, how), values in rounds.items():
            wall, cpu = (statistics.median(value[index] for value in values[1:]) for index in (0, 1))
            figures.setdefault(how, {})[name] = {"wall_ms": wall, "cpu_ms": cpu}
        for per in figures.values():
            ours = per["waywiser"]
            for other in per.values():
                other["waywiser_wall_ratio"] = ours["wall_ms"] / other["wall_ms"]
                other["waywiser_cpu_ratio"] = ours["cpu_ms"] / other["cpu_ms"]
        figures["session"] = sessions(url, folder)
        figures["route"] = decisions(folder)
        figures["import_ms"] = import_ms()
    if args.json:
        print(json.dumps(figures))
        return
    for how, per in figures.items():
        print(f"\n{how}")
        if not isinstance(per, dict):
            print(f"  {per:.1f}")
            continue
        for name, row in per.items():
            text = (
                ", ".join(f"{key} {value:.3f}" for key, value in row.items()) if isinstance(row, dict) else f"{row:.3f}"
            )
            print(f"  {name:<16} {text}")


if __name__ == "__main__":
    main()
