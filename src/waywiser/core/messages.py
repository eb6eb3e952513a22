"""A chat history as the core sees it, whatever its wire format.

A `Message` is immutable and carries its own digest, so that whatever was computed for it once (tokens, features,
wire bytes) is found again by digest and never computed twice in a session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import TypeAlias


class Role(StrEnum):
    """Who speaks. `developer` messages are read as `system`."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text; `cache` marks the end of a prefix the author asked the provider to cache."""

    text: str
    cache: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image by URL or `data:` URL; `detail` as in the OpenAI dialect (empty when not given)."""

    url: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A document, audio clip or other file: a `data:` URL, a public URL, or a provider's file id."""

    media_type: str
    url: str = ""
    file_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning a model showed. `signature` is valid only for the model that wrote it (`Message.model`)."""

    text: str
    signature: str = ""
    redacted: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """A block we do not understand, kept as JSON text with the dialect it came from (`openai`, `anthropic`, …)."""

    dialect: str
    json: str


Part: TypeAlias = Text | Image | File | Thinking | Opaque


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model asked for. `arguments` is the JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn. Not slotted: `digest` and `text` are computed at most once and kept.

    `tool_call_id`, `tool_name` and `is_error` belong to tool results; `tool_calls` and `model` (who produced it)
    to assistant turns; `name` is the optional speaker's name of the OpenAI dialect.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    tool_name: str = ""
    is_error: bool = False
    name: str = ""
    model: str = ""

    @cached_property
    def text(self) -> str:
        """All plain text of the turn, runs joined by nothing."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Text):
            return self.parts[0].text
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for everything a model would see of this turn."""
        fields: list[str] = [self.role, self.tool_call_id, self.tool_name, str(self.is_error), self.name, self.model]
        for part in self.parts:
            fields.append(type(part).__name__)
            fields.extend(str(getattr(part, slot)) for slot in part.__slots__)
        for call in self.tool_calls:
            fields.extend((call.id, call.name, call.arguments))
        return digest(fields)


def user(text: str) -> Message:
    """A user turn of plain text."""
    return Message(Role.USER, (Text(text),))


def system(text: str) -> Message:
    """A system turn of plain text."""
    return Message(Role.SYSTEM, (Text(text),))


def assistant(text: str = "", tool_calls: Iterable[ToolCall] = ()) -> Message:
    """An assistant turn of plain text, of tool calls, or of both."""
    return Message(Role.ASSISTANT, (Text(text),) if text else (), tuple(tool_calls))


def tool_result(call_id: str, text: str, *, name: str = "", is_error: bool = False) -> Message:
    """What a tool answered to the call `call_id`."""
    return Message(Role.TOOL, (Text(text),), tool_call_id=call_id, tool_name=name, is_error=is_error)


def digest(fields: Iterable[str]) -> bytes:
    """16 bytes of BLAKE2b over the fields, each followed by an unambiguous separator. Lone surrogates are allowed."""
    state = blake2b(digest_size=16)
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
