"""Money, tokens and calls: the arithmetic of reserving and settling over a tree of scopes. Integers only.

A *hold* takes from every scope of a path at once, root to leaf, or from none. It expires, so that a killed worker
frees it. Settling replaces the hold by what was really used, once, even when the hold had expired by then.

The law of this module, for an account with limit L (None: no limit), spent S, held H and keeps K of other kinds:

    left(kind) = max(0, L + granted - S - H - sum of what is left of each keep for another kind)
    left of seconds = L + granted - the time since the account's first call
    a claim is met with  min(wanted, left of every scope)  if that is at least `least` in every scope, else not at all
    what is left of a keep for kind k = max(0, K - what kind k has spent and holds here)
    a keep's model calls are always left: whatever kind k has asked for, it can ask once more

Everything here is a function of its arguments. Who stores accounts and makes a change atomic is the store's affair:
the memory and the SQLite store call these functions, the Redis store does the same in Lua, and tests compare them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

NANOS_PER_USD = 1_000_000_000
COUNTED = ("nanos", "tokens", "llm_calls", "tool_calls")


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a call takes or took: nano-dollars, tokens (in and out), model calls, tool calls.

    `seconds` are never taken: they only pass. A person can grant them.
    """

    nanos: int = 0
    tokens: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    seconds: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        """Add, field by field."""
        return Amounts(
            self.nanos + other.nanos,
            self.tokens + other.tokens,
            self.llm_calls + other.llm_calls,
            self.tool_calls + other.tool_calls,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        """Subtract, field by field."""
        return Amounts(
            self.nanos - other.nanos,
            self.tokens - other.tokens,
            self.llm_calls - other.llm_calls,
            self.tool_calls - other.tool_calls,
            self.seconds - other.seconds,
        )


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scope may use in all. None means no limit; `seconds` counts from the scope's first call."""

    nanos: int | None = None
    tokens: int | None = None
    llm_calls: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """One node on the path from the root of the tree to the caller.

    `key` is unique in a store, such as `tenant/acme/2026-11-22`, `session/42`, `agent/42/researcher`. `name` is what
    a person calls it in the policy (`tenant`, `session`, `agent`).
    """

    key: str
    name: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Keep:
    """Nano-dollars and model calls of a scope that only steps of `kind` may spend."""

    scope: str
    kind: str
    nanos: int = 0
    llm_calls: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A request to set money aside: `wanted` from every scope of `path` (root first), for a step of `kind`.

    `least` is what the call can live with: where less than `wanted` but at least `least` is left, the hold takes what
    is left (`expected` estimates). `strict` estimates have `least == wanted`. `expires_s` ends the lease. `session`
    tells a store that is spread over machines where to look.
    """

    hold: str
    path: tuple[Scope, ...]
    kind: str
    wanted: Amounts
    least: Amounts
    now_s: float
    expires_s: float
    keep: tuple[Keep, ...] = ()
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside under `id` in every scope of `path`, until it is settled or `expires_s` has come."""

    id: str
    path: tuple[str, ...]
    amounts: Amounts
    expires_s: float


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a claim was not met: the first scope, from the root, that lacks `what` (a field of `Limits`).

    `left` is what that scope has left of it, `held_by_others` how much of the rest is only held: when that would be
    enough, waiting may help. `retry_at_s` is when the first of those holds expires (0: none). `kept` is what the
    scope sets aside for other kinds of step. Where several scopes lack something, one that waiting cannot help is
    named before one that it can.
    """

    scope: str
    name: str
    what: str
    limit: float
    left: float
    wanted: float
    held_by_others: float
    retry_at_s: float = 0.0
    kept: float = 0.0
    least: float = 0.0

    @property
    def waiting_may_help(self) -> bool:
        """Whether the claim would be met if all that is only held came back."""
        return self.held_by_others > 0 and self.left + self.held_by_others >= self.least


@dataclass(frozen=True, slots=True)
class Standing:
    """What a scope has used and holds at one moment. `started_s` is when its first call was made (0: none yet).

    `granted` is what a person added to the scope's limits since.
    """

    key: str
    name: str
    spent: Amounts
    held: Amounts
    started_s: float
    granted: Amounts = NOTHING


@dataclass(frozen=True, slots=True)
class Account:
    """The books of one scope.

    `kinds` maps a kind of step to the nano-dollars it has spent and holds here: what `keep` needs to know. `held` is
    the sum of the live holds; the store that keeps those takes an expired one off with `ended`. `started_s` is None
    before the first call.
    """

    key: str
    name: str
    spent: Amounts = NOTHING
    held: Amounts = NOTHING
    granted: Amounts = NOTHING
    started_s: float | None = None
    kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def standing(self) -> Standing:
        """The account as callers see it."""
        return Standing(self.key, self.name, self.spent, self.held, self.started_s or 0.0, self.granted)


def reserve(claim: Claim, accounts: Sequence[Account]) -> tuple[Hold, tuple[Account, ...]] | Shortfall:
    """Meet a claim from all the accounts of its path (same order), or from none.

    Returns the hold and the accounts that carry it. Expired holds must be taken off the accounts before; the store
    fills in `retry_at_s` of a shortfall, for it knows the other holds.
    """
    amounts = claim.wanted
    lacking: Shortfall | None = None
    for scope, account in zip(claim.path, accounts, strict=True):
        found = _cut(claim, scope, account, amounts)
        if isinstance(found, Amounts):
            amounts = found
        elif not found.waiting_may_help:
            return found
        elif lacking is None:
            lacking = found
    if lacking is not None:
        return lacking
    hold = Hold(claim.hold, tuple([scope.key for scope in claim.path]), amounts, claim.expires_s)
    return hold, tuple([_held(account, claim, amounts) for account in accounts])


def settle(account: Account, kind: str, used: Amounts, hold: Amounts | None, now_s: float) -> Account:
    """Charge `used` to an account and take `hold` off it (None: it had expired, or was never made)."""
    spent_here, held_here = account.kinds.get(kind, (0, 0))
    freed = NOTHING if hold is None else hold
    return Account(
        account.key,
        account.name,
        account.spent + used,
        account.held - freed,
        account.granted,
        now_s if account.started_s is None else account.started_s,
        {**account.kinds, kind: (spent_here + used.nanos, held_here - freed.nanos)},
    )


def ended(account: Account, kind: str, hold: Amounts) -> Account:
    """Take a hold that has expired off an account."""
    spent_here, held_here = account.kinds.get(kind, (0, 0))
    kinds = {**account.kinds, kind: (spent_here, held_here - hold.nanos)}
    return replace(account, held=account.held - hold, kinds=kinds)


def left(scope: Scope, account: Account, kind: str, keeps: Iterable[Keep] = ()) -> Limits:
    """Return what a step of `kind` may still use of a scope, never below zero; None where there is no limit.

    `seconds` is not counted here: it needs the time.
    """
    room = [_room(scope, account, what, _kept(account, kind, keeps, what)) for what in COUNTED]
    return Limits(*[None if amount is None else max(amount, 0) for amount in room])


def _cut(claim: Claim, scope: Scope, account: Account, amounts: Amounts) -> Amounts | Shortfall:
    """Cut `amounts` down to what a scope has left, or say what it lacks."""
    limits = scope.limits
    if limits.seconds is not None and account.started_s is not None:
        limit = limits.seconds + account.granted.seconds
        over = claim.now_s - account.started_s - limit
        if over >= 0:
            return Shortfall(scope.key, scope.name, "seconds", limit, 0.0, over, 0.0)
    cut = amounts
    waiting: Shortfall | None = None
    for what in COUNTED:
        if getattr(limits, what) is None:
            continue
        kept = _kept(account, claim.kind, claim.keep, what) if claim.keep else 0
        room = _room(scope, account, what, kept)
        wanted: int = getattr(cut, what)
        if room is None or wanted <= room:
            continue
        room = max(room, 0)
        if room < getattr(claim.least, what):
            lack = _lack(claim, scope, account, what, room, kept)
            if not lack.waiting_may_help:
                return lack
            waiting = waiting or lack
        cut = replace(cut, **{what: room})
    return waiting or cut


def _room(scope: Scope, account: Account, what: str, kept: int) -> int | None:
    limit: int | None = getattr(scope.limits, what)
    if limit is None:
        return None
    granted: int = getattr(account.granted, what)
    used: int = getattr(account.spent, what) + getattr(account.held, what)
    return limit + granted - used - kept


def _kept(account: Account, kind: str, keeps: Iterable[Keep], what: str) -> int:
    """Return what is left of this scope's keeps for kinds other than `kind`."""
    if what not in ("nanos", "llm_calls"):
        return 0
    total = 0
    for keep in keeps:
        if keep.scope == account.name and keep.kind != kind:
            if what == "llm_calls":
                total += keep.llm_calls
            else:
                spent_there, held_there = account.kinds.get(keep.kind, (0, 0))
                total += max(keep.nanos - spent_there - held_there, 0)
    return total


def _lack(claim: Claim, scope: Scope, account: Account, what: str, room: int, kept: int) -> Shortfall:
    idle = replace(account, held=NOTHING, kinds={kind: (spent, 0) for kind, (spent, _) in account.kinds.items()})
    kept_idle = _kept(idle, claim.kind, claim.keep, what)
    room_idle = max(_room(scope, idle, what, kept_idle) or 0, 0)
    return Shortfall(
        scope.key,
        scope.name,
        what,
        getattr(scope.limits, what) + getattr(account.granted, what),
        room,
        getattr(claim.wanted, what),
        room_idle - room,
        0.0,
        kept,
        getattr(claim.least, what),
    )


def _held(account: Account, claim: Claim, amounts: Amounts) -> Account:
    spent_here, held_here = account.kinds.get(claim.kind, (0, 0))
    return Account(
        account.key,
        account.name,
        account.spent,
        account.held + amounts,
        account.granted,
        claim.now_s if account.started_s is None else account.started_s,
        {**account.kinds, claim.kind: (spent_here, held_here + amounts.nanos)},
    )
