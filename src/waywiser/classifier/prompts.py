"""What a single prompt is: its task, how hard it is, what it risks, and whether it needs fresh knowledge.

All four read one `PromptView` and come out of one product with one matrix of weights; this module only splits the
logits by head and says in words what mattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waywiser.classifier.heads import Arrays, LinearHeads, sigmoid, softmax
from waywiser.classifier.text import SHAPE, PromptView, word_at
from waywiser.core.classification import DIFFICULTIES, RISKS, TASKS, UNASKED, Judged
from waywiser.core.messages import Message, Role
from waywiser.errors import ConfigError, Place, Problem

COLUMNS = (
    *(f"task:{label}" for label in TASKS),
    *(f"difficulty:{label}" for label in DIFFICULTIES),
    *(f"risk:{label}" for label in RISKS),
    "timely",
)
_TASK = slice(0, len(TASKS))
_DIFFICULTY = slice(_TASK.stop, _TASK.stop + len(DIFFICULTIES))
_RISK = slice(_DIFFICULTY.stop, _DIFFICULTY.stop + len(RISKS))
_TIMES = ("now", "changing")
_CONFIDENTIAL = RISKS.index("confidential")
_SECRET = SHAPE.index("a secret")
_IDENTITY = SHAPE.index("an identity number")

SHORT_REPLY = 24
"""Up to this many characters a turn ("yes", "the second one") is read together with the turn before it."""


@dataclass(frozen=True, slots=True)
class PromptJudgement:
    """The prompt heads' answer. `difficulties` holds the probability of each of `DIFFICULTIES`, in their order."""

    task: Judged
    difficulty: Judged
    difficulties: tuple[float, ...]
    risk: tuple[Judged, ...]
    time_sensitive: float
    why: tuple[str, ...]


UNREAD = PromptJudgement(UNASKED, UNASKED, (), (), 0.0, ())
"""For a prompt nobody asked about."""


class PromptHeads:
    """The heads for single prompts, ready to be asked."""

    def __init__(self, heads: LinearHeads) -> None:
        if heads.columns != COLUMNS:
            place = Place("classifier weights")
            raise ConfigError(Problem(place, "the prompt heads are for other labels", "train the weights again"))
        if missing := sorted({*RISKS, *_TIMES} - {*heads.concepts.names}):
            raise ConfigError(Problem(Place("classifier weights"), f"no words for {', '.join(missing)}"))
        self._heads = heads

    @classmethod
    def load(cls, arrays: Arrays) -> PromptHeads:
        """Build the heads from stored arrays; `ConfigError` when they do not fit."""
        return cls(LinearHeads.load(arrays, "prompt_"))

    def judge(self, view: PromptView) -> PromptJudgement:
        """Say what a prompt is."""
        logits = self._heads.logits(view)
        tasks, difficulties = softmax(logits[_TASK]).tolist(), softmax(logits[_DIFFICULTY]).tolist()
        *risks, timely = sigmoid(logits[_RISK.start :]).tolist()
        task, hard = tasks.index(max(tasks)), difficulties.index(max(difficulties))
        found = []
        if view.shape[_SECRET] or view.shape[_IDENTITY]:
            risks[_CONFIDENTIAL] = max(risks[_CONFIDENTIAL], 0.95)  # it is what it is, whatever stands around it
        for risk, chance in zip(RISKS, risks, strict=True):
            if chance > 0.5:
                found.append(Judged(risk, chance))
        return PromptJudgement(
            Judged(TASKS[task], tasks[task]),
            Judged(DIFFICULTIES[hard], difficulties[hard]),
            tuple(difficulties),
            tuple(found),
            timely,
            self._why(view, found, timely),
        )

    def _why(self, view: PromptView, risks: Sequence[Judged], timely: float) -> tuple[str, ...]:
        """Name what mattered: the word that speaks of a risk or of time, and the marks of code or of a secret."""
        said = []
        subjects = [risk.label for risk in risks] + (list(_TIMES) if timely > 0.5 else [])
        for subject in subjects:
            index = self._heads.concepts.word_of(view, subject)
            word = f" “{word_at(view, index)}”" if index >= 0 else ""
            said.append(f"time{word}" if subject in _TIMES else f"{subject}{word}")
        if view.shape[_SECRET]:
            said.append("looks like a secret key")
        elif view.shape[_IDENTITY]:
            said.append("looks like an identity or card number")
        return tuple(dict.fromkeys(said))


def asked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns that say what is wanted: the newest human turn, and the one before a mere "yes"."""
    found: list[Message] = []
    for message in reversed(messages):
        if message.role is Role.USER and message.text.strip():
            found.append(message)
            if len(message.text) > SHORT_REPLY or len(found) == 2:
                break
    if not found and messages:
        found.append(messages[-1])
    return tuple(reversed(found))
