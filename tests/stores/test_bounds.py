"""State that grows is bounded or forgotten, in every store."""

from __future__ import annotations

from pathlib import Path

import pytest

from waywiser.core.budget import Amounts, Hold
from waywiser.stores import costs, memory, redis_session, sqlite, trails
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger import NOW_S, a_receipt, claim, session_scope, settlement, step_record
from waywiser.testing.stores import SessionBooks


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionBooks:
    for module in (memory, sqlite, redis_session):
        monkeypatch.setattr(module, "RECEIPTS_KEPT", 5)
    if request.param == "redis":
        return RedisStore(request.getfixturevalue("redis_url"))
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "w.db")


def test_the_newest_receipts_are_kept(store: SessionBooks) -> None:
    for number in range(9):
        store.record(a_receipt(f"r{number}"))
    assert [receipt.id for receipt in store.receipts("s1")] == ["r4", "r5", "r6", "r7", "r8"]
    assert store.receipt("r3") is None
    assert store.receipt("r8") == a_receipt("r8")
    store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_old_sessions_go_by_themselves(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FORGET_EVERY", 10)
    monkeypatch.setattr(sqlite, "TIDY_EVERY", 10)
    week_s = 7 * 86_400.0
    store = MemoryStore(forget_after_s=week_s) if kind == "memory" else SqliteStore(tmp_path / "w.db", week_s)
    old = session_scope(session="old")
    store.settle(settlement("h-old", old, session="old", step=step_record(0), receipt=a_receipt("r1", session="old")))
    for number in range(10):
        store.settle(settlement(f"h{number}", session_scope(), at_s=week_s + 100, step=step_record(number)))
    assert store.open("old", (old,), NOW_S).trail.count == 0
    assert store.open("old", (old,), NOW_S).standings[0].spent == Amounts()
    assert store.receipts("old") == []
    assert [row.session for row in store.spends()] == ["s1"]
    store.close()


def test_settled_holds_are_remembered_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SETTLED_KEPT", 20)
    monkeypatch.setattr(sqlite, "SETTLED_KEPT", 20)
    monkeypatch.setattr(sqlite, "TIDY_EVERY", 10)
    stores: list[SessionBooks] = [MemoryStore(), SqliteStore(tmp_path / "w.db")]
    for store in stores:
        for number in range(40):
            store.settle(settlement(f"h{number}", session_scope()))
        before = store.open("s1", (session_scope(),), NOW_S).standings
        assert store.settle(settlement("h39", session_scope())) == before
        live = store.reserve(claim("live", session_scope()))
        assert isinstance(live, Hold)
        assert len(store.holds(NOW_S)) == 1
        store.close()
    assert len(stores[0]._settled) == 20  # type: ignore[attr-defined]


def test_trails_and_costs_in_memory_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "TRAILS_KEPT", 3)
    monkeypatch.setattr(costs, "POLICIES_KEPT", 3)
    monkeypatch.setattr(costs, "HISTORIES_KEPT", 4)
    seen, learned = trails.Trails(), costs.Costs()
    for number in range(10):
        seen.put(f"s{number}", trails.Seen(1, 1, trails.Trail()))
        learned.learn(f"p{number}", "other", "m", 10, 1)
        learned.learn("p9", f"kind{number}", "m", 10, 1)
    assert [bool(seen.get(f"s{number}")) for number in range(10)] == [False] * 7 + [True] * 3
    assert sum(bool(learned.known(f"p{number}")) for number in range(10)) == 3
    assert len(learned.known("p9")) == 4
