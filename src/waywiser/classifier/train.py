"""Trains the prompt heads (and, through `train_steps`, the step heads) and writes weights and a model card.

Every figure of the card is from rows the fit behind it never saw: three folds, near-duplicates kept in one fold, and
transfers to a source or a language that was left out whole. The weights that ship are fitted on all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier import card
from waywiser.classifier.corpus import SENTENCES, WRITTEN_TASK, Example, read
from waywiser.classifier.fit import (
    FOLDS,
    Bulk,
    Doubles,
    Indices,
    Margins,
    Sparse,
    bulk,
    calibrate_sigmoid,
    calibrate_softmax,
    crossed,
    fit,
)
from waywiser.classifier.heads import LinearHeads, load, quantise, save
from waywiser.classifier.lexicon import WORDS, concepts, lone_words, speaks_of, written
from waywiser.classifier.steps import PLAIN
from waywiser.classifier.train_receipts import Outcome, Recalibration, recalibrate
from waywiser.classifier.train_receipts import card as card_of_receipts
from waywiser.core.classification import DIFFICULTIES, RISKS, TASKS
from waywiser.errors import ConfigError, Place, Problem

PROMPTS = "prompts.npz"
STEPS = "steps.npz"
CARD = "MODEL_CARD.md"
FALSE_ALARMS = 0.015
RECALL = 0.96
RECALLS = {"self_harm": 0.975}
"""What is enough of a risk. To miss a person in need is worse than to worry about one who is not."""
_RISK_WEIGHTS = {"written:risk": 3.0, SENTENCES: 2.0}

Truth: TypeAlias = npt.NDArray[np.bool_]
Say: TypeAlias = Callable[[str], None]

# Rows of a source beyond this many say nothing new; they would only drown the others.
_AT_MOST = {"banking77": 1200, "dolly": 6000, "mmlu": 120, "clinc": 500}
# What kind of work a source is, for the difficulty of prompts unlike those anybody graded. Weighs little.
_WEAK_DIFFICULTY = {
    "clinc:small_talk": "simple",
    "clinc:utility": "simple",
    "clinc:home": "simple",
    "llmrouter:trivia_qa": "simple",
    "llmrouter:natural_qa": "simple",
    "llmrouter:commonsense_qa": "simple",
    "llmrouter:mbpp": "medium",
    "llmrouter:human_eval": "medium",
    "llmrouter:gsm8k": "reasoning",
    "llmrouter:math": "reasoning",
    "llmrouter:gpqa": "reasoning",
    "llmrouter:agentverse-logicgrid": "reasoning",
    "mgsm": "reasoning",
    "arena_hard": "complex",
}
_WEAK_TASKS = {"summarisation": "medium", "extraction": "medium", "classification": "medium", "creative": "medium"}
_WEAK_WEIGHT = 0.15
_WEAK_ROWS = 150


@dataclass(frozen=True)
class Part:
    """One head after training: its labels, its fit on all rows, its calibration and what the card says of it."""

    labels: tuple[str, ...]
    margins: Margins
    slope: Doubles
    offset: Doubles
    report: str


def train(data: Path, out: Path, seed: int = 0, say: Say = lambda _: None) -> str:
    """Train every head from the sets below `data`; write weights and card into `out`; return the card.

    The same data and seed give the same bytes. `say` hears what is being done. Raises `ConfigError` when `data` holds
    none of the known sets.
    """
    say("reading the labelled sets")
    examples = gathered(data, seed)
    missing = [head for head, labelled in _NEEDED.items() if sum(map(labelled, examples)) < 50 * FOLDS]
    if missing:
        raise ConfigError(Problem(Place(str(data)), f"too few labelled rows for {', '.join(missing)}"))
    parts = []
    for name, head in (
        ("task", fit_task),
        ("difficulty", fit_difficulty),
        ("risk", fit_risk),
        ("time-sensitive", fit_timely),
    ):
        say(f"fitting {name}")
        parts.append(head(examples, seed))
    out.mkdir(parents=True, exist_ok=True)
    save(out / PROMPTS, _heads(parts).arrays("prompt_"))
    text = card.head(len(examples), seed) + "".join(part.report for part in parts)
    say("fitting the step heads")
    from waywiser.classifier.train_steps import train_steps  # noqa: PLC0415 - the other half, as heavy

    arrays, steps = train_steps(data, seed)
    save(out / STEPS, arrays)
    text += steps
    (out / CARD).write_text(text, encoding="utf-8")
    return text


def gathered(data: Path, seed: int) -> list[Example]:
    """Return the rows to train on: the public sets below `data`, what is written, and single words of both."""
    examples = sampled([*read(data, seed), *written(seed)], seed)
    return [*examples, *lone_words(examples, seed)]


_NEEDED: dict[str, Callable[[Example], bool]] = {
    "task": lambda row: bool(row.task),
    "difficulty": lambda row: bool(row.difficulty),
    "risk": lambda row: row.risk is not None,
    "time-sensitivity": lambda row: row.timely is not None,
}


def learn_receipts(
    outcomes: Sequence[Outcome], weights: Path, out: Path, seed: int = 0, say: Say = lambda _: None
) -> Recalibration:
    """Correct the sufficiency head of `weights` by what became of calls it judged; write weights and card into `out`.

    The outcomes must be of calls judged by these weights. Raises `BadInput` when they
    are too few, `ConfigError` when the weights can't be read.
    """
    say("learning from receipts")
    steps, prompts = load(weights / STEPS), load(weights / PROMPTS)
    learned = recalibrate(outcomes, seed)
    known = (weights / CARD).read_text(encoding="utf-8") if (weights / CARD).is_file() else ""
    if learned.kept:
        slope, offset = steps.get("belief", np.array(PLAIN)).astype(np.float64).tolist()
        steps["belief"] = np.array([learned.slope * slope, learned.slope * offset + learned.offset])
    out.mkdir(parents=True, exist_ok=True)
    save(out / PROMPTS, prompts)
    save(out / STEPS, steps)
    (out / CARD).write_text(known + card_of_receipts(learned), encoding="utf-8")
    return learned


def _heads(parts: Sequence[Part]) -> LinearHeads:
    """Put all heads side by side in one matrix, weights of buckets rounded to 8 bits."""
    parted = [part.margins.parted() for part in parts]
    weights, scale = quantise(np.hstack([hashed for hashed, _, _ in parted]).astype(np.float32))
    return LinearHeads(
        tuple(label for part in parts for label in part.labels),
        concepts(),
        weights,
        scale,
        np.hstack([shape for _, shape, _ in parted]).astype(np.float32),
        np.hstack([tied for _, _, tied in parted]).astype(np.float32),
        np.concatenate([part.margins.bias for part in parts]).astype(np.float32),
        np.concatenate([part.slope for part in parts]).astype(np.float32),
        np.concatenate([part.offset for part in parts]).astype(np.float32),
    )


def sampled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Keep at most `_AT_MOST` rows of a source, drawn with `seed`, in their order."""
    chance = np.random.default_rng(seed)
    by_source: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        by_source.setdefault(example.source, []).append(index)
    kept: list[int] = []
    for source in sorted(by_source):
        indices = by_source[source]
        limit = _AT_MOST.get(source, _AT_MOST.get(source.split(":")[0], len(indices)))
        drawn = chance.permutation(len(indices))[:limit]
        kept += [indices[place] for place in drawn]
    return [examples[index] for index in sorted(kept)]


