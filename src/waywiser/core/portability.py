"""May this conversation go to that model? Lossless, repairable by named transforms, or forbidden.

A history is surveyed once (what it holds, in what order) and then held against the dialect of each model that is
considered. Where a dialect has no words for something, a repair is made to the outbound copy only (`porting.py`); the
history of the session stays as it was written, so that coming back loses nothing. A move is forbidden where a repair
would change what the model is asked: an image it can't see, a file it can't open, a tool it can't be offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from waywiser.core import survey as s
from waywiser.core.calls import Call, Tool
from waywiser.core.dialects import CALL_NAME, Dialect, dialect_of
from waywiser.core.models import Model
from waywiser.core.porting import Repair, faults, repaired


@dataclass(frozen=True, slots=True)
class Lossless:
    """The history arrives as it is."""


@dataclass(frozen=True, slots=True)
class Repairable:
    """The history arrives after these repairs (names of `porting.Repair`)."""

    transforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The history can't go to this model."""

    why: str


Portability: TypeAlias = Lossless | Repairable | Forbidden
LOSSLESS = Lossless()
_REMEMBERED = 1 << 12
_IDS = s.ID_NOT_NINE | s.ID_ODD | s.ID_LONG | s.ID_TWICE

_concerns: dict[str, int] = {}
_tool_names: dict[bytes, bool] = {}


def concerns(dialect: Dialect) -> int:
    """The bits of a history that a dialect does not simply take."""
    found = _concerns.get(dialect.name)
    if found is None:
        found = _concerns[dialect.name] = _concerned(dialect)
    return found


def surveyed(call: Call) -> int:
    """What a call holds, as bits: what `portable` wants to know of it, for every model that is considered."""
    bits = s.survey(call.messages)
    return bits if all(map(_fine, call.tools)) else bits | s.TOOL_ODD


def portable(call: Call, model: Model, bits: int) -> Portability:
    """Say what becomes of a call that goes to `model`. `bits` is what `surveyed` says of the call."""
    dialect = dialect_of(model)
    if dialect is None:
        return LOSSLESS
    if bits & s.TOOL_ODD:
        bad = next(tool.name for tool in call.tools if not CALL_NAME.fullmatch(tool.name))
        return Forbidden(f"the name of the tool {bad!r} is none that {dialect.name} takes")
    if _arrives(call, dialect, bits):
        return LOSSLESS
    if _arrives(call, dialect, bits & ~_IDS):
        return Repairable((Repair.CALL_IDS.value,))
    if bits & s.UNANSWERED:
        return Forbidden("the last turn asks for tools that nobody has run")
    if bits & s.MEDIA and (why := faults(call.messages, dialect)):
        return Forbidden(why)
    _, names = repaired(call, model, dialect)
    return Repairable(names) if names else LOSSLESS


def ported(call: Call, model: Model) -> tuple[Call, tuple[str, ...]]:
    """The outbound copy of a call for `model`, and the names of the repairs made to it. The call itself stays.

    The same history is always repaired in the same way, so that a prompt cache that holds its beginning still does.
    """
    dialect = dialect_of(model)
    if dialect is None:
        return call, ()
    if _arrives(call, dialect, s.survey(call.messages)):
        return call, ()
    return repaired(call, model, dialect)


def _concerned(dialect: Dialect) -> int:
    bits = (
        s.THINKING
        | s.OPAQUE
        | s.MEDIA
        | s.BLANK
        | s.ID_TWICE
        | s.CALL_ODD
        | s.UNANSWERED
        | s.MEDIA_ELSEWHERE
        | s.NAME
        | s.MARK
    )
    probes = (("_" * 9, s.ID_NOT_NINE), (" ", s.ID_ODD), ("a" * 41, s.ID_LONG))
    bits |= sum(bit for sample, bit in probes if not dialect.call_id.fullmatch(sample))
    rules = (
        (not dialect.error_flag, s.ERROR),
        (not dialect.detail, s.DETAIL),
        (not dialect.raw_arguments, s.ARGUMENTS_ODD),
        (not dialect.system_inside, s.SYSTEM_INSIDE),
        (dialect.user_first, s.ASSISTANT_FIRST),
        (dialect.user_last, s.ASSISTANT_LAST),
        (dialect.joined, s.ASSISTANT_TWICE),
        (dialect.reply_after_tool, s.USER_AFTER_TOOL),
    )
    return bits | sum(bit for holds, bit in rules if holds)


def _arrives(call: Call, dialect: Dialect, bits: int) -> bool:
    """Whether there is nothing to look at more closely."""
    if bits & concerns(dialect):
        return False
    if dialect.thinking == "signed" and "thinking" in call.settings.extra:
        return False
    return not (dialect.tools_with_history and bits & s.CALLS and not call.tools)


def _fine(tool: Tool) -> bool:
    fine = _tool_names.get(tool.digest)
    if fine is None:
        if len(_tool_names) >= _REMEMBERED:
            _tool_names.clear()
        fine = _tool_names[tool.digest] = CALL_NAME.fullmatch(tool.name) is not None
    return fine
