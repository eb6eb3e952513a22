"""Money, tokens and calls: the arithmetic of reserving and settling over a tree of scopes. Integers only.

A *hold* takes from every scope of a path at once, root to leaf, or from none. It expires, so that a killed worker
frees it. Settling replaces the hold by what was really used, once, even when the hold had expired by then.
"""

from __future__ import annotations

from dataclasses import dataclass

NANOS_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a call takes or took: nano-dollars, tokens (in and out), model calls, tool calls."""

    nanos: int = 0
    tokens: int = 0
    llm_calls: int = 0
    tool_calls: int = 0


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
    """Nano-dollars of a scope that only steps of `kind` may spend."""

    scope: str
    kind: str
    nanos: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A request to set money aside: `wanted` from every scope of `path` (root first), for a step of `kind`.

    `least` is what the call can live with: where less than `wanted` but at least `least` is left, the hold takes what
    is left (`expected` estimates). `strict` estimates have `least == wanted`. `expires_s` ends the lease.
    """

    hold: str
    path: tuple[Scope, ...]
    kind: str
    wanted: Amounts
    least: Amounts
    now_s: float
    expires_s: float
    keep: tuple[Keep, ...] = ()


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
    enough, waiting may help. `retry_at_s` is when the first of those holds expires (0: none).
    """

    scope: str
    name: str
    what: str
    limit: float
    left: float
    wanted: float
    held_by_others: float
    retry_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a scope has used and holds at one moment. `started_s` is when its first call was made."""

    key: str
    name: str
    spent: Amounts
    held: Amounts
    started_s: float
