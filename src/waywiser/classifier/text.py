"""Text to numbers: hashed words and character n-grams, and the shape of a text. NumPy only, a fixed cost at most.

The law of this module: every text, however long or odd, is read through a window of `HEAD + TAIL` characters, so the
cost is bounded; a feature is a substring, its hash is taken from prefix sums (a polynomial in `_BASE` modulo 2**64,
which wraps exactly), so all n-grams of a text cost a handful of array operations; a feature counts once however often
it occurs. Hashes depend on nothing but the text: no seed, no Python `hash`.

Buckets below `WORD_BUCKETS` hold words, pairs of neighbouring words, beginnings of words (inflected languages), and
single characters and pairs of scripts that write no spaces, and of a long text once more the words at its two edges.
Buckets above hold 3- and 4-grams of characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from math import log1p
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = npt.NDArray[np.uint64]

HEAD = 1600
TAIL = 800
EDGE = 160
WORD_BITS = 16
WORD_BUCKETS = 1 << WORD_BITS
BUCKETS = 2 * WORD_BUCKETS

_BASE = 0x9E3779B97F4A7C15
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_MASK = (1 << 64) - 1
_LONGEST = 3 * (HEAD + TAIL) + 16  # lower-casing may lengthen a text, threefold at most


def _powers(base: int) -> Keys:
    """Return base**0 … base**_LONGEST modulo 2**64."""
    table = np.full(_LONGEST + 1, base, dtype=np.uint64)
    table[0] = 1
    return np.multiply.accumulate(table)


_POWER = _powers(_BASE)
_INVERSE = _powers(pow(_BASE, -1, _MASK + 1))

WORD, PAIR, BEGINNING, TRIPLE, RUN = 1, 2, 3, 4, 10  # salts of the families of features
BEGINNINGS = (4, 6)

OTHER, LETTER, DIGIT, DENSE, SPACE = 0, 1, 2, 3, 4


def _classes() -> npt.NDArray[np.uint8]:
    """Return the class of each code point below 0x10000; those above are read as the last entry (a symbol)."""
    table = np.full(0x10000, LETTER, dtype=np.uint8)
    table[:128] = OTHER
    for first, last in (("0", "9"), ("٠", "٩"), ("۰", "۹"), ("०", "९"), ("০", "৯")):
        table[ord(first) : ord(last) + 1] = DIGIT
    for first, last in (("a", "z"), ("A", "Z")):
        table[ord(first) : ord(last) + 1] = LETTER
    table[[9, 10, 11, 12, 13, 32, 0xA0, 0x3000]] = SPACE
    for low, high in ((0x80, 0x9F), (0xA1, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7)):
        table[low : high + 1] = OTHER
    for low, high in ((0x060C, 0x061F), (0x0964, 0x0965), (0x2000, 0x2BFF), (0x3001, 0x303F), (0xFF00, 0xFF0F)):
        table[low : high + 1] = OTHER
    for low, high in ((0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65), (0xD800, 0xF8FF), (0xFE00, 0xFE6F)):
        table[low : high + 1] = OTHER
    # No spaces: Thai, Lao, Burmese, Khmer, kana, Han. Hangul has spaces but joins its particles: dense as well.
    for low, high in ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3041, 0x30FF), (0x3400, 0x9FFF)):
        table[low : high + 1] = DENSE
    for low, high in ((0xAC00, 0xD7A3), (0xF900, 0xFAFF)):
        table[low : high + 1] = DENSE
    table[0xFFFF] = OTHER
    return table


_CLASS = _classes()


def _keys(hashes: Keys, salt: int) -> Keys:
    """Mix hashes into 64-bit keys; `salt` keeps the families of features apart."""
    mixed = (hashes + np.uint64(salt * 0x9E3779B97F4A7C15 & _MASK)) * _SPREAD
    mixed ^= mixed >> np.uint64(29)
    mixed *= _SPREAD
    return mixed


def _buckets(keys: Keys) -> Ints:
    """Spread keys over `WORD_BUCKETS`."""
    return (keys >> np.uint64(64 - WORD_BITS)).astype(np.int64)


def _distinct(parts: list[Ints]) -> Ints:
    """Sort and drop repeats."""
    joined = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    if joined.size < 2:
        return joined
    joined.sort()
    keep = np.empty(joined.size, dtype=bool)
    keep[0] = True
    np.not_equal(joined[1:], joined[:-1], out=keep[1:])
    return joined[keep]


def window(text: str) -> str:
    """Return what is read of a text: all of it, or its first `HEAD` and last `TAIL` characters; NFKC."""
    if len(text) > HEAD + TAIL:
        text = f"{text[: HEAD - 1]}\n{text[-TAIL:]}"
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text)[: HEAD + TAIL]


@dataclass(frozen=True)
class PromptView:
    """A text as the heads see it. Not slotted: what is computed from it is computed once and kept.

    `text` is the whole prompt. `seen` is the window of it that features are taken from.
    """

    text: str

    @cached_property
    def seen(self) -> str:
        """The window of the text that is read."""
        return window(self.text)

    @cached_property
    def _codes(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Code points of the lower-cased window between two spaces, and their classes; any digit is a `0`."""
        raw = f" {self.seen.lower()} ".encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(raw, dtype=np.uint32).copy()
        classes = _CLASS[np.minimum(codes, 0xFFFF)]
        codes[classes == DIGIT] = 48
        codes[classes == SPACE] = 32
        return codes, classes

    @cached_property
    def _prefix(self) -> Keys:
        """Prefix sums of the code points times powers of `_BASE`; the hash of any substring follows from two."""
        codes, _ = self._codes
        sums = np.zeros(codes.size + 1, dtype=np.uint64)
        np.cumsum((codes.astype(np.uint64) + np.uint64(7)) * _POWER[: codes.size], out=sums[1:])
        return sums

    def _hash(self, starts: Ints, ends: Ints) -> Keys:
        """Hash the substrings [start, end), wherever in the text they stand."""
        sums = self._prefix
        hashed: Keys = (sums[ends] - sums[starts]) * _INVERSE[starts]
        return hashed

    def key(self, size: int, salt: int) -> int:
        """Return the key of the first `size` characters of the text."""
        return int(_keys(self._hash(np.array([1]), np.array([1 + size])), salt)[0])

    @cached_property
    def spans(self) -> tuple[Ints, Ints]:
        """Starts and ends of the words (letters and digits, not of dense scripts), in the padded window."""
        _, classes = self._codes
        inside = (classes == LETTER) | (classes == DIGIT)
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        return edges[::2], edges[1::2]

    @cached_property
    def word_keys(self) -> Keys:
        """Key of each word, in the order of the text, repeats included."""
        return _keys(self._hash(*self.spans), WORD)

    def beginnings(self, size: int) -> tuple[Ints, Keys]:
        """Return which words are longer than `size` characters, and the keys of their beginnings."""
        starts, ends = self.spans
        longer = np.flatnonzero(ends - starts > size)
        return longer, _keys(self._hash(starts[longer], starts[longer] + size), BEGINNING)

    @cached_property
    def keys(self) -> Keys:
        """Keys of words, word pairs, word beginnings, dense characters and their pairs; repeats included."""
        starts, ends = self.spans
        _, classes = self._codes
        hashes = self._hash(starts, ends)
        parts = [self.word_keys]
        if starts.size > 1:
            parts.append(_keys(hashes[:-1] * _PAIR + hashes[1:], PAIR))
        parts += [self.beginnings(size)[1] for size in BEGINNINGS]
        dense = np.flatnonzero(classes == DENSE)
        for size in (1, 2) if dense.size else ():
            runs = dense[: dense.size - size + 1]
            runs = runs[dense[size - 1 :] - runs == size - 1]
            if runs.size:
                parts.append(_keys(self._hash(runs, runs + size), RUN + size))
        return np.concatenate(parts)

    @cached_property
    def long_keys(self) -> Keys:
        """Keys of three words and of runs of 3 and 4 dense characters: no features, but lists of terms want them."""
        _, classes = self._codes
        dense = np.flatnonzero(classes == DENSE)
        hashes = self._hash(*self.spans)
        parts = [_keys((hashes[:-2] * _PAIR + hashes[1:-1]) * _PAIR + hashes[2:], TRIPLE)]
        for size in (3, 4) if dense.size else ():
            runs = dense[: max(dense.size - size + 1, 0)]
            runs = runs[dense[size - 1 :] - runs == size - 1]
            parts.append(_keys(self._hash(runs, runs + size), RUN + size))
        return np.concatenate(parts)

    @cached_property
    def words(self) -> Ints:
        """Distinct buckets of `keys`; sorted."""
        return _distinct([_buckets(self.keys)])

    @cached_property
    def edge(self) -> Ints:
        """Distinct buckets of the words and pairs at the beginning and end, where a long prompt says what it wants."""
        starts, ends = self.spans
        codes, classes = self._codes
        parts: list[Ints] = []
        if codes.size <= 2 * EDGE:  # all of it is edge: it would say nothing new
            return _distinct(parts)
        for low, high in ((0, EDGE), (max(codes.size - EDGE, EDGE), codes.size)):
            first, last = np.searchsorted(starts, (low, high))
            hashes = self._hash(starts[first:last], ends[first:last])
            parts.append(_buckets(_keys(hashes, 20)))
            parts.append(_buckets(_keys(hashes[:-1] * _PAIR + hashes[1:], 21)))
            dense = np.flatnonzero(classes[low : high - 1] == DENSE) + low
            if dense.size:
                parts.append(_buckets(_keys(self._hash(dense, dense + 2), 22)))
        return _distinct(parts)

    @cached_property
    def grams(self) -> Ints:
        """Distinct buckets of 3- and 4-grams of characters, counted from `WORD_BUCKETS`; sorted."""
        sums = self._prefix
        parts = []
        for size in (3, 4):
            count = sums.size - size
            if count > 0:
                parts.append(_buckets(_keys((sums[size:] - sums[:count]) * _INVERSE[:count], 30 + size)))
        return _distinct(parts) + WORD_BUCKETS

    @cached_property
    def features(self) -> tuple[Ints, Floats]:
        """Buckets and values of the whole text: each family has Euclidean length 1, so length itself says nothing."""
        families = (self.words, self.edge, self.grams)
        lengths = [max(family.size, 4) ** -0.5 for family in families]
        values = np.repeat(np.array(lengths, dtype=np.float32), [family.size for family in families])
        return np.concatenate(families), values

    @cached_property
    def shape(self) -> Floats:
        """What the text looks like, whatever its language; the fields are named by `SHAPE`."""
        return _shape(self)


