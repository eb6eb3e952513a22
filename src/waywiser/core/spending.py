"""Rows of the report on budgets: who spent what, what is held, what was refused."""

from __future__ import annotations

from dataclasses import dataclass

from waywiser.core.budget import Amounts


@dataclass(frozen=True, slots=True)
class Spend:
    """What one kind of step of one agent of a session used on one model. Retries and failed attempts included."""

    tenant: str
    session: str
    agent: str
    kind: str
    tier: str
    model: str
    policy: str
    used: Amounts


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A hold that is neither settled nor expired. `path` holds the keys of its scopes, root first."""

    hold: str
    path: tuple[str, ...]
    kind: str
    amounts: Amounts
    expires_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """How often something was refused, by its code, and the newest reason given."""

    tenant: str
    session: str
    agent: str
    kind: str
    code: str
    count: int
    last_s: float
    reason: str = ""
