"""What the shared classifier says of a request: one label and one calibrated confidence for each head."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TASKS = (
    "chat",
    "question",
    "reasoning",
    "maths",
    "code",
    "extraction",
    "classification",
    "summarisation",
    "translation",
    "creative",
    "tool_use",
)
DIFFICULTIES = ("simple", "medium", "complex", "reasoning")
RISKS = ("medical", "legal", "financial", "self_harm", "confidential")


class Head(StrEnum):
    """A question the classifier answers. Who asks for less waits less."""

    TASK = "task"
    DIFFICULTY = "difficulty"
    SUFFICIENCY = "sufficiency"
    RISK = "risk"
    LANGUAGE = "language"
    TIME_SENSITIVE = "time_sensitive"
    KIND = "kind"


HEADS = frozenset(Head)


@dataclass(frozen=True, slots=True)
class Judged:
    """A label and the calibrated probability that it is right."""

    label: str
    confidence: float


UNASKED = Judged("", 0.0)


@dataclass(frozen=True, slots=True)
class Classification:
    """What the heads say of one request.

    `sufficiency[i]` is the probability that rung i of the ladder (cheapest first) is enough; it never falls with i.
    `risk` holds the risks found, `language` an ISO 639-1 code or `unsure`, `time_sensitive` the probability that the
    answer needs knowledge newer than a training cut-off. `kind` is the learned guess at the step's kind.
    `why` names the features that mattered most, in words. A head that is not among `heads` was not asked: its label is
    `UNASKED`, its tuple empty, its number 0.
    """

    task: Judged
    difficulty: Judged
    sufficiency: tuple[float, ...]
    risk: tuple[Judged, ...]
    language: Judged
    time_sensitive: float
    kind: Judged
    why: tuple[str, ...] = ()
    heads: tuple[Head, ...] = tuple(Head)
