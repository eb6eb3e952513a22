"""YAML read into a tree whose every key and value knows its line and column.

The tree is built from the parser's events, without recursion, so neither deep nesting nor an alias that repeats itself
can exhaust the stack or the memory. Scalars follow the core schema of YAML 1.2: only `true` and `false` are truth
values (`no` is a language, `on` is a word), dates stay text, and there are no octal or base-60 surprises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import yaml

from waywiser.core.calls import JSON
from waywiser.errors import ConfigError, Place, Problem

MAX_DEPTH = 64
MAX_NODES = 100_000
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]{1,4000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NULLS = ("", "~", "null", "Null", "NULL")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TEXT_TAG = "tag:yaml.org,2002:str"


@dataclass(slots=True)
class Located:
    """A value and its place: a scalar, a list's `items`, or a mapping's `fields` with the places of their `keys`."""

    place: Place
    scalar: bool | int | float | str | None = None
    items: list[Located] | None = None
    fields: dict[str, Located] | None = None
    keys: dict[str, Place] = field(default_factory=dict)

    def child(self, key: str | int) -> Located | None:
        """Return the value under a key or at an index, None where there is none."""
        if self.fields is not None and isinstance(key, str):
            return self.fields.get(key)
        if self.items is not None and isinstance(key, int) and 0 <= key < len(self.items):
            return self.items[key]
        return None

    def plain(self) -> JSON:
        """Copy the tree into plain data, aliases written out. Raises `ConfigError` where that gets out of hand."""
        return _copied(self, count(1), 1)


def _copied(node: Located, counter: Iterator[int], depth: int) -> JSON:
    if next(counter) > MAX_NODES:
        raise ConfigError(Problem(node.place, f"aliases expand to more than {MAX_NODES} values", "write the file out"))
    if depth > MAX_DEPTH:
        raise ConfigError(Problem(node.place, f"nested more than {MAX_DEPTH} levels deep"))
    if node.items is not None:
        return [_copied(item, counter, depth + 1) for item in node.items]
    if node.fields is not None:
        return {key: _copied(value, counter, depth + 1) for key, value in node.fields.items()}
    return node.scalar


@dataclass(slots=True)
class _Open:
    """A list or mapping that is still being read; `key` is the mapping's key that waits for its value."""

    node: Located
    anchor: str | None
    key: str | None = None


class _Builder:
    """Puts events together. Problems that don't stop the reading are collected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, Located] = {}
        self.root: Located | None = None
        self.count = 0

    def place(self, mark: object) -> Place:
        """Read a mark of either parser: libyaml's or the one in Python."""
        line, column = getattr(mark, "line", None), getattr(mark, "column", None)
        if not isinstance(line, int) or not isinstance(column, int):
            return Place(self.name)
        return Place(self.name, line + 1, column + 1)

    def feed(self, event: yaml.Event) -> None:
        place = self.place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise ConfigError(Problem(place, "a second document begins here", "keep one document in a file"))
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event, place), event.anchor, is_key=True)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(Located(place, items=[]), event.anchor)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(Located(place, fields={}), event.anchor)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            closed = self.stack.pop()
            if closed.anchor:
                self.anchors[closed.anchor] = closed.node
            self._attach(closed.node)

    def _begin(self, node: Located, anchor: str | None) -> None:
        if self._waits_for_key():
            raise ConfigError(Problem(node.place, "a key must be text, not a list or a mapping"))
        if len(self.stack) >= MAX_DEPTH:
            raise ConfigError(Problem(node.place, f"nested more than {MAX_DEPTH} levels deep"))
        self._counted(node.place)
        self.stack.append(_Open(node, anchor))

    def _counted(self, place: Place) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(Problem(place, f"more than {MAX_NODES} values", "split the file"))

    def _waits_for_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].node.fields is not None and self.stack[-1].key is None

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Located:
        self._counted(place)
        if event.tag not in (None, "!", _TEXT_TAG):
            self.problems.append(Problem(place, f"the tag `{event.tag}` is not understood", "leave the tag out"))
        if event.style or event.tag == _TEXT_TAG:
            return Located(place, event.value)
        try:
            return Located(place, resolved(event.value))
        except OverflowError:
            self.problems.append(Problem(place, f"the number {event.value[:20]}… is too large"))
            return Located(place, 0)

    def _alias(self, event: yaml.AliasEvent, place: Place) -> None:
        node = self.anchors.get(event.anchor or "")
        if node is None:
            raise ConfigError(
                Problem(
                    place, f"`*{event.anchor}` names nothing that is complete before it", "define it above with `&`"
                )
            )
        self._add(node, None, is_key=node.items is None and node.fields is None)

    def _add(self, node: Located, anchor: str | None, *, is_key: bool) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self._waits_for_key():
            self._attach(node)
            return
        top = self.stack[-1]
        key = node.scalar
        if not is_key or not isinstance(key, str):
            hint = f'write "{key}"' if is_key else ""
            self.problems.append(Problem(node.place, f"a key must be text, not {in_words(key)}", hint))
            key = str(key)
        if key in top.node.keys:
            first = top.node.keys[key]
            self.problems.append(
                Problem(node.place, f"the key `{key}` is here twice", f"the first is on line {first.line}")
            )
        top.node.keys.setdefault(key, node.place)
        top.key = key

    def _attach(self, node: Located) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if top.node.items is not None:
            top.node.items.append(node)
        elif top.node.fields is not None and top.key is not None:
            top.node.fields.setdefault(top.key, node)
            top.key = None


