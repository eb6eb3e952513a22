"""What a replay says of one session: what it would have cost, where it went, whether and why it was stopped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where the policy ended a session that had gone on: at model call `step` (1 is the first)."""

    by: str
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: what the step was taken for and where it went. `recorded` is the model of the recording."""

    step: int
    kind: str
    kind_by: str
    tier: str
    model: str
    refused: str
    cost_nanos: int
    recorded: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of one kind that ended on one model, and what all attempts of that kind cost there."""

    kind: str
    tier: str
    model: str
    calls: int = 0
    nanos: int = 0


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What the recording's own tokens come to with the simulated cache on the recorded model, where it has costs."""

    model: str
    calls: int
    recorded_nanos: int
    simulated_nanos: int


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One session under one policy.

    `calls` were recorded, `made` of them before the policy stopped the session. `recorded_nanos` is None where neither
    the recording nor the catalogue knows; `priced` tells that the catalogue had to say it. `top_nanos` is what all the
    recorded calls cost on the top tier's first model alone, `top_made_nanos` the part of it up to the stop.
    `saved_nanos` is what going on under the same policy, without limits, would have cost. `cold_nanos` is what
    `switches` between models cost because the prefix was cold. `changed` counts decisions for another model than the
    recorded one. `estimated` counts calls without recorded usage.
    """

    id: str
    place: str
    task_id: str
    success: bool | None
    calls: int
    made: int
    recorded_nanos: int | None
    priced: bool
    cost_nanos: int
    top_nanos: int
    top_made_nanos: int
    saved_nanos: int
    switches: int
    cold_nanos: int
    reveals: int
    changed: int
    estimated: int
    timed: bool
    unknown_model: str
    stopped: Stopped | None
    spent: tuple[Spent, ...]
    reproduced: Reproduced | None
    decisions: tuple[Decision, ...] = ()
    format: str = "session"
