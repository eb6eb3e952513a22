"""How to sample, as LangChain's callers say it: read once, and refused by name where no provider could take it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from waywiser.core.calls import Settings, Tool
from waywiser.errors import BadInput
from waywiser.langgraph.tools import tool_choice

_OWN = frozenset(
    {
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "logprobs",
        "top_logprobs",
        "model",
        "tier",
        "strict",
        "ls_structured_output_format",
    }
)


def read_settings(
    given: Mapping[str, Any], defaults: Mapping[str, Any], stop: object, tools: Sequence[Tool]
) -> Settings:
    """Read the keyword arguments of a call, over the model's own `defaults`; what isn't known goes to the provider.

    Raises `BadInput` naming the argument that is not of its type, and the tool that must be called and isn't offered.
    """
    said = {**defaults, **given}
    most = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    logprobs = _whole(said, "top_logprobs", least=0)
    return Settings(
        temperature=_number(said, "temperature"),
        top_p=_number(said, "top_p"),
        max_output_tokens=_whole(said, most, least=1),
        stop=_texts(stop),
        seed=_whole(said, "seed"),
        tool_choice=_choice(said.get("tool_choice"), tools),
        parallel_tool_calls=_flag(said, "parallel_tool_calls"),
        logprobs=logprobs or (0 if _flag(said, "logprobs") else None),
        extra={key: value for key, value in given.items() if key not in _OWN},
    )


def _choice(choice: Any, tools: Sequence[Tool]) -> str:
    if tools:
        return tool_choice(choice, tools)
    try:
        tool_choice(choice, tools)
    except BadInput:
        raise BadInput(f"tool_choice: {choice!r} can't be chosen, no tools are offered"[:200]) from None
    return ""  # "any" of no tools is what an agent says whose tools are all gone


def _number(said: Mapping[str, Any], name: str) -> float | None:
    raw = said.get(name)
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, Real) or not math.isfinite(raw):
        raise BadInput(f"{name}: expected a number, got {raw!r}"[:200])
    return float(raw)


def _whole(said: Mapping[str, Any], name: str, *, least: int | None = None) -> int | None:
    raw = said.get(name)
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, Integral) or (least is not None and raw < least):
        bound = "" if least is None else f" of at least {least}"
        raise BadInput(f"{name}: expected a whole number{bound}, got {raw!r}"[:200])
    return int(raw)


def _flag(said: Mapping[str, Any], name: str) -> bool | None:
    raw = said.get(name)
    if raw is not None and not isinstance(raw, bool):
        raise BadInput(f"{name}: expected true or false, got {raw!r}"[:200])
    return raw


def _texts(raw: object) -> tuple[str, ...]:
    texts = [raw] if isinstance(raw, str) else [] if raw is None else raw
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"stop: expected text or a list of texts, got {raw!r}"[:200])
    return tuple(texts)
