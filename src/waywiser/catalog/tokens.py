"""Counting tokens: exactly where money is clamped, by estimate where a route is chosen, and each message only once.

`TokenCounter` and `TokenEstimator` count the same things in the same way and differ in how they count a text. What a
provider adds around a turn is its own secret; the overheads here were measured on the growth of `prompt_tokens` in
recorded OpenAI sessions and are on the high side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import ClassVar, Final

from waywiser.catalog import encodings, estimate
from waywiser.core.calls import Tool
from waywiser.core.messages import File, Image, Message, Opaque, Text, Thinking

TURN_TOKENS: Final = 4  # role and separators of one turn
TOOL_CALL_TOKENS: Final = 8  # how a tool call is wrapped
PRIMING_TOKENS: Final = 3  # every answer starts behind a few tokens of its own
TOOLS_TOKENS: Final = 12  # announcing that there are tools
TOOL_TOKENS: Final = 8  # wrapping one definition
IMAGE_TOKENS: Final = 1600  # the most that OpenAI (high detail, 6 tiles) and Anthropic (before 4.7) charge, roughly
LOW_DETAIL_TOKENS: Final = 85
FILE_TOKENS: Final = 2500  # per started page of a document
FILE_PAGE_CHARS: Final = 50_000  # of a data URL; a page of PDF is about 40 kB

MEMO_ENTRIES: Final = 32_768
NAMES: Final = 4096


class Memo:
    """A bounded memo of what was counted with one rank file, by digest; shared by threads.

    Two generations stand in for an exact least-recently-used order: when the young one is full it becomes the old one
    and the old one is dropped. A lookup is one or two reads of a dict and takes no lock; at most `2 * entries` stay.
    """

    __slots__ = ("_entries", "_lock", "_old", "_young")

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """How many counts are kept."""
        return len(self._young) + len(self._old)

    def several(self, keys: list[bytes]) -> list[int | None]:
        """Look up many: a long history costs a lookup a turn at every step, so it's one without a call."""
        found = list(map(self._young.get, keys))
        if None in found and self._old:
            return [self.get(key) if known is None else known for key, known in zip(keys, found, strict=True)]
        return found

    def get(self, key: bytes) -> int | None:
        """Return what was counted for `key`, or None. A hit in the old generation is made young again."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: bytes, value: int) -> None:
        """Keep a count."""
        with self._lock:
            if len(self._young) >= self._entries:
                self._old, self._young = self._young, {}
            self._young[key] = value


def memos(entries: int = MEMO_ENTRIES) -> Mapping[str, Memo]:
    """Make an empty memo for each rank file."""
    return {spec.ranks: Memo(entries) for spec in encodings.TOKENIZERS.values()}


class _Counting(ABC):
    """What both ways of counting share: the parts of a turn, overheads, scales and the memo."""

    _memos: ClassVar[Mapping[str, Memo]]

    def __init__(self) -> None:
        self._newest: dict[str, tuple[Sequence[Message], int]] = {}
        self._names: dict[tuple[str, str], int] = {}

    @abstractmethod
    def _raw(self, text: str, ranks: str) -> int:
        """Count the tokens of a text with the ranks named."""

    def text(self, text: str, encoding: str) -> int:
        """Count a text. Raises `ValueError` for an unknown encoding. Not remembered: the caller holds no digest."""
        spec = encodings.tokenizer(encoding)
        return _scaled(self._raw(text, spec.ranks), spec.percent)

    def message(self, message: Message, encoding: str) -> int:
        """Count one turn with its overhead; a turn with the same digest is never counted twice in a process."""
        spec = encodings.tokenizer(encoding)
        return _scaled(self._message(message, spec.ranks), spec.percent)

    def messages(self, messages: Sequence[Message], encoding: str) -> int:
        """Count a history, the overhead of its turns and of the answer's start included."""
        spec = encodings.tokenizer(encoding)
        return _scaled(self._turns(messages, spec.ranks) + PRIMING_TOKENS, spec.percent)

    def tools(self, tools: Sequence[Tool], encoding: str) -> int:
        """Count what tool definitions take in a prompt. No tools take nothing."""
        if not tools:
            return 0
        spec = encodings.tokenizer(encoding)
        return _scaled(sum([self._tool(tool, spec.ranks) for tool in tools]) + TOOLS_TOKENS, spec.percent)

    def _turns(self, messages: Sequence[Message], ranks: str) -> int:
        """Sum up a history. Encodings that share ranks ask for the same sum, one after the other."""
        held = self._newest.get(ranks)
        if held is not None and held[0] is messages:
            return held[1]
        known = self._memos[ranks].several([message.digest for message in messages])
        total = sum(
            [self._message(one, ranks) if count is None else count for one, count in zip(messages, known, strict=True)]
        )
        if isinstance(messages, tuple):
            self._newest[ranks] = messages, total
        return total

    def _message(self, message: Message, ranks: str) -> int:
        memo, key = self._memos[ranks], message.digest
        known = memo.get(key)
        if known is None:
            known = self._count_message(message, ranks)
            memo.put(key, known)
        return known

    def _count_message(self, message: Message, ranks: str) -> int:
        total = TURN_TOKENS
        for part in message.parts:
            if isinstance(part, Text | Thinking):
                total += self._raw(part.text, ranks)
            elif isinstance(part, Opaque):
                total += self._raw(part.json, ranks)
            elif isinstance(part, Image):
                total += LOW_DETAIL_TOKENS if part.detail == "low" else IMAGE_TOKENS
            elif isinstance(part, File):
                total += FILE_TOKENS * (1 + len(part.url) // FILE_PAGE_CHARS)
        for call in message.tool_calls:
            total += TOOL_CALL_TOKENS + self._name(call.name, ranks) + self._raw(call.arguments, ranks)
        if message.name:
            total += 1 + self._raw(message.name, ranks)
        return total

    def _name(self, name: str, ranks: str) -> int:
        """Count the name of a tool: a session says the same few over and over."""
        known = self._names.get((name, ranks))
        if known is None:
            if len(self._names) >= NAMES:
                self._names.clear()
            known = self._names[name, ranks] = self._raw(name, ranks)
        return known

    def _tool(self, tool: Tool, ranks: str) -> int:
        memo, key = self._memos[ranks], tool.digest
        known = memo.get(key)
        if known is None:
            known = TOOL_TOKENS + sum(self._raw(text, ranks) for text in (tool.name, tool.description, tool.parameters))
            memo.put(key, known)
        return known


class TokenCounter(_Counting):
    """Counts exactly, with the packaged ranks. Use it where a count limits money (strict budgets).

    The first count of a process loads the ranks, 0.2 to 0.4 s; afterwards 2000 tokens take about a quarter of a
    millisecond, and nothing when they were counted before.
    """

    _memos = memos()

    def _raw(self, text: str, ranks: str) -> int:
        return encodings.count(text, ranks)


class TokenEstimator(_Counting):
    """Estimates, ten times faster and without loading ranks. Use it to choose a route; see `estimate` for its error."""

    _memos = memos()

    def _raw(self, text: str, ranks: str) -> int:
        return estimate.tokens(text, ranks)


def _scaled(count: int, percent: int) -> int:
    """Scale up to a whole token."""
    return -(-count * percent // 100)
