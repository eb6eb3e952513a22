"""Pydantic's errors, said in plain sentences, each at its place in the file and with a hint where one can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from waywiser.config.located import in_words, resolved
from waywiser.config.shapes import Path, Schema, SchemaWalk, joined, suggest
from waywiser.core.steps import StepKind
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
    "too_short": ("at least", "min_length", "item"),
    "too_long": ("at most", "max_length", "item"),
    "string_too_short": ("at least", "min_length", "character"),
    "string_too_long": ("at most", "max_length", "character"),
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

    @property
    def is_of_key(self) -> bool:
        """Whether it's the key that is wrong, not the value under it."""
        return self.detail["loc"][-1:] == ("[key]",)


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
    if complaint.is_of_key and (options := walk.keys(path[:-1], source.data)):
        return _unknown("kind" if {*options} == {*StepKind} else "key", path, options, source)
    if complaint.is_of_key:
        reason = f"{'it ' if kind == 'string_pattern_mismatch' else ''}{_message(complaint)}"
        return Problem(source.key_place(path), f"`{path[-1]}` can't be a key here: {reason}")
    if kind == "extra_forbidden":
        return _unknown("key", path, walk.fields(path[:-1], source.data), source)
    if kind == "missing":
        name = complaint.detail["loc"][-1]
        return Problem(source.place(path[:-1]), f"`{name}` is missing", f"expected {walk.expected(path, source.data)}")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _tag(path, complaint.detail.get("ctx", {}), source, walk)
    mistyped = kind.endswith(("_type", "_parsing", "_from_float", "_size"))
    mistyped = mistyped or kind in {"enum", "literal_error", "share"}
    if mistyped or kind.startswith(("greater_than", "less_than", "finite_number", "multiple_of")):
        return _expected(path, source, walk, mistyped=mistyped)
    return _other(complaint, source)


def _unknown(what: str, path: Path, options: list[str], source: Located) -> Problem:
    """Complain about a key that is none of those there may be."""
    hint = suggest(str(path[-1]), options) or f"known here: {', '.join(options)}"
    return Problem(source.key_place(path), f"unknown {what} `{path[-1]}`", hint)


def _other(complaint: _Complaint, source: Located) -> Problem:
    """Word what is not about a key or a type: sizes, patterns, and what the schema's own validators say."""
    path, message = complaint.path, _message(complaint)
    context = complaint.detail.get("ctx", {})
    place = source.place(path)
    if complaint.detail["type"] == "string_pattern_mismatch":
        message = f"{in_words(_value(path, source))} {message}"
    elif isinstance(below := context.get("at"), tuple):
        place = source.place((*path, *below))
    return Problem(place, message, str(context.get("hint", "")))


def _message(complaint: _Complaint) -> str:
    """Say what is wrong, of a pattern without what it is that does not have it."""
    kind, message = complaint.detail["type"], complaint.detail["msg"]
    context = complaint.detail.get("ctx", {})
    if kind in _SIZES:
        word, bound, unit = _SIZES[kind]
        size = context.get(bound)
        return f"expected {word} {size} {unit if size == 1 else unit + 's'}"
    if kind == "string_pattern_mismatch":
        return f"does not have the form {context.get('pattern')}"
    return str(context.get("error", message)) if kind in {"value_error", "assertion_error"} else message


def _expected(path: Path, source: Located, walk: SchemaWalk, *, mistyped: bool = True) -> Problem:
    """Say what belongs here and what stands here instead."""
    value = _value(path, source)
    got = "something else" if walk.is_secret(path, source.data) else in_words(value)
    schemas = walk.at(path, source.data)
    choices = [choice for schema in schemas for choice in _choices(schema)]
    hint = suggest(value, (str(name) for name in choices if name != value)) if isinstance(value, str) else ""
    if mistyped and isinstance(value, str) and _is_quoted(value, choices, schemas):
        got, hint = f"the text {got}", "write it without quotes"
    return Problem(source.place(path), f"expected {walk.expected(path, source.data)}, got {got}", hint)


def _is_quoted(text: str, choices: list[object], schemas: list[Schema]) -> bool:
    """Whether a text would be what is expected if it didn't stand in quotes."""
    try:
        plain = resolved(text)
    except OverflowError:
        return False
    if isinstance(plain, str) or plain is None:
        return False
    kinds = {schema.get("type") for schema in schemas if not _choices(schema)}
    names = {"boolean"} if isinstance(plain, bool) else {"number", "integer"} if isinstance(plain, int) else {"number"}
    return plain in choices or ("string" not in kinds and bool(kinds & names))


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
