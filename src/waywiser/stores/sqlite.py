"""The default store: one SQLite file in WAL mode, shared by any number of threads and processes of one machine.

Every operation that writes is one `BEGIN IMMEDIATE` transaction of a few prepared statements; arithmetic is that of
`core/budget.py`. One connection serves all threads of a process behind the store's lock, which is never held while
waiting for another process. After a fork the child opens its own connection.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from waywiser.core.budget import Account, Amounts, Claim, Hold, Scope, Shortfall, Standing, reserve, settle
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.core.trail import Trail
from waywiser.errors import StoreError
from waywiser.stores import sqlite_archive as archive
from waywiser.stores import sqlite_ledger as ledger
from waywiser.stores import sqlite_opening as opening
from waywiser.stores import sqlite_trails as trails
from waywiser.stores.codec import UNREADABLE, clean
from waywiser.stores.costs import Costs, Histories
from waywiser.stores.local import Busy, LocalStore
from waywiser.stores.sqlite_file import connect, failure, is_busy
from waywiser.stores.trails import Seen, Trails, changes_trail, lesson

T = TypeVar("T")

SETTLED_KEPT = 100_000
RECEIPTS_KEPT = 100_000
FORGET_AFTER_S = 30 * 86_400.0
SORT_EVERY = 64
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
            if begin:
                connection.execute(begin)
            result = work(connection)
            if begin:
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
        name = clean(session)
        due = bool(policy) and self._costs.due(policy, now_s)
        found = None
        if not due:
            found = self._inside("", lambda connection: opening.glance(connection, name, path, now_s, self._trails))

        def work(connection: sqlite3.Connection) -> tuple[Trail, list[Account]]:
            if due:
                self._costs.read(policy, archive.read_costs(connection, policy), now_s)
            return opening.whole(connection, name, path, now_s, self._trails)

        trail, accounts = found or self._read(work)
        return Opened(trail, tuple([account.standing for account in accounts]), self._costs.known(policy))

    # --- budgets

    def _reserve(self, claim: Claim) -> Hold | Shortfall:
        def work(connection: sqlite3.Connection) -> Hold | Shortfall:
            look = ledger.look(connection, claim.path, claim.hold)
            if look.first_s <= claim.now_s:
                ledger.expire(connection, claim.now_s)
                look = ledger.look(connection, claim.path, claim.hold)
            if look.settled:
                raise StoreError(f"hold {claim.hold} is already settled")
            if look.hold is not None:
                return Hold(claim.hold, look.hold.path, look.hold.amounts, look.hold.expires_s)
            found = reserve(claim, look.accounts)
            if isinstance(found, Shortfall):
                if not found.held_by_others:
                    return found
                others = (hold for hold in ledger.live(connection, claim.now_s) if clean(found.scope) in hold.path)
                return replace(found, retry_at_s=next((hold.expires_s for hold in others), 0.0))
            hold, accounts = found
            ledger.write_accounts(connection, accounts, claim.now_s)
            ledger.add_hold(connection, hold, claim.kind, look.first_s)
            return hold

        return self._write(work)

    def _settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        session = clean(settlement.session)
        news: dict[str, Histories] = {}

        def work(connection: sqlite3.Connection) -> tuple[Seen | None, tuple[Standing, ...]]:
            look = ledger.look(connection, settlement.path, settlement.hold)
            if look.settled:
                return None, tuple([account.standing for account in look.accounts])
            kind, used, now_s, held = settlement.kind, settlement.used, settlement.now_s, look.hold
            accounts = [
                settle(account, kind, used, held.amounts if held and clean(account.key) in held.path else None, now_s)
                for account in look.accounts
            ]
            ledger.write_accounts(connection, accounts, now_s)
            ledger.end_hold(connection, settlement.hold, live=held is not None)
            archive.add_news(connection, settlement)
            news.update(self._costs.take(now_s))
            archive.add_costs(connection, news)
            seen = None
            if changes_trail(settlement):
                seen = trails.grow(connection, session, settlement, self._trails)
            else:
                trails.touch(connection, session, now_s)
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
        if self._settles % SORT_EVERY == 0:
            with suppress(Busy):
                self._write(self._sort)
        if self._settles % TIDY_EVERY == 0:
            self._tidy(settlement.now_s)
        return standings

    def _grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str) -> Standing:  # noqa: ARG002 - one store fits all scopes
        def work(connection: sqlite3.Connection) -> Standing:
            look = ledger.look(connection, (scope,), once)
            (account,) = look.accounts
            if once:
                if look.settled:
                    return account.standing
                ledger.end_hold(
                    connection, once, live=look.hold is not None
                )  # a name is kept as those of settled holds
            account = replace(account, granted=account.granted + more)
            ledger.write_accounts(connection, [account], now_s)
            return account.standing

        return self._write(work)

    def _outstanding(self, now_s: float) -> Sequence[Outstanding]:
        return self._read(lambda connection: ledger.live(connection, now_s))

    # --- receipts and the report

    def _record(self, receipt: Receipt) -> None:
        def work(connection: sqlite3.Connection) -> None:
            archive.add_receipt(connection, receipt)
            trails.touch(connection, clean(receipt.session), receipt.at_s)

        self._write(work)

    def _receipt(self, receipt_id: str) -> Receipt | None:
        return self._sorted(lambda connection: archive.find_receipt(connection, receipt_id))

    def _receipts(self, session: str) -> Sequence[Receipt]:
        return self._sorted(lambda connection: archive.receipts(connection, session))

    def _spends(self, tenant: str | None, session: str | None) -> Sequence[Spend]:
        return self._sorted(lambda connection: archive.spends(connection, tenant, session))

    def _refusals(self, tenant: str | None, session: str | None) -> Sequence[Refusal]:
        return self._sorted(lambda connection: archive.refusals(connection, tenant, session))

    def _forget(self, before_s: float) -> int:
        def work(connection: sqlite3.Connection) -> int:
            self._sort(connection)
            return archive.forget(connection, before_s)

        return self._write(work)

    def _sort(self, connection: sqlite3.Connection) -> None:
        archive.sort_news(connection, RECEIPTS_KEPT)
        ledger.sort_settled(connection)

    def _sorted(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run statements that only read what settlements told, once all of it is sorted."""
        if self._inside("", archive.is_sorted):
            return self._read(work)

        def sorted_first(connection: sqlite3.Connection) -> T:
            self._sort(connection)
            return work(connection)

        return self._write(sorted_first)

    def _tidy(self, now_s: float) -> None:
        """Now and then: forget old sessions and the oldest settled ids. Somebody else's turn if the file is busy."""
        with suppress(Busy):
            self._forget(now_s - self._forget_after_s)
            self._write(lambda connection: ledger.forget_settled(connection, SETTLED_KEPT))
