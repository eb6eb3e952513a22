"""The repairs that make a history fit a dialect, each with a name. They change the outbound copy and nothing else.

A repair of one message depends on nothing but the message, so it is made once and remembered by digest. Repairs of the
order look at the whole history, and run only where the survey found something out of order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

from waywiser.core.calls import Call, Tool
from waywiser.core.dialects import CALL_NAME, Dialect, continues, file_fault, image_fault
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall, assistant, user
from waywiser.core.models import Model
from waywiser.core.survey import BLANK, CALLS, MARK, MEDIA_ELSEWHERE, readable, survey

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_REMEMBERED = 1 << 15


class Repair(StrEnum):
    """What may have to be done to a history, in the order in which it is done."""

    THINKING_DROPPED = "thinking_dropped"
    OPAQUE_DROPPED = "opaque_dropped"
    NAME_DROPPED = "name_dropped"
    MARKS_DROPPED = "cache_marks_dropped"
    DETAIL_DROPPED = "image_detail_dropped"
    ERROR_TOLD = "error_told_in_words"
    CALL_NAMES = "call_names_changed"
    ARGUMENTS_WRAPPED = "unreadable_arguments_wrapped"
    MEDIA_MOVED = "media_moved_to_user_turn"
    BLANK_DROPPED = "blank_turn_dropped"
    BLANK_FILLED = "blank_turn_filled"
    SYSTEM_AS_USER = "system_turn_as_user"
    TURNS_JOINED = "turns_joined"
    ANSWER_INSERTED = "assistant_turn_inserted"
    USER_FIRST = "user_turn_first"
    USER_LAST = "user_turn_last"
    PREFILL_TRIMMED = "prefill_trimmed"
    CALL_IDS = "call_ids_changed"
    MARKS_LIMITED = "cache_marks_limited"
    THINKING_PAUSED = "thinking_paused"
    TOOLS_DECLARED = "tools_declared"


@dataclass(frozen=True, slots=True)
class _Mended:
    message: Message
    repairs: frozenset[Repair]


_mended: dict[tuple[bytes, str, bool], _Mended] = {}
_with_ids: dict[tuple[bytes, tuple[str, ...]], Message] = {}


def faults(messages: Sequence[Message], dialect: Dialect) -> str:
    """Say which image or file of a history can't be told in a dialect; empty when all can."""
    for message in messages:
        for part in message.parts:
            why = ""
            if isinstance(part, Image):
                why = image_fault(part, dialect)
            elif isinstance(part, File):
                why = file_fault(part, dialect)
            if why:
                return why
    return ""


def repaired(call: Call, model: Model, dialect: Dialect) -> tuple[Call, tuple[str, ...]]:
    """Repair a call's outbound copy for a dialect; the second value names what was done, in the order of `Repair`."""
    done: set[Repair] = set()
    turns = []
    for message in call.messages:
        mended = _mend(message, dialect, own=message.model == model.name)
        done |= mended.repairs
        turns.append(mended.message)
    bits = survey(turns)
    if bits & MEDIA_ELSEWHERE:
        turns = _media_moved(turns, dialect, done)
        bits = survey(turns)
    if bits & BLANK:
        turns = _blanks(turns, done)
    turns = _ordered(turns, model, dialect, done)
    turns = _identified(turns, dialect, done)
    if bits & MARK:
        turns = _marks(turns, dialect, done)
    tools, settings = call.tools, call.settings
    if dialect.thinking == "signed" and "thinking" in settings.extra and not _thought_first(turns):
        done.add(Repair.THINKING_PAUSED)
        settings = replace(settings, extra={key: value for key, value in settings.extra.items() if key != "thinking"})
    if dialect.tools_with_history and not tools and bits & CALLS:
        done.add(Repair.TOOLS_DECLARED)
        names = dict.fromkeys(made.name for turn in turns for made in turn.tool_calls)
        tools, settings = tuple(map(Tool, names)), replace(settings, tool_choice="none")
    if not done:
        return call, ()
    copy = replace(call, messages=tuple(turns), tools=tools, settings=settings)
    return copy, tuple(repair.value for repair in Repair if repair in done)


@lru_cache(maxsize=_REMEMBERED)
def new_id(form: tuple[str, int], old: str, occurrence: int) -> str:
    """Make a tool call's id of a form (prefix and length): the same again for the n-th occurrence of the same id."""
    prefix, length = form
    number = int.from_bytes(blake2b(f"{occurrence}\0{old}".encode("utf-8", "surrogatepass"), digest_size=20).digest())
    letters = []
    for _ in range(length):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return prefix + "".join(letters)


def _mend(message: Message, dialect: Dialect, *, own: bool) -> _Mended:
    key = (message.digest, dialect.name, own)
    found = _mended.get(key)
    if found is None:
        if len(_mended) >= _REMEMBERED:
            _mended.clear()
        found = _mended[key] = _mend_new(message, dialect, own=own)
    return found


