"""What no model could take, told before anything is spent: with the place, and the same for every surface.

A history is a sequence of turns in which every tool result answers a call of the assistant's turn before it, and every
call has its result before anybody else speaks. Providers refuse anything else, each in words of its own. Only the last
turn may ask for tools that nobody has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from waywiser.core.calls import Call
from waywiser.core.messages import Message, Role
from waywiser.core.policy import Policy
from waywiser.core.steps import KINDS
from waywiser.errors import BadInput

_NONE: list[str] = []


def require_wellformed(call: Call, policy: Policy) -> None:
    """Raise `BadInput` for a call that no model could take, or that asks for what the policy does not have."""
    if call.origin.kind and call.origin.kind not in KINDS:
        raise BadInput(f"kind: {call.origin.kind!r} is none of {', '.join(sorted(KINDS))}")
    if call.tier and all(tier.name != call.tier for tier in policy.tiers):
        raise BadInput(f"tier: {call.tier!r} is none of {', '.join(tier.name for tier in policy.tiers)}")
    if call.model:
        known = [model.name for tier in policy.tiers for model in tier.models]
        if not any(fnmatchcase(name, call.model) for name in known):
            close = ", ".join(get_close_matches(call.model, known, n=3, cutoff=0.0))
            raise BadInput(f"model: {call.model[:100]!r} is in no tier of the policy; the nearest are {close}")
    limit = call.settings.max_output_tokens
    if limit is not None and limit < 1:
        raise BadInput(f"max_output_tokens: {limit} leaves no room for an answer")
    names = [tool.name for tool in call.tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"tools[{len(names) - 1 - names[::-1].index(twice)}].name: {twice!r} is offered twice")
    choice = call.settings.tool_choice
    if choice == "required" and not names:
        raise BadInput("tool_choice: a tool is required, and none is offered")
    if choice.startswith("tool:") and choice[5:] not in names:
        offered = f"there are {', '.join(names)}"[:200] if names else "none is"
        raise BadInput(f"tool_choice: no tool {choice[5:105]!r} is offered ({offered})")
    require_order(call.messages)


def require_order(messages: Sequence[Message]) -> None:
    """Raise `BadInput` for an empty history, an orphan tool result, or a tool call that was never answered."""
    if not messages:
        raise BadInput("messages: the history is empty")
    # A long history is looked through at every step: short lists and names bound once keep that cheap (0.1 us a turn).
    tool, asked, unanswered, asked_at = Role.TOOL, _NONE, _NONE, 0
    for index, message in enumerate(messages):
        if message.role is tool:
            answered = message.tool_call_id
            if answered not in asked:
                raise BadInput(f"messages[{index}].tool_call_id: {answered!r} answers no call of the turn before")
            if answered in unanswered:
                unanswered = [other for other in unanswered if other != answered] if len(unanswered) > 1 else _NONE
            continue
        if unanswered:
            raise BadInput(_unanswered(messages[asked_at], asked_at, unanswered))
        calls = message.tool_calls
        if calls:
            asked_at, asked = index, [call.id for call in calls]
            unanswered = asked
        else:
            asked = _NONE
    if unanswered and messages[-1].role is tool:
        raise BadInput(_unanswered(messages[asked_at], asked_at, unanswered))


def _unanswered(message: Message, index: int, ids: Iterable[str]) -> str:
    place = next(number for number, call in enumerate(message.tool_calls) if call.id in ids)
    call = message.tool_calls[place]
    return f"messages[{index}].tool_calls[{place}]: the call {call.id!r} of {call.name!r} has no result"
