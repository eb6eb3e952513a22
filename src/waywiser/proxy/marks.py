"""What an answer says of itself beside its body: the `x-waywiser-…` headers, and the comment that ends a stream."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import orjson

from waywiser.core.calls import Call
from waywiser.core.claims import session_name
from waywiser.core.policy import Policy
from waywiser.core.receipt import Receipt
from waywiser.proxy.upstreams import Errand

Pairs = list[tuple[str, str]]


def usd(nanos: int) -> str:
    """Write nano-dollars as USD, with every digit and none too many."""
    whole, rest = divmod(nanos, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def of_receipts(receipts: Sequence[Receipt]) -> Pairs:
    """Say what a call came to. Several receipts are those of one request with several answers."""
    last = receipts[-1]
    pairs = [
        ("x-waywiser-receipt", ",".join([receipt.id for receipt in receipts])),
        ("x-waywiser-session", quote(session_name(last.session))),
        ("x-waywiser-policy", quote(last.policy)),
        ("x-waywiser-model", quote(last.model, safe="/:@")),
        ("x-waywiser-tier", quote(last.tier)),
        ("x-waywiser-kind", last.kind),
        ("x-waywiser-cost-usd", usd(sum([receipt.cost_nanos for receipt in receipts]))),
        ("x-waywiser-fallback", str(sum([max(len(receipt.attempts) - 1, 0) for receipt in receipts]))),
    ]
    if last.left_nanos is not None:
        pairs.append(("x-waywiser-budget-left-usd", usd(last.left_nanos)))
    return pairs


def of_beginning(calls: Sequence[Call], policy: Policy, errand: Errand) -> Pairs:
    """Say what is known when a stream begins: not yet what it costs, but with whom it is."""
    call = calls[0]
    pairs = [
        ("x-waywiser-receipt", ",".join([one.id for one in calls])),
        ("x-waywiser-session", quote(session_name(call.origin.session))),
        ("x-waywiser-policy", quote(policy.name)),
    ]
    if errand.models:
        model = errand.models[-1]
        pairs.append(("x-waywiser-model", quote(model, safe="/:@")))
        tiers = [tier.name for tier in policy.tiers if any(row.name == model for row in tier.models)]
        if len(tiers) == 1:
            pairs.append(("x-waywiser-tier", quote(tiers[0])))
        pairs.append(("x-waywiser-fallback", str(max(len(errand.models) - len(calls), 0))))
    return pairs


def comment(receipts: Sequence[Receipt]) -> bytes:
    """Write the same for the end of a stream, as a comment that clients pass over."""
    told = {name.removeprefix("x-waywiser-"): value for name, value in of_receipts(receipts)}
    return b": waywiser %b\n\n" % orjson.dumps(told)
