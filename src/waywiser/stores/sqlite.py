"""The default store: one SQLite file in WAL mode, shared by any number of threads and processes of one machine.

Every operation that writes is one `BEGIN IMMEDIATE` transaction of a few prepared statements; arithmetic is that of
`core/budget.py`. One connection serves all threads of a process behind the store's lock, which is never held while
waiting for another process. After a fork the child opens its own connection.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from waywiser.core.budget import NOTHING, Amounts, Claim, Hold, Scope, Shortfall, Standing, reserve, settle
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.core.trail import TRAIL_STEPS, Trail
from waywiser.errors import StoreError
from waywiser.stores import codec
from waywiser.stores import sqlite_archive as archive
from waywiser.stores import sqlite_ledger as ledger
from waywiser.stores.codec import UNREADABLE, clean
from waywiser.stores.costs import Costs, Histories
from waywiser.stores.local import Busy, LocalStore
from waywiser.stores.sqlite_file import connect, failure, is_busy
from waywiser.stores.trails import Seen, Trails, changes_trail, grown, lesson

T = TypeVar("T")

SETTLED_KEPT = 100_000
RECEIPTS_KEPT = 100_000
FORGET_AFTER_S = 30 * 86_400.0
TIDY_EVERY = 4096


class SqliteStore(LocalStore):
    """Sessions in the file `path`, which is made if it is missing.

    It keeps the newest 100 000 receipts and the ids of the newest 100 000 settled holds, and forgets a session that
    nobody touched for `forget_after_s`. A caller waits up to `busy_timeout_s` for other processes.
    Raises `StoreError` for a file that is not a session store or cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], forget_after_s: float = FORGET_AFTER_S, busy_timeout_s: float = 10.0
    ) -> None:
        super().__init__(busy_timeout_s)
        self._path = Path(path)
        self._forget_after_s = forget_after_s
        self._connection = connect(self._path, busy_timeout_s)
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._trails = Trails()
        self._costs = Costs()
        self._settles = 0
        self._closed = False

    def __str__(self) -> str:
        """Name the store, for messages."""
        return str(self._path)

    def close(self) -> None:
        """Give the store what was learned about costs, and close the file. Closing twice is fine."""
        if self._closed:
            return
        try:
            self._now(self._close)
        finally:
            self._closed = True

    def _close(self) -> None:
        if self._pid == os.getpid():
            # A later moment than any: whatever was learned is given now.
            news = self._costs.take(float("inf"))
            try:
                self._write(lambda connection: archive.add_costs(connection, news))
            except BaseException:
                self._costs.put_back(news)
                raise
            self._connection.close()

    # --- how an operation reaches the file

    def _turns(self, operation: Callable[[], T], wait_s: float) -> Generator[float, None, T]:
        if self._pid != os.getpid():
            self._after_fork()
        return super()._turns(operation, wait_s)

    def _after_fork(self) -> None:
        """Start afresh in a child process: SQLite forbids carrying a connection over, even to close it."""
        self._inherited.append(self._connection)
        self._lock = threading.Lock()
        self._trails, self._costs = Trails(), Costs()
        self._pid = os.getpid()
        if not self._closed:
            self._connection = connect(self._path, self._busy_timeout_s)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run statements that only read, and see them as one moment. Raises `Busy` or `StoreError`."""
        return self._inside("BEGIN", work)

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run statements as one transaction: all of them or none. Raises `Busy` or `StoreError`."""
        return self._inside("BEGIN IMMEDIATE", work)

    def _inside(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreError(f"{self._path}: the session store is closed")
        connection = self._connection
        try:
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if is_busy(error):
                raise Busy from None
            raise failure(self._path, error) from error
        except UNREADABLE as error:
            self._roll_back()
            raise StoreError(f"{self._path}: a row of the session store cannot be read: {error}") from error
        except BaseException:
            self._roll_back()
            raise
        return result

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str) -> Opened:
        def work(connection: sqlite3.Connection) -> Opened:
            trail = self._trail(connection, clean(session))
            accounts = ledger.read_accounts(connection, path)
            if any(account.held != NOTHING for account in accounts):
                accounts = ledger.without(accounts, ledger.expired(connection, now_s))
            if policy and self._costs.due(policy, now_s):
                self._costs.read(policy, archive.read_costs(connection, policy), now_s)
            return Opened(trail, tuple([account.standing for account in accounts]), self._costs.known(policy))

        return self._read(work)

    def _trail(self, connection: sqlite3.Connection, session: str) -> Trail:
        """Read a session's trail: only the steps that this process has not seen yet."""
        row = connection.execute(
            "SELECT birth, version, count, head FROM sessions WHERE session = ?", (session,)
        ).fetchone()
        if row is None:
            self._trails.drop(session)
            return Trail()
        birth, version, count, head = row
        seen = self._trails.get(session)
        if seen is not None and seen.birth == birth and seen.version == version:
            return seen.trail
        known = seen.trail if seen is not None and seen.birth == birth and seen.version < version else Trail()
        rows = connection.execute(
            "SELECT data FROM steps WHERE session = ? AND seq >= ? ORDER BY seq", (session, known.count)
        ).fetchall()
        steps = (*known.steps, *[codec.decode_step(data) for (data,) in rows])[-TRAIL_STEPS:]
        trail = replace(codec.decode_head(head), steps=steps, count=count)
        self._trails.put(session, Seen(birth, version, trail))
        return trail

    def _grow(self, connection: sqlite3.Connection, settlement: Settlement, session: str) -> Seen:
        """Write what a settlement does to the session's trail, and return the trail after it."""
        trail = grown(self._trail(connection, session), settlement)
        seen = self._trails.get(session)
        birth, version = (random.getrandbits(60), 1) if seen is None else (seen.birth, seen.version + 1)
        connection.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
            (session, birth, version, trail.count, codec.encode_head(trail), settlement.now_s),
        )
        if settlement.step is not None:
            number = trail.count - 1
            connection.execute(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)",
                (session, number % TRAIL_STEPS, number, codec.encode_step(settlement.step)),
            )
        return Seen(birth, version, trail)

    # --- budgets

    def _reserve(self, claim: Claim) -> Hold | Shortfall:
        def work(connection: sqlite3.Connection) -> Hold | Shortfall:
            ledger.expire(connection, claim.now_s)
            before = ledger.find_hold(connection, claim.hold)
            if before is not None:
                if not before.expires_s:
                    raise StoreError(f"hold {claim.hold} is already settled")
                return Hold(claim.hold, before.path, before.amounts, before.expires_s)
            found = reserve(claim, ledger.read_accounts(connection, claim.path))
            if isinstance(found, Shortfall):
                if not found.held_by_others:
                    return found
                others = (hold for hold in ledger.live(connection, claim.now_s) if clean(found.scope) in hold.path)
                return replace(found, retry_at_s=next((hold.expires_s for hold in others), 0.0))
            hold, accounts = found
            ledger.write_accounts(connection, accounts, claim.now_s)
            ledger.add_hold(connection, hold, claim.kind)
            return hold

        return self._write(work)

    def _settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        session = clean(settlement.session)
        news: dict[str, Histories] = {}

        def work(connection: sqlite3.Connection) -> tuple[Seen | None, tuple[Standing, ...]]:
            accounts = ledger.read_accounts(connection, settlement.path)
            fresh, live = ledger.end_hold(connection, settlement.hold)
            if not fresh:
                return None, tuple([account.standing for account in accounts])
            kind, used, now_s = settlement.kind, settlement.used, settlement.now_s
            accounts = [
                settle(account, kind, used, live.amounts if live and clean(account.key) in live.path else None, now_s)
                for account in accounts
            ]
            ledger.write_accounts(connection, accounts, now_s)
            if used != NOTHING:
                archive.add_spend(connection, settlement)
            if settlement.receipt is not None:
                archive.add_receipt(connection, settlement.receipt, RECEIPTS_KEPT)
            news.update(self._costs.take(now_s))
            archive.add_costs(connection, news)
            seen = self._grow(connection, settlement, session) if changes_trail(settlement) else None
            if seen is None:
                archive.touch(connection, session, now_s)
            return seen, tuple([account.standing for account in accounts])

        try:
            seen, standings = self._write(work)
        except BaseException:
            self._costs.put_back(news)
            raise
        learned = lesson(settlement)
        if seen is not None:
            self._trails.put(session, seen)
            if learned is not None:
                self._costs.learn(settlement.policy, settlement.kind, settlement.model, *learned)
        self._settles += 1
        if self._settles % TIDY_EVERY == 0:
            self._tidy(settlement.now_s)
        return standings

    def _grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str) -> Standing:  # noqa: ARG002 - one store fits all scopes
        def work(connection: sqlite3.Connection) -> Standing:
            (account,) = ledger.read_accounts(connection, (scope,))
            if once and not ledger.end_hold(connection, once)[0]:  # its name is kept as those of settled holds are
                return account.standing
            account = replace(account, granted=account.granted + more)
            ledger.write_accounts(connection, [account], now_s)
            return account.standing

        return self._write(work)

    def _outstanding(self, now_s: float) -> Sequence[Outstanding]:
        return self._read(lambda connection: ledger.live(connection, now_s))

    # --- receipts and the report

    def _record(self, receipt: Receipt) -> None:
        def work(connection: sqlite3.Connection) -> None:
            archive.add_receipt(connection, receipt, RECEIPTS_KEPT)
            archive.touch(connection, clean(receipt.session), receipt.at_s)

        self._write(work)

    def _receipt(self, receipt_id: str) -> Receipt | None:
        return self._read(lambda connection: archive.find_receipt(connection, receipt_id))

    def _receipts(self, session: str) -> Sequence[Receipt]:
        return self._read(lambda connection: archive.receipts(connection, session))

    def _spends(self, tenant: str | None, session: str | None) -> Sequence[Spend]:
        return self._read(lambda connection: archive.spends(connection, tenant, session))

    def _refusals(self, tenant: str | None, session: str | None) -> Sequence[Refusal]:
        return self._read(lambda connection: archive.refusals(connection, tenant, session))

    def _forget(self, before_s: float) -> int:
        return self._write(lambda connection: archive.forget(connection, before_s))

    def _tidy(self, now_s: float) -> None:
        """Now and then: forget old sessions and the oldest settled ids. Somebody else's turn if the file is busy."""
        with suppress(Busy):
            self._write(lambda connection: ledger.forget_settled(connection, SETTLED_KEPT))
            self._forget(now_s - self._forget_after_s)
