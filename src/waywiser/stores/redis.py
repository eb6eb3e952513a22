"""The store of a fleet: sessions in Redis, shared by any number of workers on any number of machines.

When the server cannot be reached, the store does what its `away` policy says. `closed`: every call raises
`StoreError`, so nothing is spent that nobody counts. `local`: calls go on in this process, against what it last knew of
the accounts; several workers may then together overspend. Either way a settlement that could not be delivered is kept,
and delivered first when the server is back: it is charged late, and once.

The processes of a fleet also share what they know of the models' health (`redis_health.py`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal, TypeVar

from waywiser.core.budget import Account, Amounts, Claim, Hold, Scope, Shortfall, Standing
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.errors import StoreError
from waywiser.stores import redis_report as report
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis_health import FleetBoard
from waywiser.stores.redis_session import Books
from waywiser.stores.redis_wire import TIMEOUT_S, Away, Server, Turns

T = TypeVar("T")

SESSION_TTL_S = 7 * 86_400
SCOPE_TTL_S = 3 * 86_400
LOOK_AGAIN_S = 0.5
KNOWN_KEPT = 8192
DELIVERED_AT_ONCE = 64
UNDELIVERED_MOST = 200_000


class RedisStore:
    """Sessions in the Redis server at `url` (`redis://host:port/db`, `rediss://`, `unix://`), under keys of `prefix`.

    A session that nobody touches for `session_ttl_s` expires, a tenant's day after three days. Redis 6.2 or newer.
    Raises `ConfigError` for a bad address, `StoreError` when the server refuses or (`closed`) cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        away: Literal["closed", "local"] = "closed",
        prefix: str = "waywiser",
        session_ttl_s: int = SESSION_TTL_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._server = Server(url, timeout_s)
        self._books = Books(prefix, session_ttl_s, SCOPE_TTL_S)
        self._prefix, self._policy = prefix, away
        self._look_again_s = 0.0
        self._undelivered: deque[Settlement] = deque()
        self._delivering = threading.Lock()
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._live: OrderedDict[str, tuple[Hold, str]] = OrderedDict()
        self._local = MemoryStore()
        self.health = FleetBoard(
            prefix,
            lambda turns, instead: self._server.drive(self._guarded(turns, instead, always=True)),
            lambda turns, instead: self._server.adrive(self._guarded(turns, instead, always=True)),
        )

    def __str__(self) -> str:
        """Name the store, for messages."""
        return str(self._server)

    @property
    def undelivered(self) -> int:
        """How many settlements wait for the server to come back."""
        return len(self._undelivered)

    def open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Read a session: its trail, the standing of each scope, and what steps of `policy` have cost so far."""
        return self._server.drive(self._open(session, path, now_s, policy))

    async def aopen(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Like `open`, for an event loop."""
        return await self._server.adrive(self._open(session, path, now_s, policy))

    def reserve(self, claim: Claim) -> Hold | Shortfall:
        """Set money aside in every scope of the claim, or in none. A live hold of the same id is returned as it is."""
        return self._server.drive(self._reserve(claim))

    async def areserve(self, claim: Claim) -> Hold | Shortfall:
        """Like `reserve`, for an event loop."""
        return await self._server.adrive(self._reserve(claim))

    def settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Replace a hold by what was used, append the step, keep the receipt; return the standings of the path."""
        return self._server.drive(self._settle(settlement))

    async def asettle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Like `settle`, for an event loop."""
        return await self._server.adrive(self._settle(settlement))

    def record(self, receipt: Receipt) -> None:
        """Keep a receipt. One that is kept already is replaced."""
        self._server.drive(self._guarded(self._books.record(receipt), lambda: self._local.record(receipt)))

    async def arecord(self, receipt: Receipt) -> None:
        """Like `record`, for an event loop."""
        await self._server.adrive(self._guarded(self._books.record(receipt), lambda: self._local.record(receipt)))

    def grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Add to what a scope on a session's path may use beyond its limits; what is named `once` adds once."""
        return self._server.drive(self._firm(self._books.grant(session, scope, more, now_s, once)))

    async def agrant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Like `grant`, for an event loop."""
        return await self._server.adrive(self._firm(self._books.grant(session, scope, more, now_s, once)))

    def receipt(self, receipt_id: str) -> Receipt | None:
        """Find a receipt by its id or by an unambiguous prefix of it."""
        return self._scan(lambda: report.find_receipt(self._server.client, self._prefix, receipt_id))

    def receipts(self, session: str) -> Sequence[Receipt]:
        """Return a session's receipts, oldest first."""
        return self._scan(lambda: report.receipts(self._server.client, self._prefix, session))

    def spends(self, tenant: str | None = None, session: str | None = None) -> Sequence[Spend]:
        """Return who spent what, dearest first; of one tenant or one session if named."""
        rows = self._scan(lambda: report.spends(self._server.client, self._prefix, tenant, session))
        return sorted(rows, key=lambda row: (-row.used.nanos, row.session, row.agent, row.kind, row.tier, row.model))

    def holds(self, now_s: float) -> Sequence[Outstanding]:
        """Return the holds that are neither settled nor expired, the first to expire first."""
        return self._scan(lambda: report.holds(self._server.client, self._prefix, now_s))

    def refusals(self, tenant: str | None = None, session: str | None = None) -> Sequence[Refusal]:
        """Return what was refused and why, newest first; of one tenant or one session if named."""
        rows = self._scan(lambda: report.refusals(self._server.client, self._prefix, tenant, session))
        return sorted(rows, key=lambda row: (-row.last_s, row.session, row.agent, row.kind, row.code))

    def forget(self, before_s: float) -> int:
        """Drop sessions that nobody has touched since `before_s`. Returns how many."""
        forgotten = self._scan(lambda: report.forget(self._server.client, self._prefix, before_s))
        for session in forgotten:
            self._books.drop(session)
        return len(forgotten)

    def close(self) -> None:
        """Deliver what is still to be delivered, if the server is there, and close the connections."""
        try:
            self._server.drive(self._farewell())
        except (Away, StoreError):
            # The server is away: what was learned is lost, and nobody is left to keep the settlements.
            pass
        finally:
            self._server.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._server.aclose()

    # --- what happens while the server is away

    def _open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str) -> Turns[Opened]:
        def instead() -> Opened:
            self._adopt(session, path, now_s)
            return self._local.open(session, path, now_s, policy)

        turns = self.health.looking(self._books.open(session, path, now_s, policy), now_s)
        opened = yield from self._guarded(turns, instead)
        self._know(opened.standings)
        return opened

    def _reserve(self, claim: Claim) -> Turns[Hold | Shortfall]:
        def instead() -> Hold | Shortfall:
            if len(self._undelivered) >= UNDELIVERED_MOST:
                raise StoreError(f"{self}: away for so long that {UNDELIVERED_MOST} settlements wait for it")
            self._adopt(claim.session, claim.path, claim.now_s)
            return self._local.reserve(claim)

        found = yield from self._guarded(self._books.reserve(claim), instead)
        if isinstance(found, Hold) and self._policy == "local":
            self._holds_now(found, claim)
        return found

    def _settle(self, settlement: Settlement) -> Turns[tuple[Standing, ...]]:
        def instead() -> tuple[Standing, ...]:
            self._undelivered.append(settlement)
            if self._policy == "closed":
                raise StoreError(f"{self}: cannot be reached; the settlement is kept and will be charged later")
            self._adopt(settlement.session, settlement.path, settlement.now_s)
            return self._local.settle(settlement)

        turns = self.health.telling(self._books.settle(settlement), settlement.now_s)
        standings = yield from self._guarded(turns, instead, always=True)
        with self._lock:
            self._live.pop(settlement.hold, None)
        self._know(standings)
        return standings

    def _guarded(self, turns: Turns[T], instead: Callable[[], T], *, always: bool = False) -> Turns[T]:
        """Run turns; while the server is away do something `instead`, if the policy is `local` or `always` is set."""
        trouble = f"{self}: cannot be reached"
        if time.monotonic() >= self._look_again_s:
            try:
                if (yield from self._caught_up()) or self._policy == "closed":
                    return (yield from turns)
                trouble = f"{self}: settlements are still being delivered"
            except Away as away:
                trouble = str(away)
                self._look_again_s = time.monotonic() + LOOK_AGAIN_S
        turns.close()
        if self._policy == "local" or always:
            return instead()
        raise StoreError(trouble)

    def _firm(self, turns: Turns[T]) -> Turns[T]:
        """Run turns that nothing can stand in for."""
        try:
            return (yield from turns)
        except Away as away:
            raise StoreError(str(away)) from away

    def _caught_up(self) -> Turns[bool]:
        """Deliver what was settled while the server was away. False while another caller is at it.

        `closed` need not wait for that: what is undelivered is still held on the server.
        """
        if not self._undelivered:
            return True
        if not self._delivering.acquire(blocking=False):
            return False
        try:
            while self._undelivered:
                batch = list(islice(self._undelivered, DELIVERED_AT_ONCE))
                yield from self._books.deliver(batch)
                for _ in batch:
                    self._undelivered.popleft()
            # What was known locally is now behind the server's knowledge.
            self._local = MemoryStore()
            with self._lock:
                self._accounts.clear()
        finally:
            self._delivering.release()
        return True

    def _farewell(self) -> Turns[None]:
        yield from self._caught_up()
        yield from self._books.flush()

    def _know(self, standings: Sequence[Standing]) -> None:
        """Remember how accounts stood, for the time when the server cannot be asked."""
        if self._policy != "local":
            return
        with self._lock:
            for one in standings:
                self._accounts.pop(one.key, None)
                self._accounts[one.key] = Account(
                    one.key, one.name, one.spent, one.held, one.granted, one.started_s or None
                )
                if len(self._accounts) > KNOWN_KEPT:
                    self._accounts.popitem(last=False)

    def _holds_now(self, hold: Hold, claim: Claim) -> None:
        """Remember a hold of this worker, and that the accounts it takes from now carry it."""
        with self._lock:
            if hold.id in self._live:
                return
            self._live[hold.id] = (hold, claim.kind)
            if len(self._live) > KNOWN_KEPT:
                self._live.popitem(last=False)
            for scope in claim.path:
                known = self._accounts.get(scope.key) or Account(scope.key, scope.name)
                self._accounts[scope.key] = replace(known, held=known.held + hold.amounts)

    def _adopt(self, session: str | None, path: Sequence[Scope], now_s: float) -> None:
        """Let the local store begin with what was last known of a session and of the accounts of its path."""
        trail = None if session is None else self._books.trail(session)
        if session is not None and trail is not None:
            self._local.adopt_trail(session, trail)
        with self._lock:
            known = [self._accounts.get(scope.key) or Account(scope.key, scope.name) for scope in path]
            holds = list(self._live.values())
        self._local.adopt(known, holds, now_s)

    def _scan(self, work: Callable[[], T]) -> T:
        return self._server.guard(work)
