"""The model card: what was measured on rows no fit had seen, in Markdown. Training only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from genai_prices import Usage, calc_price

from waywiser.classifier.corpus import SENTENCES, Example
from waywiser.classifier.fit import FOLDS, Doubles, Indices, calibration_error
from waywiser.classifier.lexicon import WORDS
from waywiser.core.classification import DIFFICULTIES, TASKS

Truth: TypeAlias = npt.NDArray[np.bool_]

# A model a difficulty would be sent to, for what a mistake costs: 1,000 tokens in, 400 out, at the catalogue's prices.
_LADDER = (
    ("llama-3.1-8b-instant", "groq"),
    ("claude-haiku-4-5", "anthropic"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-opus-4-5", "anthropic"),
)
_CALL = Usage(input_tokens=1000, output_tokens=400)


def head(rows: int, seed: int) -> str:
    """Return the card's first lines."""
    return (
        "# Model card of the shared classifier\n\n"
        "Linear heads over hashed words and character n-grams, calibrated on margins of rows not fitted. Written by\n"
        f"`waywiser train` from {rows} rows, seed {seed}. Every figure is held out: {FOLDS} folds, near-duplicates\n"
        "and rows of one template in one fold; a transfer leaves a source or a language out whole. The figures are of\n"
        "fits on part of the rows; the weights that ship are fitted on all of them, and kept as 8-bit integers.\n\n"
        "What it is not: it reads at most 2,400 characters of a prompt, it knows no facts, and a risk is a subject\n"
        "that is spoken of, not a verdict on the person who speaks.\n"
    )


def task(rows: Sequence[Example], truth: Indices, logits: Doubles) -> str:
    """Return the section on the task head."""
    guess = logits.argmax(axis=1)
    chances = _softmax(logits)
    sources = np.array([row.source.split(":")[0] for row in rows])
    code = TASKS.index("code")
    right = guess == truth
    scores = [_f1(guess == label, truth == label) for label in range(len(TASKS))]
    dolly = sources == "dolly"
    people = sources != "arena_hard"
    rest = [_f1((guess == label)[~dolly], (truth == label)[~dolly]) for label in _present(truth[~dolly])]
    lines = [
        "\n## Task\n",
        (
            f"{len(rows)} rows. Macro-F1 **{np.mean(scores):.3f}** over all labelled sources together; accuracy "
            f"{right.mean():.3f}; code against the rest: accuracy "
            f"**{((guess == code) == (truth == code)).mean():.4f}**, "
            f"F1 {scores[code]:.3f} (without Arena-Hard, which a model labelled, "
            f"{((guess == code) == (truth == code))[people].mean():.4f} and "
            f"{_f1((guess == code)[people], (truth == code)[people]):.3f}); "
            f"calibration error {calibration_error(chances.max(axis=1), right):.3f}. "
            f"Without Dolly macro-F1 is **{np.mean(rest):.3f}**: Dolly's writers called many plain questions about a "
            "passage a summary or an extraction, and no wording tells which.\n"
        ),
        _per_class(TASKS, guess, truth),
        "\nBy source (accuracy): " + _by(sources, right) + "\n",
    ]
    languages = np.array([row.language for row in rows])
    lines.append("\nBy language (accuracy): " + _by(languages, right) + "\n")
    return "\n".join(lines)


def task_transfers(left_out: Sequence[tuple[str, str, int, float, float]], own: float | None) -> str:
    """Return what is right in sources left out whole, and (`own`) on written prompts whose template was left out."""
    table = "".join(
        f"| {source} | {name} | {count} | {recall:.3f} | {precision:.3f} |\n"
        for source, name, count, recall, precision in left_out
    )
    share = "" if own is None else f"\nPrompts written for training, templates apart (not counted above): {own:.3f}.\n"
    return (
        f"{share}\nA source left out whole:\n\n| left out | task | rows | recall | precision |\n|---|---|---|---|---|\n"
        + table
    )


