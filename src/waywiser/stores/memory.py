"""The store of one process: dictionaries behind a lock. For tests, single runs and embedding."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from waywiser.core.budget import Account, Amounts, Claim, Hold, Scope, Shortfall, Standing, ended, reserve, settle
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.core.trail import Trail
from waywiser.errors import StoreError
from waywiser.stores.costs import Costs
from waywiser.stores.local import LocalStore
from waywiser.stores.trails import changes_trail, grown, lesson

SETTLED_KEPT = 100_000
RECEIPTS_KEPT = 100_000
FORGET_AFTER_S = 7 * 86_400.0
FORGET_EVERY = 1024


class MemoryStore(LocalStore):
    """Sessions of this process, gone with it.

    It remembers the newest 100 000 receipts and settled holds, and forgets a session that nobody touched for
    `forget_after_s`.
    """

    def __init__(self, forget_after_s: float = FORGET_AFTER_S) -> None:
        super().__init__(busy_timeout_s=10.0)
        self._forget_after_s = forget_after_s
        self._accounts: dict[str, Account] = {}
        self._holds: dict[str, tuple[Hold, str]] = {}
        self._expiries: list[tuple[float, str]] = []
        self._settled: dict[str, None] = {}
        self._trails: dict[str, Trail] = {}
        self._receipts_by_id: dict[str, Receipt] = {}
        self._receipt_ids: dict[str, dict[str, None]] = {}
        self._spent: dict[str, dict[tuple[str, str, str, str, str, str], Amounts]] = {}
        self._refused: dict[str, dict[tuple[str, str, str, str], Refusal]] = {}
        self._costs = Costs(shared=False)
        # Oldest first, for forgetting: a dictionary keeps the order of insertion, and touching reinserts.
        self._sessions_touched: dict[str, float] = {}
        self._accounts_touched: dict[str, float] = {}
        self._settles = 0

    def __str__(self) -> str:
        """Name the store, for messages."""
        return "the memory store"

    def close(self) -> None:
        """Nothing to release."""

    def adopt(self, accounts: Sequence[Account], holds: Sequence[tuple[Hold, str]], now_s: float) -> None:
        """Take over accounts, and the holds among them, from another store that cannot be reached at the moment."""
        with self._lock:
            for account in accounts:
                if account.key not in self._accounts:
                    self._put(account, now_s)
            for hold, kind in holds:
                if hold.id not in self._holds and hold.id not in self._settled:
                    self._holds[hold.id] = (hold, kind)
                    heapq.heappush(self._expiries, (hold.expires_s, hold.id))

    def adopt_trail(self, session: str, trail: Trail) -> None:
        """Take over a session's trail, if none is known yet."""
        with self._lock:
            self._trails.setdefault(session, trail)

    def _open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str) -> Opened:
        self._expire(now_s)
        trail = self._trails.get(session)
        standings = tuple([self._account(scope).standing for scope in path])
        return Opened(trail or Trail(), standings, self._costs.known(policy))

    def _reserve(self, claim: Claim) -> Hold | Shortfall:
        self._expire(claim.now_s)
        live = self._holds.get(claim.hold)
        if live is not None:
            return live[0]
        if claim.hold in self._settled:
            raise StoreError(f"hold {claim.hold} is already settled")
        found = reserve(claim, [self._account(scope) for scope in claim.path])
        if isinstance(found, Shortfall):
            return replace(found, retry_at_s=self._first_expiry(found.scope)) if found.held_by_others else found
        hold, accounts = found
        for account in accounts:
            self._put(account, claim.now_s)
        self._holds[hold.id] = (hold, claim.kind)
        heapq.heappush(self._expiries, (hold.expires_s, hold.id))
        return hold

    def _settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        if settlement.hold in self._settled:
            return tuple([self._account(scope).standing for scope in settlement.path])
        self._settle_id(settlement.hold)
        live = self._holds.pop(settlement.hold, None)
        standings = []
        for scope in settlement.path:
            account = self._account(scope)
            held = live[0].amounts if live is not None and scope.key in live[0].path else None
            account = settle(account, settlement.kind, settlement.used, held, settlement.now_s)
            self._put(account, settlement.now_s)
            standings.append(account.standing)
        self._remember(settlement)
        return tuple(standings)

    def _settle_id(self, name: str) -> None:
        """Remember the name of what may count only once: a hold that is settled, or a person's grant."""
        self._settled[name] = None
        if len(self._settled) > SETTLED_KEPT:
            del self._settled[next(iter(self._settled))]

    def _remember(self, settlement: Settlement) -> None:
        """Keep all that a settlement tells beside the money: the step, the receipt, who spent it, what it cost."""
        session = settlement.session
        self._sessions_touched.pop(session, None)
        self._sessions_touched[session] = settlement.now_s
        if changes_trail(settlement):
            self._trails[session] = grown(self._trails.get(session) or Trail(), settlement)
        if settlement.used != Amounts():
            rows = self._spent.setdefault(session, {})
            who = settlement
            row = (who.tenant, who.agent, who.kind, who.tier, who.model, who.policy)
            spent = rows.get(row)
            rows[row] = settlement.used if spent is None else spent + settlement.used
        learned = lesson(settlement)
        if learned is not None:
            self._costs.learn(settlement.policy, settlement.kind, settlement.model, *learned)
        if settlement.receipt is not None:
            self._record(settlement.receipt)
        self._settles += 1
        if self._settles % FORGET_EVERY == 0:
            self._forget(settlement.now_s - self._forget_after_s)

    def _record(self, receipt: Receipt) -> None:
        known = receipt.id in self._receipts_by_id
        self._receipts_by_id[receipt.id] = receipt
        self._receipt_ids.setdefault(receipt.session, {})[receipt.id] = None
        if len(self._receipts_by_id) > RECEIPTS_KEPT:
            oldest = self._receipts_by_id.pop(next(iter(self._receipts_by_id)))
            self._receipt_ids[oldest.session].pop(oldest.id, None)
        if receipt.refused and not known:
            self._sessions_touched.setdefault(receipt.session, receipt.at_s)
            rows = self._refused.setdefault(receipt.session, {})
            key = (receipt.tenant, receipt.agent, receipt.kind, receipt.refused)
            before = rows.get(key)
            rows[key] = Refusal(
                receipt.tenant,
                receipt.session,
                receipt.agent,
                receipt.kind,
                receipt.refused,
                1 if before is None else before.count + 1,
                receipt.at_s,
                receipt.reasons[-1] if receipt.reasons else "",
            )

    def _receipt(self, receipt_id: str) -> Receipt | None:
        exact = self._receipts_by_id.get(receipt_id)
        if exact is not None or not receipt_id:
            return exact
        found = list(islice((key for key in self._receipts_by_id if key.startswith(receipt_id)), 2))
        return self._receipts_by_id[found[0]] if len(found) == 1 else None

    def _receipts(self, session: str) -> Sequence[Receipt]:
        return [self._receipts_by_id[key] for key in self._receipt_ids.get(session, ())]

    def _grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str) -> Standing:  # noqa: ARG002 - one store fits all scopes
        account = self._account(scope)
        if once:
            if once in self._settled:
                return account.standing
            self._settle_id(once)
        account = replace(account, granted=account.granted + more)
        self._put(account, now_s)
        return account.standing

    def _spends(self, tenant: str | None, session: str | None) -> Sequence[Spend]:
        sessions = self._spent if session is None else {session: self._spent.get(session, {})}
        return [
            Spend(row[0], name, *row[1:], used)
            for name, rows in sessions.items()
            for row, used in rows.items()
            if tenant is None or row[0] == tenant
        ]

    def _outstanding(self, now_s: float) -> Sequence[Outstanding]:
        live = [(hold, kind) for hold, kind in self._holds.values() if hold.expires_s > now_s]
        live.sort(key=lambda pair: pair[0].expires_s)
        return [Outstanding(hold.id, hold.path, kind, hold.amounts, hold.expires_s) for hold, kind in live]

    def _refusals(self, tenant: str | None, session: str | None) -> Sequence[Refusal]:
        sessions = self._refused if session is None else {session: self._refused.get(session, {})}
        rows = [row for found in sessions.values() for row in found.values()]
        return [row for row in rows if tenant is None or row.tenant == tenant]

    def _forget(self, before_s: float) -> int:
        count = 0
        while self._sessions_touched:
            session, touched_s = next(iter(self._sessions_touched.items()))
            if touched_s >= before_s:
                break
            del self._sessions_touched[session]
            self._trails.pop(session, None)
            self._spent.pop(session, None)
            self._refused.pop(session, None)
            for receipt_id in self._receipt_ids.pop(session, ()):
                self._receipts_by_id.pop(receipt_id, None)
            count += 1
        while self._accounts_touched:
            key, touched_s = next(iter(self._accounts_touched.items()))
            if touched_s >= before_s:
                break
            del self._accounts_touched[key]
            self._accounts.pop(key, None)
        return count

    def _account(self, scope: Scope) -> Account:
        return self._accounts.get(scope.key) or Account(scope.key, scope.name)

    def _put(self, account: Account, now_s: float) -> None:
        self._accounts[account.key] = account
        self._accounts_touched.pop(account.key, None)
        self._accounts_touched[account.key] = now_s

    def _expire(self, now_s: float) -> None:
        """Give back what holds that have expired set aside."""
        while self._expiries and self._expiries[0][0] <= now_s:
            _, hold_id = heapq.heappop(self._expiries)
            live = self._holds.pop(hold_id, None)
            if live is None:
                continue
            hold, kind = live
            for key in hold.path:
                if key in self._accounts:
                    self._accounts[key] = ended(self._accounts[key], kind, hold.amounts)

    def _first_expiry(self, key: str) -> float:
        return min((hold.expires_s for hold, _ in self._holds.values() if key in hold.path), default=0.0)
