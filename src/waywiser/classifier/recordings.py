"""Recorded sessions and labelled steps as training rows: read from gzip JSON lines in the OpenAI message format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from waywiser.classifier.corpus import rows
from waywiser.core.messages import Message, Role, Text, ToolCall

SPOILED = "agent_error"
"""How a session ended whose agent broke down: such rows say nothing of what agents do."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One session. `source` is the file it came from; rows of one `task` never part in a split."""

    source: str
    model: str
    domain: str
    task: str
    success: bool
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class LabelledStep:
    """The history before a step and the rank, of four, of the cheapest model that was verified to be enough."""

    source: str
    instance: str
    messages: tuple[Message, ...]
    rank: int


def read_sessions(folder: Path) -> list[Recording]:
    """Read every recorded session below `folder`, in the order of the file names."""
    return [session for path in sorted(folder.glob("*.jsonl.gz")) for session in read_session_file(path)]


def read_session_file(path: Path) -> list[Recording]:
    """Read the recorded sessions of one file, but those whose agent broke down."""
    found: list[Recording] = []
    for row in rows(path):
        meta = row.get("meta")
        if isinstance(meta, Mapping) and meta.get("termination") == SPOILED:
            continue
        found.append(
            Recording(
                path.name.removesuffix(".jsonl.gz"),
                str(row.get("model", "")),
                str(row.get("domain", "")),
                f"{row.get('domain', '')} {row.get('task_id', '')}",
                bool(row.get("success")),
                tuple(read_messages(row.get("messages"))),
            )
        )
    return found


def read_steps(folder: Path, pattern: str = "*.jsonl.gz") -> list[LabelledStep]:
    """Read every labelled step of the files in `folder` that match, in the order of the file names."""
    return [
        LabelledStep(
            str(row.get("benchmark", path.stem)),
            str(row.get("instance_id", "")),
            tuple(read_messages(row.get("messages"))),
            int(str(row.get("target_tier_id", 3))),
        )
        for path in sorted(folder.glob(pattern))
        for row in rows(path)
    ]


def read_messages(raw: object) -> Iterator[Message]:
    """Read a recorded history. Tools that a person called are left out: they are none of the agent's steps."""
    for item in raw if isinstance(raw, Sequence) and not isinstance(raw, str) else ():
        if not isinstance(item, Mapping):
            continue
        role = str(item.get("role", "user"))
        text = _text(item.get("content"))
        calls = tuple(_calls(item.get("tool_calls"))) if role == "assistant" else ()
        yield Message(
            Role.SYSTEM if role == "developer" else Role(role),
            (Text(text),) if text else (),
            calls,
            tool_call_id=str(item.get("tool_call_id") or ""),
        )


def _text(content: object) -> str:
    """Return the text of a message's content, whatever its form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))


def _calls(raw: object) -> Iterator[ToolCall]:
    """Read the tool calls of an assistant turn; arguments given as an object are written as JSON."""
    for item in raw if isinstance(raw, Sequence) and not isinstance(raw, str) else ():
        function = item.get("function") if isinstance(item, Mapping) else None
        if isinstance(function, Mapping):
            arguments = function.get("arguments")
            written = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield ToolCall(str(item.get("id", "")), str(function.get("name", "")), written)
