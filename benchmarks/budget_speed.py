"""What budgets cost a step: open, reserve and settle on each store; and SQLite with 100 and with 100 000 sessions.

    python benchmarks/budget_speed.py [--steps 2000] [--sessions 100000] [--json]

Medians in microseconds. A step appends to the trail and keeps a receipt; `bare` is reserve and settle alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from waywiser.core.budget import Amounts, Hold, Limits, Scope
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger import a_receipt, claim, session_scope, settlement, step_record
from waywiser.testing.redis_server import RedisServer
from waywiser.testing.stores import SessionBooks

WIDE = Limits(nanos=10**15, llm_calls=10**9)


def path_of(session: str, scopes: int) -> tuple[Scope, ...]:
    tenant, agent = Scope("tenant/a/1", "tenant", WIDE), Scope(f"agent/{session}/a", "agent", WIDE)
    return (session_scope(WIDE, session),) if scopes == 1 else (tenant, session_scope(WIDE, session), agent)


def step(store: SessionBooks, session: str, number: int, scopes: int, *, bare: bool) -> tuple[float, float, float]:
    """Run one step and return how long opening, reserving and settling took, in seconds."""
    path = path_of(session, scopes)
    asked = claim(f"{session}-{number}", *path, at_s=number / 100, session=session)
    told = settlement(
        asked.hold,
        *path,
        used=Amounts(900, 90, 1),
        at_s=number / 100,
        session=session,
        step=None if bare else step_record(number),
        receipt=None if bare else a_receipt(f"r-{asked.hold}", session=session),
    )
    started = time.perf_counter()
    if not bare:
        store.open(session, path, asked.now_s, "p")
    opened = time.perf_counter()
    found = store.reserve(asked)
    reserved = time.perf_counter()
    store.settle(told)
    settled = time.perf_counter()
    assert isinstance(found, Hold)
    return opened - started, reserved - opened, settled - reserved


def measure(store: SessionBooks, steps: int, scopes: int, *, bare: bool) -> dict[str, float]:
    session = f"m{scopes}{bare}"
    times = [step(store, session, number, scopes, bare=bare) for number in range(steps)]
    medians = [statistics.median(one) * 1e6 for one in zip(*times, strict=True)]
    whole = statistics.median(sum(one) for one in times) * 1e6
    return dict(zip(("open", "reserve", "settle", "all"), [round(one, 1) for one in (*medians, whole)], strict=True))


def scaling(folder: Path, sessions: int, steps: int) -> dict[str, float]:
    """Return the median step in a file with 100 sessions and in one with many, steps taken in turn, and their ratio."""
    few, many = SqliteStore(folder / "few.db"), SqliteStore(folder / "many.db")
    for store, count in ((few, 100), (many, sessions)):
        for number in range(count):
            session = f"s{number}"
            store.settle(settlement(f"fill-{number}", *path_of(session, 1), session=session, step=step_record(0)))
    times: dict[str, list[float]] = {"few": [], "many": [], "many, new": []}
    for number in range(steps):
        # A run makes ten steps; only at the first of them is its trail not in memory yet.
        run, at = divmod(number, 10)
        times["few"].append(sum(step(few, f"s{run % 100}", number, 1, bare=False)))
        times["many, new" if at == 0 else "many"].append(
            sum(step(many, f"s{run * 7919 % sessions}", number, 1, bare=False))
        )
    medians = {name: statistics.median(one) * 1e6 for name, one in times.items()}
    few.close()
    many.close()
    return {
        "100_sessions": round(medians["few"], 1),
        f"{sessions}_sessions": round(medians["many"], 1),
        "ratio": round(medians["many"] / medians["few"], 2),
        "first_step_of_a_run_ratio": round(medians["many, new"] / medians["few"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = RedisServer(folder)
        stores: dict[str, SessionBooks] = {
            "memory": MemoryStore(),
            "sqlite": SqliteStore(folder / "speed.db"),
            "redis": RedisStore(server.url),
        }
        for kind, store in stores.items():
            for scopes in (1, 3):
                result[f"{kind}, bare, {scopes} scopes"] = measure(store, options.steps, scopes, bare=True)
                result[f"{kind}, whole step, {scopes} scopes"] = measure(store, options.steps, scopes, bare=False)
            store.close()
        server.kill()
        result["sqlite, sessions in the file"] = scaling(folder, options.sessions, options.steps)
    if options.json:
        print(json.dumps(result))
        return
    for label, figures in result.items():
        print(f"{label:32s}", "  ".join(f"{key} {value:8.1f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