def difficulty(
    rows: Sequence[Example],
    truth: Indices,
    logits: Doubles,
    left_out: Mapping[str, tuple[float, int]],
    only_weak: Doubles,
) -> str:
    """Return the section on the difficulty head; `left_out` maps a language to (accuracy, rows) without it."""
    guess = logits.argmax(axis=1)
    right = guess == truth
    english = np.array([row.language == "en" for row in rows])
    languages = np.array([row.language for row in rows])
    prices = [float(calc_price(_CALL, model_ref=model, provider_id=who).total_price) for model, who in _LADDER]
    unseen = {name: value for name, value in left_out.items() if name != "en"}
    total = sum(count for _, count in unseen.values())
    mean = sum(share * count for share, count in unseen.values()) / max(total, 1)
    weak = only_weak.argmax(axis=1)
    lines = [
        "\n## Difficulty\n",
        (
            f"{len(rows)} graded prompts. Exact **{right.mean():.3f}**, "
            f"within one **{(abs(guess - truth) <= 1).mean():.3f}**; "
            f"English {right[english].mean():.3f}, other languages {right[~english].mean():.3f}; calibration error "
            f"{calibration_error(_softmax(logits).max(axis=1), right):.3f}.\n"
        ),
        _per_class(DIFFICULTIES, guess, truth, prices),
        "\nCost-weighted: a row weighs what answering it costs on the rung it needs (1,000 tokens in, 400 out: "
        + ", ".join(
            f"{name} ${price:.5f} on {model}"
            for name, price, (model, _) in zip(DIFFICULTIES, prices, _LADDER, strict=True)
        )
        + "); a mistake adds the call made in vain or the price paid too much.\n",
        "\nBy language (exact): " + _by(languages, right) + "\n",
        f"\nA language left out whole (exact): {mean:.3f} over the others than English; "
        + ", ".join(f"{name} {share:.2f}" for name, (share, _) in left_out.items())
        + "\n",
        (
            "\nTrained on no graded prompt at all, only on what kind of work other sources are: exact "
            f"{(weak == truth).mean():.3f}, within one {(abs(weak - truth) <= 1).mean():.3f}.\n"
        ),
    ]
    return "\n".join(lines)


def risk_line(risk: str, rows: Sequence[Example], truth: Truth, margins: Doubles, threshold: float) -> str:
    """Return the row of the risk table for one risk."""
    own = np.array([row.source == "written:risk" for row in rows])
    sure = np.array([row.risk is not None for row in rows]) & ~truth
    lone = np.array([row.source == WORDS for row in rows])
    others, near = sure & ~own & ~lone, sure & own
    at_two = float(np.quantile(margins[others], 0.98))
    found = margins > threshold
    precision = truth[found].mean() if found.any() else 0.0
    sources = np.array([row.source.split(":")[0] for row in rows])
    by = ", ".join(
        f"{source} {(margins[truth & (sources == source)] > at_two).mean():.3f}"
        for source in sorted(set(sources[truth]))
    )
    return (
        f"| {risk} | {truth.sum()} | {(margins[truth] > at_two).mean():.3f} | {found[truth].mean():.3f} "
        f"| {found[others].mean():.3f} | {_share(found[near])} | {_share(found[sure & lone])} "
        f"| {_share(found[np.array([row.source == SENTENCES for row in rows])])} "
        f"| {precision:.3f} | {by} |\n"
    )