def resolved(text: str) -> bool | int | float | str | None:
    """Give a plain scalar its type. `OverflowError` for a number no float can hold."""
    if text in _NULLS:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise OverflowError
        return number
    return text


def in_words(value: JSON) -> str:
    """Name a value in an error message: quoted text (shortened), a number, `a list`, `a mapping`, `nothing`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "…")
    return "a list" if isinstance(value, list) else "a mapping"


def read_yaml(text: str, name: str) -> Located:
    """Parse one YAML document that is a mapping.

    Raises `ConfigError` with every problem found; broken YAML stops at the first, with the place the parser names.
    """
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError([*builder.problems, Problem(builder.place(mark), *_broken(error, text))]) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError([*builder.problems, _unreadable(text, name)]) from error
    root = builder.root
    if root is None or (root.fields is None and root.scalar is None and root.items is None):
        raise ConfigError(Problem(Place(name, 1, 1), "the file is empty"))
    if root.fields is None:
        builder.problems.append(
            Problem(root.place, f"expected a mapping, got {in_words(root.scalar) if root.items is None else 'a list'}")
        )
    if builder.problems:
        raise ConfigError(builder.problems)
    return root


def _broken(error: yaml.MarkedYAMLError, text: str) -> tuple[str, str]:
    """Turn the parser's complaint into a message and a hint."""
    problem = str(error.problem or error.context or "unreadable")
    char = _char_at(error.problem_mark, text)
    hint = ""
    if char == "\t" and ("any token" in problem or "tab" in problem):
        problem, hint = "found a tab where only spaces are allowed", "indent with spaces"
    elif char and "any token" in problem:
        problem, hint = f"a text can't begin with the character `{char}`", "put the text in quotes"
    elif "mapping values are not allowed" in problem:
        hint = "quote a text that contains `: `, and check the indentation"
    elif "expected" in problem or "did not find" in problem:
        hint = "check the indentation, and that brackets and quotes are closed"
    return f"broken YAML: {problem}", hint


def _char_at(mark: yaml.Mark | None, text: str) -> str:
    """The character a mark stands at; empty where there is none."""
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)  # what YAML takes for the end of a line
    if mark is None or mark.line >= len(lines):
        return ""
    return lines[mark.line][mark.column : mark.column + 1]


def _unreadable(text: str, name: str) -> Problem:
    """Find the character YAML does not allow."""
    for number, line in enumerate(text.split("\n"), 1):
        for column, char in enumerate(line, 1):
            if (ord(char) < 0x20 and char not in "\t\r") or 0xD800 <= ord(char) <= 0xDFFF or char in "\x7f\ufffe\uffff":
                return Problem(Place(name, number, column), f"the character U+{ord(char):04X} is not allowed in YAML")
    return Problem(Place(name), "not readable as YAML")
