"""A session over Redis: what opening, reserving, settling and recording say to the server. Each is a `Turns` generator.

A step takes three round trips: open, reserve, settle. The first also brings what else is due (a tenant's
standing, learned costs), the last also carries the receipt's index and what was learned.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import orjson

from waywiser.core.budget import COUNTED, NOTHING, Amounts, Claim, Hold, Scope, Shortfall, Standing
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.trail import TRAIL_STEPS, LoopState, Trail, WarmPrefix
from waywiser.errors import StoreError
from waywiser.stores import codec
from waywiser.stores.codec import clean, pack_amounts, pack_grant
from waywiser.stores.costs import Costs, Histories
from waywiser.stores.redis_allot import Allotments, Row, pack_limits, read_amounts, read_row
from waywiser.stores.redis_keys import costs_key, index_key, session_keys, shard_of
from waywiser.stores.redis_wire import Away, Run, Turns
from waywiser.stores.trails import Seen, Trails, changes_trail, grown, lesson

RECEIPTS_KEPT = 1000
INDEX_KEPT = 20_000
TRIES = 8
ALL = (*COUNTED, "seconds")


class Books:
    """The turns of one store, and what this worker remembers of sessions between them."""

    def __init__(self, prefix: str, session_ttl_s: int, scope_ttl_s: int) -> None:
        self._prefix, self._ttl_s = prefix, session_ttl_s
        self._lock = threading.Lock()
        self._trails = Trails()
        self._costs = Costs()
        self._raw: dict[str, dict[bytes, bytes]] = {}
        self._allotments = Allotments(prefix, scope_ttl_s, session_ttl_s)

    def open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str) -> Turns[Opened]:
        """Read a session, and what else is due."""
        with self._lock:
            seen = self._trails.get(session)
            costs_due = bool(policy) and self._costs.due(policy, now_s)
        known = (seen.birth, seen.version, seen.trail.count) if seen is not None else (0, 0, 0)
        scopes = orjson.dumps([clean(scope.key) for scope in path])
        batch = [Run("open", session_keys(self._prefix, session), (repr(now_s), scopes, *known))]
        asked = [(scope, run) for scope in above(path) if (run := self._allotments.due(session, scope, now_s))]
        batch += [run for _, run in asked]
        if costs_due:
            batch.append(Run("HGETALL", (costs_key(self._prefix, policy),)))
        replies = yield batch
        for (scope, _), reply in zip(asked, replies[1:], strict=False):
            self._allotments.heard(session, scope, reply, now_s)
        if costs_due:
            self._read_costs(policy, replies[-1], now_s)
        trail = self._trail(session, seen, replies[0])
        standings = self._standings(session, path, replies[0][6])
        with self._lock:
            return Opened(trail, standings, self._costs.known(policy))

    def reserve(self, claim: Claim) -> Turns[Hold | Shortfall]:
        """Set money aside in the session's slot; first get more of a scope above it, if the claim needs more."""
        session = _session_of(claim)
        remote = above(claim.path)
        keys = session_keys(self._prefix, session)
        final = False
        for _ in range(TRIES):
            (reply,) = yield [Run("reserve", keys, (self._claim(claim, remote, final=final),))]
            answer = reply[0]
            if answer == b"settled":
                raise StoreError(f"hold {claim.hold} is already settled")
            if answer == b"hold":
                self._saw(session, claim.path, reply[4])
                amounts = read_amounts(reply[1].split())
                if not reply[2]:
                    return Hold(claim.hold, tuple([scope.key for scope in claim.path]), amounts, claim.expires_s)
                return Hold(claim.hold, tuple([key.decode() for key in reply[3]]), amounts, float(reply[2]))
            if answer == b"short":
                return _short(claim, reply)
            scope = claim.path[reply[1] - 1]
            row = read_row(scope.key, scope.name, reply[4])
            drawn = yield from self._allotments.draw(
                session, claim, scope, row, read_amounts(reply[2]), read_amounts(reply[3])
            )
            if isinstance(drawn, Shortfall):
                return drawn
            final = not drawn
        # Other workers of this session took every time what was got for this claim.
        return Shortfall(claim.path[0].key, claim.path[0].name, "nanos", 0, 0, claim.wanted.nanos, claim.wanted.nanos)

    def settle(self, settlement: Settlement) -> Turns[tuple[Standing, ...]]:
        """Charge, free the hold, append the step, keep the receipt; give what was learned when it is time to."""
        session = settlement.session
        with self._lock:
            news = self._costs.take(settlement.now_s)
        batch = [self._settle_run(settlement), *self._learn_runs(news)]
        if settlement.receipt is not None:
            batch.append(self._index_run(settlement.receipt))
        try:
            replies = yield batch
        except Away:
            with self._lock:
                self._costs.put_back(news)
            raise
        self._learned(news, replies[1:])
        fresh, birth, version, _, data = replies[0]
        self._saw(session, settlement.path, data)
        if fresh:
            self._grew(settlement, int(birth), int(version))
        for scope in above(settlement.path):
            yield from self._allotments.report(session, scope, settlement.now_s)
        return self._standings(session, settlement.path, data)

    def deliver(self, settlements: Sequence[Settlement]) -> Turns[None]:
        """Settle what could not be settled at its time, many in one round trip. A hold settled already is not again."""
        runs = [self._settle_run(settlement) for settlement in settlements]
        receipts = [self._index_run(one.receipt) for one in settlements if one.receipt is not None]
        yield [*runs, *receipts]
        for session in {settlement.session for settlement in settlements}:
            self.drop(session)

    def record(self, receipt: Receipt) -> Turns[None]:
        """Keep a receipt that comes without a settlement."""
        args = (
            repr(receipt.at_s),
            self._ttl_s,
            RECEIPTS_KEPT,
            _birth(),
            *_receipt_args(receipt),
            clean(receipt.session),
        )
        yield [Run("record", session_keys(self._prefix, receipt.session), args), self._index_run(receipt)]

    def grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str) -> Turns[Standing]:
        """Add to a limit: in the session's slot, or where a scope above it lives. What is named `once` adds once."""
        keys = session_keys(self._prefix, session)
        if is_above(scope):
            read = Run("open", keys, ("0", orjson.dumps([clean(scope.key)]), 0, 0, 0))
            totals, opened = yield [self._allotments.endow(scope, more, once), read]
            allotted, spent, granted = (read_amounts(totals[start : start + 4]) for start in (0, 4, 8))
            started_s = read_row(scope.key, scope.name, opened[6][0]).account.started_s or 0.0
            return Standing(scope.key, scope.name, spent, allotted - spent, started_s, granted)
        args = (clean(scope.key), orjson.dumps(pack_grant(more)), self._ttl_s, clean(once), repr(now_s))
        (data,) = yield [Run("grant", keys, args)]
        return read_row(scope.key, scope.name, data).account.standing

    def flush(self) -> Turns[None]:
        """Give all that was learned, before the store is closed."""
        with self._lock:
            news = self._costs.take(float("inf"))
        runs = self._learn_runs(news)
        if runs:
            self._learned(news, (yield runs))

    def trail(self, session: str) -> Trail | None:
        """Return the trail as this worker last saw it."""
        with self._lock:
            seen = self._trails.get(session)
        return None if seen is None else seen.trail

    def drop(self, session: str) -> None:
        """Forget what this worker remembers of a session's trail."""
        with self._lock:
            self._trails.drop(session)

    # --- money

    def _claim(self, claim: Claim, remote: Sequence[Scope], *, final: bool) -> bytes:
        scopes = [
            [
                clean(scope.key),
                pack_limits(scope.limits),
                [[clean(keep.kind), keep.nanos, keep.llm_calls] for keep in claim.keep if keep.scope == scope.name],
                self._allotments.news(_session_of(claim), scope, claim.wanted) if scope in remote else False,
            ]
            for scope in claim.path
        ]
        return orjson.dumps(
            {
                "id": clean(claim.hold),
                "kind": clean(claim.kind),
                "wanted": pack_amounts(claim.wanted),
                "least": pack_amounts(claim.least),
                "now": claim.now_s,
                "expires": claim.expires_s,
                "scopes": scopes,
                "ttl": self._ttl_s,
                "final": final,
            }
        )

    def _saw(self, session: str, path: Sequence[Scope], data: list[bytes]) -> None:
        for scope, row in zip(path, data, strict=False):
            if row and is_above(scope):
                self._allotments.saw(session, scope, read_row(scope.key, scope.name, row))

    def _standings(self, session: str, path: Sequence[Scope], data: list[bytes]) -> tuple[Standing, ...]:
        rows = [read_row(scope.key, scope.name, row) for scope, row in zip(path, data, strict=True)]
        return tuple([self._standing(session, scope, row) for scope, row in zip(path, rows, strict=True)])

    def _standing(self, session: str, scope: Scope, row: Row) -> Standing:
        return self._allotments.standing(session, scope, row) if is_above(scope) else row.account.standing

    # --- trails

    def _trail(self, session: str, seen: Seen | None, reply: list[Any]) -> Trail:
        birth, version, count = map(int, reply[:3])
        if seen is not None and (seen.birth, seen.version) == (birth, version):
            return seen.trail
        known = seen.trail.steps if seen is not None and seen.birth == birth else ()
        steps = (*known, *map(codec.decode_step, reply[5]))[-TRAIL_STEPS:]
        warm = tuple([codec.decode_named(WarmPrefix, blob) for blob in reply[4][1::2]])
        loop = codec.decode_named(LoopState, reply[3]) if reply[3] else LoopState()
        trail = Trail(steps, count, warm, loop)
        if version:
            with self._lock:
                self._trails.put(session, Seen(birth, version, trail))
        return trail

    def _grew(self, settlement: Settlement, birth: int, version: int) -> None:
        """Grow the trail that this worker remembers, unless another worker has grown it too."""
        learned = lesson(settlement)
        with self._lock:
            if learned is not None:
                self._costs.learn(settlement.policy, settlement.kind, settlement.model, *learned)
            if not changes_trail(settlement):
                return
            seen = self._trails.get(settlement.session)
            if seen is None and version == 1:
                seen = Seen(birth, 0, Trail())
            if seen is not None and seen.birth == birth and seen.version == version - 1:
                self._trails.put(settlement.session, Seen(birth, version, grown(seen.trail, settlement)))

    def _settle_run(self, settlement: Settlement) -> Run:
        row = {
            "id": clean(settlement.hold),
            "session": clean(settlement.session),
            "kind": clean(settlement.kind),
            "used": pack_amounts(settlement.used),
            "now": settlement.now_s,
            "ttl": self._ttl_s,
            "birth": _birth(),
            "scopes": [clean(scope.key) for scope in settlement.path],
            "steps": TRAIL_STEPS,
            "receipts": RECEIPTS_KEPT,
        }
        who = (
            settlement.tenant,
            settlement.agent,
            settlement.kind,
            settlement.tier,
            settlement.model,
            settlement.policy,
        )
        receipt = settlement.receipt
        return Run(
            "settle",
            session_keys(self._prefix, settlement.session),
            (
                orjson.dumps(row),
                codec.encode_step(settlement.step) if settlement.step is not None else b"",
                clean(settlement.warm.model) if settlement.warm is not None else b"",
                codec.encode_named(settlement.warm) if settlement.warm is not None else b"",
                codec.encode_named(settlement.loop) if settlement.loop is not None else b"",
                orjson.dumps([*map(clean, who)]) if settlement.used != NOTHING else b"",
                *(_receipt_args(receipt) if receipt is not None else (b"", b"", b"", b"")),
            ),
        )

    def _index_run(self, receipt: Receipt) -> Run:
        member = f"{clean(receipt.id)}\0{clean(receipt.session)}"
        return Run("index", (index_key(self._prefix, shard_of(receipt.id)),), (member, INDEX_KEPT, self._ttl_s))

    # --- learned costs

    def _read_costs(self, policy: str, raw: dict[bytes, bytes], now_s: float) -> None:
        told = {_kind_and_model(name): codec.decode_history(data) for name, data in raw.items()}
        with self._lock:
            self._raw[policy] = raw
            self._costs.read(policy, told, now_s)

    def _learn_runs(self, news: dict[str, Histories]) -> list[Run]:
        runs = []
        for policy, histories in news.items():
            raw = self._raw.get(policy, {})
            args: list[bytes | int] = [self._ttl_s]
            for key, history in histories.items():
                name = orjson.dumps([*map(clean, key)])
                before = raw.get(name, b"")
                told = codec.decode_history(before) if before else History()
                args += [name, before, codec.encode_history(told.merged(history))]
            runs.append(Run("learn", (costs_key(self._prefix, policy),), tuple(args)))
        return runs

    def _learned(self, news: dict[str, Histories], replies: list[Any]) -> None:
        """Keep for the next time what another worker's writing has crossed."""
        for (policy, histories), written in zip(news.items(), replies, strict=False):
            kept = {_kind_and_model(name) for name in written}
            crossed = {key: history for key, history in histories.items() if key not in kept}
            with self._lock:
                self._raw.pop(policy, None)
                self._costs.stale(policy)
                if crossed:
                    self._costs.put_back({policy: crossed})


