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

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log1p
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier import patterns
from waywiser.classifier.characters import DENSE, DIGIT, LETTER, Classes, Codes, capitals, characters, marks, written

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
_HALF, _TOP, _SEVEN = np.uint64(29), np.uint64(64 - WORD_BITS), np.uint64(7)
_LONGEST = 3 * (HEAD + TAIL) + 16  # lower-casing may lengthen a text, threefold at most


def _powers(base: int) -> Keys:
    """Return base**0 … base**_LONGEST modulo 2**64."""
    table = np.full(_LONGEST + 1, base, dtype=np.uint64)
    table[0] = 1
    return np.multiply.accumulate(table)


_INSIDE = np.zeros(8, dtype=bool)
_INSIDE[[LETTER, DIGIT]] = True
_POWER = _powers(_BASE)
_INVERSE = _powers(pow(_BASE, -1, _MASK + 1))

BEGINNINGS = (4, 6)
_SALT = [np.uint64(family * _BASE & _MASK) for family in range(40)]  # keeps the families of features apart
WORD, PAIR, BEGINNING, TRIPLE = _SALT[1:5]
RUN = _SALT[10:15]  # by length
EDGE_WORD, EDGE_PAIR, EDGE_RUN = _SALT[20:23]
GRAM = _SALT[30:35]  # by length


def _mixed(parts: list[Keys]) -> Keys:
    """Mix salted hashes of all families, one after the other, into 64-bit keys."""
    mixed = np.concatenate(parts)
    mixed *= _SPREAD
    mixed ^= mixed >> _HALF
    mixed *= _SPREAD
    return mixed


def _buckets(keys: Keys) -> Ints:
    """Spread keys over `WORD_BUCKETS`."""
    return (keys >> _TOP).astype(np.int64)


def _distinct(buckets: Ints) -> Ints:
    """Sort in place and drop repeats."""
    if buckets.size < 2:
        return buckets
    buckets.sort()
    keep = np.empty(buckets.size, dtype=bool)
    keep[0] = True
    np.not_equal(buckets[1:], buckets[:-1], out=keep[1:])
    return buckets[keep]


