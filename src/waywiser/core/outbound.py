"""The call as it leaves for one model: clamped to what was paid for, joined to what was said, ported.

Log-probabilities are asked for only where the policy looks at them and the model gives them: they make replies larger,
and a provider that does not know the field may refuse the whole call.
"""

from __future__ import annotations

from dataclasses import replace

from waywiser.core.calls import Call
from waywiser.core.confidence import UNCHECKED
from waywiser.core.models import Ability, Model
from waywiser.core.portability import ported
from waywiser.core.resume import RESUMED, continued


def outbound(
    call: Call, model: Model, output_limit: int | None, said: str, *, confidence: bool = False
) -> tuple[Call, tuple[str, ...]]:
    """What is sent to `model`, and the names of what was done to it.

    `output_limit` is the most tokens the answer may have (None: as the caller set it), `said` what another attempt has
    already shown of the answer, `confidence` whether the policy will look at how sure the model is.
    """
    settings = call.settings
    if output_limit is not None and settings.max_output_tokens != output_limit:
        settings = replace(settings, max_output_tokens=output_limit)
    missing: tuple[str, ...] = ()
    if confidence:
        if Ability.LOGPROBS in model.abilities:
            settings = replace(settings, confidence=True)
        else:
            missing = (UNCHECKED,)
    if settings is not call.settings:
        call = replace(call, settings=settings)
    if not said:
        sent, notes = ported(call, model)
        return sent, (*notes, *missing)
    sent, notes = ported(continued(call, said, model), model)
    return sent, (*notes, *missing, RESUMED)