def above(path: Sequence[Scope]) -> tuple[Scope, ...]:
    """Return the scopes of a path that many sessions share."""
    return tuple([scope for scope in path if is_above(scope)])


def is_above(scope: Scope) -> bool:
    """Whether many sessions share a scope, so that it cannot live in the slot of one."""
    return scope.name == "tenant"


def _session_of(claim: Claim) -> str:
    if claim.session is None:
        raise StoreError("a claim on the redis store must name its session")
    return claim.session


def _short(claim: Claim, reply: list[Any]) -> Shortfall:
    _, index, what, limit, left, others, retry_at_s, kept, *over = reply
    scope, name = claim.path[index - 1], ALL[what - 1]
    if name == "seconds":
        return Shortfall(scope.key, scope.name, name, float(limit), 0.0, float(over[0]), 0.0)
    wanted, least = getattr(claim.wanted, name), getattr(claim.least, name)
    numbers = (int(limit), int(left), wanted, int(others))
    return Shortfall(scope.key, scope.name, name, *numbers, float(retry_at_s), int(kept), least)


def _receipt_args(receipt: Receipt) -> tuple[str | bytes, ...]:
    reason = receipt.reasons[-1] if receipt.reasons else ""
    who = (receipt.tenant, receipt.agent, receipt.kind, receipt.refused)
    refusal = orjson.dumps([*map(clean, who)]) if receipt.refused else b""
    return clean(receipt.id), codec.encode_receipt(receipt), refusal, clean(reason)


def _kind_and_model(name: bytes) -> tuple[str, str]:
    kind, model = orjson.loads(name)
    return kind, model


def _birth() -> int:
    """Return a number that tells a session from a later one of the same name."""
    return random.getrandbits(48) + 1