def term_keys(term: str) -> tuple[int, ...]:
    """Return the keys a term has wherever a text contains it.

    A term is a word, two words, the last three of several, words that begin so (`contra*`, read to 6 or 4
    characters; the beginning alone counts too), or a run of up to 4 characters of a script without spaces.
    """
    stem = term.rstrip("*")
    view = PromptView(stem)
    starts, ends = view.spans
    if starts.size > 2:
        return (int(view.long_keys[starts.size - 3]),)
    if starts.size == 2:
        return (int(view.keys[2]),)
    if not starts.size:
        size = min(len(stem), 4)
        return (view.key(size, RUN + size),)
    fitting = max((size for size in BEGINNINGS if size <= ends[0] - starts[0]), default=0)
    if stem == term or not fitting:
        return (int(view.word_keys[0]),)
    return (int(view.word_keys[0]), view.key(fitting, BEGINNING))


def word_at(view: PromptView, index: int) -> str:
    """Return word number `index` of the window as it was written (lower case)."""
    starts, ends = view.spans
    codes, _ = view._codes  # noqa: SLF001 - same module, same law
    return codes[starts[index] : ends[index]].tobytes().decode("utf-32-le", "replace")


_SIZES = (2, 4, 7, 11, 16, 24, 36, 60, 110, 220, 450)
_QUESTIONS = ("?", "？", "؟")
_RUN = re.compile(r"\d+")
# Patterns of figures are tried where a run of digits begins, not at every character.
_VERSION = re.compile(r"(?<![\d.])\d{1,3}\.\d{1,3}(?:\.\d+)?(?![\d.])")
_CURRENCIES = "$€£¥₹₽₩%"
_MONEY = re.compile(r"[$€£¥₹₽₩]\s?\d|\d\s?[$€£¥₹₽₩%]")
_CHOICES = re.compile(r"(?:^|\n)\s*\(?[B2][.):]\s")
_SECRET = re.compile(
    r"sk-[A-Za-z0-9_-]{12,}|AKIA[0-9A-Z]{12,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|xox[abp]-[A-Za-z0-9-]{10,}|-----BEGIN |eyJ[A-Za-z0-9_-]{16,}"
)
_SECRET_MARKS = ("sk-", "AKIA", "gh", "xox", "-----", "eyJ")
_IDENTITY = re.compile(r"(?:\d{3}-\d{2}-\d{4}|(?:\d{4}[ -]){3}\d{2,4}|\d{15,16})(?!\d)")
_ACCOUNT = re.compile(r"(?<!\d)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?!\d)")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}\.\w")
# Substrings, not patterns: a pattern that may begin anywhere costs more than all n-grams together.
_CODE = (
    "```", "def ", "function ", "#include", "return ", ";\n", "=>", "->", "</", "SELECT ", "import ", "Traceback",
    "()", "print(", "{\n", "class ", "():", "const ", "std::", "self.", "Error:", "public ", "!=", "==",
)  # fmt: skip
_CODE_MARKS = np.zeros(128, dtype=np.float32)
_CODE_MARKS[[ord(mark) for mark in "{}[]();=<>_`\\#|&"]] = 1
_MATHS_MARKS = np.zeros(128, dtype=np.float32)
_MATHS_MARKS[[ord(mark) for mark in "+*/=^$\\<>"]] = 1

