"""How a session is opened: with one statement at most times, which is one moment by itself and needs no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

from waywiser.core.budget import NOTHING, Account, Scope
from waywiser.core.trail import Trail
from waywiser.stores import sqlite_ledger as ledger
from waywiser.stores import sqlite_trails as trails
from waywiser.stores.codec import clean
from waywiser.stores.trails import Trails

_SESSION, _LEASES, _ACCOUNT = range(3)


@cache
def _query(count: int) -> str:
    return (
        f"SELECT {_SESSION}, {trails.COLUMNS} FROM sessions WHERE session = ?"  # noqa: S608 - constants and a number
        f" UNION ALL SELECT {_LEASES}, first_s, NULL, NULL, NULL, NULL FROM leases"
        f" UNION ALL SELECT {_ACCOUNT}, key, data, NULL, NULL, NULL FROM accounts"
        f" WHERE key IN ({', '.join('?' * count)})"
    )


def glance(
    connection: sqlite3.Connection, session: str, path: Sequence[Scope], now_s: float, known: Trails
) -> tuple[Trail, list[Account]] | None:
    """Read a session's trail and the accounts of a path; None where one statement does not tell all of it."""
    keys = [clean(scope.key) for scope in path]
    row: trails.Row | None = None
    data: dict[str, bytes] = {}
    first_s = 0.0
    for what, *columns in connection.execute(_query(len(keys)), (session, *keys)):
        if what == _SESSION:
            row = columns
        elif what == _LEASES:
            first_s = columns[0]
        else:
            data[columns[0]] = columns[1]
    accounts = ledger.accounts_of(path, keys, data)
    if first_s <= now_s and any(account.held != NOTHING for account in accounts):
        return None
    if row is None:
        known.drop(session)
        return Trail(), accounts
    seen = trails.known(row, known.get(session))
    if seen is None:
        return None
    known.put(session, seen)
    return seen.trail, accounts


def whole(
    connection: sqlite3.Connection, session: str, path: Sequence[Scope], now_s: float, known: Trails
) -> tuple[Trail, list[Account]]:
    """Do the same with as many statements as it takes, inside the caller's transaction."""
    seen = trails.read(connection, session, known)
    accounts = ledger.look(connection, path, "").accounts
    if any(account.held != NOTHING for account in accounts):
        accounts = ledger.without(accounts, ledger.expired(connection, now_s))
    return Trail() if seen is None else seen.trail, accounts
