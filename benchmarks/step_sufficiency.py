"""Is the chosen tier enough for the next step of an agent? Cross-validated by instance on verified steps.

    python benchmarks/step_sufficiency.py [--data ../shared/data] [--score ../shared/eval/step_score.py] [--json]
    python benchmarks/step_sufficiency.py --shipped FILE...     the weights of the package on verified steps of yours

Beside our figures stand always-low, always-high, the oracle, and a plain logistic regression on words (what twenty lines
give), each on the same rows. Several seeds: mean and standard deviation; the 95% range is over instances drawn again.

Without any of these rows there are two ways. *Written prior*: what ships as the prior of the fit; it was written by people
who had seen such rows. *Other sources only*: `elsewhere`, counted from other sets by a rule that has nothing to be tuned.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np

from waywiser.classifier.corpus import rows
from waywiser.classifier.habits import logit
from waywiser.classifier.heads import load
from waywiser.classifier.recordings import SPOILED, LabelledStep, read_steps
from waywiser.classifier.steps import StepHeads, on_ladder
from waywiser.classifier.train_steps import choose, prior, work_chances, work_crossed, work_rows
from waywiser.classifier.work_features import FEATURES

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
ASKED = (0.6, 0.65, 0.7, 0.75, 0.8)
SEEDS = 8
DRAWS = 400
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"

Score = Callable[[list[dict], list[int]], dict[str, float]]


def scorer(path: Path) -> Score:
    """Load the published score from its file."""
    spec = importlib.util.spec_from_file_location("step_score", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.score


def elsewhere(data: Path) -> np.ndarray:
    """Return weights of the sufficiency head from other sources alone, no verified step among them.

    A cheaper model counts as enough where it did as well as the dearest on the same task. Prompts answered at once:
    `correctness/`, each set with one voice, the weak model at rank 0. Work with tools: the task by model table of
    retail, cheapest model first; a session of n calls that comes out well with probability p has steps that do with
    p ** (1 / n). Of code repaired with tools no set says anything: one half, not known, at every rank below the top.
    That these are the three kinds of work to tell apart was known from verified steps; no figure was.
    """
    shares = [
        _as_well((str(row[WEAK]) == "True", str(row[STRONG]) == "True") for row in rows(path))
        for path in sorted((data / "correctness").glob("*.jsonl.gz"))
    ]
    answers = np.linspace(logit(statistics.fmean(shares)), logit(on_ladder((), 1)[0]), 4)[:3]
    table = json.loads((data / "trajectories" / "tau2_retail_matrix.json").read_text(encoding="utf-8"))
    named = [name for name, run in next(iter(table.values())).items() if isinstance(run, dict)]
    models = sorted(named, key=lambda model: sum(task[model]["cost"] for task in table.values()))
    *cheaper, dearest = models
    office = []
    for model in cheaper:
        tasks = [task for task in table.values() if SPOILED not in {task[m]["termination"] for m in (model, dearest)}]
        share = _as_well((task[model]["success"], task[dearest]["success"]) for task in tasks)
        office.append(logit(share ** (1 / statistics.fmean(task[model]["calls"] for task in tasks))))
    weights = np.zeros((3, len(FEATURES) + 1))
    weights[:, -1] = answers
    weights[:, FEATURES.index("agentic")] = np.array(office) - answers
    weights[:, FEATURES.index("coding")] = -np.array(office)
    return weights


def _as_well(pairs: Iterable[tuple[bool, bool]]) -> float:
    return statistics.fmean(cheap or not dear for cheap, dear in pairs)


def in_hindsight(raw: list[dict], steps: list[LabelledStep], score: Score) -> list[int]:
    """Choose, the labels known, the best rank for each situation that the signs of the work tell apart.

    About what a rule on these signs can reach, whatever it was trained on; counts and lengths are left out. Begins at the
    top everywhere and takes every change of one situation that scores better, until there is none.
    """
    signs = work_rows(steps)[:, : FEATURES.index("turns")]
    cells, place = np.unique(signs, axis=0, return_inverse=True)
    chosen, best, better = np.full(len(cells), 3), 0.0, True
    while better:
        better = False
        for cell in range(len(cells)):
            for rank in range(4):
                trial = chosen.copy()
                trial[cell] = rank
                found = score(raw, trial[place.ravel()].tolist())["combined"]
                if found > best:
                    chosen, best, better = trial, found, True
    return chosen[place.ravel()].tolist()


def drawn_again(raw: list[dict], ranks: list[int], score: Score) -> list[float]:
    """Return the 95% range of the combined score over instances drawn again with replacement."""
    places: dict[str, list[int]] = {}
    for at, row in enumerate(raw):
        places.setdefault(row["instance_id"], []).append(at)
    names, chance = sorted(places), np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        copies = [(n, at) for n, drawn in enumerate(chance.choice(names, len(names))) for at in places[drawn]]
        again = [{**raw[at], "instance_id": f"{raw[at]['instance_id']} {n}"} for n, at in copies]
        found.append(score(again, [ranks[at] for _, at in copies])["combined"])
    return [round(float(bound), 1) for bound in np.percentile(found, [2.5, 97.5])]


def words(raw: list[dict], steps: list[LabelledStep], seed: int) -> np.ndarray:
    """Tell the probabilities by a plain logistic regression on the words of the whole prefix, instances left out."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [json.dumps(row["messages"])[:20000] for row in raw]
    ranks = np.array([step.rank for step in steps])
    names, places = np.unique([step.instance for step in steps], return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names))[places] % 5
    chances = np.ones((len(steps), 3))
    for fold in range(5):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=5000), LogisticRegression(C=10))
        model.fit([texts[at] for at in inside], ranks[inside])
        found = model.predict_proba([texts[at] for at in outside])
        for column, label in enumerate(model.classes_):
            for rank in range(3):
                chances[outside, rank] -= found[:, column] * (label > rank)
    return chances


