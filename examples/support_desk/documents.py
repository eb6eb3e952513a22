"""Find the passages of the shop's handbook that speak of a question.

Ranked by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) with its usual constants: a dozen
short documents need no index and no vectors. The title counts as part of every passage.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

K1, B = 1.2, 0.75  # how fast a repeated word stops counting; how much a long passage is held back
STOP = frozenset(
    re.findall(
        "[a-z]+",
        "a about am an and any are as at be been but by can could did do does for from had has have how i if in is it"
        " its long me my not of on or our please should so some that the their them then there they this to too was we"
        " were what when where which who will with would you your",
    )
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph of the handbook; `score` is comparable only within one search."""

    document: str
    title: str
    text: str
    score: float


def search_documents(path: Path | str, question: str, limit: int = 4) -> list[Passage]:
    """Return the passages nearest to the question, best first; none when no word of it occurs.

    A passage is a whole document: the handbook's are a few sentences each.
    """
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT id, title, body FROM documents ORDER BY id").fetchall()
    bags = [Counter(words(f"{title} {title} {body}")) for _, title, body in rows]
    mean = sum(bag.total() for bag in bags) / max(len(bags), 1)
    wanted = set(words(question))
    rarity = {word: _rarity(len(bags), sum(word in bag for bag in bags)) for word in wanted}
    found = [
        Passage(document, title, body, round(_score(bag, rarity, mean), 3))
        for (document, title, body), bag in zip(rows, bags, strict=True)
    ]
    found.sort(key=lambda passage: (-passage.score, passage.document))
    return [passage for passage in found[:limit] if passage.score > 0]


def words(text: str) -> list[str]:
    """Lower-case words without the commonest ones, plural and past endings cut so that `refunded` meets `refunds`."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return [re.sub(r"(?<=[a-z]{3})(ing|ies|ed|es|s|e|y)$", "", word) for word in found if word not in STOP]


def _rarity(documents: int, containing: int) -> float:
    return math.log(1 + (documents - containing + 0.5) / (containing + 0.5))


def _score(bag: Counter[str], rarity: dict[str, float], mean: float) -> float:
    length = K1 * (1 - B + B * bag.total() / mean)
    return sum(weight * bag[word] * (K1 + 1) / (bag[word] + length) for word, weight in rarity.items() if word in bag)
