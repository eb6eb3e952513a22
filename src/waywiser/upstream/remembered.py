"""What was read of requests lately, by its JSON: an agent sends its whole history and all its tools at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeAlias, TypeVar

import orjson

from waywiser.core.calls import Tool
from waywiser.core.messages import Message
from waywiser.upstream.wire import Raw

T = TypeVar("T")
Key: TypeAlias = tuple[bytes, str]


class Remembered:
    """Messages and tool sets, each with the digests and counts that hang on it, so that none is read twice.

    Bounded by the bytes of JSON they were read from. Only what was read without complaint is kept: what is wrong is
    complained of at its place each time.
    """

    def __init__(self, limit_bytes: int = 8 << 20) -> None:
        self._messages: _Shelf[Message] = _Shelf(limit_bytes)
        self._tools: _Shelf[tuple[Tool, ...]] = _Shelf(limit_bytes // 4)

    def message(self, item: Raw, names: Mapping[str, str], read: Callable[[], Message]) -> Message:
        """Return what `read` makes of a message. `names` tells, by id, which tools were called before it."""
        if not isinstance(item, dict) or not isinstance(item.get("content"), str | None):
            return read()  # parts are long, and few come twice
        name = ""
        if (answered := item.get("tool_call_id")) is not None:
            # What a tool says is named after the call it answers, which stands elsewhere.
            if not isinstance(answered, str) or answered not in names:
                return read()
            name = names[answered]
        return self._messages.get(item, name, read)

    def tools(self, raw: Raw, read: Callable[[], tuple[Tool, ...]]) -> tuple[Tool, ...]:
        """Return what `read` makes of a request's tools."""
        return self._tools.get(raw, "", read) if raw else read()


class _Shelf(Generic[T]):
    """Two generations: what is asked for in the old one is young again, the rest goes when the young one is full."""

    __slots__ = ("_limit", "_old", "_size", "_young")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes // 2
        self._young: dict[Key, T] = {}
        self._old: dict[Key, T] = {}
        self._size = 0

    def get(self, raw: Raw, name: str, read: Callable[[], T]) -> T:
        try:
            key = (orjson.dumps(raw), name)
        except TypeError:  # half a character, or a number too large: not to be told from others by its JSON
            return read()
        found = self._young.get(key)
        if found is not None:
            return found
        made = self._old.get(key) or read()
        size = len(key[0])
        if size > self._limit // 4:
            return made
        if self._size + size > self._limit:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[key] = made
        self._size += size
        return made