SHAPE = (
    *(f"longer than {size} words" for size in _SIZES),
    "log of words", "log of characters", "asks", "ends with a question mark", "two questions or more", "lines",
    "many lines", "a colon before a line break", "numbers", "three numbers or more", "eight numbers or more",
    "share of digits", "a mark of code", "three marks of code", "share of code marks", "share of mathematical marks",
    "many mathematical marks", "a recent year", "an older year", "a version number", "money", "lettered choices",
    "a secret", "an identity number", "an e-mail address", "share of capitals", "not ASCII", "share of dense script",
    "quotes", "long paragraphs", "a very long word",
)  # fmt: skip


def _identifies(seen: str, at: int) -> bool:
    """Whether the digits that begin here are an identity, card or account number."""
    if _IDENTITY.match(seen, at) is not None:
        return True
    return at >= 2 and seen[at - 1].isupper() and _ACCOUNT.match(seen, at - 2) is not None


def _shape(view: PromptView) -> Floats:
    """Fill the fields of `SHAPE`. Words of dense scripts are counted as two characters each."""
    seen = view.seen
    codes, classes = view._codes  # noqa: SLF001 - same module, same law
    starts, ends = view.spans
    total = max(len(seen), 1)
    dense = int((classes == DENSE).sum())
    words = starts.size + dense / 2
    words *= max(len(view.text) / total, 1.0)
    ascii_codes = codes[codes < 128]
    code_marks = float(_CODE_MARKS[ascii_codes].sum())
    maths_marks = float(_MATHS_MARKS[ascii_codes].sum())
    digits = int((classes == DIGIT).sum())
    runs = list(_RUN.finditer(seen)) if digits else []
    figures = [run[0] for run in runs if len(run[0]) == 4]
    numbers = len(runs)
    asks = sum(map(seen.count, _QUESTIONS))
    lines = seen.count("\n")
    code = sum(mark in seen for mark in _CODE)
    capitals = sum(map(str.isupper, seen)) if total < 400 else sum(map(str.isupper, seen[:400]))
    return np.array(
        (
            *(words > size for size in _SIZES),
            log1p(words) / 5,
            log1p(len(view.text)) / 8,
            asks > 0,
            seen.rstrip()[-1:] in ("?", "？", "؟"),
            asks > 1,
            lines > 0,
            lines > 6,
            ":\n" in seen,
            numbers > 0,
            numbers > 2,
            numbers > 7,
            digits / total,
            code > 0,
            code > 2,
            min(4 * code_marks / total, 1.0),
            min(4 * maths_marks / total, 1.0),
            maths_marks > 4,
            any("2020" <= figure <= "2099" for figure in figures),
            any("1000" <= figure <= "2019" for figure in figures),
            digits > 1 and "." in seen and any(_VERSION.match(seen, run.start()) for run in runs),
            digits > 0 and any(mark in seen for mark in _CURRENCIES) and _MONEY.search(seen) is not None,
            lines > 0 and _CHOICES.search(seen) is not None,
            any(mark in seen for mark in _SECRET_MARKS) and _SECRET.search(seen) is not None,
            digits > 8 and any(_identifies(seen, run.start()) for run in runs),
            "@" in seen and _EMAIL.search(seen) is not None,
            capitals / min(total, 400),
            not seen.isascii(),
            dense / total,
            '"' in seen or "“" in seen or "«" in seen or "「" in seen,
            lines > 0 and total > 300,
            starts.size > 0 and int((ends - starts).max()) > 30,
        ),
        dtype=np.float32,
    )
