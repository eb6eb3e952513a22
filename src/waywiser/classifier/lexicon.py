"""Reads what the authors wrote for training: concepts (words of many languages with one meaning) and labelled prompts.

Training only. How a concept works is told in `concepts.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from waywiser.classifier.concepts import Concepts
from waywiser.classifier.corpus import WRITTEN_TASK, Example
from waywiser.classifier.text import PromptView
from waywiser.core.classification import RISKS, TASKS
from waywiser.errors import ConfigError, Place, Problem

_FOLDER = Path(__file__).parent / "written"
_CHOICE = re.compile(r"\{([^{}]*)\}")
_FILLER = re.compile(r"<(passage|code)>")
_EXPANSIONS = 14
_WORD = re.compile(r"[^\W\d_]{3,}")
_READ = 400
_COMMON = 4
_LONE_WORDS = 2500
WORDS = "words"
"""The source of rows that are a single word."""
_PASSAGES = (1, 1, 2, 4)  # a passage is one of the written texts, or several: what is asked must be found in long ones
# Prompts nobody asked weigh less than those somebody did: they are there for what the public sets lack.
_WRITTEN_TASK = 0.5


@lru_cache(maxsize=1)
def concepts() -> Concepts:
    """Return every concept of `written/lexicon.txt` and `written/risks.txt`."""
    found: dict[str, list[str]] = {}
    for name, line, place in _sections("lexicon.txt", "risks.txt"):
        language, _, terms = line.partition(":")
        if not terms:
            raise ConfigError(Problem(place, f"expected `language: terms`, got {language!r}"))
        found.setdefault(name, []).extend(term.replace("_", " ") for term in terms.split())
    return Concepts.of(found)


def written(seed: int) -> list[Example]:
    """Expand the labelled prompts of `written/`: at most `_EXPANSIONS` variants of each line, drawn with `seed`."""
    chance = random.Random(seed)  # noqa: S311 - reproducible variants, nothing secret
    return [*_written_risks(chance), *_written_times(chance), *_written_tasks(chance)]


def _written_risks(chance: random.Random) -> Iterator[Example]:
    for label, line in _labelled("risk_prompts.txt", (*RISKS, "none")):
        for text in _expanded(line, chance):
            yield Example(text, "written:risk", risk=() if label == "none" else (label,), template=line)


def _written_times(chance: random.Random) -> Iterator[Example]:
    for label, line in _labelled("timely_prompts.txt", ("yes", "no")):
        for text in _expanded(line, chance):
            yield Example(text, "written:time", timely=label == "yes", template=line)


def _written_tasks(chance: random.Random) -> Iterator[Example]:
    fillers: dict[str, list[str]] = {}
    for name, line in _labelled("fillers.txt", ("passage", "code")):
        fillers.setdefault(name, []).append(line)

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        return "\n".join(chance.sample(fillers[name], chance.choice(_PASSAGES) if name == "passage" else 1))

    for label, line in _labelled("task_prompts.txt", TASKS):
        for text in _expanded(line, chance):
            whole = _FILLER.sub(filled, text).replace("\\n", "\n")
            yield Example(whole, WRITTEN_TASK, task=label, template=line, weight=_WRITTEN_TASK)


def _labelled(name: str, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (section, line) of a file whose sections are labels; `ConfigError` for a section that is none of them."""
    for label, line, place in _sections(name):
        if label not in labels:
            raise ConfigError(Problem(place, f"unknown label {label!r}"))
        yield label, line


def _expanded(line: str, chance: random.Random) -> list[str]:
    """Return distinct variants of a line, sorted: every `{a|b}` replaced by one of its choices."""
    variants = set()
    for _ in range(3 * _EXPANSIONS):
        variants.add(_CHOICE.sub(lambda match: chance.choice(match[1].split("|")), line))
        if len(variants) == _EXPANSIONS:
            break
    return sorted(variants)


def _sections(*names: str) -> Iterator[tuple[str, str, Place]]:
    """Yield (section, line, place) of every line that says something."""
    for name in names:
        path = _FOLDER / name
        section = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif line and not line.startswith("#"):
                yield section, line, Place(str(path), number)


def speaks_of(text: str, names: Sequence[str]) -> bool:
    """Say whether a text contains any word of the concepts `names`."""
    known = concepts()
    return bool(known.strength(PromptView(text))[[known.names.index(name) for name in names]].any())


def lone_words(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return words of the prompts as prompts of their own. Out of context a word is no risk, and asks for nothing new.

    Without them a head, which knows whole prompts only, reads what it likes into a single word. A word that a
    concept knows as a risk, or as a matter of time, is not said to be none.
    """
    counts: dict[str, int] = {}
    for example in examples:
        for word in set(_WORD.findall(example.text[:_READ])):
            counts[word] = counts.get(word, 0) + 1
    common = sorted(word for word, count in counts.items() if count >= _COMMON)
    chance = random.Random(seed)  # noqa: S311 - as above
    found = []
    for word in sorted(chance.sample(common, min(_LONE_WORDS, len(common)))):
        risk = None if speaks_of(word, RISKS) else ()
        found.append(Example(word, WORDS, risk=risk, timely=None if speaks_of(word, ("now", "changing")) else False))
    return found
