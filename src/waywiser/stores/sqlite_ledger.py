"""Accounts and holds as rows of the SQLite file. Each function runs inside its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

import orjson

from waywiser.core.budget import Account, Amounts, Hold, Limits, Scope, ended
from waywiser.core.spending import Outstanding
from waywiser.stores.codec import clean, decode_account, encode_account, pack_amounts

NO_AMOUNTS = Amounts()
_NO_LIMITS = Limits()

_LIVE = "SELECT id, data, expires_s FROM holds WHERE expires_s IS NOT NULL"


@cache
def _select(count: int) -> str:
    return f"SELECT key, data FROM accounts WHERE key IN ({', '.join('?' * count)})"  # noqa: S608 - only a number


@cache
def _upsert(count: int) -> str:
    return f"INSERT OR REPLACE INTO accounts VALUES {', '.join(['(?, ?, ?)'] * count)}"  # noqa: S608 - only a number


def read_accounts(connection: sqlite3.Connection, path: Sequence[Scope]) -> list[Account]:
    """Read the accounts of a path, in its order; an unknown one is empty."""
    keys = [clean(scope.key) for scope in path]
    rows = dict(connection.execute(_select(len(keys)), keys).fetchall()) if keys else {}
    return [
        decode_account(scope.key, rows[key]) if key in rows else Account(scope.key, scope.name)
        for scope, key in zip(path, keys, strict=True)
    ]


def write_accounts(connection: sqlite3.Connection, accounts: Sequence[Account], now_s: float) -> None:
    """Write accounts, in one statement."""
    if accounts:
        values: list[str | bytes | float] = []
        for account in accounts:
            values += (clean(account.key), encode_account(account), now_s)
        connection.execute(_upsert(len(accounts)), values)


def add_hold(connection: sqlite3.Connection, hold: Hold, kind: str) -> None:
    """Keep a live hold."""
    path = [clean(key) for key in hold.path]
    data = orjson.dumps([path, clean(kind), pack_amounts(hold.amounts)])
    connection.execute(
        "INSERT INTO holds (id, data, expires_s) VALUES (?, ?, ?)", (clean(hold.id), data, hold.expires_s)
    )


def find_hold(connection: sqlite3.Connection, hold_id: str) -> Outstanding | None:
    """Return a hold by its id, live or settled; a settled one has an empty path."""
    row = connection.execute("SELECT id, data, expires_s FROM holds WHERE id = ?", (clean(hold_id),)).fetchone()
    if row is None:
        return None
    return Outstanding(hold_id, (), "", NO_AMOUNTS, 0.0) if row[2] is None else _outstanding(row)


def end_hold(connection: sqlite3.Connection, hold_id: str) -> tuple[bool, Outstanding | None]:
    """Mark a hold as settled. Returns whether it was not settled before, and the hold if it was live."""
    found = find_hold(connection, hold_id)
    if found is None:
        # It had expired, or its reservation never arrived: what was used is charged all the same, once.
        connection.execute("INSERT INTO holds (id) VALUES (?)", (clean(hold_id),))
        return True, None
    if not found.path and not found.expires_s:
        return False, None
    connection.execute("UPDATE holds SET expires_s = NULL, data = NULL WHERE id = ?", (clean(hold_id),))
    return True, found


def expired(connection: sqlite3.Connection, now_s: float) -> list[Outstanding]:
    """Return the live holds whose lease has run out."""
    rows = connection.execute(f"{_LIVE} AND expires_s <= ?", (now_s,)).fetchall()
    return [_outstanding(row) for row in rows]


def live(connection: sqlite3.Connection, now_s: float) -> list[Outstanding]:
    """Return the holds whose lease still runs, the first to end first."""
    rows = connection.execute(f"{_LIVE} AND expires_s > ? ORDER BY expires_s", (now_s,)).fetchall()
    return [_outstanding(row) for row in rows]


def expire(connection: sqlite3.Connection, now_s: float) -> None:
    """Give back what expired holds set aside, in every scope they took it from."""
    for hold in expired(connection, now_s):
        accounts = read_accounts(connection, [Scope(key, "", _NO_LIMITS) for key in hold.path])
        freed = [ended(account, hold.kind, hold.amounts) for account in accounts if account.name]
        for account in freed:
            connection.execute(
                "UPDATE accounts SET data = ? WHERE key = ?", (encode_account(account), clean(account.key))
            )
        connection.execute("DELETE FROM holds WHERE id = ?", (clean(hold.hold),))


def without(accounts: Sequence[Account], holds: Sequence[Outstanding]) -> list[Account]:
    """Return accounts as they are once these holds have ended; nothing is written."""
    seen = list(accounts)
    for hold in holds:
        seen = [
            ended(account, hold.kind, hold.amounts) if clean(account.key) in hold.path else account for account in seen
        ]
    return seen


def forget_settled(connection: sqlite3.Connection, keep: int) -> None:
    """Drop all but the newest `keep` ids of settled holds."""
    oldest = "(SELECT max(seq) FROM holds) - ?"
    connection.execute(f"DELETE FROM holds WHERE expires_s IS NULL AND seq <= {oldest}", (keep,))  # noqa: S608 - constants


def _outstanding(row: tuple[str, bytes, float]) -> Outstanding:
    path, kind, amounts = orjson.loads(row[1])
    return Outstanding(row[0], tuple(path), kind, Amounts(*amounts), row[2])
