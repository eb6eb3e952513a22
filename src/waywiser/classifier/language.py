"""Which language a text is in: py3langid over a restricted set, and the courage to say `unsure`.

The model is read at the first text that needs it (40 ms): a script that only one language of the set writes needs none.
A set with languages beyond the usual ones is told apart by py3langid itself, whose model takes half a second to read.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock

from waywiser.classifier.language_model import LanguageModel
from waywiser.core.classification import Judged
from waywiser.errors import ConfigError, Place, Problem

LANGUAGES = (
    "ar", "bn", "cs", "de", "en", "es", "fa", "fr", "he", "hi", "id", "it",
    "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
UNSURE = "unsure"
LEAST_CONFIDENCE = 0.15
_READ = 240
_TWO_LETTERS = re.compile("[A-Za-z][^A-Za-z]*[A-Za-z]")
# First and last letter of scripts, and the languages that write them: one of the set alone needs no model.
_SCRIPTS = (
    ("Ͱ", "Ͽ", ("el",)),
    ("֐", "׿", ("he", "yi")),
    ("ऀ", "ॿ", ("hi", "mr", "ne", "sa")),
    ("ঀ", "৿", ("bn", "as")),
    ("஀", "௿", ("ta",)),
    ("ఀ", "౿", ("te",)),
    ("฀", "๿", ("th",)),
    ("぀", "ヿ", ("ja",)),
    ("가", "힣", ("ko",)),
)


class Languages:
    """Names the language of texts, among a fixed set of ISO 639-1 codes. `ConfigError` for a code nobody knows."""

    def __init__(self, languages: Sequence[str] = LANGUAGES) -> None:
        self.languages = tuple(dict.fromkeys(languages))
        if not self.languages:
            raise ConfigError(Problem(Place("argument"), "the set of languages is empty"))
        self._lock = Lock()
        self._alone = []
        for first, last, who in _SCRIPTS:
            ours = [language for language in who if language in self.languages]
            if len(ours) == 1:
                self._alone.append((first, last, ours[0]))
        if not set(self.languages) <= set(LANGUAGES):
            self._model  # noqa: B018 - read now, so that a code that is none is told before the first call

    def of(self, text: str) -> Judged:
        """Return a language and its probability, or `unsure` and how likely the best guess was."""
        sample = text[:_READ]
        # Counting the letters one by one costs as much as naming the language: ASCII needs no more than a search.
        letters = [] if sample.isascii() else [letter for letter in sample if letter.isalpha()]
        if len(letters) < 2 and _TWO_LETTERS.search(sample) is None:
            return Judged(UNSURE, 0.0)
        if len(self.languages) == 1:
            return Judged(self.languages[0], 1.0)
        if letters:
            if _mixed(letters):
                return Judged(UNSURE, 0.0)
            alone = self._by_script(letters)
            if alone:
                return Judged(alone, 0.99)
        label, confidence = self._model(sample if sample.isascii() else sample.encode("utf-8", "replace").decode())
        return Judged(label if confidence >= LEAST_CONFIDENCE else UNSURE, min(confidence, 1.0))

    def _by_script(self, letters: Sequence[str]) -> str:
        """Return the one language that writes most of these letters, if there is one."""
        for first, last, language in self._alone:
            share = sum(first <= letter <= last for letter in letters) / len(letters)
            # A few kana among Chinese characters already make the text Japanese.
            if share > (0.08 if language == "ja" else 0.6):
                return language
        return ""

    @cached_property
    def _model(self) -> Callable[[str], tuple[str, float]]:
        """What names the language of a text, and how probable it is. Read once."""
        with self._lock:
            if set(self.languages) <= set(LANGUAGES):
                return LanguageModel.load(self.languages).classify
            return _every_language(self.languages)


def _every_language(languages: Sequence[str]) -> Callable[[str], tuple[str, float]]:
    """Read the whole of py3langid's model. Raises `ConfigError` for a language it does not know."""
    from py3langid.langid import (  # type: ignore[import-untyped]  # noqa: PLC0415 - half a second, where needed
        MODEL_FILE,
        LanguageIdentifier,
    )

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    try:
        model.set_languages(list(languages))
    except ValueError as error:
        raise ConfigError(Problem(Place("argument"), f"languages: {error}")) from None

    def classify(text: str) -> tuple[str, float]:
        label, confidence = model.classify(text)
        return str(label), float(confidence)

    return classify


# Families of scripts by their first letters; a Han or kana character or a Hangul syllable says as much as two letters.
_FAMILIES = "Ͱ", "Ѐ", "԰", "֐", "؀", "ऀ", "฀", "Ⴀ", "぀"
_DENSE_FROM = "぀"


def _mixed(letters: Sequence[str]) -> bool:
    """Say whether no family of scripts writes even nearly half of these letters."""
    counts: dict[int, int] = {}
    for letter in letters:
        family = bisect(_FAMILIES, letter)
        counts[family] = counts.get(family, 0) + (2 if letter >= _DENSE_FROM else 1)
    return max(counts.values()) < 0.45 * sum(counts.values())