def _one_hot(indices: Indices, count: int) -> Truth:
    """Return a (rows, count) matrix that is true at each row's label."""
    return np.asarray(np.eye(count, dtype=bool)[indices])


def fit_task(examples: Sequence[Example], seed: int) -> Part:
    """Fit the task head on every row whose source settles its task; count only those that the public sets hold.

    A mere sentence asks for nothing: it is a row that is none of the tasks. Without it every language that only sums
    are known in is taken for a sum.
    """
    rows = [row for row in examples if row.task or row.source == SENTENCES]
    features = bulk(rows)
    truth = np.array([TASKS.index(row.task) if row.task else 0 for row in rows])
    hot = _one_hot(truth, len(TASKS))
    hot[[not row.task for row in rows]] = False
    weights = np.array([row.weight for row in rows])
    margins = crossed(features.matrix, hot, features.folds(seed), 0.4, seed, weights)
    public = np.array([row.source not in (WRITTEN_TASK, SENTENCES) for row in rows])
    own = np.array([row.source == WRITTEN_TASK for row in rows])
    slope, offset = calibrate_softmax(margins[public], truth[public])
    logits = margins * slope + offset
    right = logits.argmax(axis=1) == truth
    return Part(
        tuple(f"task:{label}" for label in TASKS),
        fit(features.matrix, hot, 0.4, seed, weights),
        slope,
        offset,
        card.task([rows[index] for index in np.flatnonzero(public)], truth[public], logits[public])
        + card.task_transfers(
            _left_out_task_sources(features.matrix, rows, hot, weights, seed),
            float(right[own].mean()) if own.any() else None,
        ),
    )


