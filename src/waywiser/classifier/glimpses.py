"""What one message shows, seen once and remembered by digest: the part of the step features that never changes.

A `Glimpse` holds only small numbers, flags and identifiers, so that folding a history (`step_features`) costs a few
microseconds a message. Everything is bounded: of a long text the beginning and the end are read, `EDGE_CHARS` of each.
The word lists hold the small words of service talk in a few languages, not the words of any one domain: what a shop
or an airline calls its things does not carry over to the next one, how people ask, agree and refuse does.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from waywiser.core.messages import Message, Role

EDGE_CHARS: Final = 3000
_MOST_IDS: Final = 64
_OPENING_WORDS: Final = 8

_FROM_DIGIT = re.compile(r"[0-9][A-Za-z0-9_-]*")
_TOKEN_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_NUMERAL = re.compile(r"\d")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}\.\w")
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS_ONLY = {code: " " for code in range(128) if not chr(code).isalpha()}
_BULLET = re.compile(r"\n[ \t]{0,8}(?:\d{1,2}[.)]|[-*•])\s")
_SPLIT_NAME = re.compile(r"[^a-z]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _words(text: str) -> frozenset[str]:
    """Read a word list."""
    return frozenset(text.split())


_YES = _words(
    "yes yeah yep yup sure ok okay correct right confirm confirmed proceed absolutely definitely exactly agreed please "
    "go si sí oui ja да はい 是"
)
_NO = _words("no not dont never nope cancel instead rather wait actually but however non nein нет 不")
_BYE = _words("thanks thank bye goodbye appreciate everything great perfect merci gracias danke")
_ASKING = _words("what which how when where who why can could would is are does do will any")
_LOOK = _words(
    "check look find search see show tell list available options option cheapest details status how what which"
)
_ACT = _words(
    "cancel change modify return exchange update book add remove upgrade downgrade switch refund replace send move "
    "create delete"
)
_WANT = _words("want like need would wish prefer help")
_WHY = _words("why understand sorry frustrated disappointed really exception policy but however compensation")
_CHOICE = _words("first second option one use card gift credit original payment")
_WHOLE = _words("all both each every any also everything")
_UNSURE = (
    "don't know",
    "not sure",
    "don't remember",
    "don't have",
    "can't remember",
    "do not have",
    "do not know",
    "don't recall",
    "not certain",
    "forgot",
)
_UNSURE_GATES = ("n't ", "not ", "forgot")  # one of these is in every phrase of `_UNSURE`: most texts have none
_CONFIRM = re.compile(
    r"\bconfirm|\bproceed|go ahead|\byes(?:/| or )no|would you like me to|shall i|should i|do you want me to"
    r"|is (?:that|this) correct|are you sure|do you agree"
)
_WANTS_INFO = re.compile(
    r"\bprovide|could you (?:please )?(?:tell|share|give|specify)|let me know|please (?:share|tell|give|specify)"
    r"|may i have|i(?:'ll)? need|which (?:one|of)|what (?:is|are) (?:your|the)"
)
_WAITING = re.compile(
    r"\b(?:let me|i'll|i will|i am going to|i'm going to|one moment|hold on|please wait|checking|now)\b"
)
_DONE = re.compile(
    r"\b(?:successfully|has been|have been|is now|completed|processed|all set|unfortunately|anything else|sorry"
    r"|unable)\b"
)
_ERROR = re.compile(
    r"\berror\b|\bexception\b|not found|traceback|\bfailed\b|\binvalid\b|does not|cannot|no such|denied"
    r"|<returncode>[1-9]"
)

TOOL_KINDS: Final = ("read", "find", "write", "think", "steer", "leave", "other")
"""What a tool does, judged by the first telling word of its name."""

_VERBS: Final = {
    "steer": "goto todo navigate",
    "read": "get read list show fetch view lookup describe query check verify inspect retrieve load open cat see",
    "find": "find search browse locate grep filter suggest discover",
    "write": "update modify cancel book exchange return create delete add remove send set post put edit write insert "
    "invite submit pay schedule reschedule append share enable disable reset toggle grant make refuel resume suspend "
    "reply exec apply install upload move rename approve reject refund change order purchase buy place assign close",
    "think": "think calculate compute plan reason note reflect policy summarize",
    "leave": "transfer escalate handoff human finish done complete respond",
}
_KIND_OF_VERB: Final = {verb: kind for kind, verbs in _VERBS.items() for verb in verbs.split()}


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One message.

    `ids` are the identifiers its text shows, `used` those in the arguments of its tool calls; `content` its longer
    words. Flags of what a speaker does: `asks` (a question closes it), `agrees`, `objects`, `thanks`, `wonders` (opens
    with a question word), `confirms` (asks leave to act), `wants_info`, `waiting` (announces work), `done` (reports an
    outcome); of what a tool answered: `error`, `structured`, `listed`, `empty`.
    """

    role: Role
    chars: int
    words: int
    ids: frozenset[str]
    used: frozenset[str]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    content: frozenset[str]
    bullets: int
    entries: int
    asks: bool
    agrees: bool
    objects: bool
    thanks: bool
    wonders: bool
    email: bool
    digits: bool
    confirms: bool
    wants_info: bool
    waiting: bool
    done: bool
    unsure: bool
    whole: bool
    looks: bool
    acts: bool
    wants: bool
    protests: bool
    chooses: bool
    error: bool
    structured: bool
    listed: bool
    empty: bool


