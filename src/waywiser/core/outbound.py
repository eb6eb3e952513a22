"""The call as it leaves for one model: clamped to what was paid for, joined to what was said, ported."""

from __future__ import annotations

from dataclasses import replace

from waywiser.core.calls import Call
from waywiser.core.models import Model
from waywiser.core.portability import ported
from waywiser.core.resume import RESUMED, continued


def outbound(call: Call, model: Model, output_limit: int | None, said: str) -> tuple[Call, tuple[str, ...]]:
    """What is sent to `model`, and the names of what was done to it.

    `output_limit` is the most tokens the answer may have (None: as the caller set it), `said` what another attempt has
    already shown of the answer.
    """
    settings = call.settings
    if output_limit is not None and settings.max_output_tokens != output_limit:
        call = replace(call, settings=replace(settings, max_output_tokens=output_limit))
    if not said:
        return ported(call, model)
    sent, notes = ported(continued(call, said, model), model)
    return sent, (*notes, RESUMED)
