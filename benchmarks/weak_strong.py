"""How well can a prompt alone tell when a strong model is worth its price over a weak one? APGR after RouteLLM.

    python benchmarks/weak_strong.py [--data ../shared/data] [--json]
    python benchmarks/weak_strong.py --mmlu FILE --gsm8k FILE      train on --data, score rows of files of yours

Prompts are ranked by a predicted gain (strong right less weak right). Sending the first k of n to the strong model
recovers a share of the gap between the two; APGR is that share averaged over all thresholds k (the area under the
curve): 0.5 by chance. MMLU leaves whole subjects out (six folds), GSM8K leaves prompts out (five); several seeds.
Three ways are compared: words (ridge regression on TF-IDF), shape (boosted trees over the shape of the text), and for
GSM8K their blend. Words do not carry over to subjects never seen; shape does.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from waywiser.classifier.corpus import rows

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
_RELATIONS = re.compile(
    r"half|twice|third|double|triple|quarter|times|percent|each|every|per|total|more|less|than|if|how|many|much|left"
    r"|remaining|average|rate|hours?|days?|weeks?|years?"
)

Ranker = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Prompts:
    """Prompts with their gains; `features` are what the shape of each text shows."""

    def __init__(self, found: list[dict]) -> None:
        self.texts = [str(row["prompt"]) for row in found]
        self.weak, self.strong = (np.array([str(row[name]) == "True" for row in found]) for name in (WEAK, STRONG))
        self.gain = self.strong.astype(int) - self.weak.astype(int)
        self.subject = np.array([str(row.get("subject", at)) for at, row in enumerate(found)])
        self.features = np.array([shape(text) for text in self.texts], dtype=float)


def shape(text: str) -> list[float]:
    """Length, numbers, signs, sentences, options and turns of phrase: nothing that names a subject."""
    stem = text.partition("\nA.")[0]
    numbers = re.findall(r"\d[\d,.]*", text)
    values = [
        float(number.replace(",", "").rstrip(".")) for number in numbers if re.fullmatch(r"[\d,]*\d\.?\d*", number)
    ]
    words = re.findall(r"[a-z']+", text.lower())
    known = set(words)
    options = re.split(r"\n[A-D]\. ", text)[1:]
    return [
        np.log1p(len(text)),
        np.log1p(len(words)),
        np.log1p(len(numbers)),
        len(numbers) / (len(words) + 1),
        np.log1p(stem.count(".") + stem.count("?")),
        float(np.mean([len(word) for word in words] or [0])),
        "?" in stem,
        bool(known & {"not", "except", "false", "never", "least"}),
        "following" in known,
        len(re.findall(r"[=+*/^<>$\\{}|]", text)) / (len(text) + 1) * 100,
        bool(re.search(r"\bI+\.|statement 1", text, re.IGNORECASE)),
        np.log1p(float(np.mean([len(option) for option in options] or [0]))),
        np.log1p(len(stem)),
        "_" in text,
        np.log1p(max(values, default=0.0)),
        sum("." in number.rstrip(".") for number in numbers),
        text.count("%"),
        sum(_RELATIONS.fullmatch(word) is not None for word in words),
        len(known) / (len(words) + 1),
        bool(known & {"if", "suppose", "assume", "given"}),
        text.count("\n"),
        sum(char.isupper() for char in text) / (len(text) + 1),
    ]


def apgr(score: np.ndarray, gain: np.ndarray) -> float:
    """Return the area under the recovered share of the gap, prompts sent in the order of their score."""
    recovered = np.concatenate([[0], np.cumsum(gain[np.argsort(-score, kind="stable")])]) / gain.sum()
    return float(np.trapezoid(recovered, dx=1 / len(gain)))


def by_words(told: Prompts, asked: Prompts, strength: float = 10.0) -> Ranker:
    """Ridge regression of the gain on words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    reader = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=3, max_features=20000)
    inside = reader.fit_transform(told.texts)
    outside = inside if asked is told else reader.transform(asked.texts)
    return lambda learn, tell: Ridge(alpha=strength).fit(inside[learn], told.gain[learn]).predict(outside[tell])


