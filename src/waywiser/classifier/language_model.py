"""The model that tells languages apart: py3langid's, restricted to ours, in a file that is read ten times as fast.

A text is walked byte by byte through an automaton (Aho and Corasick, "Efficient string matching", 1975) that says which
of 100 000 byte sequences end there; their counts c go into a naive Bayes score, log(1 + c) times the logarithm of each
sequence's probability in a language (Lui and Baldwin, "langid.py", 2012), and the scores over the root of the length
into a softmax. py3langid unpacks 68 MB for 142 languages, half a second. Here is what 24 of them need: the tree of the
sequences, from which the automaton is made anew, and 24 columns of the table. The answers are the same to the last bit.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier.heads import Arrays, load

MODEL: Final = Path(__file__).parent / "weights" / "languages.npz"

Indices: TypeAlias = npt.NDArray[np.int64]


class LanguageModel:
    """Names the language of a text among some of those the file knows. Build it with `load`.

    `automaton` is rows of 256 next states, and where in them the row of each state begins; `features` are the sequences
    that end in the states (-1: none); `table` (sequences, languages) and `prior` (languages,) are logarithms.
    """

    def __init__(
        self,
        labels: Sequence[str],
        automaton: tuple[memoryview, Sequence[int]],
        features: Sequence[int],
        table: npt.NDArray[np.float32],
        prior: npt.NDArray[np.float32],
    ) -> None:
        self.labels = tuple(labels)
        self._moves, self._places = automaton
        self._features = features
        self._table = table
        self._prior = prior

    @classmethod
    def load(cls, languages: Sequence[str]) -> LanguageModel:
        """Read what some languages need, each one that the file knows. Raises `ConfigError` for a damaged file."""
        arrays = load(MODEL)
        labels = arrays["labels"].tolist()
        columns = [labels.index(language) for language in sorted(languages)]
        table, prior = arrays["table"], arrays["prior"]
        if len(columns) < len(labels):
            table, prior = table[:, columns], prior[columns]
        return cls(
            [labels[column] for column in columns],
            _automaton(arrays),
            arrays["features"].tolist(),
            table.astype(np.float32),  # twice the memory of what is stored, and a fifth of the time of a text
            prior.astype(np.float32, copy=False),
        )

    def classify(self, text: str) -> tuple[str, float]:
        """Return a language and its probability. `text` holds no lone surrogates."""
        if text.isupper():
            text = text.lower()
        raw = (text if text.isascii() else unicodedata.normalize("NFC", text)).encode()
        moves, place, state = self._moves, self._places, 0
        states = [state := moves[place[state] + byte] for byte in raw]
        found = Counter(map(self._features.__getitem__, states))
        found.pop(-1, None)
        if found:
            counts = np.fromiter(found.values(), np.float32, len(found))
            rows = self._table.take(np.fromiter(found, np.intp, len(found)), axis=0)
            scores: npt.NDArray[np.float32] = np.log1p(counts) @ rows + self._prior
        else:
            scores = np.zeros(len(self.labels), dtype=np.float32)
        scores *= 1.0 / sqrt(len(raw) or 1)
        np.exp(scores - scores.max(), out=scores)
        scores /= scores.sum()
        best = int(scores.argmax())
        return self.labels[best], float(scores[best])


def _automaton(arrays: Arrays) -> tuple[memoryview, list[int]]:
    """Make the automaton of a tree whose nodes are numbered level by level, the children of a node one after another.

    Where a node has no child for a byte, it goes where the node of its longest proper suffix goes; that one is a level
    higher at least, so a level is made by a handful of array operations. A node without children needs no row.
    """
    byte, children = arrays["byte"].astype(np.int64), arrays["children"].astype(np.int64)
    nodes = np.arange(children.size)
    parent = np.concatenate(([0], np.repeat(nodes, children)))
    first = np.concatenate(([1], children.cumsum() + 1))  # of a node's children
    inner = children > 0
    rows: Indices = np.where(inner, inner.cumsum() - 1, 0)
    suffix: Indices = np.zeros(children.size, dtype=np.int64)
    moves = np.zeros((int(inner.sum()), 256), dtype=np.uint32)
    level, below = slice(0, 1), slice(1, int(first[1]))
    while below.start < below.stop:
        moves[rows[parent[below]], byte[below]] = nodes[below]
        level, below = below, slice(int(first[below.start]), int(first[below.stop]))
        if level.start > 1:
            suffix[level] = moves[rows[suffix[parent[level]]], byte[level]]
        rows[level] = np.where(inner[level], rows[level], rows[suffix[level]])
        grown = nodes[level][inner[level]]
        moves[rows[grown]] = moves[rows[suffix[grown]]]
    return moves.reshape(-1).data, (rows * 256).tolist()
