"""How a simulated model reads: words brought to a common form, and the facts a conversation holds.

A fact is a value that a tool argument or an answer can use: an e-mail address, an id, a date, a field of an earlier
result. It remembers the words around it, so that "the boots" finds the right row of a list. Pure functions of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from waywiser.core.calls import JSON
from waywiser.core.messages import Message, Role

# words a support conversation uses for one another; the first of a row stands for all of it
_SAME = (
    "cancel abort revoke", "refund reimburse reimbursement", "return", "exchange swap replace",
    "track parcel package shipment whereabouts where arrive tracking status", "order purchase bought",
    "find search lookup look get list show retrieve fetch read check query view detail",
    "change update modify edit redirect instead move amend", "remove delete",
    "policy rule handbook allowed terms window",
    "create add make schedule", "book reserve", "send mail post", "customer user client account profile",
    "product article catalog catalogue", "price cost", "calculate compute", "zip postal postcode", "address street",
)  # fmt: skip
_STOP = frozenset(
    re.findall(
        "[a-z]+",
        "a about all also am an and any are as at be been but by can could did do does don for from give given had has"
        " have he hello help her hi him his how i if in into is it its just let like ll me my no not of on one or"
        " our out please re s she should so some such t tell than thank thanks that the their them then there these"
        " they this those to too us ve want wanted was we were what when which who will with would you your",
    )
)
LONG = 20_000  # characters of one message that are read as prose
READING = "find"  # the common form of every verb that only looks
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{0,64}\w")
_ID = re.compile(r"(?<![\w@.$-])#?(?:[A-Za-z]{1,6}[-_]?\d{2,}[\w-]*|[a-z]+_[a-z]+_\d+|\d{6,})(?![\w@])|#\w+")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_ZIP = re.compile(r"(?<![\w#.-])\d{5}(?![\w.-]*\d)")
_NUMBER = re.compile(r"(?<![\w#.@-])\d+(?:\.\d+)?(?![\w@-])")
_QUOTE = re.compile(r"[\"“”]([^\"“”\n]{2,80})[\"“”]")
_NAME = re.compile(r"(?:[Nn]ame is|[Tt]his is|I am|I'm|I’m|[Nn]ame:|(?<=\w, ))\s*([A-Z][\w'-]+ [A-Z][\w'-]+)")
_CAPITALS = re.compile(r"(?<![.!?] )(?<!^)\b([A-Z][a-z]+ [A-Z][a-z]+)\b")
_ADDRESS = re.compile(r"(\d{1,6} [A-Z][\w.' ]{1,40}?), *([A-Z][A-Za-z.' ]{1,30}?),? +([A-Z]{2}),? +(\d{5})")
_OPENING = re.compile(r"[{\[]")
LISTED = re.compile(
    r"\W*([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`?\*{0,2}\s*(?:\(([^)]*)\))?\s*[:—–-]+\s*(.+)"
)  # - cancel_order(id): Cancel it
_CLAUSE = re.compile(
    r"(?<=[.!?;])\s+|\n+|,? and (?:also |then )|,? then |, (?=and )"
    r"|\band (?=(?:can|could|would|please|what|how|where|I)\b)"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A value found in the conversation.

    `key` says what it is, as far as known (`order_id`, or the word before an id); `kind` is `email`, `zip`, `name`,
    `id`, `date`, `number`, `quote`, `street`, `city`, `state` or `text`; `turn` is the message it stands in; `around`
    holds the stems of its record or clause; `said` is true when a person said it and false when a tool returned it, and
    `source` names that tool.
    """

    key: str
    value: JSON
    kind: str
    turn: int
    around: frozenset[str]
    said: bool
    source: str = ""


