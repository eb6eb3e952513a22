"""The score of a candidate: `quality·w − cost·w − latency·w − health·w`, each term kept for the receipt.

Terms are in 0..1 so that weights compare. *quality* is the catalogue's prior. *cost* is what this call is expected to
cost on that model now, over the dearest candidate's: a prompt prefix that is warm there is priced as cached. *latency*
is the measured mean (the catalogue's prior until there is one, and again when it is old) over the slowest candidate's;
of an answer that is read as it comes, the mean until its first piece. *health* is the exponentially weighted error
rate, which time forgives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from waywiser.core.calls import Tool, Usage
from waywiser.core.health import Health
from waywiser.core.messages import Message
from waywiser.core.models import Model
from waywiser.core.policy import Weights
from waywiser.core.receipt import Term
from waywiser.core.steps import StepKind
from waywiser.core.trail import StepRecord, Trail, WarmPrefix

EXPECTED_OUTPUT_TOKENS = {
    StepKind.TRIAGE: 30,
    StepKind.PLANNING: 300,
    StepKind.TOOL_CALL: 60,
    StepKind.SYNTHESIS: 200,
    StepKind.REFLECTION: 150,
    StepKind.OTHER: 200,
}
"""Output tokens a step is expected to take before the session has shown better (medians of recorded sessions)."""

_UNKNOWN = Health()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model the policy allows for this step, with what the call is expected to use and cost there."""

    model: Model
    tier: str
    rank: int
    expected: Usage
    expected_nanos: int
    score: float = 0.0
    terms: tuple[Term, ...] = ()


def expected_output(steps: Sequence[StepRecord], kind: StepKind, limit: int | None) -> int:
    """Output tokens to expect of a step: the mean of this session's steps of its kind, leaning on the table."""
    prior = EXPECTED_OUTPUT_TOKENS[kind]
    seen = [step.output_tokens for step in steps if step.kind == kind]
    mean = (2 * prior + sum(seen)) // (2 + len(seen))
    return mean if limit is None else min(mean, limit)


def prefix_digest(tools: Sequence[Tool], messages: Sequence[Message], count: int) -> bytes:
    """16 bytes over the tools and the first `count` messages: what a provider's prompt cache goes by."""
    digests = [tool.digest for tool in tools]
    digests += [message.digest for message in messages[:count]]
    return blake2b(b"".join(digests), digest_size=16).digest()


def warm_tokens(model: Model, trail: Trail, tools: Sequence[Tool], messages: Sequence[Message], now_s: float) -> int:
    """How many tokens of this prompt the provider's cache is expected to hold for `model`."""
    warm = next((entry for entry in trail.warm if entry.model == model.name), None)
    if warm is None or now_s - warm.at_s > model.cache_ttl_s or warm.tokens < model.cache_min_tokens:
        return 0
    if warm.messages > len(messages) or prefix_digest(tools, messages, warm.messages) != warm.digest:
        return 0
    return warm.tokens


def warmed(model: Model, tools: Sequence[Tool], messages: Sequence[Message], tokens: int, now_s: float) -> WarmPrefix:
    """What the provider's cache holds after this prompt was sent."""
    return WarmPrefix(model.name, len(messages), tokens, prefix_digest(tools, messages, len(messages)), now_s)


class Prospect(NamedTuple):
    """A model that may take the call, before it is held against the others: as a `Candidate` is, without a score."""

    model: Model
    tier: str
    rank: int
    expected: Usage
    expected_nanos: int


def scored(
    prospects: Sequence[Prospect | Candidate],
    weights: Weights,
    health: Mapping[str, Health],
    now_s: float,
    *,
    first: bool = False,
) -> list[Candidate]:
    """Score every prospect against the others, by its `first` piece or by the whole. The order is kept."""
    dearest = max((prospect.expected_nanos for prospect in prospects), default=0) or 1
    latencies = _latencies_s(prospects, health, now_s, first=first)
    slowest = max(latencies, default=0.0) or 1.0
    result = []
    for prospect, latency in zip(prospects, latencies, strict=True):
        model, nanos = prospect.model, prospect.expected_nanos
        known = health.get(model.name)
        quality = _same_term("quality", model.quality, weights.quality)
        cost = _term("cost", nanos / dearest, -weights.cost)
        slow = _term("latency", latency / slowest, -weights.latency)
        failing = _same_term("health", known.errors(now_s) if known else 0.0, -weights.health)
        score = quality.weighted + cost.weighted + slow.weighted + failing.weighted
        terms = (quality, cost, slow, failing)
        result.append(Candidate(model, prospect.tier, prospect.rank, prospect.expected, nanos, score, terms))
    return result


def _term(name: str, value: float, weight: float) -> Term:
    return Term(name, value, value * weight)


_same_term = lru_cache(maxsize=1024)(_term)
"""For terms that come again and again: one object serves all calls."""


def _latencies_s(
    prospects: Sequence[Prospect | Candidate], health: Mapping[str, Health], now_s: float, *, first: bool
) -> list[float]:
    """What every candidate is expected to take, in seconds.

    A model whose first piece was never timed is taken to begin after the same share of the whole as those whose was:
    otherwise it would be compared, with its whole, to their beginnings.
    """
    known = [health.get(prospect.model.name, _UNKNOWN) for prospect in prospects]
    both = [one for one in known if one.first_token_s and one.latency_s]
    begun = sum(one.first_token_s / one.latency_s for one in both) / len(both) if first and both else 1.0
    latencies = []
    for prospect, one in zip(prospects, known, strict=True):
        prior_s = prospect.model.latency_ms / 1000
        timed = first and one.first_token_s
        latencies.append(one.first_token(now_s, prior_s * begun) if timed else one.latency(now_s, prior_s) * begun)
    return latencies
