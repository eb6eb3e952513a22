"""How a simulated model fills a tool's arguments: from what was said and what earlier results returned.

An argument is matched by its name, its description (an example id in it shows the shape) and its type. What cannot be
found is reported as missing: the caller then looks for a tool that could provide it, or asks the person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from waywiser.core.calls import JSON
from waywiser.upstream.simulated_reading import Clause, Fact, keywords, stem, stems

Schema: TypeAlias = Mapping[str, JSON]

_FREE = frozenset(
    stem(word)
    for word in [
        "query",
        "question",
        "text",
        "topic",
        "keywords",
        "message",
        "summary",
        "thought",
        "content",
        "prompt",
        "note",
        "comment",
        "reason",
        "description",
        "body",
        "subject",
        "title",
        "request",
        "task",
        "input",
        "instruction",
        "search",
        "phrase",
    ]
)
_KEYWORDS = frozenset(stem(word) for word in ("query", "keywords", "topic", "search", "phrase"))
_BARE = frozenset(
    stem(word) for word in ("id", "number", "no", "code", "key", "ref", "the", "name", "old", "new", "current")
)
_NOUNS = stems("order customer product item tracking")
_SUM = re.compile(r"[\d.(][\d\s.+*/()%-]{0,80}[+*/-][\d\s.+*/()%-]{0,80}[\d)]")
_AFTER = re.compile(r"\b(?:for|to|into|with|instead|rather|want)\b")
_PLACE = {"street": "street", "addr": "street", "city": "city", "town": "city", "state": "state", "province": "state"}


class Missing(Exception):  # noqa: N818 - a signal inside this module, not an error
    """No value was found for an argument."""


@dataclass(frozen=True, slots=True)
class Want:
    """One thing to get done: the clause that asks for it, and the id it speaks of, if it names one."""

    clause: Clause
    anchor: str = ""


def properties(schema: Schema) -> dict[str, Schema]:
    """Return the properties of an object schema that are themselves schemas."""
    found = schema.get("properties")
    return {name: item for name, item in found.items() if isinstance(item, dict)} if isinstance(found, dict) else {}


def required(schema: Schema) -> tuple[str, ...]:
    """Return the names an object schema requires."""
    found = schema.get("required")
    return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()


def resolve(schema: Schema, root: Schema, depth: int = 8) -> Schema:
    """Follow `$ref`, take the first real branch of a union, merge `allOf`."""
    reference = schema.get("$ref")
    if depth and isinstance(reference, str) and reference.startswith("#"):
        target: JSON = dict(root)
        for name in reference.removeprefix("#").strip("/").split("/"):
            target = (
                target.get(name.replace("~1", "/").replace("~0", "~")) if name and isinstance(target, dict) else target
            )
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return resolve({**target, **rest}, root, depth - 1) if isinstance(target, dict) else rest
    for union in ("anyOf", "oneOf"):
        branches = schema.get(union)
        if depth and isinstance(branches, list):
            real = [b for b in branches if isinstance(b, dict) and b.get("type") != "null"]
            rest = {key: value for key, value in schema.items() if key != union}
            return resolve({**rest, **real[0]}, root, depth - 1) if real else {**rest, "type": "null"}
    whole = schema.get("allOf")
    if depth and isinstance(whole, list):
        merged: dict[str, JSON] = {key: value for key, value in schema.items() if key != "allOf"}
        for branch in (resolve(b, root, depth - 1) for b in whole if isinstance(b, dict)):
            fields = {**properties(merged), **properties(branch)}
            needs = [*required(merged), *required(branch)]
            both: dict[str, JSON] = {name: dict(field) for name, field in fields.items()}
            merged |= {**branch, "properties": both, "required": list[JSON](needs)}
        return merged
    return schema


def fill(
    schema: Schema, want: Want, known: Sequence[Fact], asked: Sequence[Clause]
) -> tuple[dict[str, JSON], list[str]]:
    """Return the arguments that could be found and the names of the required ones that could not.

    An optional argument is given only where the conversation plainly holds one of its kind.
    """
    arguments: dict[str, JSON] = {}
    missing: list[str] = []
    must = required(schema)
    fields = {**properties(schema), **{name: {"type": "string"} for name in must if name not in properties(schema)}}
    for name in sorted(fields, key=lambda field: ("new" in re.split("[_-]", field), list(fields).index(field))):
        field = resolve(fields[name], schema)
        try:
            value = _value(name, field, want, known, asked, arguments, tuple(fields))
        except Missing:
            if name in must:
                missing.append(name)
            continue
        if name in must or _plain(name, value, known):
            arguments[name] = value
    return {name: arguments[name] for name in fields if name in arguments}, missing


def _value(
    name: str, field: Schema, want: Want, known: Sequence[Fact], asked: Sequence[Clause],
    taken: Mapping[str, JSON], siblings: Sequence[str],
) -> JSON:  # fmt: skip
    choices = field.get("enum")
    if isinstance(choices, list) and choices:
        return nearest(choices, [want.clause.text, *(clause.text for clause in reversed(asked))])
    if "const" in field:
        return field["const"]
    kind = field.get("type", "string")
    kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
    if kind == "array":
        return [_value(name.removesuffix("s"), _items(field), want, known, asked, taken, siblings)]
    if kind == "object":
        inner, missing = fill(field, want, known, asked)
        if missing:
            raise Missing(name)
        return dict(inner)
    if kind == "boolean":
        if stems(name) & want.clause.stems:
            return not re.search(r"\b(no|not|don't|without)\b", want.clause.text.lower())
        raise Missing(name)
    if kind in {"integer", "number"}:
        return _number(name, kind == "integer", field, want, known)
    return _string(name, field, want, known, asked, taken, siblings)


def _string(
    name: str, field: Schema, want: Want, known: Sequence[Fact], asked: Sequence[Clause],
    taken: Mapping[str, JSON], siblings: Sequence[str],
) -> JSON:  # fmt: skip
    words = frozenset(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    special = _special(words, known, siblings)
    if special:
        return special
    if special is not None:
        raise Missing(name)
    if "expression" in words or "formula" in words:
        for clause in (want.clause, *reversed(asked)):
            if sum_ := _SUM.search(clause.text):
                return sum_.group().strip()
        raise Missing(name)
    found = _from_facts(name, field, want, known, taken)
    if found is not None:
        return found
    if frozenset(map(stem, words)) & _FREE:
        if frozenset(map(stem, words)) & _KEYWORDS:
            return keywords(want.clause.text) or keywords(" ".join(clause.text for clause in asked)) or want.clause.text
        return want.clause.text[:400]
    quotes = [fact.value for fact in known if fact.kind == "quote" and fact.turn == want.clause.turn]
    if quotes and not words & {"id", "verification", "code", "token"}:
        return quotes[-1]
    raise Missing(name)


def _special(words: frozenset[str], known: Sequence[Fact], siblings: Sequence[str]) -> JSON:  # noqa: C901 - a table
    """Values told by their form. None: the name is of no such kind; empty: it is, and there is no such value."""
    alike = " ".join(siblings).lower()
    kinds: tuple[str, ...] = ()
    if "email" in words or "mail" in words:
        kinds = ("email",)
    elif words & {"zip", "postal", "zipcode", "postcode"}:
        kinds = ("address zip", "zip") if "city" in alike else ("zip", "address zip")
    elif words & {"first", "last", "full", "given", "family", "surname", "firstname", "lastname"} or words == {"name"}:
        kinds = ("name",)
    elif "country" in words and any(fact.kind == "state" for fact in known):
        return "USA"
    elif "date" in words or "day" in words:
        kinds = ("date",)
    else:
        kinds = tuple(
            kind for word, kind in _PLACE.items() if any(w.startswith(word) for w in words) and "email" not in words
        )
        if "address2" in alike and words == {"address"} and not kinds:
            return None
    if not kinds:
        return None
    for kind in kinds:
        said = [fact.value for fact in known if fact.kind == kind and fact.said]
        returned = [fact.value for fact in known if fact.kind == kind and not fact.said]
        for value in (*reversed(said), *reversed(returned)):
            if kind != "name":
                return value
            first, _, last = str(value).partition(" ")
            return (
                first
                if words & {"first", "given", "firstname"}
                else last
                if words & {"last", "family", "surname", "lastname"}
                else value
            )
    return ""


def _from_facts(name: str, field: Schema, want: Want, known: Sequence[Fact], taken: Mapping[str, JSON]) -> JSON:
    bare = re.sub(r"^(?:new|target|wanted|to)_|_(?:new|target)$", "", name)
    nouns = stems(bare) - _BARE
    told = str(field.get("description", ""))
    shapes = {_shape(text) for text in re.findall(r"#?[A-Za-z]*[-_]?\d[\w-]*", told)}
    named = re.search(r"\bfrom `?(\w+_\w+)", told)
    used = {json.dumps(v) for value in taken.values() for v in (value if isinstance(value, list) else [value])}
    used = used if bare != name else set()
    aims = _AFTER.split(want.clause.text)  # what follows the last "for", "to", "instead" is what is wanted
    aim = stems(aims[-1]) if len(aims) > 1 else want.clause.stems
    best: tuple[float, int, JSON] | None = None
    for place, fact in enumerate(known):
        like = _likeness(bare, nouns, shapes, fact)
        given = shapes if fact.said else not fact.source  # by a person in that spelling, or as data in the prompt
        if named and fact.source != named.group(1) and not given:
            continue
        if like <= 0 or json.dumps(fact.value) in used or not isinstance(fact.value, str):
            continue
        about = aim if bare != name else want.clause.stems
        score = like + min(len(fact.around & about), 4) * 1.5 + 2.0 * (fact.turn == want.clause.turn) + fact.said
        score += 12.0 * (fact.value == want.anchor) + 6.0 * bool(not fact.said and stems(want.anchor) & fact.around)
        if best is None or score > best[0]:
            best = (score, place, fact.value)
    return best[2] if best else None


def _likeness(bare: str, nouns: frozenset[str], shapes: set[str], fact: Fact) -> float:
    """How well a fact fits an argument by what it is called and how it is spelled; 0 where it does not."""
    if fact.key.lower() == bare.lower():
        return 5.0
    if fact.kind != "id":
        return 0.0
    own = stems(fact.key) - _BARE
    if shapes:
        alike = _shape(str(fact.value)) in shapes and (fact.said or not own or bool(nouns & own))
        return 4.0 if alike else 2.0 if fact.said and nouns & own else 0.0
    if nouns & own:
        return 3.0
    loose = fact.said and not own & _NOUNS and bare.endswith(("id", "number", "reference"))
    return 1.0 if loose else 0.0


def _shape(text: str) -> str:
    """How an id is spelled: capitals stay, since they name its kind; the rest is told by its class alone."""
    return re.sub(r"\d+", "9", re.sub(r"[a-z]+", "a", text.lstrip("#"))).strip(".,;")


def _number(name: str, whole: bool, field: Schema, want: Want, known: Sequence[Fact]) -> JSON:
    nouns = stems(name)
    near = [
        f for f in known if f.kind == "number" and not isinstance(f.value, bool) and isinstance(f.value, int | float)
    ]
    near = [f for f in near if f.turn == want.clause.turn or stems(f.key) & nouns]
    near.sort(key=lambda fact: (bool(stems(fact.key) & nouns or fact.around & nouns), fact.around == want.clause.stems))
    if near and isinstance(near[-1].value, int | float):
        return int(near[-1].value) if whole else near[-1].value
    if isinstance(field.get("default"), int | float):
        return field["default"]
    if nouns & stems("quantity count limit amount_of pages top k"):
        return 1
    raise Missing(name)


def nearest(choices: Sequence[JSON], texts: Sequence[str]) -> JSON:
    """Return the choice that shares most words with the first text that shares any, else the first choice."""
    for text in texts:
        found = stems(text)
        scored = [
            (len(stems(str(choice)) & found) / (1 + len(stems(str(choice)))), -i) for i, choice in enumerate(choices)
        ]
        if max(scored)[0] > 0:
            return choices[-max(scored)[1]]
    return choices[0]


def _items(field: Schema) -> Schema:
    items = field.get("items")
    return items if isinstance(items, dict) else {"type": "string"}


def _plain(name: str, value: JSON, known: Sequence[Fact]) -> bool:
    """Whether an optional argument is worth giving: its value was said in so many words rather than returned."""
    return any(
        fact.said and fact.value == value and (fact.kind in {"email", "name", "zip", "date"} or fact.key == name)
        for fact in known
    )
