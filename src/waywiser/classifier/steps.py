"""The heads that look at an agent's steps: what kind the coming one is, and how able a model it needs.

**Kind.** Whether an agent goes on with a tool call or answers is its own choice. Boosted trees over the shape of the
session (`step_features`) say what agents in general do there; what *this* agent does is learned while it runs: after
every step the surprise (what it did, less what was expected) shifts the expectation for the whole session, for turns
against results, and for the tool just used. An agent that always answers after a lookup is known for it after two.
Where agents are remembered, earlier sessions count as well; an agent is known by its tools, else its system prompt.

**Sufficiency.** See `work_features` for what is looked at; three logistic models say for ranks 0, 1/3 and 2/3 of a
ladder whether a model of that rank is enough, and a ladder of any length is read off between them.

**Incremental.** What a session showed is kept under the digest of its messages, so a call pays for its new messages
only. All of it is bounded. Calls from several threads take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, count
from math import exp
from threading import Lock
from typing import Final

import numpy as np
import numpy.typing as npt

from waywiser.classifier.glimpses import Glimpses
from waywiser.classifier.habits import Agents, Habits, Moment, logit, situations, squash, unusual
from waywiser.classifier.heads import Arrays
from waywiser.classifier.step_features import FEATURES, Progress
from waywiser.classifier.trees import Forest, broken
from waywiser.classifier.work_features import FEATURES as WORK_FEATURES
from waywiser.classifier.work_features import Signs, reasons, work_features
from waywiser.core.calls import Tool
from waywiser.core.classification import DIFFICULTIES, Judged
from waywiser.core.messages import Message, Role, digest

LOOK_BACK: Final = 64
"""How many of the newest messages may be new to us before a session counts as unknown."""
COLD: Final = 512
"""How much of an unknown session is read."""
LONE_CHARS: Final = 3000
"""Up to here a request without tools and earlier turns is a single prompt, told by its difficulty."""
PLAIN: Final = (1.0, 0.0)
"""Slope and offset of a belief that nobody's receipts have corrected."""
_TOP_LOGIT: Final = logit(0.99)
_SESSIONS: Final = 1024


class _Track:
    """One session: its progress, the agent and its habits, and what is expected of the coming step."""

    __slots__ = ("agent", "habits", "moment", "number", "progress", "row")

    def __init__(self, number: int, agent: bytes, habits: Habits) -> None:
        self.progress = Progress()
        self.number = number
        self.agent = agent
        self.habits = habits
        self.row: list[float] = self.progress.features()
        self.moment: Moment | None = None  # the coming step; None: not yet asked about


