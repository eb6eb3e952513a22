"""How a simulated model words an answer: from its tools' results, from what the prompt holds, or by asking back.

Every text begins with `MARK`, so that nobody takes it for the work of a real model. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from waywiser.core.calls import JSON, Tool
from waywiser.core.messages import Message, Role, ToolCall
from waywiser.upstream.simulated_arguments import properties
from waywiser.upstream.simulated_reading import documents, failed, keywords, prose, requests, stems
from waywiser.upstream.simulated_tools import goals, hands_over, parameters, writes

MARK = "[simulated] "
_PAST = {
    "send": "sent",
    "make": "made",
    "set": "set",
    "cancel": "cancelled",
    "pay": "paid",
    "write": "wrote",
    "put": "put",
}
_NAMED = {"zip": "zip code", "email": "e-mail address", "name": "full name"}
_SECRET = ("verification", "token", "secret", "password")
_ENTRY = re.compile(r"\s*\d{1,3}\. (.*)")
_HEADING = re.compile(r"\[[\w-]+\] ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])|\n+")


def answer(messages: Sequence[Message], tools: Sequence[Tool], missing: Sequence[str], sentences: int) -> str:
    """Word the answer in at most `sentences` parts: what was done, what was found, what is still needed."""
    wanted = question(messages)
    parts = _results(messages, wanted)[:sentences]
    if missing:
        parts.append(_ask(missing, tools))
    if not parts:
        parts = evidence(messages, wanted)[:sentences]
    if not parts:
        topic = keywords(_last_said(messages))
        parts = [f"You asked about {topic}. I have nothing to look this up in." if topic else "How can I help you?"]
    return MARK + " ".join(parts)


def question(messages: Sequence[Message]) -> frozenset[str]:
    """Return the stems of what is wanted: the first request, and of the last its first line and its questions."""
    said = [prose(message.text) for message in messages if message.role is Role.USER and message.text.strip()]
    said = said or [prose(message.text) for message in messages]
    if not said:
        return frozenset()
    lines = [line for line in _SENTENCE.split(said[-1][:5000]) if line.strip()]
    return stems(" ".join((said[0][:600], *lines[:1], *(line for line in lines if "?" in line))))


def evidence(messages: Sequence[Message], wanted: frozenset[str]) -> list[str]:
    """Return the sentences of the prompt that share most with what is wanted, best first; at least two shared words.

    A system prompt is instruction, but for the numbered lists in it: those are results that were handed on.
    """
    found: dict[str, int] = {}
    for message in messages:
        if message.role is Role.TOOL or (message.role is Role.ASSISTANT and message.tool_calls):
            continue
        for value in documents(message.text):
            line = _told(value, wanted, 6)
            found[line] = len(stems(line) & wanted)
        text = message.text.replace(MARK, "")
        lines = _SENTENCE.split(prose(_handed_on(text) if message.role is Role.SYSTEM else text))
        for place, line in enumerate(lines):
            instruction = message.role is Role.USER and (place == 0 or "?" in line)
            if not instruction and len(line) > 25:
                handed = message.role is Role.SYSTEM  # somebody has chosen it for this request already
                found[line.strip()[:400]] = len(stems(line) & wanted) + handed
    ranked = sorted(found.items(), key=lambda entry: -entry[1])
    return [line for line, shared in ranked if shared > 1]


def _handed_on(prompt: str) -> str:
    """The entries of the numbered lists of a prompt, with the lines set in below them; headings of tasks left out."""
    told: list[str] = []
    inside = False
    for line in prompt.splitlines():
        entry = _ENTRY.match(line)
        inside = entry is not None or (inside and line.startswith("  "))
        body = entry.group(1) if entry else line.strip()
        if inside and not _HEADING.match(body):
            told.append(body)
    return "\n".join(told)


def _results(messages: Sequence[Message], wanted: frozenset[str]) -> list[str]:
    """One sentence for each tool result that answers what was asked: changes first, then what was looked up.

    Steps on the way (who the customer is, the order before it was changed) are told only when there is nothing better.
    """
    calls = {call.id: call for message in messages for call in message.tool_calls}
    results = [
        (calls.get(m.tool_call_id, ToolCall("", m.tool_name or "tool", "")), m) for m in messages if m.role is Role.TOOL
    ]
    results = [(call, message) for call, message in results if not hands_over(call.name)]
    names = [Tool(name) for name in dict.fromkeys(call.name for call, _ in results)]
    meant = {tool.name for tool, _ in goals(names, requests(messages))}
    # whoever orders a plain look-up, as a planner does, works with the record; a customer is not told codes
    ordered = re.match(r"\W*(?:find|look up|get|list|fetch|retrieve)\b", _last_said(messages).lower()) is not None
    touched = frozenset[str]().union(*(_ids(call) for call, _ in results if writes(Tool(call.name))))
    told: dict[str, tuple[int, int]] = {}
    for place, (call, message) in enumerate(results):
        changed = writes(Tool(call.name))
        if failed(message):
            line, rank = f"I could not {call.name.replace('_', ' ')}: {_sentence(message.text)}", 1 if changed else 3
        else:
            values = documents(message.text)
            body = _told(values[0], wanted, 8, secrets=ordered) if values else _best(message.text, wanted)
            line = f"I have {_past(call.name)}. {_sentence(body)}" if changed else _sentence(body)
            rank = 0 if changed else 2 if call.name in meant and not _ids(call) & touched else 4
        told[line] = (rank, -place)
    ranked = sorted(told, key=lambda line: told[line])
    direct = [line for line in ranked if told[line][0] < 4]
    return direct or ranked[:1]


def _ids(call: ToolCall) -> frozenset[str]:
    return frozenset(re.findall(r'_id": "([^"]+)"', call.arguments))


def _told(value: JSON, wanted: frozenset[str], limit: int, *, secrets: bool = False) -> str:
    """Put a JSON value in words: of a list the entries nearest to the question, of a record its plain fields."""
    if isinstance(value, list):
        near = sorted(value[:200], key=lambda item: -len(stems(json.dumps(item)) & wanted))
        return "; ".join(_told(item, wanted, limit) for item in near[:2])
    if not isinstance(value, dict):
        return _best(str(value), wanted)
    plain = [
        (key.replace("_", " "), item) for key, item in value.items() if _plain(item) and (secrets or key not in _SECRET)
    ]
    head = ""
    if plain and plain[0][0] in {"title", "name"}:
        head, plain = f"{plain[0][1]}: ", plain[1:]
    elif plain and plain[0][0].endswith(" id"):
        head = f"{plain[0][0].removesuffix(' id')} {plain[0][1]}: "
        plain = [(key, item) for key, item in plain[1:] if not key.endswith(" id")]
    words = [_best(str(item), wanted) if len(str(item)) > 80 else f"{key} {item}" for key, item in plain]
    inner = [_told(item, wanted, limit // 2) for item in value.values() if isinstance(item, dict | list) and item]
    return head + "; ".join((*words[:limit], *inner[:2]))


def _plain(item: JSON) -> bool:
    return not isinstance(item, dict | list) and item is not None


def _best(text: str, wanted: frozenset[str]) -> str:
    """Return the two sentences of a longer text that share most with the question, in their order."""
    lines = [line.strip() for line in _SENTENCE.split(text) if line.strip()]
    best = sorted(range(len(lines)), key=lambda i: (-len(stems(lines[i]) & wanted), i))[:2]
    return " ".join(lines[i][:300] for i in sorted(best))


def _ask(missing: Sequence[str], tools: Sequence[Tool]) -> str:
    names = list(dict.fromkeys(missing))
    fields = [properties(parameters(tool)) for tool in tools]
    beside = [name for found in fields if set(names) <= set(found) for name in found if name in {"email", "name"}]
    text = "To go on I need your " + " and ".join(_NAMED.get(name, name.replace("_", " ")) for name in names)
    rest = [name for name in dict.fromkeys(beside) if name not in names]
    return text + (f", with your {' or '.join(_NAMED[name] for name in rest)}." if rest else ".")


def _past(name: str) -> str:
    verb, *rest = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
    done = _PAST.get(verb, verb + ("d" if verb.endswith("e") else "ed"))
    return " ".join((done, "the", *rest)) if rest else done


def _sentence(text: str) -> str:
    text = " ".join(text.split())[:600] or "there was no result"
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _last_said(messages: Sequence[Message]) -> str:
    return next((message.text for message in reversed(messages) if message.role is Role.USER), "")
