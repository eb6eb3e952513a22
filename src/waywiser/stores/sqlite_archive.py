"""Receipts, the report's rows, learned costs and forgetting in the SQLite file, inside the caller's transaction.

A settlement adds its news as one row at the end of one table; now and then, and before anybody reads, the news are
sorted into the tables that are read. So a step does not change a page in each of their indexes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from waywiser.core.budget import NOTHING, Amounts
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.session import Settlement
from waywiser.core.spending import Refusal, Spend
from waywiser.stores import codec
from waywiser.stores.codec import clean
from waywiser.stores.costs import Histories

_WHO = "session, tenant, agent, kind, tier, model, policy"
_ADD_NEWS = f"""
INSERT INTO news ({_WHO}, nanos, tokens, llm_calls, tool_calls, receipt, refused, data)
VALUES ({", ".join("?" * 14)})"""  # noqa: S608 - constants, here and below
_SORT_SPENDS = f"""
INSERT INTO spends
SELECT {_WHO}, sum(nanos), sum(tokens), sum(llm_calls), sum(tool_calls) FROM news
WHERE nanos OR tokens OR llm_calls OR tool_calls GROUP BY {_WHO}
ON CONFLICT DO UPDATE SET nanos = nanos + excluded.nanos, tokens = tokens + excluded.tokens,
  llm_calls = llm_calls + excluded.llm_calls, tool_calls = tool_calls + excluded.tool_calls"""  # noqa: S608 - as above
_SORT_RECEIPTS = """
INSERT INTO receipts (id, session, data)
SELECT receipt, session, data FROM news WHERE receipt IS NOT NULL ORDER BY seq
ON CONFLICT (id) DO UPDATE SET session = excluded.session, data = excluded.data"""
_NEW_REFUSALS = """
SELECT receipt, data FROM news WHERE refused AND receipt NOT IN (SELECT id FROM receipts) ORDER BY seq"""
_UPSERT_REFUSAL = """
INSERT INTO refusals VALUES (?, ?, ?, ?, ?, 1, ?, ?)
ON CONFLICT DO UPDATE SET count = count + 1, last_s = excluded.last_s, reason = excluded.reason"""
_OF = " WHERE (:tenant IS NULL OR tenant = :tenant) AND (:session IS NULL OR session = :session)"


def add_news(connection: sqlite3.Connection, settlement: Settlement) -> None:
    """Keep what a settlement used, and its receipt."""
    used, receipt = settlement.used, settlement.receipt
    if receipt is None and used == NOTHING:
        return
    who = (settlement.session, settlement.tenant, settlement.agent, settlement.kind)
    how = (settlement.tier, settlement.model, settlement.policy)
    amounts = (used.nanos, used.tokens, used.llm_calls, used.tool_calls)
    connection.execute(_ADD_NEWS, (*map(clean, who), *map(clean, how), *amounts, *_row(receipt)))


def add_receipt(connection: sqlite3.Connection, receipt: Receipt) -> None:
    """Keep a receipt alone."""
    who = (receipt.session, receipt.tenant, receipt.agent, receipt.kind)
    how = (receipt.tier, receipt.model, receipt.policy)
    connection.execute(_ADD_NEWS, (*map(clean, who), *map(clean, how), 0, 0, 0, 0, *_row(receipt)))


def _row(receipt: Receipt | None) -> tuple[str | None, bool, bytes | None]:
    if receipt is None:
        return None, False, None
    return clean(receipt.id), bool(receipt.refused), codec.encode_receipt(receipt)


def is_sorted(connection: sqlite3.Connection) -> bool:
    """Whether there are no news."""
    return connection.execute("SELECT 1 FROM news LIMIT 1").fetchone() is None


def sort_news(connection: sqlite3.Connection, keep: int) -> None:
    """Sort the news into the tables that are read; drop the oldest receipts beyond `keep`."""
    if is_sorted(connection):
        return
    connection.execute(_SORT_SPENDS)
    for data in dict(connection.execute(_NEW_REFUSALS).fetchall()).values():
        receipt = codec.decode_receipt(data)
        who = (receipt.session, receipt.tenant, receipt.agent, receipt.kind, receipt.refused)
        reason = receipt.reasons[-1] if receipt.reasons else ""
        connection.execute(_UPSERT_REFUSAL, (*map(clean, who), receipt.at_s, clean(reason)))
    connection.execute(_SORT_RECEIPTS)
    connection.execute("DELETE FROM receipts WHERE seq <= (SELECT max(seq) FROM receipts) - ?", (keep,))
    connection.execute("DELETE FROM news")


def spends(connection: sqlite3.Connection, tenant: str | None, session: str | None) -> Sequence[Spend]:
    """Return who spent what."""
    columns = "tenant, session, agent, kind, tier, model, policy, nanos, tokens, llm_calls, tool_calls"
    of = {"tenant": tenant, "session": session}
    rows = connection.execute(f"SELECT {columns} FROM spends{_OF}", of).fetchall()  # noqa: S608 - constants
    return [
        Spend(tenant, session, agent, kind, tier, model, policy, Amounts(*used))
        for tenant, session, agent, kind, tier, model, policy, *used in rows
    ]


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


def forget(connection: sqlite3.Connection, before_s: float) -> int:
    """Drop what nobody has touched since `before_s`. Returns how many sessions."""
    stale = "(SELECT session FROM sessions WHERE touched_s < ?)"
    for table in ("steps", "receipts", "spends", "refusals"):
        connection.execute(f"DELETE FROM {table} WHERE session IN {stale}", (before_s,))  # noqa: S608 - constants
    connection.execute("DELETE FROM accounts WHERE touched_s < ?", (before_s,))
    return connection.execute("DELETE FROM sessions WHERE touched_s < ?", (before_s,)).rowcount
