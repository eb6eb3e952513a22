"""What the shared classifier says of a request: one label and one calibrated confidence for each head."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Judged:
    """A label and the calibrated probability that it is right."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Classification:
    """All heads for one request.

    `sufficiency[i]` is the probability that rung i of the ladder (cheapest first) is enough; it never falls with i.
    `risk` holds the risks found, `language` an ISO 639-1 code or `unsure`, `time_sensitive` the probability that the
    answer needs knowledge newer than a training cut-off. `kind` is the learned guess at the step's kind.
    `why` names the features that mattered most, in words.
    """

    task: Judged
    difficulty: Judged
    sufficiency: tuple[float, ...]
    risk: tuple[Judged, ...]
    language: Judged
    time_sensitive: float
    kind: Judged
    why: tuple[str, ...] = ()