def learned_threshold(raw: list[dict], steps: list[LabelledStep], score: Score, seed: int) -> list[int]:
    """Choose tiers with the threshold that scored best on the other folds, as well as the weights."""
    ranks = np.zeros(len(steps), dtype=int)
    names, places = np.unique([step.instance for step in steps], return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names))[places] % 5
    outer = work_crossed(steps, seed)
    for fold in range(5):
        inside, outside = np.flatnonzero(folds != fold).tolist(), folds == fold
        within = work_crossed([steps[at] for at in inside], seed + 1)
        part = [raw[at] for at in inside]
        best = max(ASKED, key=lambda asked: score(part, choose(within, asked).tolist())["combined"])
        ranks[outside] = choose(outer, best)[outside]
    return ranks.tolist()


def calibration(steps: list[LabelledStep], seed: int) -> float:
    """Return the calibration error (10 bins) of the three probabilities together, instances left out."""
    chances = work_crossed(steps, seed).ravel()
    truth = (np.array([step.rank for step in steps])[:, None] <= np.arange(3)).ravel()
    bins = np.minimum((chances * 10).astype(int), 9)
    gaps = [abs(chances[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())]
    return round(float(sum(gaps)), 4)


def spread(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the means over seeds, and how far the combined score strays."""
    found = {key: round(statistics.fmean(one[key] for one in results), 2) for key in results[0]}
    return {**found, "combined_sd": round(statistics.pstdev(one["combined"] for one in results), 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--score", type=Path, default=SHARED / "eval" / "step_score.py")
    parser.add_argument("--shipped", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    asked_for = parser.parse_args()
    if not asked_for.score.exists() or not (asked_for.data / "steps").is_dir():
        print(f"needs {asked_for.score} and verified steps below {asked_for.data}", file=sys.stderr)
        return 2
    score = scorer(asked_for.score)
    report: dict[str, object] = {}
    if asked_for.shipped:
        heads = StepHeads.load(load(Path(str(files("waywiser.classifier") / "weights" / "steps.npz"))))
        for path in asked_for.shipped:
            raw = [dict(row) for row in rows(path)]
            steps = read_steps(path.parent, path.name)
            chances = np.array([heads.sufficiency(step.messages, (), 4)[0][:3] for step in steps])
            for asked in ASKED:
                report[f"{path.name}, {asked}"] = score(raw, choose(chances, asked).tolist())
    else:
        folder = asked_for.data / "steps"
        raw = [dict(row) for path in sorted(folder.glob("*.jsonl.gz")) for row in rows(path)]
        steps = read_steps(folder)
        ranks = [step.rank for step in steps]
        report["always low"] = score(raw, [0] * len(raw))
        report["always high"] = score(raw, [3] * len(raw))
        report["oracle"] = score(raw, ranks)
        report["oracle outside code repair, high inside"] = score(
            raw, [3 if row["benchmark"] == "swebench" else rank for row, rank in zip(raw, ranks, strict=True)]
        )
        report["best rank of each situation, in hindsight"] = score(raw, in_hindsight(raw, steps, score))
        untrained = work_chances(prior(), work_rows(steps))
        other = work_chances(elsewhere(asked_for.data), work_rows(steps))
        plain = [words(raw, steps, seed) for seed in range(3)]
        for asked in (0.6, 0.7, 0.8):
            report[f"other sources only, {asked}"] = score(raw, choose(other, asked).tolist())
            report[f"written prior, no row fitted, {asked}"] = score(raw, choose(untrained, asked).tolist())
            report[f"words, logistic regression, {asked}"] = spread(
                [score(raw, choose(one, asked).tolist()) for one in plain]
            )
        crossed = [work_crossed(steps, seed) for seed in range(SEEDS)]
        for asked in ASKED:
            report[f"ours, {asked}"] = spread([score(raw, choose(one, asked).tolist()) for one in crossed])
        for asked in (0.6, 0.8):
            report[f"ours, {asked}, 95% range"] = dict(
                zip(("from", "to"), drawn_again(raw, choose(crossed[0], asked).tolist(), score), strict=True)
            )
        report["ours, threshold learned inside the folds"] = spread(
            [score(raw, learned_threshold(raw, steps, score, seed)) for seed in range(3)]
        )
        report["calibration"] = {"ece": calibration(steps, 0)}
    if asked_for.json:
        print(json.dumps(report, indent=1))
    else:
        for name, found in report.items():
            print(f"{name:44} {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
