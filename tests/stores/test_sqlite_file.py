"""The SQLite file from one version to the next, and the news that wait in it to be sorted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from waywiser.core.budget import Account, Amounts, Hold, Shortfall
from waywiser.core.trail import TRAIL_STEPS, Trail
from waywiser.stores import codec, sqlite
from waywiser.stores.sqlite import SqliteStore
from waywiser.stores.sqlite_file import APPLICATION_ID
from waywiser.testing.ledger import CALL, NOW_S, a_receipt, claim, session_scope, settlement, step_record

SCHEMA_1 = f"""
CREATE TABLE accounts (key TEXT PRIMARY KEY, data BLOB NOT NULL, touched_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE holds (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data BLOB, expires_s REAL);
CREATE INDEX holds_live ON holds (expires_s) WHERE expires_s IS NOT NULL;
CREATE TABLE sessions (
  session TEXT PRIMARY KEY, birth INTEGER NOT NULL, version INTEGER NOT NULL, count INTEGER NOT NULL,
  head BLOB, touched_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE steps (
  session TEXT NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (session, slot)) WITHOUT ROWID;
CREATE TABLE receipts (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX receipts_session ON receipts (session);
CREATE TABLE spends (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, tier TEXT NOT NULL,
  model TEXT NOT NULL, policy TEXT NOT NULL,
  nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, llm_calls INTEGER NOT NULL, tool_calls INTEGER NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, tier, model, policy)) WITHOUT ROWID;
CREATE TABLE refusals (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, code TEXT NOT NULL,
  count INTEGER NOT NULL, last_s REAL NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, code)) WITHOUT ROWID;
CREATE TABLE costs (
  policy TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (policy, kind, model)) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;
"""
LENGTHS = (0, 1, 3, 4, 5, 8, 63, 64, 65, 67, 130)


def test_a_file_of_schema_1_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    old = sqlite3.connect(path)
    old.executescript(SCHEMA_1)
    for length in LENGTHS:
        name = f"s{length}"
        old.execute("INSERT INTO sessions VALUES (?, 7, 3, ?, ?, 1)", (name, length, codec.encode_head(Trail())))
        for number in range(max(0, length - TRAIL_STEPS), length):
            row = (name, number % TRAIL_STEPS, number, codec.encode_step(step_record(number)))
            old.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", row)
    account = Account("session/s1", "session", CALL, CALL, started_s=1.0, kinds={"tool_call": (1000, 1000)})
    old.execute("INSERT INTO accounts VALUES ('session/s1', ?, 1)", (codec.encode_account(account),))
    held = '[["session/s1"], "tool_call", [1000, 100, 1, 0]]'
    old.execute("INSERT INTO holds (id, data, expires_s) VALUES ('live', ?, ?)", (held, NOW_S + 60))
    old.execute("INSERT INTO holds (id) VALUES ('settled')")
    old.execute(
        "INSERT INTO receipts (id, session, data) VALUES ('r1', 's1', ?)", (codec.encode_receipt(a_receipt("r1")),)
    )
    old.execute("INSERT INTO spends VALUES ('s1', 'acme', '', 'tool_call', 'economy', 'm/small', 'p', 9, 1, 1, 0)")
    old.commit()
    old.close()

    store = SqliteStore(path)
    for length in LENGTHS:
        for more in range(6):
            trail = store.open(f"s{length}", (), NOW_S).trail
            assert trail.count == length + more
            assert [step.number for step in trail.steps] == list(range(length + more))[-TRAIL_STEPS:]
            told = settlement(f"h{length}-{more}", session=f"s{length}", step=step_record(length + more))
            store.settle(told)
    assert [hold.hold for hold in store.holds(NOW_S)] == ["live"]
    assert store.settle(settlement("settled", session_scope()))[0].spent == CALL
    assert store.open("s1", (session_scope(),), NOW_S + 61).standings[0].held == Amounts()
    assert isinstance(store.reserve(claim("h", session_scope(), at_s=61)), Hold)
    assert store.open("s1", (session_scope(),), NOW_S + 61).standings[0].held == CALL
    assert store.receipts("s1") == [a_receipt("r1")]
    assert [row.used for row in store.spends(session="s1")] == [Amounts(6009, 601, 7)]
    store.close()


def test_a_file_that_is_brought_up_to_date_twice_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    old = sqlite3.connect(path)
    old.executescript(SCHEMA_1)
    old.close()
    stores = [SqliteStore(path), SqliteStore(path)]
    stores[0].settle(settlement("h1", session_scope(), step=step_record(0)))
    assert stores[1].open("s1", (), NOW_S).trail.count == 1
    for store in stores:
        store.close()


def test_news_of_a_killed_process_are_sorted_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    killed, other = SqliteStore(path), SqliteStore(path)
    for number in range(5):
        receipt = a_receipt(f"r{number}", refused="cancelled" if number == 3 else "")
        killed.settle(settlement(f"h{number}", session_scope(), receipt=receipt))
    # Nothing more is heard of it; what it told lies in the file.
    assert [receipt.id for receipt in other.receipts("s1")] == [f"r{number}" for number in range(5)]
    assert [row.used for row in other.spends()] == [Amounts(5000, 500, 5)]
    assert [(row.code, row.count) for row in other.refusals()] == [("cancelled", 1)]
    assert other.settle(settlement("h3", session_scope()))[0].spent == Amounts(5000, 500, 5)
    with pytest.raises(Exception, match="already settled"):
        other.reserve(claim("h4", session_scope()))
    killed.close()
    other.close()


def test_a_receipt_sorted_already_is_replaced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "w.db")
    for at_s in (1.0, 2.0):
        store.settle(settlement(f"h{at_s}", session_scope(), receipt=a_receipt("r1", refused="x", at_s=at_s)))
        assert store.receipts("s1") == [a_receipt("r1", refused="x", at_s=at_s)]
    assert [row.count for row in store.refusals()] == [1]
    store.close()


def test_a_step_is_little_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements and pages are what a step costs: the second step of a session needs 13 and at most 9."""
    monkeypatch.setattr(sqlite, "SORT_EVERY", 10**9)
    path = tmp_path / "w.db"
    store = SqliteStore(path)
    scope = session_scope()

    def step(number: int) -> None:
        store.open("s1", (scope,), NOW_S + 1, "p")
        assert isinstance(store.reserve(claim(f"h{number}", scope)), Hold)
        store.settle(settlement(f"h{number}", scope, step=step_record(number), receipt=a_receipt(f"r{number}")))

    step(0)
    statements: list[str] = []
    log = path.with_name("w.db-wal")
    before = log.stat().st_size
    store._connection.set_trace_callback(statements.append)
    step(1)
    store._connection.set_trace_callback(None)
    assert len(statements) <= 13, statements
    assert log.stat().st_size - before <= 9 * (4096 + 24)
    store.close()


def test_expired_leases_are_found_whatever_ended_before(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "w.db")
    scope = session_scope()
    for number, lease_s in enumerate((50.0, 10.0, 30.0)):
        assert isinstance(store.reserve(claim(f"h{number}", scope, lease_s=lease_s)), Hold)
    store.settle(settlement("h1", scope))
    assert isinstance(store.reserve(claim("h3", scope, at_s=20.0, lease_s=1000.0)), Hold)
    for at_s, live in ((29.0, 3), (30.0, 2), (51.0, 1)):
        found = store.open("s1", (scope,), NOW_S + at_s).standings[0].held
        assert found.llm_calls == live
        again = store.reserve(claim(f"at{at_s}", scope, at_s=at_s, wanted=Amounts(nanos=10**18), lease_s=1.0))
        assert not isinstance(again, Shortfall)
        store.settle(settlement(f"at{at_s}", scope, used=Amounts(), at_s=at_s))
        assert store.open("s1", (scope,), NOW_S).standings[0].held.llm_calls == live
    store.close()
