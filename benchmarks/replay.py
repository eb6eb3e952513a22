"""Measures the backtest on recorded sessions: is the cache right, what does a policy cost, how fast, how much memory.

    python benchmarks/replay.py FOLDER_OF_TRAJECTORIES [--calls 35000] [--workers 2] [--policy policies/support-balanced.yaml]

1. *cache*: how much of a warm prefix each provider found, read off recorded costs, measured on half of the tasks and
   tried on the other half, both ways round. These figures are what `replay/prompt_cache.py` holds.
2. *costs*: the shares of the policy of the top tier alone, and the simulated cost against the recorded one, by model.
3. *speed*: `--calls` calls through the command line, with processor time and the largest process.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from waywiser.core.calls import Usage
from waywiser.core.models import cost_nanos
from waywiser.replay.measures import day_of, model_named
from waywiser.replay.prompt_cache import habit
from waywiser.replay.trajectories import instant

ROOT = Path(__file__).resolve().parents[1]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) as stream:
        for line in stream:
            row = json.loads(line)
            if (row.get("meta") or {}).get("termination") != "agent_error":
                yield row


def cache(path: Path) -> None:
    """Fit `hit` and `shared` on one half of the tasks, price the other half with them."""
    sums: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows(path):
        steps = (row.get("meta") or {}).get("steps") or []
        half = blake2b(str(row["task_id"]).encode(), digest_size=1).digest()[0] % 2
        before = 0
        for step in steps:
            asked, said, cost = step.get("prompt_tokens"), step.get("completion_tokens"), step.get("cost")
            model = model_named(row["model"], day_of(instant(step.get("ts")), time_of_snapshot()))
            if not asked or model is None or cost is None:
                continue
            price = model.prices[0]
            full = cost_nanos(model, Usage(asked, said))
            each = (price.input_picos - price.cached_picos) / 1000
            found = max((full - cost * 1e9) / each, 0.0)
            block = next(size for least, size in habit(model.name).blocks if asked >= least)
            one = sums[model.name, half]
            warm = min(before or asked, asked) // block * block
            name = "again" if before else "first"
            one[name] += found
            one[f"{name}_warm"] += warm
            one["full"] += full
            one["cost"] += cost * 1e9
            one["each"] = each
            before = asked
    print("cache: share of a warm prefix that was found, and the error in cost on the half it was not measured on")
    for name in sorted({name for name, _ in sums}):
        errors, both = [], defaultdict(float)
        for half in (0, 1):
            fitted, tried = sums[name, half], sums[name, 1 - half]
            for key, value in fitted.items():
                both[key] += value
            saved = sum(tried[f"{key}_warm"] * ratio(fitted[key], fitted[f"{key}_warm"]) for key in ("again", "first"))
            errors.append(ratio(tried["full"] - saved * tried["each"], tried["cost"]) - 1)
        again, first = (ratio(both[key], both[f"{key}_warm"]) for key in ("again", "first"))
        said = ", ".join(f"{error:+.1%}" for error in errors)
        print(f"  {name:24} hit {again:.3f}  shared {first:.3f}  held-out error {said}")


def costs(path: Path, policy: str, workers: int) -> None:
    done = subprocess.run(command(path, policy, workers), capture_output=True, check=True, text=True)
    totals = json.loads(done.stdout)["totals"]
    low, high = totals["share_of_top_tier_95"]
    print(f"costs: {totals['sessions']} sessions, {totals['calls']} calls")
    print(f"  policy {totals['cost_usd']:.2f} USD, top tier alone {totals['top_tier_cost_usd']:.2f} USD: ", end="")
    print(f"{totals['share_of_top_tier']:.1%} ({low:.1%} to {high:.1%})")
    print(f"  cold prefixes of {totals['switches']} switches: {totals['cold_prefixes_usd']:.2f} USD")
    print(f"  stopped: {totals['stopped'] or 'none'}")
    for model, one in totals["reproduced"].items():
        print(f"  recorded {model:16} {one['recorded_cost_usd']:8.3f} USD, simulated {one['error']:+.2%}")


def speed(folder: Path, calls: int, policy: str, workers: int) -> None:
    """Write a file of at least so many calls from all recordings, repeated if need be, and replay it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "calls.jsonl"
        written = 0
        with path.open("w", encoding="utf-8") as out:
            while written < calls:
                for source in sorted(folder.glob("*.jsonl.gz")):
                    for row in rows(source):
                        if written < calls:
                            # A first word of its own, so that nothing is remembered from an earlier copy.
                            row["messages"][0]["content"] = f"[{written}] {row['messages'][0].get('content') or ''}"
                            out.write(json.dumps(row) + "\n")
                            written += sum(turn["role"] == "assistant" for turn in row["messages"])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        with (Path(name) / "out.json").open("wb") as out:
            subprocess.run(command(path, policy, workers), stdout=out, check=True)
        took = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        done = json.loads((Path(name) / "out.json").read_bytes())["totals"]["calls"]
    print(f"speed: {done} calls, {workers} processes: {took:.1f} s, {processor:.1f} s of processor time", end="")
    print(f" ({1000 * processor / done:.2f} ms a call), largest process {used.ru_maxrss / 1024:.0f} MB")


def command(path: Path, policy: str, workers: int) -> list[str]:
    arguments = ["replay", str(path), "--policy", policy, "--workers", str(workers), "--json"]
    return [sys.executable, "-m", "waywiser.cli", *arguments]


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def time_of_snapshot() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC).date()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, default=35_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--policy", default=str(ROOT / "policies" / "support-balanced.yaml"))
    args = parser.parse_args()
    costly = args.folder / "tau2_retail_multimodel.jsonl.gz"
    cache(costly)
    costs(costly, args.policy, args.workers)
    if args.calls:
        speed(args.folder, args.calls, args.policy, args.workers)


if __name__ == "__main__":
    main()
