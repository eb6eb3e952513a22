"""How long a prompt was thought to be when a receipt was written: read off the costs it was expected to have.

A receipt tells what a call used, which is not what was counted before it was sent; and of a call that was refused it
tells no usage at all. But it keeps the expected cost of every model that was considered, and of those everything but
the prompt's length is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from waywiser.core.effects import Open
from waywiser.core.models import PICOS_PER_NANO, Model
from waywiser.core.policy import Policy
from waywiser.core.receipt import Receipt
from waywiser.core.scoring import expected_output, warm_tokens
from waywiser.core.steps import KINDS, StepKind
from waywiser.core.trail import Trail

LIKELY = 1.5
"""A length further than by this factor from the recorded usage was misread (other prices, a limit on the answer)."""


def told_tokens(
    receipt: Receipt, policy: Policy, effect: Open, trail: Trail, otherwise: Mapping[str, int]
) -> dict[str, int]:
    """Return the prompt's length in each encoding as the receipt's expected costs tell it, else as given."""
    tokens = dict(otherwise)
    if receipt.kind not in KINDS:
        return tokens
    kind = StepKind(receipt.kind)
    said = expected_output(trail.steps, kind, policy.step_rule(kind).max_output_tokens)
    models = {model.name: model for tier in policy.tiers for model in tier.models}
    known: dict[str, int] = {}
    for entry in receipt.considered:
        model = models.get(entry.model)
        if model is None or not entry.terms or model.encoding in known:
            continue
        warm = warm_tokens(model, trail, effect.call.tools, effect.call.messages, effect.now_s)
        length = _length(model, entry.cost_nanos, said, warm)
        used = tokens.get(model.encoding, 0)
        if length > 0 and (not used or used / LIKELY <= length <= used * LIKELY):
            known[model.encoding] = length
    return tokens | known


def _length(model: Model, nanos: int, said: int, warm: int) -> int:
    """Solve the price of a call for the length of its prompt; 0 where that has no answer (a model that is free)."""
    for price in reversed(model.prices):
        if not price.input_picos:
            continue
        saved = warm * (price.input_picos - price.cached_picos)
        length = (nanos * PICOS_PER_NANO - said * price.output_picos + saved) // price.input_picos
        if length > price.above_tokens or price is model.prices[0]:
            return max(length, 0)
    return 0