_LEFT_OUT_TASKS = {
    "arena_hard": ("code", "maths", "creative"),
    "llmrouter": ("code", "maths", "question"),
    "uncommonroute": ("code", "question", "reasoning", "summarisation", "translation"),
}


def _left_out_task_sources(
    matrix: Sparse, rows: Sequence[Example], hot: Truth, weights: Doubles, seed: int
) -> list[tuple[str, str, int, float, float]]:
    """Leave one source out whole: (source, task, its rows, recall and precision in that source)."""
    sources = np.array([row.source.split(":")[0] for row in rows])
    found = []
    for source, tasks in _LEFT_OUT_TASKS.items():
        inside = sources != source
        if inside.all():
            continue
        guess = fit(matrix[inside], hot[inside], 0.4, seed, weights[inside])(matrix[~inside]).argmax(axis=1)
        for task in tasks:
            said, true = guess == TASKS.index(task), hot[~inside, TASKS.index(task)]
            both = float((said & true).sum())
            found.append((source, task, int(true.sum()), both / max(true.sum(), 1), both / max(said.sum(), 1)))
    return found


def _weak(row: Example) -> str:
    """Return the difficulty that follows from where a row comes from, or nothing."""
    return _WEAK_DIFFICULTY.get(row.source, _WEAK_TASKS.get(row.task, "") if row.source == "dolly" else "")


def fit_difficulty(examples: Sequence[Example], seed: int) -> Part:
    """Fit difficulty on graded prompts, and lightly on sources whose kind of work is known; measure on graded ones."""
    graded = [row for row in examples if row.difficulty]
    taken: dict[str, int] = {}
    weak = []
    for row in examples:
        label = _weak(row)
        key = f"{row.source} {label}"
        if label and taken.get(key, 0) < _WEAK_ROWS:
            taken[key] = taken.get(key, 0) + 1
            weak.append(row)
    rows = [*graded, *weak]
    features = bulk(rows)
    truth = np.array([DIFFICULTIES.index(row.difficulty or _weak(row)) for row in rows])
    hot = _one_hot(truth, len(DIFFICULTIES))
    weights = np.where(np.arange(len(rows)) < len(graded), 1.0, _WEAK_WEIGHT)
    margins = crossed(features.matrix, hot, features.folds(seed), 1.0, seed, weights)[: len(graded)]
    slope, offset = calibrate_softmax(margins, truth[: len(graded)])
    transfers = _left_out_languages(features, graded, hot, weights, seed)
    only_weak = fit(features.matrix[len(graded) :], hot[len(graded) :], 1.0, seed)(features.matrix[: len(graded)])
    return Part(
        tuple(f"difficulty:{label}" for label in DIFFICULTIES),
        fit(features.matrix, hot, 1.0, seed, weights),
        slope,
        offset,
        card.difficulty(graded, truth[: len(graded)], margins * slope + offset, transfers, only_weak),
    )


def _left_out_languages(
    features: Bulk, graded: Sequence[Example], hot: Truth, weights: Doubles, seed: int
) -> dict[str, tuple[float, int]]:
    """Return, for each language, the share of its prompts graded right by a fit that saw none of that language."""
    languages = np.array([row.language for row in graded])
    found = {}
    for language in sorted(set(languages)):
        inside = np.ones(hot.shape[0], dtype=bool)
        inside[: len(graded)] = languages != language
        fitted = fit(features.matrix[inside], hot[inside], 1.0, seed, weights[inside])
        right = fitted(features.matrix[~inside]).argmax(axis=1) == hot[~inside].argmax(axis=1)
        found[str(language)] = (float(right.mean()), int(right.size))
    return found


