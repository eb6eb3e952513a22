"""The receipt: why a call went where it went, what was tried, what it cost. It holds no prompt and no answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from waywiser.core.calls import Usage
from waywiser.core.classification import Classification


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a candidate's score: its raw value, its weight, and what it adds (`value * weight`, signed)."""

    name: str
    value: float
    weighted: float


@dataclass(frozen=True, slots=True)
class Considered:
    """A model that was looked at. `excluded` says why it is not a candidate; empty for one that is."""

    model: str
    tier: str
    score: float = 0.0
    terms: tuple[Term, ...] = ()
    cost_nanos: int = 0
    excluded: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to an upstream. `failure` and `detail` are empty for the one that was used."""

    model: str
    tier: str
    started_s: float
    took_s: float
    usage: Usage
    cost_nanos: int
    failure: str = ""
    detail: str = ""
    first_token_s: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything about one routed call. Costs in nano-dollars.

    `kind_by` is who decided the kind (`declared`, `graph`, `shape`, `learned`, `revealed`), `kind_confidence` how sure
    it was. `top_tier_nanos` is what the same usage would have cost on the dearest tier's first model, prompt cache
    and all. `refused` is the code of a refusal. `reasons` are sentences, in the order in which they came to matter.
    """

    id: str
    session: str
    tenant: str
    agent: str
    node: str
    step: int
    at_s: float
    policy: str
    kind: str
    kind_by: str
    kind_confidence: float
    tier: str
    model: str
    considered: tuple[Considered, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = field(default_factory=Usage)
    cost_nanos: int = 0
    top_tier_nanos: int = 0
    held_nanos: int = 0
    left_nanos: int | None = None
    decision_ms: float = 0.0
    took_s: float = 0.0
    refused: str = ""
    reasons: tuple[str, ...] = ()
    classification: Classification | None = None
    simulated: bool = False
    loop: str = ""