def risk(lines: Sequence[str], transfers: Sequence[tuple[str, str, float, float]]) -> str:
    """Return the section on the risk heads."""
    table = "".join(
        f"| {source} | {name} | {recall:.3f} | {'-' if np.isnan(alarms) else f'{alarms:.3f}'} |\n"
        for source, name, recall, alarms in transfers
    )
    return (
        "\n## Risk\n\nFalse alarms are counted on the public sets' prompts of other domains. The threshold that ships\n"
        "finds 96% of a risk (97.5% of self-harm), or as much as 1.5% false alarms allow. The lists of words behind\n"
        "the concepts were written with the written prompts in sight: on other people's words expect less. Near\n"
        "misses are written: prompts of no risk, or of another, that share its words (“kill a process”, “a river\n"
        "bank”). Single words of the prompts, out of context, are no risk either,\n"
        "and sentences of 75 languages seldom are.\n\n"
        "| risk | rows | recall at 2% false alarms | recall as shipped | false alarms | of near misses "
        "| of single words | of sentences | precision | recall at 2% by source |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
        + "".join(lines)
        + "\nA source left out whole, threshold from the others:\n\n"
        "| left out | risk | recall at 2% false alarms elsewhere | false alarms in it |\n|---|---|---|---|\n" + table
    )


def timely(rows: Sequence[Example], truth: Truth, logits: Doubles) -> str:
    """Return the section on time-sensitivity."""
    sources = np.array([row.source for row in rows])
    own = sources == "written:time"
    guess = logits > 0
    alarms = guess[~own & ~truth].sum() / max((~own & ~truth).sum(), 1)
    own_error = calibration_error(1 / (1 + np.exp(-np.abs(logits[own]))), guess[own] == truth[own])
    return (
        f"\n## Time-sensitive\n\n{own.sum()} variants of written prompts, templates apart: F1 "
        f"**{_f1(guess[own], truth[own]):.3f}**, precision {truth[own & guess].mean():.3f}, recall "
        f"{guess[own & truth].mean():.3f}, calibration error {own_error:.3f}. False alarms on all other prompts: "
        f"{alarms:.3f}. A set of 400 with other templates and topics is in "
        "`benchmarks/data/time_sensitive.jsonl`; no row of it is trained on, but the same people wrote both.\n"
    )


def _per_class(labels: Sequence[str], guess: Indices, truth: Indices, prices: Sequence[float] = ()) -> str:
    """Return a table of precision, recall and F1 a label; with `prices` a label, also weighted by cost."""
    extra = " cost-weighted precision | cost-weighted recall |" if prices else ""
    lines = [
        f"| label | rows | precision | recall | F1 |{extra}",
        "|---|---|---|---|---|" + ("---|---|" if prices else ""),
    ]
    for label in _present(truth):
        said, true = guess == label, truth == label
        both = said & true
        line = (
            f"| {labels[label]} | {true.sum()} | {both.sum() / max(said.sum(), 1):.3f} | {both.sum() / true.sum():.3f} "
            f"| {_f1(said, true):.3f} |"
        )
        if prices:
            cost = np.array(prices)
            wasted = np.where(guess < truth, cost[guess], np.maximum(cost[guess] - cost[truth], 0))
            weight = cost[truth] + wasted
            precision, recall = (weight[both].sum() / max(weight[rows].sum(), 1e-12) for rows in (said, true))
            line += f" {precision:.3f} | {recall:.3f} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _present(truth: Indices) -> list[int]:
    """Return the labels that occur."""
    return sorted(set(truth.tolist()))


def _by(names: npt.NDArray[np.str_], right: Truth) -> str:
    """Return the share of right answers for each name, with its rows."""
    return ", ".join(
        f"{name} {right[names == name].mean():.3f} ({(names == name).sum()})" for name in sorted(set(names))
    )


def _share(found: Truth) -> str:
    """Return the share of rows found, or a dash where there is no row."""
    return f"{found.mean():.3f}" if found.size else "-"


def _f1(said: Truth, true: Truth) -> float:
    """Return F1 of one label."""
    return float(2 * (said & true).sum() / max(said.sum() + true.sum(), 1))


def _softmax(logits: Doubles) -> Doubles:
    """Turn rows of logits into probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances: Doubles = raised / raised.sum(axis=1, keepdims=True)
    return chances
