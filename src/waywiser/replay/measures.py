"""How long a recorded prompt would have been for other models, and which row of the catalogue a recorded name means.

A provider's own count is the truth for its own tokenizer. For another one it is scaled by the ratio of the estimates
of both over what the recording shows; so a system prompt that the recording leaves out still counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import accumulate

from waywiser.catalog.catalog import Catalog
from waywiser.catalog.providers import PROVIDERS
from waywiser.catalog.tokens import TokenEstimator
from waywiser.core.calls import Tool
from waywiser.core.messages import Message
from waywiser.core.models import Model
from waywiser.replay.recording import Recorded

DEFAULT_ENCODING = "o200k_base"

_ESTIMATOR = TokenEstimator()


class Measures:
    """Token counts of one session's calls. A history that its calls share is summed up once."""

    def __init__(self) -> None:
        self._messages: Sequence[Message] = ()
        self._tools: Sequence[Tool] = ()
        self._sums: dict[str, list[int]] = {}

    def prompt_tokens(self, call: Recorded, encoding: str, recorded: str) -> int:
        """Count a call's prompt in `encoding`; `recorded` is the encoding its own usage was counted in."""
        # The history of a receipt is made up: it says nothing of lengths.
        estimate = self._estimate(call, encoding) if call.receipt is None else 0
        if call.usage is None:
            return estimate
        if encoding == recorded or not estimate:
            return call.usage.input_tokens
        return round(call.usage.input_tokens * estimate / max(self._estimate(call, recorded), 1))

    def answer_tokens(self, call: Recorded, encoding: str, recorded: str) -> int:
        """Count a call's answer in `encoding`, reasoning included where the recording tells of it."""
        if call.usage is not None and (encoding == recorded or call.receipt is not None):
            return call.usage.output_tokens
        said = call.reply.as_message("")
        if call.usage is None:
            return _ESTIMATOR.message(said, encoding)
        ratio = _ESTIMATOR.message(said, encoding) / max(_ESTIMATOR.message(said, recorded), 1)
        return round(call.usage.output_tokens * ratio)

    def _estimate(self, call: Recorded, encoding: str) -> int:
        if call.messages is not self._messages or call.tools is not self._tools:
            self._messages, self._tools, self._sums = call.messages, call.tools, {}
        sums = self._sums.get(encoding)
        if sums is None:
            start = _ESTIMATOR.tools(call.tools, encoding)
            sums = list(accumulate((_ESTIMATOR.message(turn, encoding) for turn in call.messages), initial=start))
            self._sums[encoding] = sums
        return sums[call.length]


@lru_cache(maxsize=64)
def catalog_on(day: date) -> Catalog:
    """Return the catalogue with the prices of a day."""
    return Catalog(on=day)


def day_of(at_s: float | None, otherwise: date) -> date:
    """Return the day (UTC) of a time; `otherwise` for a time that is not known or out of range."""
    if at_s is None:
        return otherwise
    try:
        return datetime.fromtimestamp(at_s, UTC).date()
    except (OverflowError, ValueError, OSError):
        return otherwise


@lru_cache(maxsize=4096)
def model_named(name: str, day: date) -> Model | None:
    """Find what a recorder means by a model's name, with or without its provider. None: not known for certain."""
    table = catalog_on(day)
    if not name:
        return None
    candidates = [name] if "/" in name else []
    candidates += [f"{provider}/{name}" for provider in ("openai", "anthropic", "google", *PROVIDERS)]
    found = next((candidate for candidate in candidates if candidate in table), None)
    model = table.get(found) if found else None
    return model if model is not None and model.prices else None
