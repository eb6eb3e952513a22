"""What each provider's dialect takes of a conversation: the rules that `portability.py` holds a history against.

Sources: the API references of OpenAI (chat completions), Anthropic (Messages), Google (Gemini, through its
OpenAI-compatible endpoint) and Mistral, and the words in which their servers refuse a request that breaks a rule. A
model of any other provider is held to the rules of chat completions, which most of them copy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from waywiser.core.messages import File, Image, Role
from waywiser.core.models import Ability, Model

CALL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""The name of a tool that every dialect takes."""

_PICTURES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_AUDIO = frozenset({"audio/wav", "audio/x-wav", "audio/mpeg", "audio/mp3"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one dialect. A field says what is taken; what is not is repaired or forbids the move.

    `call_id` is the pattern of a tool call's id, `new_id` prefix and length of one made anew. `media` are the roles
    whose turns may hold images and files. `thinking` says when thinking may go back to the model that wrote it:
    `signed`, `plain`, `with_calls` (signed, beside a tool call) or `never`. `user_first`, `user_last`: the first turn
    after the system prompt, or the last one, must not be the assistant's. `reply_after_tool`: only the assistant may
    speak after a tool result. `joined`: the assistant may not speak twice in a row. `marks` is how many cache marks
    are taken. `tools_with_history`: a history with tool calls must come with tools.
    """

    name: str
    call_id: re.Pattern[str]
    new_id: tuple[str, int]
    media: frozenset[Role]
    pictures: frozenset[str] = _PICTURES
    picture_urls: tuple[str, ...] = ("https://", "http://")
    audio: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    thinking: str = "never"
    opaque: frozenset[Role] = frozenset()
    names: re.Pattern[str] | None = None
    error_flag: bool = False
    detail: bool = True
    marks: int = 0
    raw_arguments: bool = False
    system_inside: bool = False
    user_first: bool = False
    user_last: bool = True
    reply_after_tool: bool = False
    joined: bool = False
    prefill: bool = True
    tools_with_history: bool = False
    file_id_prefixes: tuple[str, ...] = field(default=())


_USER = frozenset({Role.USER})

OPENAI = Dialect(
    "openai",
    call_id=re.compile(r".{1,40}", re.DOTALL),
    new_id=("call_", 24),
    media=_USER,
    audio=_AUDIO,
    files=frozenset({"data"}),
    thinking="plain",
    opaque=_USER,
    names=re.compile(r"[^\s<|\\/>]{1,64}"),
    raw_arguments=True,
    system_inside=True,
    user_last=False,
    file_id_prefixes=("file-",),
)
ANTHROPIC = Dialect(
    "anthropic",
    call_id=re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    new_id=("toolu_", 24),
    media=frozenset({Role.USER, Role.TOOL}),
    picture_urls=("https://",),
    files=frozenset({"data", "url"}),
    thinking="signed",
    opaque=frozenset({Role.USER, Role.ASSISTANT, Role.TOOL}),
    error_flag=True,
    detail=False,
    marks=4,
    user_first=True,
    tools_with_history=True,
    file_id_prefixes=("file_",),
)
GOOGLE = Dialect(
    "google",
    call_id=re.compile(r".{1,40}", re.DOTALL),
    new_id=("call_", 24),
    media=_USER,
    pictures=frozenset({"image/png", "image/jpeg", "image/webp"}),
    audio=_AUDIO,
    thinking="with_calls",
    user_first=True,
    joined=True,
    prefill=False,
)
MISTRAL = Dialect(
    "mistral",
    call_id=re.compile(r"[a-zA-Z0-9]{9}"),
    new_id=("", 9),
    media=_USER,
    reply_after_tool=True,
    prefill=False,
)
DIALECTS = {dialect.name: dialect for dialect in (OPENAI, ANTHROPIC, GOOGLE, MISTRAL)}

_HOSTS = {
    "api.mistral.ai": MISTRAL,
    "generativelanguage.googleapis.com": GOOGLE,
    "api.anthropic.com": ANTHROPIC,
}
_PROVIDERS = {"anthropic": ANTHROPIC, "google": GOOGLE, "mistral": MISTRAL, "mistralai": MISTRAL}
_WIRES = frozenset({"openai", "anthropic", "langchain"})


def dialect_of(model: Model) -> Dialect | None:
    """Tell whose rules a model keeps; None for one that is no provider's and takes anything (`simulated`, …)."""
    return _dialect(model.api, model.base_url, model.name)


@lru_cache(maxsize=1024)
def _dialect(api: str, base_url: str, name: str) -> Dialect | None:
    if api not in _WIRES:
        return None
    if api == "anthropic":
        return ANTHROPIC
    host = base_url.partition("://")[2].partition("/")[0].partition(":")[0]
    known = _HOSTS.get(host) or _PROVIDERS.get(name.partition("/")[0], OPENAI)
    return OPENAI if known is ANTHROPIC and api == "openai" else known


def image_fault(part: Image, dialect: Dialect) -> str:
    """Say why an image can't be told in a dialect; empty when it can."""
    if part.url.startswith("data:"):
        kind = part.url[5:].partition(";")[0].partition(",")[0]
        return "" if kind in dialect.pictures else f"{dialect.name} takes no {kind or 'unnamed'} image"
    return "" if part.url.startswith(dialect.picture_urls) else f"{dialect.name} takes no image from such a URL"


def file_fault(part: File, dialect: Dialect) -> str:
    """Say why a file can't be told in a dialect; empty when it can. An id means something to its provider only."""
    if part.file_id:
        foreign = any(
            part.file_id.startswith(other.file_id_prefixes) for other in DIALECTS.values() if other is not dialect
        )
        if foreign or not dialect.file_id_prefixes:
            return f"{dialect.name} can't know the file {part.file_id[:40]}"
        return ""
    if part.url.startswith("data:") and part.media_type in dialect.audio:
        return ""
    if part.media_type.startswith("image/") and "url" in dialect.files:
        return image_fault(Image(part.url), dialect)
    source = "data" if part.url.startswith("data:") else "url"
    fits = source in dialect.files and (dialect.name == "openai" or part.media_type == "application/pdf")
    if fits and source == "url":
        fits = part.url.startswith("https://")
    return "" if fits else f"{dialect.name} takes no {part.media_type} by {source}"


def continues(model: Model, dialect: Dialect) -> bool:
    """Whether the model goes on with an assistant's turn that it is given as the last one."""
    return dialect.prefill and Ability.PREFILL in model.abilities
