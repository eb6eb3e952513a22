"""What a JSON schema says of one spot in a document: its fields, whether it's secret, and how to name it in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeAlias

Schema: TypeAlias = Mapping[str, object]
Path: TypeAlias = tuple[str | int, ...]
_TYPES = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false",
          "array": "a list", "object": "a mapping", "null": "nothing"}  # fmt: skip
_SHARE = {"a number from 0 to 1", "text"}


def _schemas(value: object) -> list[Schema]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


class SchemaWalk:
    """Follows a document's path through the JSON schema that pydantic makes of a model."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.defs = _mapping(schema.get("$defs"))

    def at(self, path: Path, data: object) -> list[Schema]:
        """Every schema that may apply to the value at `path` in `data`, references and unions resolved."""
        found = list(self._flat(self.schema, data))
        for step in path:
            data = _inner(data, step)
            found = [flat for schema in found for inner in _below(schema, step) for flat in self._flat(inner, data)]
        return found

    def is_secret(self, path: Path, data: object) -> bool:
        """Whether the field at `path` is typed as a secret."""
        return any(schema.get("format") == "password" for schema in self.at(path, data))

    def fields(self, path: Path, data: object) -> list[str]:
        """The keys the mapping at `path` may have, as far as the schema names them."""
        return [name for schema in self.at(path, data) for name in _mapping(schema.get("properties"))]

    def keys(self, path: Path, data: object) -> list[str]:
        """The only keys the mapping at `path` may have, where its schema lists them; else nothing."""
        found = [_mapping(schema.get("propertyNames")).get("enum") for schema in self.at(path, data)]
        return [str(key) for keys in found if isinstance(keys, list) for key in keys]

    def tags(self, path: Path, data: object) -> list[str]:
        """The names a tagged union at `path` knows its members by."""
        spot: list[Schema] = [self.schema]
        for step in path:
            spot = [inner for outer in spot for flat in self._flat(outer, data) for inner in _below(flat, step)]
            data = _inner(data, step)
        found = [_mapping(self._followed(schema).get("discriminator")) for schema in spot]
        return [name for tagged in found for name in _mapping(tagged.get("mapping"))]

    def expected(self, path: Path, data: object) -> str:
        """Name what belongs at `path`: "a number from 0 to 1", "`low` or `high`", "a list or text"."""
        names = dict.fromkeys(name for schema in self.at(path, data) for name in self._words(schema))
        if len(names) > 1:
            names.pop("nothing", None)  # it means that the field may be left out, which is no help to who wrote it
        return "a share from 0 to 1, such as `20%` or 0.2" if set(names) == _SHARE else joined(names)

    def split(self, location: Sequence[str | int], data: object) -> tuple[Path, str, int]:
        """Tell pydantic's location of an error apart into the path in the data and the union branches in between.

        Returns the path, the name of the first branch of an untagged union on the way ("" for none), and how many
        steps of the path lie before it. A location may end in a key that is missing from the data.
        """
        path: list[str | int] = []
        branch, before = "", 0
        spot: list[Schema] = [self.schema]
        for step in location:
            if step == "[key]":
                break
            if member := self._tagged(spot, data, step):
                spot = [member]
                continue
            known = step in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(step, int)
            last = len(path) < len(location) and step == location[-1] and step in self._names(spot, data)
            if not known and not last:
                branch, before = (branch, before) if branch else (str(step), len(path))
                continue
            flat = [schema for outer in spot for schema in self._flat(outer, data)]
            spot = [inner for schema in flat for inner in _below(schema, step)]
            path.append(step)
            data = _inner(data, step)
        return tuple(path), branch, before

    def _names(self, spot: list[Schema], data: object) -> set[str]:
        flat = (schema for outer in spot for schema in self._flat(outer, data))
        return {name for schema in flat for name in _mapping(schema.get("properties"))}

    def _tagged(self, spot: list[Schema], data: object, step: str | int) -> Schema | None:
        """Return the member of a tagged union that `step` names and the data chose."""
        for schema in spot:
            followed = self._followed(schema)
            tagged = _mapping(followed.get("discriminator"))
            named = _mapping(tagged.get("mapping")).get(str(step))
            if isinstance(named, str) and isinstance(data, Mapping) and data.get(str(tagged["propertyName"])) == step:
                return {"$ref": named}
            if found := self._tagged(_schemas(followed.get("anyOf")), data, step):
                return found
        return None

    def _followed(self, schema: Schema) -> Schema:
        while isinstance(reference := schema.get("$ref"), str):
            schema = _mapping(self.defs.get(reference.rpartition("/")[2]))
        return schema

    def _flat(self, schema: Schema, data: object) -> Iterator[Schema]:
        """Resolve references, and unions into their members; a tagged union into the member the data names."""
        schema = self._followed(schema)
        tagged = _mapping(schema.get("discriminator"))
        members = [*_schemas(schema.get("anyOf")), *_schemas(schema.get("oneOf")), *_schemas(schema.get("allOf"))]
        if tagged and isinstance(data, Mapping):
            named = _mapping(tagged.get("mapping")).get(str(data.get(str(tagged.get("propertyName")))))
            members = [{"$ref": named}] if isinstance(named, str) else members
        if not members:
            yield schema
        # Pydantic leaves the bounds of what it reads from a number or from text beside the union.
        bounds = {name: schema[key] for key, name in (("ge", "minimum"), ("le", "maximum")) if key in schema}
        for member in members:
            yield from self._flat({**member, **bounds} if member.get("type") == "number" else member, data)

    def _words(self, schema: Schema) -> Iterator[str]:
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(choices, list):
            yield from (f"`{choice}`" for choice in choices)
        elif schema.get("format") == "password":
            yield "a secret"
        else:
            kind = schema.get("type")
            yield _TYPES.get(kind, "something else") + _range(schema) if isinstance(kind, str) else "anything"


def _inner(data: object, step: str | int) -> object:
    if isinstance(data, Mapping):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data):
        return data[step]
    return None


def _below(schema: Schema, step: str | int) -> Iterator[Schema]:
    """The schemas of one field or item of `schema`."""
    if isinstance(step, int):
        prefix = _schemas(schema.get("prefixItems"))
        yield prefix[step] if 0 <= step < len(prefix) else _mapping(schema.get("items"))
        return
    fields = _mapping(schema.get("properties"))
    if step in fields:
        yield _mapping(fields[step])
        return
    for inner in (*_mapping(schema.get("patternProperties")).values(), schema.get("additionalProperties")):
        if isinstance(inner, Mapping):
            yield inner


def _range(schema: Schema) -> str:
    """The bounds of a number, or the length of a text or list, in words with a space before them."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_bound(low)} to {_bound(high)}"
    parts = [
        f"{word} {_bound(bound)}"
        for word, bound in (("of at least", low), ("of at most", high), ("above", above), ("below", below))
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _bound(value: object) -> str:
    """Write a bound as a person would: no `.0`, and thousands set apart."""
    whole = isinstance(value, float) and value.is_integer()
    return f"{int(value) if whole else value:,}" if isinstance(value, int | float) else str(value)


def joined(names: Iterable[str]) -> str:
    """Join alternatives: "a", "a or b", "a, b or c"."""
    words = list(names)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def suggest(word: str, options: Iterable[str]) -> str:
    """Say which of the options was probably meant: "did you mean `tiers`?", else "" when none is close."""
    close = get_close_matches(word.lower(), list(options), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""