class Glimpses:
    """A bounded memory of glimpses by message digest, the oldest out first."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, Glimpse] = OrderedDict()

    def of(self, message: Message) -> Glimpse:
        """Return what `message` shows: computed once, then found by digest."""
        found = self._seen.get(message.digest)
        if found is None:
            found = self._seen[message.digest] = glimpse(message)
            while len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        return found


def glimpse(message: Message) -> Glimpse:
    """Look at one message, in bounded time whatever its length."""
    text = message.text
    seen = edges(text).strip()
    low = seen.lower()
    words = _spelled(low.replace("'", ""))
    vocabulary = frozenset(words)
    opening = words[: _OPENING_WORDS + 6]
    close = low[-600:]
    spoken = message.role is not Role.TOOL
    said = message.role is Role.ASSISTANT
    return Glimpse(
        role=message.role,
        chars=len(text),
        words=len(words),
        ids=identifiers(seen),
        used=identifiers(" ".join(edges(call.arguments) for call in message.tool_calls[:8])),
        names=tuple(call.name for call in message.tool_calls),
        kinds=tuple(tool_kind(call.name) for call in message.tool_calls),
        content=frozenset(word for word in vocabulary if len(word) > 4),
        bullets=min(len(_BULLET.findall(f"\n{seen}")), 20),
        entries=min(seen.count('":'), 200),
        asks="?" in low[-160:] or "？" in low[-160:],
        agrees=spoken and not _YES.isdisjoint(opening[:_OPENING_WORDS]),
        objects=spoken and not _NO.isdisjoint(opening[:12]),
        thanks=spoken and not _BYE.isdisjoint(opening),
        wonders=spoken and not _ASKING.isdisjoint(opening[:4]),
        email=spoken and "@" in low and _EMAIL.search(low) is not None,
        digits=_NUMERAL.search(low) is not None,
        confirms=said and _CONFIRM.search(low[-400:]) is not None,
        wants_info=said and _WANTS_INFO.search(close) is not None,
        waiting=said and _WAITING.search(low[-300:]) is not None,
        done=said and _DONE.search(close) is not None,
        unsure=any(gate in low for gate in _UNSURE_GATES) and any(phrase in low for phrase in _UNSURE),
        whole=not _WHOLE.isdisjoint(vocabulary),
        looks=not _LOOK.isdisjoint(vocabulary),
        acts=not _ACT.isdisjoint(vocabulary),
        wants=not _WANT.isdisjoint(vocabulary),
        protests=not _WHY.isdisjoint(vocabulary),
        chooses=not _CHOICE.isdisjoint(vocabulary),
        error=message.is_error or (not spoken and _ERROR.search(low[:400]) is not None),
        structured=seen[:1] in {"{", "["},
        listed=seen[:1] == "[",
        empty=len(seen) < 3,
    )


def _spelled(low: str) -> list[str]:
    """Return the words of a lower-case text. ASCII has a way that is many times faster."""
    return low.translate(_LETTERS_ONLY).split() if low.isascii() else _WORD.findall(low)


def edges(text: str) -> str:
    """Return the part of a text that is read: all of it, or its two ends."""
    if len(text) <= 2 * EDGE_CHARS:
        return text
    return f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"


def identifiers(text: str) -> frozenset[str]:
    """Collect words that look like an identifier: five characters or more, a digit among them, and no date."""
    found: set[str] = set()
    # From digit to digit, not from word to word: most words have none.
    for rest in _FROM_DIGIT.finditer(text):
        begin, end = rest.span()
        while begin and text[begin - 1] in _TOKEN_CHARS:
            begin -= 1
        if 5 <= end - begin <= 40 and _DATE.match(text, begin, end) is None:
            found.add(text[begin:end].lower())
            if len(found) == _MOST_IDS:
                break
    return frozenset(found)


def shape_of(identifier: str) -> str:
    """Return the pattern of an identifier, runs shortened: `w9348897` is `a9`, `omar_rossi_1241` is `a_a_9`."""
    shape: list[str] = []
    for char in identifier:
        mark = "9" if char.isdigit() else "a" if char.isalpha() else char
        if not shape or shape[-1] != mark:
            shape.append(mark)
    return "".join(shape)


def tool_kind(name: str) -> str:
    """Return what a tool of this name does, one of `TOOL_KINDS`."""
    for word in _SPLIT_NAME.split(_CAMEL.sub("_", name).lower()):
        kind = _KIND_OF_VERB.get(word)
        if kind is not None:
            return kind
    return "other"
