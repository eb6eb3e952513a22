"""Concepts: lists of words, of many languages, that mean the same. A head learns one weight for each concept.

A weight learned where there are examples (mostly English) so counts in every language the list knows. Terms are found
by their 64-bit keys in one sorted table: exact, and one binary search a word. What counts is how many distinct terms
of a concept a text contains, each further one half as much as the one before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from waywiser.classifier.text import BEGINNINGS, Floats, Ints, Keys, PromptView, term_keys

_MOST = 64  # concepts are bits of one 64-bit mask a term


@dataclass(frozen=True)
class Concepts:
    """A sorted table of keys; bit i of `masks[k]` is set when term k belongs to concept `names[i]`."""

    names: tuple[str, ...]
    keys: Keys
    masks: Keys

    @classmethod
    def of(cls, terms: Mapping[str, Iterable[str]]) -> Concepts:
        """Build the table from the terms of each concept; 64 concepts at most."""
        table: dict[int, int] = {}
        for bit, listed in enumerate(terms.values()):
            for term in listed:
                for key in term_keys(term):
                    table[key] = table.get(key, 0) | 1 << bit
        keys = sorted(table)
        return cls(
            tuple(terms), np.array(keys, dtype=np.uint64), np.array([table[key] for key in keys], dtype=np.uint64)
        )

    def strength(self, view: PromptView) -> Floats:
        """Return 0 for each concept not spoken of, 1 for one term, 1.5 for two, and so on towards 2."""
        return self.spoken(view)[0]

    def spoken(self, view: PromptView) -> tuple[Floats, Ints]:
        """Return the strength of each concept, and the indices of those words of the text that are terms of any."""
        keys = view.all_keys
        places = self.keys.searchsorted(keys)
        hits = (self.keys.take(places, mode="clip") == keys).nonzero()[0]
        words = hits[: hits.searchsorted(view.spans[0].size)]  # the keys of words come first
        return self._strength(set(places[hits].tolist())), words

    def _strength(self, terms: Collection[int]) -> Floats:
        if not terms:
            return np.zeros(len(self.names), dtype=np.float32)
        counts = self._belongs[list(terms)].sum(axis=0, dtype=np.float32)
        strength: Floats = 2 - 2 * np.exp2(-counts)
        return strength

    @cached_property
    def _belongs(self) -> npt.NDArray[np.uint8]:
        """The bits of `masks`, a row for each term: 1 where it belongs to a concept."""
        bits = np.unpackbits(self.masks.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        return bits[:, : len(self.names)]

    def word_of(self, view: PromptView, concept: str) -> int:
        """Return the index of the first word of the text that is a term of a concept, or -1."""
        bit = np.uint64(1 << self.names.index(concept))
        found = [view.spans[0].size]
        everything = np.arange(view.spans[0].size)
        for words, keys in ((everything, view.word_keys), *map(view.beginnings, BEGINNINGS)):
            place = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
            hits = np.flatnonzero((self.keys[place] == keys) & ((self.masks[place] & bit) != 0))
            found += words[hits[:1]].tolist()
        return min(found) if len(found) > 1 else -1