def fit_risk(examples: Sequence[Example], seed: int) -> Part:
    """Fit one yes-or-no head a risk. A row says no to every risk its source surely does not have."""
    rows = [row for row in examples if row.risk is not None or not speaks_of(row.text, RISKS)]
    features = bulk(rows)
    truth = np.array([[risk in (row.risk or ()) for risk in RISKS] for row in rows])
    matrix = features.matrix
    # Written prompts, of a risk or close to one, are where the line runs; the public ones are mostly far from it. And
    # mere sentences are all there is of most languages that is no risk.
    weights = np.array([_RISK_WEIGHTS.get(row.source, 1.0) for row in rows])
    margins = crossed(matrix, truth, features.folds(seed), 0.5, seed, weights)
    known = np.array([row.risk is not None for row in rows])
    near = np.array([row.source in ("written:risk", WORDS) for row in rows])
    slopes, offsets, lines = [], [], []
    for column, risk in enumerate(RISKS):
        slope, _ = calibrate_sigmoid(margins[:, column], truth[:, column])
        # A risk counts as found (probability above one half) where nearly all of it is, unless more than 1.5% of other
        # domains' prompts were. Prompts written to look like a risk are no other domain: they are shown apart.
        others = margins[known & ~near & ~truth[:, column], column]
        enough = np.quantile(margins[truth[:, column], column], 1 - RECALLS.get(risk, RECALL))
        threshold = float(max(np.quantile(others, 1 - FALSE_ALARMS), enough))
        slopes.append(slope)
        offsets.append(-slope * threshold)
        lines.append(card.risk_line(risk, rows, truth[:, column], margins[:, column], threshold))
    transfers = _left_out_risk_sources(matrix, rows, truth, weights, seed)
    return Part(
        tuple(f"risk:{risk}" for risk in RISKS),
        fit(matrix, truth, 0.5, seed, weights),
        np.array(slopes),
        np.array(offsets),
        card.risk(lines, transfers),
    )


def _left_out_risk_sources(
    matrix: Sparse, rows: Sequence[Example], truth: Truth, weights: Doubles, seed: int
) -> list[tuple[str, str, float, float]]:
    """Leave one source of a risk out whole: (source, risk, recall at 2% false alarms, false alarms of its own)."""
    sources = np.array([row.source.split(":")[0] for row in rows])
    sure = np.array([row.risk is not None for row in rows])
    found = []
    for source in ("medquad", "banking77", "clinc", "mmlu", "written"):
        inside = sources != source
        fitted = fit(matrix[inside], truth[inside], 0.5, seed, weights[inside])
        margins = fitted(matrix[~inside])
        for column, risk in enumerate(RISKS):
            yes = truth[~inside, column]
            if yes.sum() < 20 or truth[inside, column].sum() < 20:
                continue
            outside = fitted(matrix[inside & sure & ~truth[:, column]])[:, column]
            threshold = np.quantile(outside, 0.98)
            no = sure[~inside] & ~yes
            alarms = float((margins[no, column] > threshold).mean()) if no.any() else float("nan")
            found.append((source, risk, float((margins[yes, column] > threshold).mean()), alarms))
    return found


def fit_timely(examples: Sequence[Example], seed: int) -> Part:
    """Fit time-sensitivity on written prompts, and lightly on other rows: code, sums and facts need nothing new."""
    rows = [row for row in examples if row.timely is not None or row.source in _TIMELESS]
    features = bulk(rows)
    truth = np.array([[bool(row.timely)] for row in rows])
    own = np.array([row.source == "written:time" for row in rows])
    # The few of others' prompts that ask for something new say more than the many that don't.
    weights = np.where(own, 1.0, np.where(truth[:, 0], 0.5, 0.1))
    margins = crossed(features.matrix, truth, features.folds(seed), 1.5, seed, weights)
    slope, offset = calibrate_sigmoid(margins[own, 0], truth[own, 0])
    return Part(
        ("timely",),
        fit(features.matrix, truth, 1.5, seed, weights),
        np.array([slope]),
        np.array([offset]),
        card.timely(rows, truth[:, 0], margins[:, 0] * slope + offset),
    )


_TIMELESS = frozenset(
    ("uncommonroute", "llmrouter:mbpp", "llmrouter:math", "llmrouter:arc_challenge", "llmrouter:openbook_qa")
)
