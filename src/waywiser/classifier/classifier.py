"""The shared classifier: one object that answers every question about a coming call, from files in the package.

What was classified before is remembered by digest: the prompt heads' answer under the digests of the turns that ask,
the step heads' features under those of every message. Building it reads weights (tens of milliseconds); it is safe to
share between threads, at worst two of them compute the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from waywiser.classifier.heads import load
from waywiser.classifier.language import LANGUAGES, Languages
from waywiser.classifier.prompts import PromptHeads, PromptJudgement, asked
from waywiser.classifier.steps import StepHeads
from waywiser.classifier.text import HEAD, TAIL, PromptView
from waywiser.core.calls import Tool
from waywiser.core.classification import Classification, Judged
from waywiser.core.messages import Message, Role

WEIGHTS = Path(__file__).parent / "weights"
REMEMBERED = 4096
NO_TOOLS = 0.98
"""How sure it is that a first request without tools is answered in text: there is nothing to call."""
_ASKING = frozenset((Role.USER, Role.SYSTEM))


class LocalClassifier:
    """Classifies calls without network and without a model. Implements the port `Classifier`.

    `weights` is a folder written by `waywiser train` (default: the one in the package), `languages` the ISO 639-1
    codes to choose from. Raises `ConfigError` when the weights are missing, broken or of another format.
    """

    def __init__(self, weights: Path = WEIGHTS, languages: Sequence[str] = LANGUAGES) -> None:
        self._prompts = PromptHeads.load(load(weights / "prompts.npz"))
        self._steps = StepHeads.load(load(weights / "steps.npz"))
        self._languages = Languages(languages)
        self._seen: dict[tuple[bytes, ...], tuple[PromptJudgement, Judged]] = {}

    def classify(self, messages: Sequence[Message], tools: Sequence[Tool], rungs: int) -> Classification:
        """Classify the coming call of this history for a ladder of `rungs` tiers, cheapest first."""
        prompt, language = self._judged(asked(messages))
        sufficiency, why_enough = self._steps.sufficiency(messages, tools, rungs, prompt.difficulties)
        if not tools and all(message.role in _ASKING for message in messages):
            kind = Judged("synthesis", NO_TOOLS)
            why_kind: tuple[str, ...] = ("no tools offered",)
        else:
            kind, why_kind = self._steps.kind(messages, tools)
        return Classification(
            task=prompt.task,
            difficulty=prompt.difficulty,
            sufficiency=sufficiency,
            risk=prompt.risk,
            language=language,
            time_sensitive=prompt.time_sensitive,
            kind=kind,
            why=(*why_enough, *why_kind, *prompt.why),
        )

    def _judged(self, turns: Sequence[Message]) -> tuple[PromptJudgement, Judged]:
        """Return what the prompt heads say of these turns, remembered."""
        key = tuple(turn.digest for turn in turns)
        known = self._seen.get(key)
        if known is not None:
            return known
        text = "\n".join(_clipped(turn.text) for turn in turns)
        judged = (self._prompts.judge(PromptView(text)), self._languages.of(text))
        if len(self._seen) >= REMEMBERED:
            # Drop the older half at once: cheaper than tidying at every call, and dicts keep their order.
            for old in list(self._seen)[: REMEMBERED // 2]:
                self._seen.pop(old, None)
        self._seen[key] = judged
        return judged


def _clipped(text: str) -> str:
    """Cut the middle out of a text far longer than what is read of it."""
    return text if len(text) <= 4 * (HEAD + TAIL) else f"{text[: 2 * HEAD]}\n{text[-2 * TAIL :]}"