def _mend_new(message: Message, dialect: Dialect, *, own: bool) -> _Mended:
    done: set[Repair] = set()
    parts = tuple(
        mended for part in message.parts if (mended := _part(part, message, dialect, done, own=own)) is not None
    )
    calls = tuple(_called(call, dialect, done) for call in message.tool_calls)
    name = message.name
    if name and (dialect.names is None or not dialect.names.fullmatch(name)):
        name = ""
        done.add(Repair.NAME_DROPPED)
    if message.is_error and not dialect.error_flag and "error" not in message.text[:80].casefold():
        parts = (Text("Error: "), *parts)
        done.add(Repair.ERROR_TOLD)
    if not done:
        return _Mended(message, frozenset())
    return _Mended(replace(message, parts=parts, tool_calls=calls, name=name), frozenset(done))


def _part(part: Part, message: Message, dialect: Dialect, done: set[Repair], *, own: bool) -> Part | None:
    match part:
        case Thinking():
            if own and message.role is Role.ASSISTANT and _keeps(part, message, dialect):
                return part
            done.add(Repair.THINKING_DROPPED)
            return None
        case Opaque(dialect=written_in):
            if written_in == dialect.name and message.role in dialect.opaque:
                return part
            done.add(Repair.OPAQUE_DROPPED)
            return None
        case Text(cache=True) if not dialect.marks:
            done.add(Repair.MARKS_DROPPED)
            return Text(part.text)
        case Image(detail=detail) if detail and not dialect.detail:
            done.add(Repair.DETAIL_DROPPED)
            return Image(part.url)
    return part


def _keeps(part: Thinking, message: Message, dialect: Dialect) -> bool:
    match dialect.thinking:
        case "signed":
            return bool(part.signature)
        case "plain":
            return bool(part.text) and not part.signature and not part.redacted
        case "with_calls":  # the first signature travels with the first tool call
            signed = [one for one in message.parts if isinstance(one, Thinking) and one.signature]
            return bool(message.tool_calls) and bool(signed) and part is signed[0]
    return False


def _called(call: ToolCall, dialect: Dialect, done: set[Repair]) -> ToolCall:
    name, arguments = call.name, call.arguments
    if not CALL_NAME.fullmatch(name):
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "tool"
        done.add(Repair.CALL_NAMES)
    if not dialect.raw_arguments and not readable(arguments):
        arguments = json.dumps({"unreadable_arguments": arguments})
        done.add(Repair.ARGUMENTS_WRAPPED)
    return call if (name, arguments) == (call.name, call.arguments) else ToolCall(call.id, name, arguments)


def _media_moved(turns: list[Message], dialect: Dialect, done: set[Repair]) -> list[Message]:
    """Move images and files to a turn of the user: the one that follows, or one made for them."""
    out: list[Message] = []
    waiting: list[Part] = []
    for turn in turns:
        if waiting and turn.role in (Role.USER, Role.ASSISTANT):
            attached = (Text("[attachments of the turn before]"), *waiting)
            waiting = []
            if turn.role is Role.USER:
                turn = replace(turn, parts=(*attached, *turn.parts))  # noqa: PLW2901 - the same turn, with more in it
            else:
                out.append(Message(Role.USER, attached))
        moved = (
            [part for part in turn.parts if isinstance(part, Image | File)] if turn.role not in dialect.media else []
        )
        if moved:
            done.add(Repair.MEDIA_MOVED)
            waiting.extend(moved)
            rest: tuple[Part, ...] = tuple(part for part in turn.parts if not isinstance(part, Image | File))
            if turn.role is Role.TOOL and not rest:
                rest = (Text("[see the attachments below]"),)
            turn = replace(turn, parts=rest)  # noqa: PLW2901 - as above
        out.append(turn)
    if waiting:
        out.append(Message(Role.USER, (Text("[attachments of the turn before]"), *waiting)))
    return out


def _blanks(turns: list[Message], done: set[Repair]) -> list[Message]:
    """Drop the assistant's turns that say nothing; fill those of the user, who may have meant something by silence."""
    out = []
    for turn in turns:
        if turn.role in (Role.SYSTEM, Role.TOOL) or not _is_blank(turn):
            out.append(turn)
        elif turn.role is Role.USER:
            done.add(Repair.BLANK_FILLED)
            out.append(replace(turn, parts=(Text("(no text)"),)))
        else:
            done.add(Repair.BLANK_DROPPED)
    return out


def _is_blank(turn: Message) -> bool:
    return not turn.tool_calls and not any(
        isinstance(part, Image | File | Opaque) or (isinstance(part, Text) and part.text.strip()) for part in turn.parts
    )