class StepHeads:
    """Foretells the coming step of an agent. Build it with `load`. Sessions stand alone till agents are remembered."""

    def __init__(
        self,
        trees: tuple[Forest, Forest, Forest],
        usual: npt.NDArray[np.float32],
        work: npt.NDArray[np.float64],
        belief: tuple[float, float] = PLAIN,
    ) -> None:
        self._calls, self._writes, self._asks = trees
        self._usual = usual
        self._work = work
        self._belief = belief
        self._agents: Agents | None = None
        self._glimpses = Glimpses()
        self._signs = Signs()
        self._tracks: OrderedDict[bytes, _Track] = OrderedDict()
        self._numbers = count()
        self._lock = Lock()

    @classmethod
    def load(cls, arrays: Arrays) -> StepHeads:
        """Rebuild the heads from stored arrays; `ConfigError` when one is missing, misshapen or foreign."""
        trees = tuple(Forest.load(arrays, prefix, len(FEATURES)) for prefix in ("calls_", "writes_", "asks_"))
        usual = arrays.get("usual")
        if usual is None or usual.shape != (2, len(FEATURES)) or usual.dtype != np.float32:
            raise broken(f"`usual` is missing or not of shape {(2, len(FEATURES))}")
        if not np.isfinite(usual.astype(np.float64)).all() or not (usual.astype(np.float64)[1] > 0).all():
            raise broken("`usual` is not finite, or something does not spread")
        work = arrays.get("work")
        shape = (3, len(WORK_FEATURES) + 1)
        if work is None or work.shape != shape or work.dtype != np.float64:
            raise broken(f"`work` is missing or not of shape {shape}")
        if not np.isfinite(work.astype(np.float64)).all():
            raise broken("`work` is not finite")
        belief = arrays.get("belief", np.array(PLAIN))
        if belief.shape != (2,) or belief.dtype != np.float64 or not np.isfinite(belief.astype(np.float64)).all():
            raise broken("`belief` is not two finite numbers")
        slope, offset = belief.astype(np.float64).tolist()
        if slope <= 0:
            raise broken("`belief` would turn the ladder over")
        first, second, third = trees
        return cls((first, second, third), usual.astype(np.float32), work.astype(np.float64), (slope, offset))

    def remember_agents(self) -> None:
        """From now on let what an agent does in one session count in the next: for live calls, not for a backtest."""
        if self._agents is None:
            self._agents = Agents()

    def kind(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Judged, tuple[str, ...]]:
        """Say whether the coming step is a `tool_call` or a `synthesis`, how sure that is, and why."""
        chance, row, known = self.call_chance(messages, tools)
        reasons = self._reasons(row, chance)
        if known:
            reasons = (*reasons, "the agent is known from earlier sessions")
        if not tools and not any(message.tool_calls for message in messages[-LOOK_BACK:]):
            reasons = (*reasons, "no tools seen")
        if chance >= 0.5:
            return Judged("tool_call", chance), reasons
        return Judged("synthesis", 1 - chance), reasons

    def call_chance(
        self, messages: Sequence[Message], tools: Sequence[Tool] = ()
    ) -> tuple[float, npt.NDArray[np.float32], bool]:
        """Return the probability that the coming step is a tool call, the features, and whether the agent is known."""
        with self._lock:
            track = self._track(messages, tools)
            row = np.array([track.row], dtype=np.float32)
            known = track.habits.known
            if track.moment is not None:
                return track.habits.chance(track.moment), row, known
            (track.moment,) = self._moments(row, [situations(track.progress)])
            chance = track.habits.chance(track.moment)
            if self._agents is not None:
                self._agents.expect(track.agent, track.number, track.moment, chance)
            return chance, row, known

    def _moments(self, rows: npt.NDArray[np.float32], where: Sequence[tuple[str, str, str]]) -> list[Moment]:
        """Say what is expected of steps with these features, in these situations."""
        expected = self._calls.logits(rows)
        far = unusual(rows, self._usual, expected)
        return [Moment(*step) for step in zip(expected.tolist(), where, far, strict=True)]

    def fine(self, messages: Sequence[Message]) -> dict[str, float]:
        """Return the probabilities of the four finer kinds: `read` and `write` calls, an `answer`, a `question`."""
        chance, row, _ = self.call_chance(messages)
        writes, asks = squash(float(self._writes.logits(row)[0])), squash(float(self._asks.logits(row)[0]))
        return {
            "read": chance * (1 - writes),
            "write": chance * writes,
            "answer": (1 - chance) * (1 - asks),
            "question": (1 - chance) * asks,
        }

    def _reasons(self, row: npt.NDArray[np.float32], chance: float) -> tuple[str, ...]:
        """Say in words what the coming step is told by."""
        seen = dict(zip(FEATURES, row[0].tolist(), strict=True))
        run = round(exp(seen["run"])) - 1
        said = []
        if seen["after_result"]:
            said.append(f"a tool result after {run} call{'s' * (run != 1)} in this turn")
            said += ["the result is an error"] * bool(seen["result_error"])
        elif seen["agreed"]:
            said.append("the person agreed to what was proposed")
        elif seen["told"]:
            said.append("the person gave what was asked for")
        else:
            said.append("a person's turn")
        if chance >= 0.5:
            writes = squash(float(self._writes.logits(row)[0]))
            said.append(f"likely a {'write' if writes >= 0.5 else 'read'}")
        else:
            asks = squash(float(self._asks.logits(row)[0]))
            said.append(f"likely {'a question' if asks >= 0.5 else 'an answer'}")
        return tuple(said)

    def sufficiency(
        self, messages: Sequence[Message], tools: Sequence[Tool], rungs: int, difficulty: Sequence[float] = ()
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Return for each of `rungs` (cheapest first) the probability that it is enough for the coming step, and why.

        `difficulty` holds the probabilities of `DIFFICULTIES`, easiest first; it decides for a single prompt, where
        there is no work to look at. Without it the kind of work decides alone.
        """
        if len(difficulty) == len(DIFFICULTIES) and lone(messages, tools):
            knots = [logit(chance) for chance in list(accumulate(difficulty))[:3]]
            hardest = max(range(len(DIFFICULTIES)), key=difficulty.__getitem__)
            return self._believed(on_ladder(knots, rungs)), (f"a single prompt, {DIFFICULTIES[hardest]}",)
        with self._lock:
            features = work_features(messages, tools, self._signs)
        knots = (self._work @ np.array([*features, 1.0])).tolist()
        return self._believed(on_ladder(knots, rungs)), reasons(features)

    def _believed(self, chances: tuple[float, ...]) -> tuple[float, ...]:
        """Correct a ladder by what receipts taught, the top excepted: there is nothing above it to learn from."""
        if self._belief == PLAIN or not chances:
            return chances
        slope, offset = self._belief
        return (*(min(squash(slope * logit(one) + offset), chances[-1]) for one in chances[:-1]), chances[-1])

    def _track(self, messages: Sequence[Message], tools: Sequence[Tool]) -> _Track:
        """Find what is known of this session and bring it up to date."""
        begin = max(0, len(messages) - LOOK_BACK)
        state = blake2b(b"".join(message.digest for message in messages[:begin]), digest_size=16)
        keys = [state.digest()]
        for message in messages[begin:]:
            state.update(message.digest)
            keys.append(state.digest())
        for at in range(len(keys) - 1, -1, -1):
            if at == len(keys) - 1 and keys[at] in self._tracks:
                return self._tracks[keys[at]]
            track = self._tracks.pop(keys[at], None)
            if track is not None:
                self._extend(track, messages[begin + at :], self._agents)
                break
        else:
            agent = agent_of(messages, tools)
            habits = self._agents.habits(agent) if self._agents is not None else Habits()
            track = _Track(next(self._numbers), agent, habits)
            self._extend(track, messages[-COLD:], None)
        self._tracks[keys[-1]] = track
        while len(self._tracks) > _SESSIONS:
            self._tracks.popitem(last=False)
        return track

    def _extend(self, track: _Track, messages: Sequence[Message], agents: Agents | None) -> None:
        """Fold new messages into a session, learning the agent's habits from its steps among them.

        `agents` learn from what was seen to happen, not from a history that is read at once: it may be known already.
        """
        rows: list[list[float]] = []
        where: list[tuple[str, str, str]] = []
        called: list[bool] = []
        # When the first new message is the step that was asked about, its moment is at hand.
        asked_about = bool(messages) and messages[0].role is Role.ASSISTANT and track.progress.turns > 0
        moments = [track.moment] if asked_about and track.moment is not None else []
        for message in messages:
            if message.role is Role.ASSISTANT and track.progress.turns:
                rows.append(track.progress.features())
                where.append(situations(track.progress))
                called.append(bool(message.tool_calls))
            track.progress.add(self._glimpses.of(message))
        fresh = slice(len(moments), None)
        if rows[fresh]:
            moments += self._moments(np.array(rows[fresh], dtype=np.float32), where[fresh])
        for moment, call in zip(moments, called, strict=True):
            surprise = track.habits.learn(moment, called=call)
            if agents is not None:
                agents.learn(track.agent, track.number, moment, surprise)
        track.row = track.progress.features()
        track.moment = None


def agent_of(messages: Sequence[Message], tools: Sequence[Tool]) -> bytes:
    """Return what an agent is known by: the names of its tools, else its system prompt, else nothing."""
    if tools:
        return digest(sorted(tool.name for tool in tools))
    return messages[0].digest if messages and messages[0].role is Role.SYSTEM else b""


def on_ladder(knots: Sequence[float], rungs: int) -> tuple[float, ...]:
    """Read a ladder of `rungs` off the logits at ranks 0, 1/3 and 2/3 (rank 1 is the top); never falling."""
    if rungs <= 1:
        return (squash(_TOP_LOGIT),) * max(rungs, 0)
    places = np.arange(rungs) / (rungs - 1) * 3
    rising = np.maximum.accumulate([*knots, max(_TOP_LOGIT, *knots)])
    return tuple(squash(value) for value in np.interp(places, [0.0, 1.0, 2.0, 3.0], rising).tolist())


def lone(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    """Whether this is a single prompt: no tools, nothing said before, short enough to hold no given text."""
    if tools or any(message.role not in {Role.USER, Role.SYSTEM} for message in messages):
        return False
    return sum(len(message.text) for message in messages) <= LONE_CHARS
