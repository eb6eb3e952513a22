"""What only the SQLite store must do: several processes, forks, foreign files, full trails without rereading."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from waywiser.core.budget import Amounts, Limits
from waywiser.core.trail import TRAIL_STEPS
from waywiser.errors import StoreError
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger import CALL, NOW_S, session_scope, settlement, step_record

LIMIT = Limits(nanos=100_000)


SPEND_UNTIL_REFUSED = """
import sys
from waywiser.core.budget import Hold, Limits
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger import claim, session_scope, settlement, step_record

store, scope = SqliteStore(sys.argv[1]), session_scope(Limits(nanos=100_000))
for number in range(60):
    hold = f"{sys.argv[2]}-{number}"
    if isinstance(store.reserve(claim(hold, scope)), Hold):
        store.settle(settlement(hold, scope, step=step_record(number)))
store.close()
"""


def test_processes_do_not_overspend(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    workers = [subprocess.Popen([sys.executable, "-c", SPEND_UNTIL_REFUSED, path, name]) for name in "ab"]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    store = SqliteStore(path)
    opened = store.open("s1", (session_scope(LIMIT),), NOW_S)
    assert opened.standings[0].spent == Amounts(100_000, 10_000, 100)
    assert opened.trail.count == 100
    store.close()


def test_two_stores_see_each_others_steps(tmp_path: Path) -> None:
    one, two = SqliteStore(tmp_path / "w.db"), SqliteStore(tmp_path / "w.db")
    for number in range(TRAIL_STEPS + 5):
        store = one if number % 3 else two
        store.settle(settlement(f"h{number}", session_scope(), step=step_record(number)))
        assert one.open("s1", (), NOW_S).trail == two.open("s1", (), NOW_S).trail
    assert one.open("s1", (), NOW_S).trail.steps[-1] == step_record(TRAIL_STEPS + 4)
    one.close()
    two.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "w.db")
    store.settle(settlement("h1", session_scope(), step=step_record(0)))
    child = os.fork()
    if child == 0:
        try:
            store.settle(settlement("h2", session_scope(), step=step_record(1)))
            store.close()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked child must not return into pytest
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    store.settle(settlement("h3", session_scope(), step=step_record(2)))
    assert [step.number for step in store.open("s1", (), NOW_S).trail.steps] == [0, 1, 2]
    store.close()


def test_a_file_that_is_not_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(StoreError, match=r"notes\.txt.*not a SQLite file"):
        SqliteStore(path)
    assert path.read_text().startswith("not a database")


def test_somebody_elses_database(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id)")
    connection.close()
    with pytest.raises(StoreError, match=r"shop\.db.*not a session store"):
        SqliteStore(path)


def test_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"w\.db.*schema 99"):
        SqliteStore(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        SqliteStore(tmp_path / "file" / "w.db")
    with pytest.raises(StoreError):
        SqliteStore(tmp_path)


def test_damaged_rows_are_an_error_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    store = SqliteStore(path)
    store.settle(settlement("h1", session_scope()))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE accounts SET data = x'7b7d'")
    connection.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.settle(settlement("h2", session_scope()))
    assert [row.used for row in store.spends()] == [CALL]
    store.close()


def test_a_busy_file_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    patient, hasty = SqliteStore(path), SqliteStore(path, busy_timeout_s=0.05)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="busy"):
        hasty.settle(settlement("h1", session_scope()))
    threading.Timer(0.1, lambda: other.execute("COMMIT")).start()
    patient.settle(settlement("h1", session_scope()))
    other.close()
    patient.close()
    hasty.close()


async def test_a_busy_file_does_not_block_the_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    store = SqliteStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(store.asettle(settlement("h1", session_scope())))
    longest, last = 0.0, time.perf_counter()
    for _ in range(40):
        await asyncio.sleep(0.002)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert not task.done()
    other.execute("COMMIT")
    (standing,) = await task
    assert standing.spent == CALL
    assert longest < 1.0  # the store's patience is ten seconds: a blocked loop would show
    other.close()
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "w.db")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.open("s1", (), NOW_S)


def test_costs_survive_a_restart(tmp_path: Path) -> None:
    for run in range(2):
        store = SqliteStore(tmp_path / "w.db")
        store.settle(settlement(f"h{run}", session_scope(), step=step_record(run)))
        store.close()
    store = SqliteStore(tmp_path / "w.db")
    assert store.open("s1", (), NOW_S, "p").costs["tool_call", "m/small"].nanos.count == 2
    store.close()
