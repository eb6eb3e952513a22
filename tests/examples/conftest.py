"""The examples live outside the package: put them on the path, and make one fresh shop for each test that wants one."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(Path(__file__).parent)]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    from support_desk.make_shop import make_shop

    path = tmp_path / "shop.sqlite"
    make_shop(path)
    return path


@pytest.fixture
def ask(shop: Path) -> Callable[[str], object]:
    """Ask the shop's database for one value."""

    def value(query: str) -> object:
        with closing(sqlite3.connect(shop)) as db:
            return db.execute(query).fetchone()[0]

    return value
