"""A model stuck inside one answer: the same phrase again and again, seen while it streams.

The answer is read word by word. A word sequence that occurred before proposes a period (the distance to its last
occurrence); as long as every further word equals the one a period earlier, the repetition grows, else it is dropped.
So a word costs a constant, whatever the length of the answer, and memory is bounded.

Only an *unbroken* repetition counts. Rows of a table, items of a list, lines of code and verses between refrains each
bring words of their own; those that do repeat outright (empty cells, zeros, closing brackets) are few words, or stand
in a table or a block of code, and get more patience.
"""

from __future__ import annotations

import re
from collections import deque

# A script without spaces counts by the sign. Of the other signs only those matter that tell a table or a block of code.
_PIECE = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+(?:['\u2019][^\W_]+)*|```|\n|\||[\[{<]"
)
_FENCE = "```"
_SHINGLE = 4  # words that must recur to propose a period
_MEMORY = 1024  # words that are remembered: the longest period

_LEAST_WORDS = 80  # an unbroken repetition shorter than this is never cut
_FEW_WORDS = 240  # the same for one that goes round fewer than three distinct words
_ONLY_NUMBERS = 2000  # the same for one that has no words at all
_STRUCTURED = 4  # times as many in tables, code and JSON
_COUNTED_ROUNDS = 100  # rounds that differ by nothing but their numbers
_LONGEST_WORD = 200


class Monologue:
    """Detects a repeated phrase inside one streamed answer. One object per answer; feed it the text as it comes."""

    __slots__ = ("_begun", "_code", "_counted", "_exact", "_line_start", "_rest", "_row", "cut")

    def __init__(self) -> None:
        self._exact = _Repetition()
        self._counted = _Repetition()
        self._rest = ""
        self._begun = False
        self._line_start = True
        self._code = False
        self._row = False
        self.cut = False

    def feed(self, piece: str) -> bool:
        """Read the next piece; true (from then on) when the answer repeats itself and should be cut."""
        if self.cut or not piece:
            return self.cut
        text = self._rest + piece
        # The last word, or a fence, may go on in the next piece.
        end = len(text)
        while end and (text[end - 1].isalnum() or text[end - 1] in "`'\u2019") and text[end - 1] < "\u0e00":
            end -= 1
        if len(text) - end > _LONGEST_WORD:
            end = len(text)
        self._rest = text[end:]
        for found in _PIECE.findall(text[:end]):
            self._take(found)
        return self.cut

    def _take(self, found: str) -> None:
        if found == "\n":
            self._line_start = True
        elif found == _FENCE:
            self._code = not self._code
        elif not found[0].isalnum() and found[0] < "\u0e00":
            # An answer that opens with a bracket is data as a whole; a line that opens with a bar is a row.
            self._code = self._code or (not self._begun and found != "|")
            self._row = found == "|" if self._line_start else self._row
            self._line_start, self._begun = False, True
        else:
            self._row = self._row and not self._line_start
            self._line_start, self._begun = False, True
            self._word(found.casefold())

    def _word(self, word: str) -> None:
        structured = self._code or self._row
        self._exact.take(word)
        self.cut = self.cut or self._exact.lasts(_STRUCTURED if structured else 1)
        if not structured:
            self._counted.take("#" if word[0].isdigit() else word)
            self.cut = self.cut or self._counted.counts()


class _Repetition:
    """The unbroken repetition at the end of a sequence of words."""

    __slots__ = ("_distinct", "_last", "_period", "_position", "_run", "_words")

    def __init__(self) -> None:
        self._words: deque[str] = deque(maxlen=_MEMORY)
        self._last: dict[tuple[str, ...], int] = {}
        self._position = 0
        self._period = 0
        self._run = 0
        self._distinct = 0

    def take(self, word: str) -> None:
        """Take one more word."""
        words = self._words
        if self._period and words[-self._period] == word:
            self._run += 1
        else:
            self._period = self._run = 0
        words.append(word)
        self._position += 1
        if len(words) < _SHINGLE:
            return
        key = tuple(words[index] for index in range(-_SHINGLE, 0))
        before = self._last.pop(key, 0)
        self._last[key] = self._position
        if len(self._last) > _MEMORY:
            del self._last[next(iter(self._last))]
        if not self._period and before and self._position - before <= len(words) - _SHINGLE:
            self._period, self._run = self._position - before, _SHINGLE
            phrase = {words[-index] for index in range(1, self._period + 1)}
            self._distinct = sum(1 for one in phrase if not one[0].isdigit() and one != "#")

    def lasts(self, patience: int) -> bool:
        """Tell whether the repetition is long enough to be cut."""
        period = self._period
        if not period or self._run < _LEAST_WORDS:
            return False
        rounds = 3 if period >= 40 else 5 if period >= 8 else 12
        least = _LEAST_WORDS if self._distinct >= 3 else _FEW_WORDS if self._distinct else _ONLY_NUMBERS
        return self._run >= max(least, rounds * period) * patience

    def counts(self) -> bool:
        """Tell whether it went on for many rounds of at least three distinct words, numbers left out."""
        return self._distinct >= 3 and self._run >= _COUNTED_ROUNDS * self._period > 0
