"""Learns from receipts of one's own traffic how far the sufficiency head can be believed there.

A receipt says what the head believed of every tier and what became of the attempts: a reply that failed its `accept`
checks was not enough, one that was used was. A line may say so itself (`"enough": false`, from a person's feedback),
which then holds for the attempt that was used. Two numbers are learned, slope and offset of the belief's logit (Platt,
"Probabilistic outputs for support vector machines", 1999), drawn towards 1 and 0 as by `_PULL` rows: few receipts
change little. What was never tried can't be learned: a policy that never asks the cheap tier teaches nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier.habits import logit
from waywiser.classifier.train_steps import posterior
from waywiser.errors import BadInput

Doubles: TypeAlias = npt.NDArray[np.float64]

LEAST: Final = 30
"""Fewer outcomes than this teach nothing that could be told from chance."""
_PULL: Final = 5.0
_FLATTEST: Final = 0.05
_FOLDS: Final = 5
_NOT_ENOUGH: Final = "not_accepted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt: the session it belongs to, the probability that its tier is enough, and whether it was."""

    session: str
    chance: float
    enough: bool


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What was learned: logit → slope * logit + offset. Losses are log losses of held-out sessions, in nats a row."""

    slope: float
    offset: float
    rows: int
    enough: float
    loss_before: float
    loss_after: float

    @property
    def kept(self) -> bool:
        """Whether it did better on sessions it had not seen; otherwise nothing is changed."""
        return self.loss_after < self.loss_before


def read_outcomes(path: Path, tiers: Sequence[str]) -> list[Outcome]:
    """Read receipts (JSON lines, as `waywiser explain session:ID --json` writes them) made under a ladder of `tiers`.

    Receipts without a belief about every tier, and attempts that failed for other reasons, are passed over. Raises
    `BadInput` for a line that is no JSON object and for a tier that is not among `tiers`.
    """
    found: list[Outcome] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path}:{number}: expected a JSON object")
        found += _outcomes(row, tiers, f"{path}:{number}")
    return found


def _outcomes(row: Mapping[str, object], tiers: Sequence[str], place: str) -> list[Outcome]:
    seen, attempts = row.get("classification"), row.get("attempts")
    beliefs = seen.get("sufficiency") if isinstance(seen, dict) else None
    if not isinstance(beliefs, list) or len(beliefs) != len(tiers) or not isinstance(attempts, list):
        return []
    found: dict[str, bool] = {}
    for attempt in attempts:
        if not isinstance(attempt, dict):
            raise BadInput(f"{place}: attempts: expected objects")
        tier, failure = attempt.get("tier"), attempt.get("failure")
        if tier not in tiers:
            raise BadInput(f"{place}: the tier {tier!r} is none of {', '.join(tiers)}; name the ladder with --tiers")
        if failure == _NOT_ENOUGH:
            found[str(tier)] = False
        elif not failure:
            found[str(tier)] = row.get("enough", True) is not False
    top = tiers[-1]
    session = str(row.get("session", ""))
    return [
        Outcome(session, float(beliefs[tiers.index(tier)]), enough) for tier, enough in found.items() if tier != top
    ]


def recalibrate(outcomes: Sequence[Outcome], seed: int) -> Recalibration:
    """Learn slope and offset, and measure them with whole sessions left out. Raises `BadInput` for too few outcomes."""
    enough = np.array([one.enough for one in outcomes], dtype=bool)
    if len(outcomes) < LEAST or enough.all() or not enough.any():
        raise BadInput(
            f"{len(outcomes)} usable outcomes below the top tier, {int(enough.sum())} of them enough: at least {LEAST} "
            "of both sorts are needed"
        )
    logits = np.array([logit(one.chance) for one in outcomes])
    names, places = np.unique([one.session for one in outcomes], return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names))[places] % _FOLDS
    after = np.zeros(len(outcomes))
    for fold in range(_FOLDS):
        slope, offset = _fit(logits[folds != fold], enough[folds != fold])
        after[folds == fold] = _losses(slope * logits[folds == fold] + offset, enough[folds == fold])
    slope, offset = _fit(logits, enough)
    before = float(_losses(logits, enough).mean())
    return Recalibration(slope, offset, len(outcomes), float(enough.mean()), before, float(after.mean()))


def _losses(scores: Doubles, enough: npt.NDArray[np.bool_]) -> Doubles:
    losses: Doubles = np.logaddexp(0, np.where(enough, -scores, scores))
    return losses


def _fit(logits: Doubles, enough: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Fit slope and offset, drawn towards 1 and 0; the slope stays positive: the ladder must not turn over."""
    rows = np.stack([logits, np.ones_like(logits)], axis=1)
    slope, offset = posterior(rows, enough, np.array([1.0, 0.0]), np.full(2, _PULL)).tolist()
    return max(slope, _FLATTEST), offset


def card(learned: Recalibration) -> str:
    """Return the section of the model card, in Markdown."""
    verdict = (
        f"so logits are stretched by {learned.slope:.3f} and moved by {learned.offset:+.3f}"
        if learned.kept
        else "so nothing was changed"
    )
    return (
        "\n## Sufficiency, as receipts of one's own correct it\n\n"
        f"{learned.rows} outcomes below the top tier, {learned.enough:.1%} of them enough. With whole sessions left "
        f"out the log loss went from {learned.loss_before:.4f} to {learned.loss_after:.4f}, {verdict}. Only tiers that "
        "were tried could teach, and those only where the policy tried them.\n"
    )
