"""SQLite and Redis against the model of the ledger: the same random claims, settlements, expiries and limits."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger_machine import LedgerMachine
from waywiser.testing.stores import SessionBooks

EXAMPLES = int(os.environ.get("WAYWISER_LEDGER_EXAMPLES", "25"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def test_sqlite_agrees_with_the_model(tmp_path: Path) -> None:
    numbers = itertools.count()

    class SqliteLedger(LedgerMachine):
        def make_store(self) -> SessionBooks:
            return SqliteStore(tmp_path / f"{next(numbers)}.db")

    run_state_machine_as_test(SqliteLedger, settings=SETTINGS)


@pytest.mark.parametrize("workers", [1, 2])
def test_redis_agrees_with_the_model(redis_url: str, workers: int) -> None:
    # With two workers each call goes through the other one's connection and memory than the call before.
    numbers = itertools.count()

    class RedisLedger(LedgerMachine):
        exact_root: ClassVar[bool] = False

        def make_store(self) -> SessionBooks:
            prefix = f"p{next(numbers)}"
            stores = itertools.cycle([RedisStore(redis_url, prefix=prefix) for _ in range(workers)])
            return Alternating(stores)

    run_state_machine_as_test(RedisLedger, settings=SETTINGS)


class Alternating:
    """Several stores over one server, taken in turn."""

    def __init__(self, stores: itertools.cycle[RedisStore]) -> None:
        self._stores = stores

    def __getattr__(self, name: str) -> object:
        return getattr(next(self._stores), name)
