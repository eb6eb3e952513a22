"""Overspend and starvation under concurrency, on a real store, with processes that are killed in the middle.

    python benchmarks/budget_concurrency.py --store sqlite|redis [--calls 10000] [--json]

`strict`: 64 workers (in 4 processes: half threads, half tasks of an event loop) share one limit and make random calls
with random latencies, failures and cancellations, until nothing is left; one process is killed with SIGKILL on the way.
Overspend is what the store has charged and holds beyond the limit, at any moment it was looked at, and at the end. Each
call is also written down by the "provider"; what the killed process had in the air is the only difference allowed.

`expected`: runs with heavy-tailed costs whose sum fits their limit exactly; a claim holds what such steps usually cost.
Starvation is the number of runs that were refused. Then runs that do not fit: overshoot, in steps per concurrent call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from waywiser.core.budget import Amounts, Claim, Hold, Limits, Scope, Shortfall
from waywiser.core.session import Settlement
from waywiser.core.spending import Outstanding
from waywiser.core.trail import StepRecord
from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.redis_server import RedisServer
from waywiser.testing.stores import SessionBooks

MEAN_NANOS = 100_000
LEASE_S = 3.0
THREADS, TASKS, PROCESSES = 8, 8, 4
TENANT = "tenant/acme/today"


def make_store(where: str) -> SessionBooks:
    return RedisStore(where) if where.startswith("redis:") else SqliteStore(where)


def path_of(session: str, limit: int) -> tuple[Scope, ...]:
    return Scope(TENANT, "tenant", Limits(nanos=limit)), Scope(f"session/{session}", "session", Limits(nanos=limit))


def claim_of(hold: str, session: str, limit: int, wanted: int, least: int) -> Claim:
    now_s = time.time()
    amounts, at_least = Amounts(wanted, 0, 1), Amounts(least, 0, 1)
    return Claim(hold, path_of(session, limit), "tool_call", amounts, at_least, now_s, now_s + LEASE_S, (), session)


def settlement_of(hold: str, session: str, limit: int, used: int) -> Settlement:
    return Settlement(hold, path_of(session, limit), "tool_call", Amounts(used, 0, 1), time.time(), session, "acme")


class Worker:
    """One caller: draws what a call does, and writes down what the provider charges before it is settled."""

    def __init__(self, store: SessionBooks, name: str, calls: int, limit: int, log: int) -> None:
        self.store, self.name, self.calls, self.limit, self.log = store, name, calls, limit, log
        self.rng = random.Random(name)
        self.refused = 0

    def draw(self, number: int) -> tuple[str, str, int, int, float, str]:
        rng = self.rng
        worst = rng.randrange(1, 2 * MEAN_NANOS)
        fate = rng.choices(("fine", "failed", "cancelled"), (90, 5, 5))[0]
        used = {"fine": rng.randrange(worst + 1), "failed": 0, "cancelled": rng.randrange(worst + 1)}[fate]
        return f"{self.name}-{number}", f"s{rng.randrange(8)}", worst, used, rng.random() * 0.004, fate

    def provider_charges(self, hold: str, used: int) -> None:
        os.write(self.log, f"{hold} {used}\n".encode())

    def run(self) -> None:
        for number in range(self.calls):
            hold, session, worst, used, latency_s, _ = self.draw(number)
            if isinstance(self.store.reserve(claim_of(hold, session, self.limit, worst, worst)), Shortfall):
                self.refused += 1
                continue
            time.sleep(latency_s)
            self.provider_charges(hold, used)
            self.store.settle(settlement_of(hold, session, self.limit, used))

    async def arun(self) -> None:
        for number in range(self.calls):
            hold, session, worst, used, latency_s, fate = self.draw(number)
            found = await self.store.areserve(claim_of(hold, session, self.limit, worst, worst))
            if isinstance(found, Shortfall):
                self.refused += 1
                continue
            call = asyncio.create_task(asyncio.sleep(latency_s))
            if fate == "cancelled":
                asyncio.get_running_loop().call_later(latency_s / 2, call.cancel)
            await asyncio.wait([call])
            self.provider_charges(hold, used)
            await self.store.asettle(settlement_of(hold, session, self.limit, used))


def work(where: str, name: str, calls: int, limit: int, log_path: str) -> None:
    """One process: half of its workers are threads, half are tasks."""
    store = make_store(where)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    workers = [Worker(store, f"{name}{number}", calls, limit, log) for number in range(THREADS + TASKS)]

    async def tasks() -> None:
        await asyncio.gather(*(worker.arun() for worker in workers[THREADS:]))
        if isinstance(store, RedisStore):
            await store.aclose()

    with ThreadPoolExecutor(THREADS + 1) as pool:
        futures = [pool.submit(worker.run) for worker in workers[:THREADS]] + [pool.submit(asyncio.run, tasks())]
        for future in futures:
            future.result()
    store.close()
    print(json.dumps({"refused": sum(worker.refused for worker in workers)}))


def strict(where: str, calls: int, folder: Path) -> dict[str, object]:
    per_worker = calls // (PROCESSES * (THREADS + TASKS))
    limit = int(calls * MEAN_NANOS * 0.5 * 0.5)  # about half of what all calls would use
    log_path = folder / "provider.log"
    command = [sys.executable, __file__, "--worker", where, "--log", str(log_path), "--limit", str(limit)]
    processes = [
        subprocess.Popen([*command, "--name", f"p{number}-", "--calls", str(per_worker)], stdout=subprocess.PIPE)
        for number in range(PROCESSES)
    ]
    store = make_store(where)
    path = path_of("s0", limit)
    looked, worst, killed = 0, 0, False
    in_the_air: list[Outstanding] = []
    started_s = time.perf_counter()
    while any(process.poll() is None for process in processes):
        standing = store.open("s0", path, time.time()).standings[0]
        worst = max(worst, standing.spent.nanos + standing.held.nanos - limit)
        looked += 1
        if not killed and standing.spent.nanos > limit * 0.3:
            processes[0].kill()
            processes[0].wait()
            in_the_air = [hold for hold in store.holds(time.time()) if hold.hold.startswith("p0-")]
            killed = True
        time.sleep(0.02)
    took_s = time.perf_counter() - started_s
    time.sleep(LEASE_S)
    exits = [process.wait() for process in processes]
    said = [json.loads(process.stdout.read()) for process in processes[1:] if process.stdout]  # type: ignore[union-attr]
    charged = sum(row.used.nanos for row in store.spends())
    provider = sum(int(line.split()[1]) for line in log_path.read_text().splitlines() if line.count(" ") == 1)
    # After the lease the dead worker's money can be had again, all of it but what was spent.
    rest = (
        store.reserve(claim_of("rest", "s-rest", limit, limit - charged, limit - charged)) if charged < limit else None
    )
    result = {
        "limit": limit,
        "charged": charged,
        "provider": provider,
        "overspend": max(charged - limit, worst, 0),
        "looked": looked,
        "killed_exit": exits[0],
        "other_exits": exits[1:],
        "dead_holds": len(in_the_air),
        "dead_hold_nanos": sum(hold.amounts.nanos for hold in in_the_air),
        "not_charged": provider - charged,
        "all_of_the_rest_can_be_had_again": rest is None or isinstance(rest, Hold),
        "refused": sum(one["refused"] for one in said),
        "calls_per_s": round(sum(1 for _ in log_path.open()) / took_s),
    }
    store.close()
    return result


def run_of_steps(store: SessionBooks, session: str, costs: list[int], limit: int, typical: int, width: int) -> str:
    """Make the calls of one run, `width` at a time. Returns why it was refused, or nothing."""
    refused: list[str] = []
    queue = list(enumerate(costs))
    lock = threading.Lock()
    scope = (Scope(f"session/{session}", "session", Limits(nanos=limit)),)

    def caller() -> None:
        while True:
            with lock:
                if not queue or refused:
                    return
                number, cost = queue.pop()
            hold = f"{session}-{number}"
            deadline_s = time.monotonic() + 5
            while True:
                now_s = time.time()
                wanted = Amounts(typical, 0, 1)
                found = store.reserve(
                    Claim(hold, scope, "tool_call", wanted, Amounts(1, 0, 1), now_s, now_s + 30, (), session)
                )
                if isinstance(found, Hold):
                    break
                if not found.waiting_may_help or time.monotonic() > deadline_s:
                    refused.append(found.what)
                    return
                time.sleep(0.001)
            time.sleep(random.random() * 0.0005)
            step = StepRecord(number, now_s, "tool_call", "economy", "m/x")
            used = Amounts(cost, 0, 1)
            store.settle(Settlement(hold, scope, "tool_call", used, now_s, session, model="m/x", policy="p", step=step))

    if width == 1:
        caller()
    else:
        callers = [threading.Thread(target=caller) for _ in range(width)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    return refused[0] if refused else ""


def expected(where: str, runs: int) -> dict[str, object]:
    store = make_store(where)
    rng = random.Random(4)
    starved, overshoot_steps, tight = 0, 0.0, 0
    for number in range(runs):
        width = 1 + number % 4
        costs = [max(int(rng.lognormvariate(11, 1.2)), 1) for _ in range(rng.randrange(3, 12))]
        history = store.open(f"run{number}", (), time.time(), "p").costs.get(("tool_call", "m/x"))
        typical = (history.nanos.quantile(0.9) if history else None) or 200_000
        fits = number % 5 != 4
        # One that fits exactly, to the nano-dollar; or one that can pay two thirds of what it would cost.
        limit = sum(costs) if fits else sum(costs) * 2 // 3
        why = run_of_steps(store, f"run{number}", costs, limit, typical, width)
        if fits:
            starved += bool(why)
        else:
            tight += 1
            spent = store.spends(session=f"run{number}")[0].used.nanos
            overshoot_steps = max(overshoot_steps, (spent - limit) / (max(costs) * width))
    store.close()
    return {
        "runs_that_fit": runs - tight,
        "starved": starved,
        "runs_that_do_not_fit": tight,
        "worst_overshoot_in_steps_per_concurrent_call": round(max(overshoot_steps, 0.0), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1250)
    parser.add_argument("--json", action="store_true")
    for name in ("--worker", "--name", "--log"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.name, options.calls, options.limit, options.log)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = RedisServer(folder) if options.store == "redis" else None
        try:
            where = server.url if server else str(folder / "strict.db")
            result = {"store": options.store, "strict": strict(where, options.calls, folder)}
            where = server.url if server else str(folder / "expected.db")
            result["expected"] = expected(where, options.runs)
        finally:
            if server:
                server.kill()
    if options.json:
        print(json.dumps(result))
        return
    for part in ("strict", "expected"):
        print(f"{options.store}, {part}")
        for key, value in result[part].items():  # type: ignore[union-attr,attr-defined]
            print(f"  {key.replace('_', ' '):48s} {value}")


if __name__ == "__main__":
    main()
