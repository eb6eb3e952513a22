"""An incremental reader of server-sent events (WHATWG HTML, section 9.2), for what providers really send.

Bytes come in pieces cut anywhere: inside a UTF-8 character, between CR and LF, within a field. An event is returned
when its blank line has arrived; `end` returns a last one whose blank line never came, as some servers leave it out.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from dataclasses import dataclass

_BOM = "\ufeff"
_FIELD = re.compile(r"[A-Za-z][\w-]*")  # `id`, `retry`, and whatever the specification tells readers to ignore


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (empty when the server gave none) and its data, lines joined by newlines."""

    name: str
    data: str


class EventParser:
    """Feed it bytes, it returns events.

    `stray` is the first line that was no field at all: this is no event stream, or not any more.
    """

    __slots__ = ("_data", "_decoder", "_line", "_name", "_skip_newline", "_started", "stray")

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._data: list[str] = []
        self._name = ""
        self._skip_newline = False
        self._started = False
        self.stray = ""

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return the events they complete."""
        return self._take(self._decoder.decode(data))

    def end(self) -> list[Event]:
        """Take the end of the stream: an event still open is complete."""
        events = self._take(self._decoder.decode(b"", final=True) + "\n")
        event = self._flush()
        if event is not None:
            events.append(event)
        return events

    def _take(self, text: str) -> list[Event]:
        if not text:
            return []
        if not self._started:
            self._started = True
            text = text.removeprefix(_BOM)
        if self._skip_newline and text.startswith("\n"):
            text = text[1:]
        self._skip_newline = text.endswith("\r")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = (self._line + text).split("\n")
        self._line = lines.pop()
        events: list[Event] = []
        for line in lines:
            if line:
                self._field(line)
                continue
            event = self._flush()
            if event is not None:
                events.append(event)
        return events

    def _field(self, line: str) -> None:
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif not self.stray and not (colon and (not name or _FIELD.fullmatch(name))):
            self.stray = line

    def _flush(self) -> Event | None:
        event = Event(self._name, "\n".join(self._data)) if self._data else None
        self._name = ""
        self._data = []
        return event
