"""Pydantic's errors, said in plain sentences, each at its place in the file and with a hint where one can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from waywiser.config.located import in_words
from waywiser.config.shapes import Path, SchemaWalk, joined, suggest
from waywiser.errors import Place, Problem

if TYPE_CHECKING:
    from waywiser.core.calls import JSON

_OWN_WORDS = {
    "extra_forbidden",
    "missing",
    "union_tag_invalid",
    "union_tag_not_found",
    "value_error",
    "assertion_error",
}
_SIZES = {
    "too_short": "expected at least {min_length} {unit}",
    "too_long": "expected at most {max_length} {unit}",
    "string_too_short": "expected at least {min_length} {unit}",
    "string_too_long": "expected at most {max_length} {unit}",
}


class Located(Protocol):
    """What is needed of a source: its data, and where a value or a key stands."""

    @property
    def data(self) -> Mapping[str, JSON]:
        """The data the errors are about, as written in the file."""
        ...

    def place(self, path: Path) -> Place:
        """Return the place of a value."""
        ...

    def key_place(self, path: Path) -> Place:
        """Return the place of a key."""
        ...


@dataclass(frozen=True, slots=True)
class _Complaint:
    """One of pydantic's errors, with its location taken apart (see `SchemaWalk.split`)."""

    detail: ErrorDetails
    path: Path
    branch: str
    before: int

    @property
    def is_mismatch(self) -> bool:
        """Whether the branch of the union did not fit at all: the error is about the union's own value."""
        return len(self.path) == self.before and self.detail["type"] not in _OWN_WORDS


def problems_of(error: ValidationError, source: Located, walk: SchemaWalk) -> list[Problem]:
    """Turn a validation error into problems. Of an untagged union only the branch that fits best is reported."""
    unions: dict[Path, list[_Complaint]] = {}
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        complaint = _Complaint(detail, *walk.split(detail["loc"], source.data))
        if complaint.branch:
            unions.setdefault(complaint.path[: complaint.before], []).append(complaint)
        else:
            problems.append(_problem(complaint, source, walk))
    for path, complaints in unions.items():
        mismatched = {complaint.branch for complaint in complaints if complaint.is_mismatch}
        fitting = [complaint for complaint in complaints if complaint.branch not in mismatched]
        if not fitting:
            problems.append(_expected(path, source, walk))
            continue
        branches = [complaint.branch for complaint in fitting]
        best = min(branches, key=branches.count)
        problems.extend(_problem(complaint, source, walk) for complaint in fitting if complaint.branch == best)
    return problems


def _problem(complaint: _Complaint, source: Located, walk: SchemaWalk) -> Problem:
    path, kind = complaint.path, complaint.detail["type"]
    if kind == "extra_forbidden":
        options = walk.fields(path[:-1], source.data)
        hint = suggest(str(path[-1]), options) or f"known here: {', '.join(options)}"
        return Problem(source.key_place(path), f"unknown key `{path[-1]}`", hint)
    if kind == "missing":
        name = complaint.detail["loc"][-1]
        return Problem(source.place(path[:-1]), f"`{name}` is missing", f"expected {walk.expected(path, source.data)}")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _tag(path, complaint.detail.get("ctx", {}), source, walk)
    mistyped = kind.endswith(("_type", "_parsing", "_from_float", "_size")) or kind in {"enum", "literal_error"}
    if mistyped or kind.startswith(("greater_than", "less_than", "finite_number", "multiple_of")):
        return _expected(path, source, walk)
    return _other(complaint, source)


def _other(complaint: _Complaint, source: Located) -> Problem:
    """Word what is not about a key or a type: sizes, patterns, and what the schema's own validators say."""
    path, kind, message = complaint.path, complaint.detail["type"], complaint.detail["msg"]
    context = complaint.detail.get("ctx", {})
    place = source.place(path)
    if complaint.detail["loc"] and complaint.detail["loc"][-1] == "[key]":
        place, message = source.key_place(path), f"`{path[-1]}` can't be a key here: {message.lower()}"
    elif kind in _SIZES:
        message = _SIZES[kind].format(unit="characters" if kind.startswith("string") else "items", **context)
    elif kind == "string_pattern_mismatch":
        message = f"{in_words(_value(path, source))} does not have the form {context.get('pattern')}"
    elif kind in {"value_error", "assertion_error"}:
        message = str(context.get("error", message))
    elif isinstance(below := context.get("at"), tuple):
        place = source.place((*path, *below))
    return Problem(place, message, str(context.get("hint", "")))


def _expected(path: Path, source: Located, walk: SchemaWalk) -> Problem:
    """Say what belongs here and what stands here instead."""
    value = _value(path, source)
    got = "something else" if walk.is_secret(path, source.data) else in_words(value)
    choices = [str(choice) for schema in walk.at(path, source.data) for choice in _choices(schema)]
    hint = suggest(value, (name for name in choices if name != value)) if isinstance(value, str) else ""
    return Problem(source.place(path), f"expected {walk.expected(path, source.data)}, got {got}", hint)


def _choices(schema: Mapping[str, object]) -> list[object]:
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return choices if isinstance(choices, list) else []


def _tag(path: Path, context: Mapping[str, object], source: Located, walk: SchemaWalk) -> Problem:
    """Complain about the field that says which of several forms a mapping has."""
    field = str(context.get("discriminator", "")).strip("'")
    options = walk.tags(path, source.data)
    known = joined(f"`{option}`" for option in options)
    value = _value((*path, field), source)
    if value is None:
        return Problem(source.place(path), f"`{field}` is missing", f"expected {known}")
    return Problem(
        source.place((*path, field)),
        f"unknown {field} {in_words(value)}",
        suggest(str(value), options) or f"known: {known}",
    )


def _value(path: Path, source: Located) -> JSON:
    """The value at `path` as the file has it, None where there is none."""
    value: JSON = dict(source.data)
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            value = value[step]
        else:
            return None
    return value
