"""What the shared classifier gets right on prompts it was not fitted on.

    python benchmarks/classifier_prompts.py [--data ../shared/data] [--seed 0] [--json]

Task, difficulty and risk are cross-validated here afresh (three folds, near-duplicates together), with languages and
sources left out whole; the rest is asked of the shipped classifier, whose training saw no row of `benchmarks/data` and
none of `language/`. The prompts on self-harm were written by the people who wrote the training prompts, and what was
missed of them was looked at once: on other people's words expect less.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from waywiser.classifier import train as training
from waywiser.classifier.classifier import LocalClassifier
from waywiser.classifier.corpus import rows
from waywiser.classifier.language import LANGUAGES, Languages
from waywiser.core.messages import user

HERE = Path(__file__).resolve().parent
_FIGURE = re.compile(r"\*\*([\d.]+)\*\*")


def cross_validated(data: Path, seed: int) -> dict[str, str]:
    """Return the card's sections on task, difficulty and risk, measured now."""
    examples = training.gathered(data, seed)
    heads = {"task": training.fit_task, "difficulty": training.fit_difficulty, "risk": training.fit_risk}
    return {name: head(examples, seed).report for name, head in heads.items()}


def time_sensitive(classifier: LocalClassifier) -> dict[str, float]:
    """Return precision, recall and F1 on the 400 written questions, over all and a language at a time."""
    with (HERE / "data" / "time_sensitive.jsonl").open(encoding="utf-8") as lines:
        table = [json.loads(line) for line in lines]
    truth = np.array([row["time_sensitive"] for row in table])
    said = np.array([classifier.classify((user(row["text"]),), (), 3).time_sensitive > 0.5 for row in table])
    languages = np.array([row["language"] for row in table])
    found = {
        "rows": float(truth.size),
        "precision": float(truth[said].mean()),
        "recall": float(said[truth].mean()),
        "f1": f1(said, truth),
    }
    for language in sorted(set(languages)):
        found[f"f1 {language}"] = f1(said[languages == language], truth[languages == language])
    return found


def self_harm(classifier: LocalClassifier) -> dict[str, float]:
    """Return how much is found of written prompts of people in need, and of prompts that only share their words."""
    with (HERE / "data" / "self_harm.jsonl").open(encoding="utf-8") as lines:
        table = [json.loads(line) for line in lines]
    truth = np.array([row["self_harm"] for row in table])
    found = [classifier.classify((user(row["text"]),), (), 3).risk for row in table]
    said = np.array(["self_harm" in [risk.label for risk in risks] for risks in found])
    return {
        "rows": float(truth.size),
        "recall": float(said[truth].mean()),
        "near misses found": float(said[~truth].mean()),
    }


def f1(said: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (said & truth).sum() / max(said.sum() + truth.sum(), 1))


def languages(data: Path) -> dict[str, float]:
    """Return how often the language is right, by kind of text; `unsure` counts as wrong, and is shown apart."""
    namer = Languages()
    found: dict[str, float] = {}
    table = [row for row in rows(data / "language" / "lingua_lid.jsonl.gz") if row["lang"] in LANGUAGES]
    for kind in ("sentences", "word-pairs"):
        said = [(namer.of(str(row["text"])).label, row["lang"]) for row in table if row["kind"] == kind]
        sure = [label == truth for label, truth in said if label != "unsure"]
        found[f"{kind}"] = sum(label == truth for label, truth in said) / len(said)
        found[f"{kind}, when sure"] = sum(sure) / len(sure)
        found[f"{kind}, unsure"] = 1 - len(sure) / len(said)
    prompts = [
        (namer.of(str(row["prompt"])).label, row["lang"]) for row in rows(data / "prompts/uncommonroute.jsonl.gz")
    ]
    found["prompts of uncommonroute"] = sum(label == truth for label, truth in prompts) / len(prompts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / ".." / "shared" / "data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"no labelled sets at {options.data}; name the folder with --data")
    sections = cross_validated(options.data, options.seed)
    classifier = LocalClassifier()
    timely, harm = time_sensitive(classifier), self_harm(classifier)
    named = languages(options.data)
    if options.json:
        bold = {name: [float(figure) for figure in _FIGURE.findall(text)] for name, text in sections.items()}
        print(
            json.dumps(
                {"headline": bold, "sections": sections, "time_sensitive": timely, "language": named, "self_harm": harm}
            )
        )
        return
    print("".join(sections.values()))
    print("\n## Time-sensitive, 400 written questions\n")
    print("\n".join(f"{name}: {figure:.3f}" for name, figure in timely.items()))
    print("\n## Self-harm, written prompts and near misses\n")
    print("\n".join(f"{name}: {figure:.3f}" for name, figure in harm.items()))
    print(f"\n## Language, {len(LANGUAGES)} languages\n")
    print("\n".join(f"{name}: {figure:.4f}" for name, figure in named.items()))


if __name__ == "__main__":
    main()
