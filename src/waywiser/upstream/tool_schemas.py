"""The JSON schema of a tool's parameters, as it comes in: refused by its place where no arguments could be checked.

Only the form is looked at: what stands where a schema must stand, and where a list of names must. Which words a
provider knows is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from waywiser.errors import BadInput

_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_INNER = ("items", "additionalProperties", "not", "if", "then", "else")  # `items` may be a list, in older schemas
_DEEPEST = 64
"""Schemas within schemas that are looked at; a deeper one is no schema that a person or a program meant to write."""


def check_parameters(schema: object, place: str) -> None:
    """Raise `BadInput` for what is not the schema of an object, naming the `place` of what is wrong in it."""
    if not isinstance(schema, Mapping):
        raise BadInput(f"{place}: {'missing' if schema is None else 'expected an object'}")
    if schema.get("type", "object") != "object":
        raise BadInput(f"{place}.type: must be 'object', got {schema['type']!r}"[:200])
    _check(schema, place, 0)


def _check(schema: object, place: str, depth: int) -> None:
    if isinstance(schema, bool):  # the schema of anything, or of nothing
        return
    if not isinstance(schema, Mapping):
        raise BadInput(f"{place}: expected an object, got {schema!r}"[:200])
    if depth > _DEEPEST:
        raise BadInput(f"{place[:100]}…: nested too deeply")
    _check_names(schema, place)
    for where, inner in _within(schema, place):
        _check(inner, where, depth + 1)


def _within(schema: Mapping[object, object], place: str) -> Iterator[tuple[str, object]]:
    """Find the schemas right inside of one, each with its place."""
    for key in _NAMED:
        named = schema.get(key)
        if named is None:
            continue
        if not isinstance(named, Mapping):
            raise BadInput(f"{place}.{key}: expected an object")
        yield from ((f"{place}.{key}.{str(name)[:100]}", inner) for name, inner in named.items())
    for key in (*_LISTED, *_INNER):
        inner = schema.get(key)
        if isinstance(inner, list) and key in (*_LISTED, "items"):
            yield from ((f"{place}.{key}[{index}]", each) for index, each in enumerate(inner))
        elif inner is not None:
            if key in _LISTED:
                raise BadInput(f"{place}.{key}: expected an array of schemas")
            yield f"{place}.{key}", inner


def _check_names(schema: Mapping[object, object], place: str) -> None:
    required, kind = schema.get("required"), schema.get("type")
    if required is not None and not _texts(required):
        raise BadInput(f"{place}.required: expected an array of names")
    if kind is not None and not isinstance(kind, str) and not _texts(kind):
        raise BadInput(f"{place}.type: expected a type's name or an array of them, got {kind!r}"[:200])
    if schema.get("enum") is not None and not isinstance(schema["enum"], list):
        raise BadInput(f"{place}.enum: expected an array of values")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
