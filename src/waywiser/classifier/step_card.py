"""What the model card says of the heads for agent steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KindFigure:
    """How the kind head did on rows it was not trained on.

    `accuracy_known` and `calibration_error_known` are with what the agent did in earlier sessions of the trial. `base`
    is what always saying the commoner kind scores; `confusion` counts (call, text) said, a row for each truth.
    """

    trial: str
    rows: int
    accuracy: float
    calibration_error: float
    accuracy_known: float
    calibration_error_known: float
    base: float
    confusion: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class WorkFigure:
    """How the sufficiency head did with instances left out, at one threshold."""

    asked: float
    enough: float
    exact: float


def kinds(figures: Sequence[KindFigure]) -> str:
    """Return the section on step kinds, in Markdown."""
    lines = [
        "\n## Step kind (tool call or text)\n",
        "No row was trained on that is counted here. The agent's habits are learned as its session runs; where it is",
        "known, what it did in earlier sessions counts as well (sessions in an order drawn by lot, each told before it",
        "is learned from). The last two columns say of a stranger's calls and texts how many were told to be calls and",
        "texts.\n",
        "| trained on, tried on | rows | commoner kind | right | ECE, 10 bins | known: right | ECE | calls | texts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        call, text = one.confusion
        lines.append(
            f"| {one.trial} | {one.rows} | {one.base:.3f} | {one.accuracy:.3f} | {one.calibration_error:.3f} "
            f"| {one.accuracy_known:.3f} | {one.calibration_error_known:.3f} "
            f"| {call[0]}, {call[1]} | {text[0]}, {text[1]} |"
        )
    return "\n".join(lines) + "\n"


def work(figures: Sequence[WorkFigure], steps: int, instances: int) -> str:
    """Return the section on sufficiency, in Markdown; empty figures say that the written prior stands alone.

    `steps` and `instances` say on how many verified steps, of how many sessions, the figures rest.
    """
    title = "\n## Sufficiency of a tier for an agent's step\n\n"
    if not figures:
        return f"{title}No verified steps were given: the written prior stands alone, unmeasured.\n"
    lines = [
        f"{title}Five folds, whole instances left out; four ranks. The top rank is always enough.",
        f"{steps} verified steps of {instances} sessions: few; a session more or less moves a share by points.\n",
        "| probability asked | the chosen rank was enough | it was the cheapest that is |",
        "|---|---|---|",
        *(f"| {one.asked:.1f} | {one.enough:.3f} | {one.exact:.3f} |" for one in figures),
    ]
    return "\n".join(lines) + "\n"
