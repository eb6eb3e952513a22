"""Real customers, real small models: the support desk over the first message of recorded sessions.

    python ../shared/local_llm/serve.py &                       three models on ports 8811 to 8813
    python benchmarks/real_models.py [--sessions 20] [--json]

Takes the first customer message of sessions of `../shared/data/trajectories/tau2_retail_multimodel.jsonl.gz` (spread over
its tasks), runs `graphs/support_desk.yaml` on each with `policies/local.yaml`, and counts how the runs ended: with an
answer, refused, or with a named error. A run that hangs or spends more than its limit fails the benchmark (exit code 1).
The shop does not know the recorded customers: what is tried here is the machinery, not the models' wits.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/trajectories/tau2_retail_multimodel.jsonl.gz"
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
HANGS_AFTER_S = 900


def first_messages(count: int) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = next((m["content"] for m in row["messages"] if m["role"] == "user"), None)
            if text and row["meta"]["termination"] != "agent_error":
                found.setdefault(str(row["task_id"]), text)
    every = sorted(found.items())
    return every[:: max(len(every) // count, 1)][:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--policy", default=str(ROOT / "policies/local.yaml"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not DATA.is_file():
        print(f"skipped: {DATA} is not there")
        return 0
    from support_desk.make_shop import make_shop

    from waywiser import Router, WaywiserError
    from waywiser.cli.graphs import answer_of, load_any_graph

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop.sqlite"
        make_shop(shop)
        os.environ["SUPPORT_DESK_DB"] = str(shop)
        with Router.from_policy(args.policy, store=Path(folder) / "runs.sqlite") as router:
            limit = router.policy.budget.session.nanos or 0
            graph = load_any_graph(str(ROOT / "graphs/support_desk.yaml"), router)
            for task, text in first_messages(args.sessions):
                began, answer, error = time.monotonic(), "", ""
                with router.session(f"task-{task}") as session:
                    try:
                        answer = answer_of(graph, text, session.id)
                    except WaywiserError as problem:
                        error = problem.code
                    except Exception as problem:  # noqa: BLE001 - whatever a run dies of is a result
                        error = f"{type(problem).__module__}.{type(problem).__name__}: {problem}"[:200]
                    receipts = list(session.receipts())
                spent = sum(receipt.cost_nanos for receipt in receipts)
                runs.append(
                    {
                        "task": task, "ended": "answer" if answer.strip() else error or "empty answer",
                        "seconds": round(time.monotonic() - began, 1), "usd": spent / 1e9, "overspent": spent > limit,
                        "steps": [[r.kind, r.tier, r.model, r.refused] for r in receipts],
                        "failures": [
                            f"{a.model} {a.failure}: {a.detail[:80]}" for r in receipts for a in r.attempts if a.failure
                        ],
                        "as_schema": sum("tools_as_schema" in a.notes for r in receipts for a in r.attempts),
                        "answer": answer[:160],
                    }
                )  # fmt: skip
                print(
                    f"{task:>4} {runs[-1]['ended'][:40]:<40} {runs[-1]['seconds']:>6} s {len(receipts):>3} steps",
                    file=sys.stderr,
                )
            open_holds = len(router.runtime.engine.store.holds(time.time()))
    counts = collections.Counter((kind, tier) for run in runs for kind, tier, _, _ in run["steps"])
    result = {
        "sessions": len(runs),
        "ended": collections.Counter(run["ended"].split(":")[0] for run in runs),
        "by_kind_and_tier": {f"{kind} on {tier or 'nothing'}": count for (kind, tier), count in sorted(counts.items())},
        "failures": collections.Counter(failure.split(":")[0] for run in runs for failure in run["failures"]),
        "steps_as_schema": sum(run["as_schema"] for run in runs),
        "overspent": sum(run["overspent"] for run in runs),
        "hung": sum(run["seconds"] > HANGS_AFTER_S for run in runs),
        "open_holds": open_holds,
        "usd": sum(run["usd"] for run in runs),
        "seconds": sum(run["seconds"] for run in runs),
    }
    print(json.dumps({**result, "runs": runs} if args.json else result, indent=None if args.json else 2))
    return int(bool(result["overspent"] or result["hung"] or result["open_holds"]))


if __name__ == "__main__":
    sys.exit(main())