def _runs(dense: Ints, size: int) -> Ints:
    """Return where `size` characters of dense scripts stand together."""
    starts = dense[: max(dense.size - size + 1, 0)]
    together: Ints = starts[dense[size - 1 :] - starts == size - 1]
    return together


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
    def _codes(self) -> tuple[Codes, Classes]:
        """Code points of the lower-cased window between two spaces, and their classes."""
        return characters(f" {self.seen.lower()} ")

    @cached_property
    def _prefix(self) -> Keys:
        """Prefix sums of the code points times powers of `_BASE`; the hash of any substring follows from two."""
        codes, _ = self._codes
        terms = np.add(codes, _SEVEN, dtype=np.uint64)
        terms *= _POWER[: codes.size]
        sums = np.empty(codes.size + 1, dtype=np.uint64)
        sums[0] = 0
        np.add.accumulate(terms, out=sums[1:])
        return sums

    def _hash(self, starts: Ints, size: int) -> Keys:
        """Hash the substrings of `size` characters that begin at `starts`, wherever in the text they stand."""
        sums = self._prefix
        hashed: Keys = (sums[starts + size] - sums[starts]) * _INVERSE[starts]
        return hashed

    def key(self, size: int, salt: np.uint64) -> int:
        """Return the key of the first `size` characters of the text."""
        return int(_mixed([self._hash(np.array([1]), size) + salt])[0])

    @cached_property
    def spans(self) -> tuple[Ints, Ints]:
        """Starts and ends of the words (letters and digits, not of dense scripts), in the padded window."""
        _, classes = self._codes
        inside = _INSIDE[classes]
        edges = (inside[1:] != inside[:-1]).nonzero()[0]
        edges += 1
        return edges[::2], edges[1::2]

    @cached_property
    def _hashed(self) -> tuple[Keys, Sequence[int]]:
        """Keys of all families, the salt of each mixed in; and where `keys`, `long_keys` and the edge's end.

        One array and one pass: a text of fifty words would otherwise cost two hundred small array operations.
        """
        starts, ends = self.spans
        sums = self._prefix
        base, inverse = sums[starts], _INVERSE[starts]
        hashes = (sums[ends] - base) * inverse
        pairs = hashes[:-1] * _PAIR + hashes[1:]
        sizes = ends - starts
        parts = [hashes + WORD, pairs + PAIR]
        for size in BEGINNINGS:
            longer = (sizes > size).nonzero()[0]
            begun: Keys = (sums[starts[longer] + size] - base[longer]) * inverse[longer]
            parts.append(begun + BEGINNING)
        dense = (self._codes[1] == DENSE).nonzero()[0]
        parts += [self._hash(_runs(dense, size), size) + RUN[size] for size in (1, 2) if dense.size]
        cuts = [sum(map(len, parts))]
        parts.append(pairs[:-1] * _PAIR + hashes[2:] + TRIPLE)
        parts += [self._hash(_runs(dense, size), size) + RUN[size] for size in (3, 4) if dense.size]
        cuts.append(sum(map(len, parts)))
        parts += self._edges(starts, hashes, pairs, dense)
        cuts.append(sum(map(len, parts)))
        for size in (3, 4):
            count = max(sums.size - size, 0)
            gram = sums[size:] - sums[:count]
            gram *= _INVERSE[:count]
            gram += GRAM[size]
            parts.append(gram)
        return _mixed(parts), cuts

    def _edges(self, starts: Ints, hashes: Keys, pairs: Keys, dense: Ints) -> list[Keys]:
        """Hash once more the words and pairs at the two edges of a text; one that is all edge says nothing new."""
        codes, _ = self._codes
        if codes.size <= 2 * EDGE:
            return []
        parts = []
        for low, high in ((0, EDGE), (max(codes.size - EDGE, EDGE), codes.size)):
            first, last = starts.searchsorted((low, high)).tolist()
            parts.append(hashes[first:last] + EDGE_WORD)
            parts.append(pairs[first : max(last - 1, first)] + EDGE_PAIR)
            if dense.size:
                inside = dense[(dense >= low) & (dense < high - 1)]
                parts.append(self._hash(inside, 2) + EDGE_RUN)
        return parts

    @property
    def keys(self) -> Keys:
        """Keys of words, word pairs, word beginnings, dense characters and their pairs; repeats included."""
        mixed, cuts = self._hashed
        return mixed[: cuts[0]]

    @property
    def long_keys(self) -> Keys:
        """Keys of three words and of runs of 3 and 4 dense characters: no features, but lists of terms want them."""
        mixed, cuts = self._hashed
        return mixed[cuts[0] : cuts[1]]

    @property
    def all_keys(self) -> Keys:
        """`keys`, then `long_keys`."""
        mixed, cuts = self._hashed
        return mixed[: cuts[1]]

    @property
    def word_keys(self) -> Keys:
        """Key of each word, in the order of the text, repeats included."""
        return self.keys[: self.spans[0].size]

    @property
    def word_buckets(self) -> Ints:
        """Bucket of each word, in the order of the text."""
        return _buckets(self.word_keys)

    def beginnings(self, size: int) -> tuple[Ints, Keys]:
        """Return which words are longer than `size` characters, and the keys of their beginnings."""
        starts, ends = self.spans
        longer = np.flatnonzero(ends - starts > size)
        return longer, _mixed([self._hash(starts[longer], size) + BEGINNING])

    @property
    def words(self) -> Ints:
        """Distinct buckets of `keys`; sorted."""
        return _distinct(_buckets(self.keys))

    @property
    def edge(self) -> Ints:
        """Distinct buckets of the words and pairs at the beginning and end, where a long prompt says what it wants."""
        mixed, cuts = self._hashed
        return _distinct(_buckets(mixed[cuts[1] : cuts[2]]))

    @property
    def grams(self) -> Ints:
        """Distinct buckets of 3- and 4-grams of characters, counted from `WORD_BUCKETS`; sorted."""
        mixed, cuts = self._hashed
        return _distinct(_buckets(mixed[cuts[2] :])) + WORD_BUCKETS

    @cached_property
    def features(self) -> tuple[Ints, Floats]:
        """Buckets and values of the whole text: each family has Euclidean length 1, so length itself says nothing."""
        mixed, cuts = self._hashed
        every = _buckets(mixed)
        words, edge = _distinct(every[: cuts[0]]), _distinct(every[cuts[1] : cuts[2]])
        families = (words, edge, _distinct(every[cuts[2] :]) + WORD_BUCKETS)
        buckets = np.concatenate(families)
        values = np.empty(buckets.size, dtype=np.float32)
        end = 0
        for family in families:
            begin, end = end, end + family.size
            values[begin:end] = max(family.size, 4) ** -0.5
        return buckets, values

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
        return (view.key(size, RUN[size]),)
    fitting = max((size for size in BEGINNINGS if size <= ends[0] - starts[0]), default=0)
    if stem == term or not fitting:
        return (int(view.word_keys[0]),)
    return (int(view.word_keys[0]), view.key(fitting, BEGINNING))


