"""Scopes above sessions, over Redis: a tenant's day gives parts of its limit to sessions, which spend them at home.

Why: a tenant's account in one slot, written at every step of every session, would be the key that serialises a
fleet; and a script may only touch keys of one slot. So a session's slot keeps an *allotment* of the tenant's limit,
and claims are met from that. Only when it runs low is the tenant asked for more (`lua/allot.lua`), some steps' worth.

The sum of all allotments never exceeds the limit, so `strict` is strict. What crosses between the slots are numbered
credits and returns; each side repeats its own until it knows that they have arrived, and applies the other's once and
in order. So a worker may die between any two messages, and nothing is lost or counted twice. When the tenant has
nothing left to give, sessions that have something idle are asked to give it back, so that none starves beside money.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from waywiser.core.budget import COUNTED, NOTHING, Account, Amounts, Claim, Limits, Scope, Shortfall, Standing
from waywiser.stores.codec import clean, pack_amounts
from waywiser.stores.redis_keys import scope_keys, session_keys
from waywiser.stores.redis_wire import Run, Turns

KEPT = 4096
PAGES = 8
PART_OF_LIMIT = 64
STEPS_AHEAD = 4
REFRESH_S = 5.0

News: TypeAlias = list[Any]  # [[[number, amounts], ...] credits, number of the newest return that has arrived]


@dataclass(slots=True)
class Row:
    """An account as the scripts show it; with an allotment, if it has one."""

    account: Account
    allotted: Amounts = NOTHING
    credited: int = 0
    returns: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Whole:
    """A scope as a whole, as last heard: given to sessions, known as spent, granted, and spent by one session."""

    allotted: Amounts
    spent: Amounts
    granted: Amounts
    by_session: Amounts
    at_s: float


@dataclass(slots=True)
class _Purse:
    """What this worker knows of one session's allotment from one scope."""

    row: Row | None = None
    whole: _Whole | None = None
    news: News = field(default_factory=lambda: [[], 0])
    wanted: Amounts = NOTHING


def read_row(key: str, name: str, data: bytes) -> Row:
    """Read an account as `shown` in `lua/session.lua`."""
    words = data.split()
    started_s = float(words[12])
    granted = read_amounts((*words[8:12], words[13]))
    amounts = read_amounts(words[0:4]), read_amounts(words[4:8]), granted
    account = Account(key, name, *amounts, None if started_s < 0 else started_s)
    if len(words) <= 14:
        return Row(account)
    return Row(account, read_amounts(words[14:18]), int(words[18]), orjson.loads(words[19]))


def read_amounts(data: Sequence[bytes]) -> Amounts:
    """Read amounts by position."""
    return Amounts(*map(int, data))


def pack_limits(limits: Limits) -> list[int | float | bool]:
    """Write limits by position, `false` where there is none."""
    every = (limits.nanos, limits.tokens, limits.llm_calls, limits.tool_calls, limits.seconds)
    return [False if limit is None else limit for limit in every]


