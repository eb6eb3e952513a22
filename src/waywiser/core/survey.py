"""What a history holds and in what order, as bits: looked at once, then held against the dialect of each model.

What is known of a message is remembered by its digest, so a history that grows by a turn costs a turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from waywiser.core.dialects import CALL_NAME
from waywiser.core.messages import File, Image, Message, Opaque, Role, Text, Thinking, ToolCall

THINKING, OPAQUE, MEDIA, MARK, NAME, ERROR, BLANK, DETAIL = (1 << bit for bit in range(8))
ID_NOT_NINE, ID_ODD, ID_LONG, ID_TWICE, CALL_ODD, ARGUMENTS_ODD, CALLS = (1 << bit for bit in range(8, 15))
(
    SYSTEM_INSIDE,
    ASSISTANT_FIRST,
    ASSISTANT_LAST,
    ASSISTANT_TWICE,
    USER_AFTER_TOOL,
    UNANSWERED,
    MEDIA_ELSEWHERE,
    TOOL_ODD,
) = (1 << bit for bit in range(15, 23))
_REMEMBERED = 1 << 16


@dataclass(frozen=True, slots=True)
class Traits:
    """What one message holds, as bits; `role` is its index in `_ROLES`, `ids` those of its tool calls."""

    bits: int
    role: int
    ids: tuple[str, ...]


_ROLES = {Role.SYSTEM: 0, Role.USER: 1, Role.ASSISTANT: 2, Role.TOOL: 3}
_OPENING, _USER, _ASSISTANT, _TOOL = range(4)  # who spoke last; a system turn later than the opening changes nothing
_ORDER = (
    (0, 0, ASSISTANT_FIRST, 0),
    (SYSTEM_INSIDE, 0, 0, 0),
    (SYSTEM_INSIDE, 0, ASSISTANT_TWICE, 0),
    (SYSTEM_INSIDE | USER_AFTER_TOOL, USER_AFTER_TOOL, 0, 0),
)
"""What it means that a role (system, user, assistant, tool) speaks after another."""

_known: dict[bytes, Traits] = {}
_newest: tuple[tuple[Message, ...], int] = ((), ASSISTANT_LAST)


def traits(message: Message) -> Traits:
    """What a message holds. Computed once a message, and remembered by its digest."""
    key = message.digest
    found = _known.get(key)
    if found is None:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        found = _known[key] = _traits(message)
    return found


def survey(messages: Sequence[Message]) -> int:
    """What a history holds and in what order, as bits. A call asks twice, when it is judged and when it is sent."""
    global _newest  # noqa: PLW0603 - one tuple, replaced whole
    if isinstance(messages, tuple):
        held, bits = _newest
        if held is messages:
            return bits
        bits = _surveyed(messages)
        _newest = (messages, bits)
        return bits
    return _surveyed(messages)


def _surveyed(messages: Sequence[Message]) -> int:
    bits, state = 0, _OPENING
    seen: set[str] = set()
    known = _known
    last: Traits | None = None
    for message in messages:
        last = known.get(message.digest) or traits(message)
        role = last.role
        bits |= last.bits | _ORDER[state][role]
        if role:
            state = role
        if last.ids:
            before = len(seen)
            seen.update(last.ids)
            if len(seen) < before + len(last.ids):
                bits |= ID_TWICE
    if state in (_OPENING, _ASSISTANT):
        bits |= ASSISTANT_LAST
    if last is not None and last.role == _ASSISTANT and last.ids:
        bits |= UNANSWERED
    return bits


def _traits(message: Message) -> Traits:
    bits, said = 0, bool(message.tool_calls) or message.role in (Role.TOOL, Role.SYSTEM)
    for part in message.parts:
        match part:
            case Text(text=text, cache=cache):
                bits |= MARK if cache else 0
                said = said or bool(text.strip())
            case Thinking():
                bits |= THINKING
            case Image() | File():
                bits |= MEDIA if message.role is Role.USER else MEDIA | MEDIA_ELSEWHERE
                bits |= DETAIL if isinstance(part, Image) and part.detail else 0
                said = True
            case Opaque():
                bits |= OPAQUE
                said = True
    bits |= 0 if said else BLANK
    bits |= NAME if message.name else 0
    if message.is_error and "error" not in message.text[:80].casefold():
        bits |= ERROR
    for call in message.tool_calls:
        bits |= CALLS | _call_traits(call)
    return Traits(bits, _ROLES[message.role], tuple(call.id for call in message.tool_calls))


def _call_traits(call: ToolCall) -> int:
    bits = 0
    if not (len(call.id) == 9 and call.id.isascii() and call.id.isalnum()):
        bits |= ID_NOT_NINE
    if not CALL_NAME.fullmatch(call.id):
        bits |= ID_ODD
    if not 1 <= len(call.id) <= 40:
        bits |= ID_LONG
    if not CALL_NAME.fullmatch(call.name):
        bits |= CALL_ODD
    return bits | (0 if readable(call.arguments) else ARGUMENTS_ODD)


def readable(arguments: str) -> bool:
    """Whether a tool call's arguments are a JSON object (or left out)."""
    if not arguments:
        return True
    try:
        return isinstance(_decoded(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoded = json.JSONDecoder(parse_constant=_no_constant).decode