def by_shape(told: Prompts, asked: Prompts, *, leaves: int, rounds: int, least: int) -> Ranker:
    """Boosted trees of the gain over the shape of the text."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    def rank(learn: np.ndarray, tell: np.ndarray) -> np.ndarray:
        total = np.zeros(len(tell))
        for copy in range(2):
            trees = HistGradientBoostingRegressor(
                max_iter=rounds,
                learning_rate=0.05,
                max_leaf_nodes=leaves,
                min_samples_leaf=least,
                l2_regularization=20,
                max_features=0.4,
                early_stopping=False,
                random_state=copy,
            )
            with threadpool_limits(1):
                total += trees.fit(told.features[learn], told.gain[learn]).predict(asked.features[tell])
        return total

    return rank


def by_line(told: Prompts, asked: Prompts) -> Ranker:
    """Ridge regression of the gain on the shape of the text."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def rank(learn: np.ndarray, tell: np.ndarray) -> np.ndarray:
        line = make_pipeline(StandardScaler(), Ridge(alpha=500))
        return line.fit(told.features[learn], told.gain[learn]).predict(asked.features[tell])

    return rank


def blended(*rankers: Ranker) -> Ranker:
    """Add rankings, each brought to one scale."""

    def rank(learn: np.ndarray, tell: np.ndarray) -> np.ndarray:
        found = [ranker(learn, tell) for ranker in rankers]
        return np.sum([(one - one.mean()) / (one.std() + 1e-9) for one in found], axis=0)

    return rank


def crossed(prompts: Prompts, ranker: Ranker, count: int, seeds: int) -> dict[str, float]:
    """Return APGR over all prompts, each scored by a fit that never saw its subject; mean and spread over seeds."""
    names, places = np.unique(prompts.subject, return_inverse=True)
    found = []
    for seed in range(seeds):
        folds = np.random.default_rng(seed).permutation(len(names))[places] % count
        score = np.zeros(len(prompts.texts))
        for fold in range(count):
            learn, tell = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            score[tell] = ranker(learn, tell)
        found.append(apgr(score, prompts.gain))
    return {"apgr": round(statistics.fmean(found), 4), "sd": round(statistics.pstdev(found), 4)}


def ways(told: Prompts, asked: Prompts, *, sums: bool) -> dict[str, Ranker]:
    """Return the ways to be compared; the last is the one we stand by."""
    word, line = by_words(told, asked), by_line(told, asked)
    if sums:
        shape_of = by_shape(told, asked, leaves=4, rounds=40, least=30)
        return {"words": word, "shape, a line": line, "shape, trees": shape_of, "blend": blended(word, line, shape_of)}
    trees = by_shape(told, asked, leaves=8, rounds=100, least=60)
    return {"words": word, "shape, a line": line, "shape, trees": trees}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mmlu", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked_for = parser.parse_args()
    report: dict[str, dict[str, float]] = {}
    for name, held_back in (("mmlu", asked_for.mmlu), ("gsm8k", asked_for.gsm8k)):
        told = Prompts([dict(row) for row in rows(asked_for.data / "correctness" / f"routellm_{name}.jsonl.gz")])
        if not told.texts:
            print(f"no rows for {name} below {asked_for.data}", file=sys.stderr)
            return 2
        asked = Prompts([dict(row) for row in rows(held_back)]) if held_back else told
        for way, ranker in ways(told, asked, sums=name == "gsm8k").items():
            if held_back:
                everything = ranker(np.arange(len(told.texts)), np.arange(len(asked.texts)))
                report[f"{name}, {way}"] = {"apgr": round(apgr(everything, asked.gain), 4)}
            else:
                report[f"{name}, {way}"] = crossed(told, ranker, 6 if name == "mmlu" else 5, asked_for.seeds)
    if asked_for.json:
        print(json.dumps(report, indent=1))
    else:
        for key, found in report.items():
            print(f"{key:24} {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
