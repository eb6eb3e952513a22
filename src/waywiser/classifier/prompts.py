"""What a single prompt is: its task, how hard it is, what it risks, and whether it needs fresh knowledge.

All four read one `PromptView` and come out of one product with one matrix of weights; this module only splits the
logits by head and says in words what mattered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from waywiser.classifier.heads import Arrays, LinearHeads, sigmoid, softmax
from waywiser.classifier.text import SHAPE, Ints, PromptView, word_at
from waywiser.core.classification import DIFFICULTIES, RISKS, TASKS, UNASKED, Head, Judged
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
    """The prompt heads' answer. `difficulties` holds the probability of each of `DIFFICULTIES`, in their order.

    `why` says in words what mattered to which head.
    """

    task: Judged
    difficulty: Judged
    difficulties: tuple[float, ...]
    risk: tuple[Judged, ...]
    time_sensitive: float
    why: tuple[tuple[Head, str], ...]


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
        logits, words = self._heads.logits(view)
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
            (*self._telling(view, words, task, hard), *self._spoken(view, found, timely)),
        )

    def _telling(self, view: PromptView, words: Ints, task: int, hard: int) -> Iterator[tuple[Head, str]]:
        """Name the words that spoke most for the difficulty and the task."""
        harder, nearest = self._heads.telling(view, words, (_DIFFICULTY.start + hard, _TASK.start + task))
        if harder >= 0:
            yield Head.DIFFICULTY, f"{DIFFICULTIES[hard]}{_quoted(view, harder)}"
        if nearest >= 0:
            yield Head.TASK, f"{TASKS[task]}{_quoted(view, nearest)}"

    def _spoken(self, view: PromptView, risks: Sequence[Judged], timely: float) -> Iterator[tuple[Head, str]]:
        """Name the words that speak of a risk or of time, and what looks like a secret."""
        for risk in risks:
            yield Head.RISK, f"{risk.label}{self._word(view, risk.label)}"
        if view.shape[_SECRET]:
            yield Head.RISK, "looks like a secret key"
        elif view.shape[_IDENTITY]:
            yield Head.RISK, "looks like an identity or card number"
        if timely > 0.5:
            words = (self._word(view, subject) for subject in _TIMES)
            yield Head.TIME_SENSITIVE, f"time{next(filter(None, words), '')}"

    def _word(self, view: PromptView, concept: str) -> str:
        return _quoted(view, self._heads.concepts.word_of(view, concept))


def _quoted(view: PromptView, word: int) -> str:
    return f" “{word_at(view, word)}”" if word >= 0 else ""


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
