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
from waywiser.classifier.corpus import Example
from waywiser.classifier.text import PromptView
from waywiser.core.classification import RISKS
from waywiser.errors import ConfigError, Place, Problem

_FOLDER = Path(__file__).parent / "written"
_CHOICE = re.compile(r"\{([^{}]*)\}")
_EXPANSIONS = 14


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
    examples = []
    for label, line, place in _sections("risk_prompts.txt"):
        if label not in (*RISKS, "none"):
            raise ConfigError(Problem(place, f"unknown label {label!r}"))
        risk = () if label == "none" else (label,)
        examples += [Example(text, "written:risk", risk=risk, template=line) for text in _expanded(line, chance)]
    for label, line, _ in _sections("timely_prompts.txt"):
        examples += [
            Example(text, "written:time", timely=label == "yes", template=line) for text in _expanded(line, chance)
        ]
    return examples


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
