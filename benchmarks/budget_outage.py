"""Redis is killed and started again under load: what happens meanwhile, and whether the totals are right afterwards.

    python benchmarks/budget_outage.py [--away closed|local] [--seconds 6] [--json]

Sixteen threads of one worker make calls without a break. After a third of the time the server is killed (SIGKILL),
after two thirds it is started again. `closed` must refuse while it is away, `local` must go on; both must charge, in
the end, exactly what the "provider" wrote down. What is still held then are reservations whose reply was lost with the
server: their lease ends them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from waywiser.core.budget import Amounts, Claim, Hold, Limits, Scope
from waywiser.core.session import Settlement
from waywiser.errors import StoreError
from waywiser.stores.redis import RedisStore
from waywiser.testing.redis_server import RedisServer

THREADS = 16
LIMIT = Limits(nanos=10**12)


def run(away: str, seconds: float, folder: Path) -> dict[str, object]:
    server = RedisServer(folder)
    store = RedisStore(server.url, away="local" if away == "local" else "closed", timeout_s=0.5)
    path = (Scope("session/s", "session", LIMIT),)
    begun = time.monotonic()
    charged = [0] * THREADS
    counts: dict[str, Counter[str]] = {"before": Counter(), "away": Counter(), "after": Counter()}
    lock = threading.Lock()
    phase = "before"
    longest_s = [0.0] * THREADS

    def worker(at: int) -> None:
        rng = random.Random(at)
        number = 0
        while time.monotonic() - begun < seconds:
            number += 1
            hold, now_s, during = f"{at}-{number}", time.time(), phase
            started = time.monotonic()
            try:
                worst = rng.randrange(1, 10_000)
                amounts = Amounts(worst, 0, 1)
                found = store.reserve(Claim(hold, path, "tool_call", amounts, amounts, now_s, now_s + 30, (), "s"))
                what = "served" if isinstance(found, Hold) else "short"
            except StoreError:
                what = "refused"
            longest_s[at] = max(longest_s[at], time.monotonic() - started)
            with lock:
                counts[during][what] += 1
            if what != "served":
                time.sleep(0.005)
                continue
            used = rng.randrange(worst + 1)
            charged[at] += used
            time.sleep(0.001)
            try:
                store.settle(Settlement(hold, path, "tool_call", Amounts(used, 0, 1), time.time(), "s", "acme"))
            except StoreError:
                with lock:
                    counts[during]["settled later"] += 1

    threads = [threading.Thread(target=worker, args=(at,)) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    phase = "away"
    server.kill()
    time.sleep(seconds / 3)
    server.start()
    phase = "after"
    for thread in threads:
        thread.join()
    # The first call that reaches the server delivers what was kept meanwhile.
    time.sleep(1.0)
    (standing,) = store.open("s", path, time.time()).standings
    result: dict[str, object] = {
        "policy": away,
        **{name: dict(count) for name, count in counts.items()},
        "longest_reserve_s": round(max(longest_s), 2),
        "provider": sum(charged),
        "charged": standing.spent.nanos,
        "wrong_by": standing.spent.nanos - sum(charged),
        "still_held": standing.held.nanos,
        "undelivered": store.undelivered,
        "report_agrees": sum(row.used.nanos for row in store.spends()) == standing.spent.nanos,
    }
    store.close()
    server.kill()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--away", choices=("closed", "local"))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for away in (options.away,) if options.away else ("closed", "local"):
        with tempfile.TemporaryDirectory() as folder:
            result = run(away, options.seconds, Path(folder))
        if options.json:
            print(json.dumps(result))
        else:
            print("\n".join(f"{key.replace('_', ' '):20s} {value}" for key, value in result.items()), "\n")


if __name__ == "__main__":
    main()
