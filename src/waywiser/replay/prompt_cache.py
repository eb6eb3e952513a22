"""A simulated prompt cache: how much of a prompt a provider would have found warm, per session and model.

What is documented (lifetime, shortest prefix) comes from the catalogue. How a provider really behaves is in `HABITS`,
measured on recorded sessions whose costs tell the cached tokens of each call (`benchmarks/replay.py` measures again):
OpenAI keeps blocks of 128 tokens and spreads calls over machines, of which not every one has seen the prefix; Gemini's
implicit cache keeps blocks of 2048 tokens of prompts below 8192 tokens and of 16384 above.
A provider that is told what to cache (Anthropic) finds all of it, and charges for writing it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from waywiser.core.calls import Usage
from waywiser.core.messages import Message
from waywiser.core.models import Model
from waywiser.replay.recording import Recorded


@dataclass(frozen=True, slots=True)
class Habit:
    """How a provider's cache treats a warm prefix.

    `hit` is the share of a warm prefix that is found, on average. `shared` is the share of a session's first prompt
    that is found because other sessions begin alike (only where many run at once). `blocks` maps a prompt's length to
    the size of the blocks that are kept, longest prompt first.
    """

    hit: float = 1.0
    shared: float = 0.0
    blocks: tuple[tuple[int, int], ...] = ((0, 1),)


_OPENAI = ((0, 128),)
HABITS: tuple[tuple[re.Pattern[str], Habit], ...] = (
    (re.compile(r"^openai/gpt-4\.1-mini"), Habit(0.816, 0.82, _OPENAI)),
    (re.compile(r"^openai/gpt-4\.1"), Habit(0.717, 0.73, _OPENAI)),
    (re.compile(r"^openai/gpt-5-nano"), Habit(0.785, 0.945, _OPENAI)),
    (re.compile(r"^openai/gpt-5-mini"), Habit(0.886, 0.827, _OPENAI)),
    (re.compile(r"^openai/"), Habit(0.80, 0.83, _OPENAI)),
    (re.compile(r"^google/"), Habit(0.923, 0.975, ((8192, 16384), (0, 2048)))),
    (re.compile(r"^deepseek/"), Habit(1.0, 0.0, ((0, 64),))),
)


@cache
def habit(name: str) -> Habit:
    """Find how the cache of a model behaves; where nothing is known, all of a warm prefix is found."""
    return next((entry for pattern, entry in HABITS if pattern.search(name)), Habit())


@dataclass(frozen=True, slots=True)
class _Warm:
    length: int
    last: bytes
    tokens: int
    at_s: float


class PromptCache:
    """What the providers hold of one session. `crowded`: many sessions that begin alike run at the same time."""

    def __init__(self, *, crowded: bool = False) -> None:
        self._crowded = crowded
        self._warm: dict[str, _Warm] = {}

    def usage(self, model: Model, call: Recorded, input_tokens: int, output_tokens: int, now_s: float) -> Usage:
        """Say what a call uses on a model, and remember that its prompt is warm there from now on."""
        cached = self._found(model, call, input_tokens, now_s)
        if model.cache_ttl_s:
            self._warm[model.name] = _Warm(call.length, _last(call.messages, call.length), input_tokens, now_s)
        written = 0
        # Our codec marks the prefix for providers that want to be told, where there are tools to make it worth while.
        if model.api == "anthropic" and call.tools and model.cache_ttl_s and input_tokens >= model.cache_min_tokens:
            written = input_tokens - cached
        return Usage(input_tokens, output_tokens, cached, written)

    def _found(self, model: Model, call: Recorded, input_tokens: int, now_s: float) -> int:
        if not model.cache_ttl_s:
            return 0
        warm, known = self._warm.get(model.name), habit(model.name)
        block = next(size for least, size in known.blocks if input_tokens >= least)
        if warm is not None and now_s - warm.at_s <= model.cache_ttl_s and _continues(call, warm):
            tokens, share = min(warm.tokens, input_tokens), known.hit
        elif self._crowded and warm is None:
            tokens, share = input_tokens, known.shared
        else:
            return 0
        tokens = tokens // block * block
        return int(tokens * share) if tokens >= model.cache_min_tokens else 0


def _continues(call: Recorded, warm: _Warm) -> bool:
    """Tell whether the prompt begins with the warm one. Its last turn stands for it: histories only grow."""
    return 0 < warm.length <= call.length and _last(call.messages, warm.length) == warm.last


def _last(messages: Sequence[Message], length: int) -> bytes:
    return messages[length - 1].digest if 0 < length <= len(messages) else b""