@dataclass(frozen=True, slots=True)
class Clause:
    """A part of what a person asked, with the turn it was said in."""

    text: str
    turn: int
    stems: frozenset[str]

    @property
    def asks(self) -> bool:
        """Whether it is a question about how things are, rather than a request to do something."""
        question = r"\W*(?:and |but |so )?(how|what|which|when|why|who|do|does|is|are|may|can i|could i|am i|will)\b"
        wonder = r"\b(?:know|tell me|wonder|wondering|ask|explain)\b.*\b(?:how|what|which|when|why|whether|if)\b"
        return re.match(question, self.text.lower()) is not None or re.search(wonder, self.text.lower()) is not None


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Cut English endings and bring words of one meaning to one form."""
    return _CANONICAL.get(_cut(word), _cut(word))


def stems(text: str) -> frozenset[str]:
    """Return the stems of the words that carry meaning; names such as `find_orderId` are taken apart."""
    text = re.sub(r"\b(send|sent|give|given|bring|brought)((?:ing)?(?: [\w'-]+){0,6}) back\b", r"return\2", text)
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", text).replace("_", " ").lower()
    return frozenset(stem(word) for word in re.findall(r"[^\W_]+", apart) if word not in _STOP)


def keywords(text: str, limit: int = 8) -> str:
    """Return the words of `text` that carry meaning, as written, in order, each once."""
    bare = _ID.sub(" ", _EMAIL.sub(" ", text[:LONG]))
    found = [
        word
        for word in re.findall(r"[^\W_][\w'-]*", bare)
        if word.lower() not in _STOP and len(word) > 1 and not word.isdigit()
    ]
    return " ".join(list(dict.fromkeys(found))[:limit])


def clauses(text: str, turn: int) -> list[Clause]:
    """Take a message apart into the things it asks for."""
    parts = (part.strip() for part in _CLAUSE.split(text[:LONG]))
    return [Clause(part, turn, stems(part)) for part in parts if part and stems(part)]


def requests(messages: Sequence[Message]) -> list[Clause]:
    """Return what people asked, oldest first; the instruction itself where no person speaks."""
    role = Role.USER if any(m.role is Role.USER and m.text.strip() for m in messages) else Role.SYSTEM
    return [clause for turn, m in enumerate(messages) if m.role is role for clause in clauses(prose(m.text), turn)]


def prose(text: str) -> str:
    """Return the text without the JSON in it and without a listing of tools: what is left is meant for a reader."""
    text = text[:LONG]
    for start, end, value in reversed(_spans(text)):
        text = text[:start] + text[end:] if value else text
    lines = text.splitlines()
    listing = [line for line in lines if LISTED.match(line)]
    return "\n".join(line for line in lines if line not in listing) if len(listing) > 1 else text


def facts(messages: Sequence[Message]) -> list[Fact]:
    """Return every fact of the conversation, in the order it appeared. System text is instruction, not fact."""
    found: list[Fact] = []
    makers = {call.id: call.name for message in messages for call in message.tool_calls}
    alone = not any(message.role is Role.USER for message in messages)
    for turn, message in enumerate(messages):
        if message.role is Role.USER or (alone and message.role is Role.SYSTEM):
            found.extend(_said(message.text, turn))
            found.extend(fact for value in documents(message.text) for fact in _fields(value, turn))
        elif message.role is Role.TOOL and not failed(message):
            maker = message.tool_name or makers.get(message.tool_call_id, "")
            found.extend(replace(fact, source=maker) for fact in _returned(message.text, turn, maker))
    return found


def _returned(text: str, turn: int, maker: str) -> Iterator[Fact]:
    values, bare = documents(text), text.strip().strip('"')
    if not values and re.fullmatch(
        r"[\w#-]{2,40}", bare
    ):  # the whole answer is one id: it is what the tool is named for
        yield Fact(maker, bare, "id", turn, stems(maker), said=False)
    elif not values:
        yield from _said(text, turn, said=False)
    for value in values:
        yield from _fields(value, turn)


def failed(message: Message) -> bool:
    """Whether a tool result tells of a failure."""
    return message.is_error or re.match(r"\W*(error|exception|traceback|failed)\b", message.text.lower()) is not None


def documents(text: str) -> list[JSON]:
    """Return the JSON objects and arrays that stand in a text, empty ones left out."""
    return [value for _, _, value in _spans(text) if value]


def _spans(text: str) -> list[tuple[int, int, JSON]]:
    """Find JSON in a text: where it starts and ends, and its value. A bounded number of places is tried."""
    decoder, found, start = json.JSONDecoder(), list[tuple[int, int, JSON]](), 0
    for _ in range(200):
        opening = _OPENING.search(text, start)
        if opening is None:
            break
        try:
            value, start = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            start = opening.start() + 1
            continue
        found.append((opening.start(), start, value))
    return found


def _said(text: str, turn: int, *, said: bool = True) -> Iterator[Fact]:  # noqa: C901 - one loop for each kind
    text = text[:LONG]
    place = _ADDRESS.search(text)
    if place:
        around = stems(place.group())
        for kind, value in zip(("street", "city", "state", "address zip"), place.groups(), strict=True):
            yield Fact(kind, value.strip(), kind, turn, around, said)
    for part in clauses(text, turn):
        for match in _EMAIL.finditer(part.text):
            yield Fact("email", match.group(), "email", turn, part.stems, said)
        for match in _ID.finditer(_EMAIL.sub(" ", part.text)):
            before = re.findall(r"[a-z]+", part.text[: max(part.text.find(match.group()), 0)].lower())
            named = [word for word in before[-3:] if word not in _STOP and word not in {"id", "number"}]
            yield Fact(named[-1] if named else "", match.group().strip(), "id", turn, part.stems, said)
        for kind, pattern in (("date", _DATE), ("zip", _ZIP), ("number", _NUMBER), ("quote", _QUOTE), ("name", _NAME)):
            for match in pattern.finditer(part.text):
                value = match.group(1) if pattern.groups else match.group()
                if kind == "zip" and place and value == place.group(4):
                    continue
                number = (
                    float(value) if kind == "number" and "." in value else int(value) if kind == "number" else value
                )
                yield Fact(kind, number, kind, turn, part.stems, said)
    for match in () if _NAME.search(text) or _EMAIL.search(text) or not _ZIP.search(text) else _CAPITALS.finditer(text):
        if not (place and match.group(1) in place.group()):
            yield Fact("name", match.group(1), "name", turn, stems(match.group(1)), said)


def _fields(value: JSON, turn: int, key: str = "", outer: frozenset[str] = frozenset()) -> Iterator[Fact]:
    if isinstance(value, dict):
        own = " ".join(str(item) for item in value.values() if not isinstance(item, dict | list))
        around = outer | stems(own[:2000])
        for name, item in value.items():
            yield from _fields(item, turn, f"{key.removesuffix('s')}_id" if name == "id" and key else name, around)
    elif isinstance(value, list):
        for item in value[:200]:
            yield from _fields(item, turn, key, outer)
    elif value is not None and value != "":
        yield Fact(key, value, _kind(key, value), turn, outer or stems(str(value)[:2000]), said=False)


def _kind(key: str, value: JSON) -> str:
    if isinstance(value, bool | int | float):
        return "number"
    text = str(value)
    for kind, pattern in (("email", _EMAIL), ("date", _DATE)):
        if pattern.fullmatch(text):
            return kind
    if "zip" in key.lower() or "postal" in key.lower():
        return "zip"
    return "id" if _ID.fullmatch(text) or key.lower().endswith(("id", "number", "code", "sku")) else "text"


def _cut(word: str) -> str:
    for ending, rest in (
        ("ies", "y"),
        ("ings", ""),
        ("ing", ""),
        ("ations", ""),
        ("ation", ""),
        ("led", "l"),
        ("ed", ""),
        ("es", ""),
        ("s", ""),
        ("e", ""),
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + rest
            break
    return word[:-1] if len(word) > 4 and word[-1] == word[-2] and word[-1] in "lpt" else word


_CANONICAL = {_cut(word): row.split()[0] for row in _SAME for word in row.split()}