def _ordered(turns: list[Message], model: Model, dialect: Dialect, done: set[Repair]) -> list[Message]:
    """Bring the turns into an order that the dialect takes."""
    out: list[Message] = []
    opening = True
    for given in turns:
        turn = given
        if turn.role is Role.SYSTEM and not opening and not dialect.system_inside:
            turn = Message(Role.USER, (Text("[system] "), *turn.parts))
            done.add(Repair.SYSTEM_AS_USER)
        before = out[-1].role if out else Role.SYSTEM
        if opening and turn.role is Role.ASSISTANT and dialect.user_first:
            out.append(user("(the conversation begins)"))
            done.add(Repair.USER_FIRST)
        opening = opening and turn.role is Role.SYSTEM
        if dialect.reply_after_tool and before is Role.TOOL and turn.role is Role.USER:
            out.append(assistant("I have the results."))
            done.add(Repair.ANSWER_INSERTED)
        if dialect.joined and before is turn.role is Role.ASSISTANT:
            turn = replace(turn, parts=(*out.pop().parts, Text("\n\n"), *turn.parts))
            done.add(Repair.TURNS_JOINED)
        out.append(turn)
    if out and not dialect.user_last:
        return out
    if opening or (out[-1].role is Role.ASSISTANT and not continues(model, dialect)):
        done.add(Repair.USER_LAST)
        out.append(user("Please continue."))
    elif out[-1].role is Role.ASSISTANT:
        _trim(out, done)
    return out


def _trim(turns: list[Message], done: set[Repair]) -> None:
    """Make the last turn one that a model can go on with: it may neither hold thinking nor end in blanks."""
    at = len(turns) - 1
    while at >= 0 and turns[at].role is Role.ASSISTANT:  # neighbours of one role are one turn to those who prefill
        if any(isinstance(part, Thinking) for part in turns[at].parts):
            done.add(Repair.THINKING_DROPPED)
            rest = tuple(part for part in turns[at].parts if not isinstance(part, Thinking))
            turns[at] = replace(turns[at], parts=rest)
        at -= 1
    parts = list(turns[-1].parts)
    while parts and isinstance(parts[-1], Text) and not parts[-1].text.strip():
        parts.pop()
    if parts and isinstance(parts[-1], Text):
        parts[-1] = replace(parts[-1], text=parts[-1].text.rstrip())
    if tuple(parts) != turns[-1].parts:
        done.add(Repair.PREFILL_TRIMMED)
        turns[-1] = replace(turns[-1], parts=tuple(parts))


def _identified(turns: list[Message], dialect: Dialect, done: set[Repair]) -> list[Message]:
    """Give every tool call an id that the dialect takes and that no other call has; its result gets the same."""
    seen: dict[str, int] = {}
    results: dict[str, list[str]] = {}
    out = []
    for given in turns:
        turn = given
        if turn.tool_calls:
            results = {}
            ids = []
            for call in turn.tool_calls:
                occurrence = seen[call.id] = seen.get(call.id, -1) + 1
                fine = not occurrence and dialect.call_id.fullmatch(call.id)
                ids.append(call.id if fine else new_id(dialect.new_id, call.id, occurrence))
                results.setdefault(call.id, []).append(ids[-1])
            if any(made != call.id for made, call in zip(ids, turn.tool_calls, strict=True)):
                done.add(Repair.CALL_IDS)
                turn = _renamed(turn, tuple(ids))
        elif turn.role is Role.TOOL and (waiting := results.get(turn.tool_call_id)):
            made = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if made != turn.tool_call_id:
                turn = _renamed(turn, (made,))
        out.append(turn)
    return out


def _renamed(turn: Message, ids: tuple[str, ...]) -> Message:
    key = (turn.digest, ids)
    found = _with_ids.get(key)
    if found is None:
        if len(_with_ids) >= _REMEMBERED:
            _with_ids.clear()
        if turn.role is Role.TOOL:
            found = replace(turn, tool_call_id=ids[0])
        else:
            calls = zip(ids, turn.tool_calls, strict=True)
            found = replace(turn, tool_calls=tuple(replace(call, id=made) for made, call in calls))
        _with_ids[key] = found
    return found


def _marks(turns: list[Message], dialect: Dialect, done: set[Repair]) -> list[Message]:
    """Keep the first cache mark, which covers what every session shares, and the newest ones."""
    places = [
        (number, index)
        for number, turn in enumerate(turns)
        for index, part in enumerate(turn.parts)
        if isinstance(part, Text) and part.cache
    ]
    if len(places) <= dialect.marks:
        return turns
    done.add(Repair.MARKS_LIMITED)
    out = list(turns)
    for number, index in places[1 : len(places) - dialect.marks + 1]:
        parts = list(out[number].parts)
        part = parts[index]
        parts[index] = Text(part.text) if isinstance(part, Text) else part
        out[number] = replace(out[number], parts=tuple(parts))
    return out


def _thought_first(turns: Sequence[Message]) -> bool:
    """Whether the tool calls under way were made after thinking that can be shown, as thinking demands once begun."""
    number = next((n for n in reversed(range(len(turns))) if turns[n].role is Role.ASSISTANT), -1)
    if number < 0 or not turns[number].tool_calls:
        return True
    while number and turns[number - 1].role is Role.ASSISTANT:
        number -= 1
    return bool(turns[number].parts) and isinstance(turns[number].parts[0], Thinking)