def word_at(view: PromptView, index: int) -> str:
    """Return word number `index` of the window as it was written (lower case)."""
    starts, ends = view.spans
    codes, _ = view._codes  # noqa: SLF001 - same module, same law
    return written(codes[starts[index] : ends[index]])


_SIZES = (2, 4, 7, 11, 16, 24, 36, 60, 110, 220, 450)
_QUESTIONS = ("?", "？", "؟")
_CODE_MARKS = b"{}[]();=<>_`\\#|&"
_MATHS_MARKS = b"+*/=^$\\<>"

SHAPE = (
    *(f"longer than {size} words" for size in _SIZES),
    "log of words", "log of characters", "asks", "ends with a question mark", "two questions or more", "lines",
    "many lines", "a colon before a line break", "numbers", "three numbers or more", "eight numbers or more",
    "share of digits", "a mark of code", "three marks of code", "share of code marks", "share of mathematical marks",
    "many mathematical marks", "a recent year", "an older year", "a version number", "money", "lettered choices",
    "a secret", "an identity number", "an e-mail address", "share of capitals", "not ASCII", "share of dense script",
    "quotes", "long paragraphs", "a very long word",
)  # fmt: skip


def _shape(view: PromptView) -> Floats:
    """Fill the fields of `SHAPE`. Words of dense scripts are counted as two characters each."""
    seen = view.seen
    _, classes = view._codes  # noqa: SLF001 - same module, same law
    starts, ends = view.spans
    ascii_only = seen.isascii()
    total = max(len(seen), 1)
    kinds = classes.tobytes()
    dense, digits = kinds.count(DENSE), kinds.count(DIGIT)
    words = starts.size + dense / 2
    words *= max(len(view.text) / total, 1.0)
    code_marks, maths_marks = float(marks(seen, _CODE_MARKS)), float(marks(seen, _MATHS_MARKS))
    numbers = patterns.runs(seen) if digits else []
    figures = [run[0] for run in numbers if len(run[0]) == 4]
    asks = seen.count("?") if ascii_only else sum(map(seen.count, _QUESTIONS))
    lines = seen.count("\n")
    code = patterns.code_signs(seen)
    return np.array(
        [
            *[words > size for size in _SIZES],
            log1p(words) / 5,
            log1p(len(view.text)) / 8,
            asks > 0,
            seen.rstrip()[-1:] in ("?", "？", "؟"),
            asks > 1,
            lines > 0,
            lines > 6,
            ":\n" in seen,
            len(numbers) > 0,
            len(numbers) > 2,
            len(numbers) > 7,
            digits / total,
            code > 0,
            code > 2,
            min(4 * code_marks / total, 1.0),
            min(4 * maths_marks / total, 1.0),
            maths_marks > 4,
            any("2020" <= figure <= "2099" for figure in figures),
            any("1000" <= figure <= "2019" for figure in figures),
            digits > 1 and patterns.names_version(seen, numbers),
            digits > 0 and patterns.names_money(seen),
            lines > 0 and patterns.offers_choices(seen),
            patterns.holds_secret(seen),
            digits > 8 and patterns.holds_identity(seen, numbers),
            patterns.holds_email(seen),
            capitals(seen[:400]) / min(total, 400),
            not ascii_only,
            dense / total,
            '"' in seen or "“" in seen or "«" in seen or "「" in seen,
            lines > 0 and total > 300,
            starts.size > 0 and int((ends - starts).max()) > 30,
        ],
        dtype=np.float32,
    )
