"""Receipts, the report's rows, learned costs and forgetting in the SQLite file, inside the caller's transaction."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence

from waywiser.core.budget import Amounts
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.session import Settlement
from waywiser.core.spending import Refusal, Spend
from waywiser.core.trail import Trail
from waywiser.stores import codec
from waywiser.stores.codec import clean
from waywiser.stores.costs import Histories

_UPSERT_SPEND = """
INSERT INTO spends VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET nanos = nanos + excluded.nanos, tokens = tokens + excluded.tokens,
  llm_calls = llm_calls + excluded.llm_calls, tool_calls = tool_calls + excluded.tool_calls"""
_UPSERT_REFUSAL = """
INSERT INTO refusals VALUES (?, ?, ?, ?, ?, 1, ?, ?)
ON CONFLICT DO UPDATE SET count = count + 1, last_s = excluded.last_s, reason = excluded.reason"""
_TOUCH = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET touched_s = max(touched_s, excluded.touched_s)"""
EMPTY_HEAD = codec.encode_head(Trail())
_OF = " WHERE (:tenant IS NULL OR tenant = :tenant) AND (:session IS NULL OR session = :session)"


def add_spend(connection: sqlite3.Connection, settlement: Settlement) -> None:
    """Add what a settlement used to its row of the report."""
    who = (settlement.session, settlement.tenant, settlement.agent)
    how = (settlement.kind, settlement.tier, settlement.model, settlement.policy)
    used = settlement.used
    amounts = (used.nanos, used.tokens, used.llm_calls, used.tool_calls)
    connection.execute(_UPSERT_SPEND, (*map(clean, who), *map(clean, how), *amounts))


def spends(connection: sqlite3.Connection, tenant: str | None, session: str | None) -> Sequence[Spend]:
    """Return who spent what."""
    columns = "tenant, session, agent, kind, tier, model, policy, nanos, tokens, llm_calls, tool_calls"
    of = {"tenant": tenant, "session": session}
    rows = connection.execute(f"SELECT {columns} FROM spends{_OF}", of).fetchall()  # noqa: S608 - constants
    return [
        Spend(tenant, session, agent, kind, tier, model, policy, Amounts(*used))
        for tenant, session, agent, kind, tier, model, policy, *used in rows
    ]


def add_receipt(connection: sqlite3.Connection, receipt: Receipt, keep: int) -> None:
    """Keep a receipt, count a refusal that is new, and drop the oldest receipt beyond `keep`."""
    row = (clean(receipt.id), clean(receipt.session), codec.encode_receipt(receipt))
    fresh = connection.execute("INSERT OR IGNORE INTO receipts (id, session, data) VALUES (?, ?, ?)", row)
    if not fresh.rowcount:
        connection.execute("UPDATE receipts SET session = ?, data = ? WHERE id = ?", (*row[1:], row[0]))
        return
    connection.execute("DELETE FROM receipts WHERE seq = ?", ((fresh.lastrowid or 0) - keep,))
    if receipt.refused:
        who = (receipt.session, receipt.tenant, receipt.agent, receipt.kind, receipt.refused)
        reason = receipt.reasons[-1] if receipt.reasons else ""
        connection.execute(_UPSERT_REFUSAL, (*map(clean, who), receipt.at_s, clean(reason)))


def find_receipt(connection: sqlite3.Connection, receipt_id: str) -> Receipt | None:
    """Find a receipt by its id or by an unambiguous prefix of it."""
    start = clean(receipt_id)
    if not start:
        return None
    # The last code point of Unicode closes the range of all ids that begin so.
    query = "SELECT id, data FROM receipts WHERE id >= ? AND id <= ? ORDER BY id LIMIT 2"
    rows = connection.execute(query, (start, start + "\U0010ffff")).fetchall()
    if not rows or (len(rows) > 1 and rows[0][0] != start):
        return None
    return codec.decode_receipt(rows[0][1])


def receipts(connection: sqlite3.Connection, session: str) -> Sequence[Receipt]:
    """Return a session's receipts, oldest first."""
    rows = connection.execute("SELECT data FROM receipts WHERE session = ? ORDER BY seq", (clean(session),)).fetchall()
    return [codec.decode_receipt(data) for (data,) in rows]


def refusals(connection: sqlite3.Connection, tenant: str | None, session: str | None) -> Sequence[Refusal]:
    """Return what was refused, how often and why."""
    columns = "tenant, session, agent, kind, code, count, last_s, reason"
    of = {"tenant": tenant, "session": session}
    rows = connection.execute(f"SELECT {columns} FROM refusals{_OF}", of).fetchall()  # noqa: S608 - constants
    return [Refusal(*row) for row in rows]


def read_costs(connection: sqlite3.Connection, policy: str) -> Histories:
    """Return what steps of a policy have cost, by kind and model."""
    query = "SELECT kind, model, data FROM costs WHERE policy = ?"
    rows = connection.execute(query, (clean(policy),)).fetchall()
    return {(kind, model): codec.decode_history(data) for kind, model, data in rows}


def add_costs(connection: sqlite3.Connection, news: Mapping[str, Histories]) -> None:
    """Put what a worker has learned on top of what all have."""
    for policy, histories in news.items():
        told = read_costs(connection, policy)
        for key, history in histories.items():
            data = codec.encode_history(told.get(key, History()).merged(history))
            connection.execute("INSERT OR REPLACE INTO costs VALUES (?, ?, ?, ?)", (*map(clean, (policy, *key)), data))


def touch(connection: sqlite3.Connection, session: str, now_s: float) -> None:
    """Note that a session is in use, so that it is forgotten later, and only then."""
    row = (session, random.getrandbits(60), 0, 0, EMPTY_HEAD, now_s)
    connection.execute(_TOUCH, row)


def forget(connection: sqlite3.Connection, before_s: float) -> int:
    """Drop what nobody has touched since `before_s`. Returns how many sessions."""
    stale = "(SELECT session FROM sessions WHERE touched_s < ?)"
    for table in ("steps", "receipts", "spends", "refusals"):
        connection.execute(f"DELETE FROM {table} WHERE session IN {stale}", (before_s,))  # noqa: S608 - constants
    connection.execute("DELETE FROM accounts WHERE touched_s < ?", (before_s,))
    return connection.execute("DELETE FROM sessions WHERE touched_s < ?", (before_s,)).rowcount