class Allotments:
    """What this worker knows of allotments, and the turns that change them."""

    def __init__(self, prefix: str, ttl_s: int, session_ttl_s: int) -> None:
        self._prefix, self._ttl_s, self._session_ttl_s = prefix, ttl_s, session_ttl_s
        self._purses: OrderedDict[tuple[str, str], _Purse] = OrderedDict()
        self._lock = threading.Lock()

    def due(self, session: str, scope: Scope, now_s: float) -> Run | None:
        """Return the question that belongs beside an `open`: more money ahead of need, or only how the scope stands."""
        if not _limited(scope):
            return None
        purse = self._purse(session, scope)
        low = purse.row is None or any(room < wanted for room, wanted in _rooms(scope, purse.row, purse.wanted))
        if not low and purse.whole is not None and 0 <= now_s - purse.whole.at_s < REFRESH_S:
            return None
        return self._ask(session, scope, purse.row, want=_ahead(scope, purse.wanted) if low else NOTHING)

    def heard(self, session: str, scope: Scope, reply: list[Any], now_s: float) -> tuple[Amounts, Amounts]:
        """Take in an answer of `lua/allot.lua`; return what still lacks, for all that was wanted and for the least."""
        lacking, least, credited, newest_return, allotted, spent, granted, by_session, _ = reply
        purse = self._purse(session, scope)
        purse.news = [orjson.loads(credited), int(newest_return)]
        purse.whole = _Whole(
            read_amounts(allotted), read_amounts(spent), read_amounts(granted), read_amounts(by_session), now_s
        )
        return read_amounts(lacking), read_amounts(least)

    def news(self, session: str, scope: Scope, wanted: Amounts) -> News:
        """Return what the session's slot has to be told, and note what its calls want."""
        purse = self._purse(session, scope)
        purse.wanted = wanted
        return purse.news

    def saw(self, session: str, scope: Scope, row: Row) -> None:
        """Note how a session's account of a scope stands."""
        self._purse(session, scope).row = row

    def standing(self, session: str, scope: Scope, row: Row) -> Standing:
        """Return how a scope stands as a whole. What other sessions have and may not have spent yet counts as held."""
        whole = self._purse(session, scope).whole
        started_s = row.account.started_s or 0.0
        if whole is None:
            return Standing(scope.key, scope.name, row.account.spent, row.account.held, started_s)
        spent = whole.spent + row.account.spent - whole.by_session
        held = Amounts(*[max(amount, 0) for amount in pack_amounts(whole.allotted - spent)])
        return Standing(scope.key, scope.name, spent, held, started_s, whole.granted)

    def report(self, session: str, scope: Scope, now_s: float) -> Turns[None]:
        """Tell a scope at once when a session has spent more of it than it was allotted."""
        row = self._purse(session, scope).row
        if row is not None and _limited(scope) and any(room < 0 for room, _ in _rooms(scope, row, NOTHING)):
            (reply,) = yield [self._ask(session, scope, row)]
            self.heard(session, scope, reply, now_s)

    def draw(
        self, session: str, claim: Claim, scope: Scope, row: Row, missing: Amounts, least: Amounts
    ) -> Turns[bool | Shortfall]:
        """Get what a claim lacks of a scope. True when it got all, false when only what the claim can live with."""
        find = 0
        for page in range(PAGES + 1):
            want = _ahead(scope, claim.wanted)
            (reply,) = yield [self._ask(session, scope, row, need=missing, least=least, want=want, find=find)]
            lacking, still_least = self.heard(session, scope, reply, claim.now_s)
            if lacking == NOTHING:
                return True
            others = reply[8]
            if not others or page == PAGES:
                break
            find += yield from self._reclaim(claim, scope, others)
        return False if still_least == NOTHING else self._shortfall(session, claim, scope, row, still_least)

    def endow(self, scope: Scope, more: Amounts, once: str) -> Run:
        """Return the call that adds to what all sessions together may use of a scope."""
        args = (orjson.dumps(pack_amounts(more)), self._ttl_s, clean(once))
        return Run("endow", scope_keys(self._prefix, scope.key)[:1], args)

    def _reclaim(self, claim: Claim, scope: Scope, others: list[Any]) -> Turns[int]:
        """Take back what other sessions have idle. Returns how many of them could not give everything."""
        key = clean(scope.key)
        sessions = [others[at].decode() for at in range(0, len(others), 3)]
        shrinks = [
            Run(
                "shrink",
                session_keys(self._prefix, session),
                (key, b"[%b,%b]" % (others[3 * at + 1], others[3 * at + 2]), repr(claim.now_s), self._session_ttl_s),
            )
            for at, session in enumerate(sessions)
        ]
        rows = [read_row(scope.key, scope.name, data) for data in (yield shrinks)]
        yield [self._ask(session, scope, row) for session, row in zip(sessions, rows, strict=True)]
        return sum(row.allotted != row.account.spent for row in rows)

    def _ask(
        self,
        session: str,
        scope: Scope,
        row: Row | None,
        *,
        need: Amounts = NOTHING,
        least: Amounts = NOTHING,
        want: Amounts = NOTHING,
        find: int = 0,
    ) -> Run:
        question = {
            "session": clean(session),
            "limits": pack_limits(scope.limits),
            "need": pack_amounts(need),
            "least": pack_amounts(least),
            "want": pack_amounts(want),
            "spent": pack_amounts(NOTHING if row is None else row.account.spent),
            "credited": 0 if row is None else row.credited,
            "returns": [] if row is None else row.returns,
            "ttl": self._ttl_s,
            "find": find,
        }
        return Run("allot", scope_keys(self._prefix, scope.key), (orjson.dumps(question),))

    def _shortfall(self, session: str, claim: Claim, scope: Scope, row: Row, lacking: Amounts) -> Shortfall:
        whole = self._purse(session, scope).whole
        if whole is None:
            raise AssertionError("a scope that was asked is known")
        what = next(name for name in COUNTED if getattr(lacking, name) > 0)
        limit = getattr(scope.limits, what) + getattr(whole.granted, what)
        room = max(getattr(row.allotted - row.account.spent - row.account.held, what), 0)
        left = max(limit - getattr(whole.allotted, what), 0) + room
        others = max(getattr(whole.allotted - whole.spent, what) - room, 0)
        wanted, least = getattr(claim.wanted, what), getattr(claim.least, what)
        return Shortfall(scope.key, scope.name, what, limit, left, wanted, others, least=least)

    def _purse(self, session: str, scope: Scope) -> _Purse:
        key = (session, scope.key)
        with self._lock:
            purse = self._purses.pop(key, None) or _Purse()
            self._purses[key] = purse
            if len(self._purses) > KEPT:
                self._purses.popitem(last=False)
            return purse


def _limited(scope: Scope) -> bool:
    return any(getattr(scope.limits, what) is not None for what in COUNTED)


def _rooms(scope: Scope, row: Row, wanted: Amounts) -> list[tuple[int, int]]:
    """Return, for each amount that the scope limits, what is left of the allotment and what a call wants."""
    room = row.allotted - row.account.spent - row.account.held
    limited = [what for what in COUNTED if getattr(scope.limits, what) is not None]
    return [(getattr(room, what), getattr(wanted, what)) for what in limited]


def _ahead(scope: Scope, wanted: Amounts) -> Amounts:
    """Return what to ask for beyond the need: some steps' worth, and not less than a small part of the limit."""
    parts = []
    for what in COUNTED:
        limit = getattr(scope.limits, what)
        parts.append(0 if limit is None else max(int(limit) // PART_OF_LIMIT, STEPS_AHEAD * getattr(wanted, what)))
    return Amounts(*parts)
