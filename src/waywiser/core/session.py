"""What a session's store tells when a call begins, and what it is told when one ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waywiser.core.budget import Amounts, Scope, Standing
from waywiser.core.quantiles import History
from waywiser.core.receipt import Receipt
from waywiser.core.trail import LoopState, StepRecord, Trail, WarmPrefix


@dataclass(frozen=True, slots=True)
class Opened:
    """A session as the store knows it: its trail and the standing of every scope asked for, in that order.

    `costs` tells what each (kind, model) has cost under the policy asked for; empty where none was.
    """

    trail: Trail
    standings: tuple[Standing, ...]
    costs: Mapping[tuple[str, str], History] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a hold: what was really used, and what it appends to the session's trail (if it made a step).

    `path` names the scopes again, so that a hold that had expired is still charged. The same `hold` settled twice is
    charged once. `receipt` is kept in the same round trip.
    """

    hold: str
    path: tuple[Scope, ...]
    kind: str
    used: Amounts
    now_s: float
    session: str
    tenant: str = ""
    agent: str = ""
    tier: str = ""
    model: str = ""
    policy: str = ""
    receipt: Receipt | None = None
    step: StepRecord | None = None
    warm: WarmPrefix | None = None
    loop: LoopState | None = None
