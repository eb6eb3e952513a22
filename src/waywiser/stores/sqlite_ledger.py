"""Accounts and holds as rows of the SQLite file. Each function runs inside its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import orjson

from waywiser.core.budget import Account, Amounts, Hold, Scope, ended
from waywiser.core.spending import Outstanding
from waywiser.stores.codec import clean, decode_account, encode_account, pack_amounts

_LIVE = "SELECT id, expires_s, data FROM holds WHERE expires_s IS NOT NULL"
_ACCOUNT, _LEASES, _HOLD, _SETTLED = range(4)


@dataclass(frozen=True, slots=True)
class Look:
    """What the file knows about one call: the accounts of its path; its hold, if that is live; or that it is settled.

    No live hold of anybody's expires before `first_s`.
    """

    accounts: list[Account]
    hold: Outstanding | None
    settled: bool
    first_s: float


@cache
def _marks(count: int) -> str:
    return ", ".join("?" * count)


@cache
def _look(count: int) -> str:
    return (
        f"SELECT {_LEASES}, first_s, NULL FROM leases"  # noqa: S608 - only numbers
        f" UNION ALL SELECT {_HOLD}, expires_s, data FROM holds WHERE id = ?"
        f" UNION ALL SELECT {_SETTLED}, NULL, NULL FROM settled WHERE id = ?"
        f" UNION ALL SELECT {_ACCOUNT}, key, data FROM accounts WHERE key IN ({_marks(count)})"
    )


@cache
def _upsert(count: int) -> str:
    return f"INSERT OR REPLACE INTO accounts VALUES {', '.join(['(?, ?, ?)'] * count)}"  # noqa: S608 - only a number


def look(connection: sqlite3.Connection, path: Sequence[Scope], hold_id: str) -> Look:
    """Read all that a claim or a settlement must know, in one statement."""
    keys = [clean(scope.key) for scope in path]
    name = clean(hold_id)
    rows: dict[str, bytes] = {}
    hold: Outstanding | None = None
    settled, first_s = False, 0.0
    for what, value, data in connection.execute(_look(len(keys)), (name, name, *keys)):
        if what == _ACCOUNT:
            rows[value] = data
        elif what == _LEASES:
            first_s = value
        elif value is not None:
            hold = _outstanding(hold_id, value, data)
        else:
            settled = True
    return Look(accounts_of(path, keys, rows), hold, settled, first_s)


def accounts_of(path: Sequence[Scope], keys: Sequence[str], rows: Mapping[str, bytes]) -> list[Account]:
    """Read the accounts of a path, in its order, from their rows by `keys`; an unknown one is empty."""
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


def add_hold(connection: sqlite3.Connection, hold: Hold, kind: str, first_s: float) -> None:
    """Keep a live hold. `first_s` is the bound that the file has for the first lease to end."""
    data = orjson.dumps([[clean(key) for key in hold.path], clean(kind), pack_amounts(hold.amounts)])
    connection.execute("INSERT INTO holds VALUES (?, ?, ?)", (clean(hold.id), hold.expires_s, data))
    if hold.expires_s < first_s:
        connection.execute("UPDATE leases SET first_s = ?", (hold.expires_s,))


def end_hold(connection: sqlite3.Connection, hold_id: str, *, live: bool) -> None:
    """Mark a hold as settled. One that is not live had expired, or its reservation never arrived."""
    if live:
        connection.execute("UPDATE holds SET expires_s = NULL, data = NULL WHERE id = ?", (clean(hold_id),))
    else:
        connection.execute("INSERT INTO holds (id) VALUES (?)", (clean(hold_id),))


def expired(connection: sqlite3.Connection, now_s: float) -> list[Outstanding]:
    """Return the live holds whose lease has run out."""
    return [_outstanding(*row) for row in connection.execute(f"{_LIVE} AND expires_s <= ?", (now_s,))]


def live(connection: sqlite3.Connection, now_s: float) -> list[Outstanding]:
    """Return the holds whose lease still runs, the first to end first."""
    rows = connection.execute(f"{_LIVE} AND expires_s > ? ORDER BY expires_s", (now_s,))
    return [_outstanding(*row) for row in rows]


def expire(connection: sqlite3.Connection, now_s: float) -> None:
    """Give back what expired holds set aside, in every scope they took it from, and find out which lease ends next."""
    for hold in expired(connection, now_s):
        query = f"SELECT key, data FROM accounts WHERE key IN ({_marks(len(hold.path))})"  # noqa: S608 - only a number
        for key, data in connection.execute(query, hold.path).fetchall():
            freed = encode_account(ended(decode_account(key, data), hold.kind, hold.amounts))
            connection.execute("UPDATE accounts SET data = ? WHERE key = ?", (freed, key))
        connection.execute("DELETE FROM holds WHERE id = ?", (clean(hold.hold),))
    connection.execute("UPDATE leases SET first_s = ifnull((SELECT min(expires_s) FROM holds), 9e999)")


def without(accounts: Iterable[Account], holds: Sequence[Outstanding]) -> list[Account]:
    """Return accounts as they are once these holds have ended; nothing is written."""
    seen = list(accounts)
    for hold in holds:
        seen = [
            ended(account, hold.kind, hold.amounts) if clean(account.key) in hold.path else account for account in seen
        ]
    return seen


def sort_settled(connection: sqlite3.Connection) -> None:
    """Move the ids of settled holds to where they are many."""
    connection.execute("INSERT OR IGNORE INTO settled (id) SELECT id FROM holds WHERE expires_s IS NULL")
    connection.execute("DELETE FROM holds WHERE expires_s IS NULL")


def forget_settled(connection: sqlite3.Connection, keep: int) -> None:
    """Drop all but the newest `keep` ids of settled holds that are sorted."""
    connection.execute("DELETE FROM settled WHERE seq <= (SELECT max(seq) FROM settled) - ?", (keep,))


def _outstanding(hold_id: str, expires_s: float, data: bytes) -> Outstanding:
    path, kind, amounts = orjson.loads(data)
    return Outstanding(hold_id, tuple(path), kind, Amounts(*amounts), expires_s)
