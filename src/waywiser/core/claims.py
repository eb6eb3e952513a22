"""From a policy's budget to the claims of one call: which scopes it draws on, what it asks for, what is left.

`strict` asks for the worst case and clamps the answer's length until that fits; `expected` asks for what such a step
usually takes, and is content with what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from waywiser.core.budget import Amounts, Claim, Keep, Limits, Scope, Shortfall, Standing
from waywiser.core.calls import Call, Usage
from waywiser.core.models import PICOS_PER_NANO, Model, Price, cost_nanos
from waywiser.core.policy import BudgetRule
from waywiser.core.quantiles import History
from waywiser.core.scoring import Candidate
from waywiser.core.steps import StepKind

LEAST_OUTPUT_TOKENS = 16
"""An answer shorter than this is not worth asking for."""

EXPECTED_MARGIN = 1.5
"""How much more than the expected cost an `expected` hold sets aside before quantiles are known."""

QUANTILE = 0.9
LEAST_SEEN = 8
"""From so many steps on, an `expected` hold is the quantile of what such a step has cost."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A claim and the answer's length it pays for (None: as long as the model likes)."""

    claim: Claim
    output_limit: int | None


def session_key(session: str, tenant: str) -> str:
    """Name a session as a store knows it: two tenants who choose the same name do not share one.

    The tenant stands behind the name, so that a policy's globs (`vip-*`) match the name.
    """
    name = session.replace("%", "%25").replace("@", "%40")
    return f"{name}@{tenant}" if tenant else name


def session_name(key: str) -> str:
    """Name a session as whoever began it knows it."""
    return key.partition("@")[0].replace("%40", "@").replace("%25", "%")


def scopes(budget: BudgetRule, call: Call, now_s: float) -> tuple[Scope, ...]:
    """Name the scopes a call draws on, root first. A tenant's account is new each day (UTC).

    A sub-agent inside a sub-agent draws on both; where the policy does not limit agents they have no account. Slashes
    in the names of tenants and sessions are escaped: no choice of names makes two accounts one.
    """
    origin = call.origin
    tenant, session = _escaped(origin.tenant), _escaped(origin.session)
    path = []
    if origin.tenant:
        day = datetime.fromtimestamp(now_s, UTC).date().isoformat()
        path.append(Scope(f"tenant/{tenant}/{day}", "tenant", budget.tenant))
    path.append(Scope(f"session/{tenant}/{session}", "session", budget.session))
    if origin.agent and budget.agent != Limits():
        names = origin.agent.split("/")
        path += [
            Scope(f"agent/{tenant}/{session}/{'/'.join(names[:depth])}", "agent", budget.agent)
            for depth in range(1, len(names) + 1)
        ]
    return tuple(path)


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def spent_share(path: Sequence[Scope], standings: Sequence[Standing], now_s: float) -> float:
    """How much of the tightest limit, grants included, is spent or held, as a share (0 where nothing is limited)."""
    share = 0.0
    for scope, standing in zip(path, standings, strict=True):
        limits, used, granted = scope.limits, standing.spent + standing.held, standing.granted
        for limit, more, taken in (
            (limits.nanos, granted.nanos, used.nanos),
            (limits.tokens, granted.tokens, used.tokens),
            (limits.llm_calls, granted.llm_calls, used.llm_calls),
            (limits.tool_calls, granted.tool_calls, used.tool_calls),
            (limits.seconds, granted.seconds, now_s - standing.started_s if standing.started_s else 0.0),
        ):
            if limit is not None:
                share = max(share, taken / (limit + more) if limit + more else 1.0)
    return share


def left_nanos(path: Sequence[Scope], standings: Sequence[Standing]) -> int | None:
    """How much money the tightest scope has left, holds of others taken off; None where no scope limits money."""
    left = [
        scope.limits.nanos + standing.granted.nanos - standing.spent.nanos - standing.held.nanos
        for scope, standing in zip(path, standings, strict=True)
        if scope.limits.nanos is not None
    ]
    return max(min(left), 0) if left else None


def keeps(budget: BudgetRule) -> tuple[Keep, ...]:
    """What the session sets aside for the kinds the policy keeps something for: money, and a model call to spend it."""
    limits = budget.session
    if limits.nanos is None and limits.llm_calls is None:
        return ()
    calls = 0 if limits.llm_calls is None else 1
    return tuple(Keep("session", kind, int((limits.nanos or 0) * share), calls) for kind, share in budget.keep.items())


def ask(
    budget: BudgetRule,
    call: Call,
    kind: StepKind,
    candidate: Candidate,
    path: tuple[Scope, ...],
    *,
    hold: str,
    output_limit: int | None,
    now_s: float,
    history: History | None = None,
    room: Shortfall | None = None,
) -> Asked | None:
    """Make the claim for one attempt. `room` is what a first claim was told is left; None when nothing useful fits.

    `history` is what such steps have cost on this model.
    """
    tool_calls = 1 if call.tools and call.settings.tool_choice != "none" else 0
    if budget.estimate == "strict":
        model = candidate.model
        most = min(output_limit or model.max_output_tokens, model.max_output_tokens)
        limit = most if room is None else min(most, _affordable_output(model, candidate.expected.input_tokens, room))
        if limit < min(LEAST_OUTPUT_TOKENS, most):
            return None
        wanted = Amounts(
            worst_nanos(model, candidate.expected.input_tokens, limit),
            candidate.expected.input_tokens + limit,
            1,
            tool_calls,
        )
        claim = Claim(
            hold, path, kind.value, wanted, wanted, now_s, now_s + budget.lease_s, keeps(budget), call.origin.session
        )
        return Asked(claim, limit)
    if room is not None:
        return None
    expected = candidate.expected
    nanos = int(candidate.expected_nanos * EXPECTED_MARGIN)
    if history is not None and history.nanos.count >= LEAST_SEEN:
        nanos = history.nanos.quantile(QUANTILE) or nanos
    wanted = Amounts(nanos, expected.input_tokens + expected.output_tokens, 1, tool_calls)
    least = Amounts(min(1, wanted.nanos), 1, 1, tool_calls)
    return Asked(
        Claim(hold, path, kind.value, wanted, least, now_s, now_s + budget.lease_s, keeps(budget), call.origin.session),
        output_limit,
    )


def worst_nanos(model: Model, input_tokens: int, output_tokens: int) -> int:
    """What a call can cost at most on `model`: no token cached, all of them written to the cache if that is dearer."""
    plain = cost_nanos(model, Usage(input_tokens, output_tokens))
    return max(plain, cost_nanos(model, Usage(input_tokens, output_tokens, cache_write_tokens=input_tokens)))


def _affordable_output(model: Model, input_tokens: int, room: Shortfall) -> int:
    """How many output tokens fit into what a scope has left."""
    if room.what == "tokens":
        return int(room.left) - input_tokens
    if room.what != "nanos":
        return 0
    left_picos = (int(room.left) - worst_nanos(model, input_tokens, 0)) * PICOS_PER_NANO
    if left_picos < 0:
        return 0
    price = _price(model, input_tokens)
    return left_picos // price.output_picos if price.output_picos else model.max_output_tokens


def _price(model: Model, input_tokens: int) -> Price:
    return next(
        price for price in reversed(model.prices) if input_tokens > price.above_tokens or price is model.prices[0]
    )


def amount_text(what: str, limit: float) -> str:
    """Write a limit for a person: money in USD, all else by its name."""
    if what == "nanos":
        return f"{limit / 1e9:.6g} USD"
    return f"{limit:g} {what.replace('_', ' ').replace('llm calls', 'model calls')}"
