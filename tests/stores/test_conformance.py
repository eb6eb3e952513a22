"""Every store against the public suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.stores import SessionBooks, StoreConformance


class TestMemory(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[SessionBooks]:
        store = MemoryStore()
        yield store
        store.close()


class TestSqlite(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SessionBooks]:
        store = SqliteStore(tmp_path / "waywiser.db")
        yield store
        store.close()


class TestRedis(StoreConformance):
    @pytest.fixture
    def store(self, redis_url: str) -> Iterator[SessionBooks]:
        store = RedisStore(redis_url)
        yield store
        store.close()
