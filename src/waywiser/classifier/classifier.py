"""The shared classifier: one object that answers every question about a coming call, from files in the package.

What was classified before is remembered by digest: the prompt heads' answer under the digests of the turns that ask,
the step heads' features under those of every message. Building it reads weights (tens of milliseconds); it is safe to
share between threads, at worst two of them compute the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from waywiser.classifier.heads import Arrays, load
from waywiser.classifier.language import LANGUAGES, Languages
from waywiser.classifier.prompts import UNREAD, PromptHeads, PromptJudgement, asked
from waywiser.classifier.steps import StepHeads, lone
from waywiser.classifier.text import HEAD, TAIL, PromptView
from waywiser.core.calls import Tool
from waywiser.core.classification import HEADS, UNASKED, Classification, Head, Judged
from waywiser.core.messages import Message, Role, user
from waywiser.errors import ConfigError, Place, Problem

WEIGHTS = Path(__file__).parent / "weights"
REMEMBERED = 4096
NO_TOOLS = 0.98
"""How sure it is that a first request without tools is answered in text: there is nothing to call."""
_ASKING = frozenset((Role.USER, Role.SYSTEM))
_OF_PROMPT = frozenset((Head.TASK, Head.DIFFICULTY, Head.RISK, Head.TIME_SENSITIVE))
_NOTHING: tuple[tuple[float, ...], tuple[str, ...]] = ((), ())


T = TypeVar("T")


class _Remembered(Generic[T]):
    """Answers about turns, found again by their digests; the older half is dropped when there are too many."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, ...], T] = {}

    def of(self, turns: Sequence[Message], answer: Callable[[str], T]) -> T:
        """Return what `answer` says of the text of these turns."""
        key = tuple([turn.digest for turn in turns])
        known = self._known.get(key)
        if known is not None:
            return known
        found = answer("\n".join(_clipped(turn.text) for turn in turns))
        if len(self._known) >= REMEMBERED:
            # Drop the older half at once: cheaper than tidying at every call, and dicts keep their order.
            for old in list(self._known)[: REMEMBERED // 2]:
                self._known.pop(old, None)
        self._known[key] = found
        return found


@dataclass(frozen=True, slots=True)
class _Asks:
    """A set of heads, taken apart once: a member of an enum is looked up in a set by a function of Python's own."""

    heads: tuple[Head, ...]
    prompt: frozenset[Head]
    task: bool
    difficulty: bool
    sufficiency: bool
    risk: bool
    language: bool
    time_sensitive: bool
    kind: bool


@lru_cache(maxsize=128)  # as many as there are sets of heads
def _asks(heads: frozenset[Head]) -> _Asks:
    # The flags stand in the order of `Head`.
    return _Asks(tuple(head for head in Head if head in heads), heads & _OF_PROMPT, *(head in heads for head in Head))


class LocalClassifier:
    """Classifies calls without network and without a model. Implements the port `Classifier`.

    `weights` is a folder written by `waywiser train` (default: the one in the package), `languages` the ISO 639-1
    codes to choose from. Raises `ConfigError` when the weights are missing, broken or of another format.
    """

    def __init__(self, weights: Path = WEIGHTS, languages: Sequence[str] = LANGUAGES) -> None:
        self._prompts = _opened(weights / "prompts.npz", PromptHeads.load)
        self._steps = _opened(weights / "steps.npz", StepHeads.load)
        self._languages = Languages(languages)
        self._judgements = _Remembered[PromptJudgement]()
        self._named = _Remembered[Judged]()

    def classify(
        self, messages: Sequence[Message], tools: Sequence[Tool], rungs: int, heads: frozenset[Head] = HEADS
    ) -> Classification:
        """Answer `heads` about the coming call of this history, for a ladder of `rungs` tiers, cheapest first."""
        asks = _asks(heads)
        by_difficulty = asks.sufficiency and lone(messages, tools)
        turns = asked(messages) if asks.prompt or by_difficulty or asks.language else ()
        prompt = self._judgements.of(turns, self._judge) if asks.prompt or by_difficulty else UNREAD
        language = self._named.of(turns, self._language) if asks.language else UNASKED
        told = asks.prompt | {Head.DIFFICULTY} if by_difficulty else asks.prompt
        enough, why_enough = _NOTHING
        if asks.sufficiency:
            difficulties = prompt.difficulties if by_difficulty else ()
            enough, why_enough = self._steps.sufficiency(messages, tools, rungs, difficulties)
        kind, why_kind = self._kind(messages, tools) if asks.kind else (UNASKED, ())
        return Classification(
            task=prompt.task if asks.task else UNASKED,
            difficulty=prompt.difficulty if asks.difficulty else UNASKED,
            sufficiency=enough,
            risk=prompt.risk if asks.risk else (),
            language=language,
            time_sensitive=prompt.time_sensitive if asks.time_sensitive else 0.0,
            kind=kind,
            why=(*why_enough, *why_kind, *[said for head, said in prompt.why if head in told]),
            heads=asks.heads,
        )

    def remember_agents(self) -> None:
        """From now on let what an agent does in one session count for the kinds of steps in the next."""
        self._steps.remember_agents()

    def warm_up(self, heads: frozenset[Head] = HEADS) -> None:
        """Answer a question once: the language head reads its model when it is first needed."""
        self.classify((user("Which language is this?"),), (), 1, heads)

    def _kind(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Judged, tuple[str, ...]]:
        if not tools and all(message.role in _ASKING for message in messages):
            return Judged("synthesis", NO_TOOLS), ("no tools offered",)
        return self._steps.kind(messages, tools)

    def _judge(self, text: str) -> PromptJudgement:
        return self._prompts.judge(PromptView(text))

    def _language(self, text: str) -> Judged:
        return self._languages.of(text)


def _opened(file: Path, heads: Callable[[Arrays], T]) -> T:
    """Read a file of weights and build its heads. Raises `ConfigError` that names the file."""
    if not file.parent.is_dir():
        hint = "`waywiser train --out FOLDER` writes weights into a folder"
        raise ConfigError(Problem(Place(str(file.parent)), "there is no such folder", hint))
    arrays = load(file)
    try:
        return heads(arrays)
    except ConfigError as error:
        raise ConfigError([replace(problem, place=Place(str(file))) for problem in error.problems]) from None


def _clipped(text: str) -> str:
    """Cut the middle out of a text far longer than what is read of it."""
    return text if len(text) <= 4 * (HEAD + TAIL) else f"{text[: 2 * HEAD]}\n{text[-2 * TAIL :]}"
