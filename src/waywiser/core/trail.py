"""The trail: a session's bounded history of steps, as digests. It holds no prompt and no answer.

A record has two sides. What the step *saw*: the newest person's turn and the tool results that arrived since the step
before, each with the call it answers. What the step *said*: a digest of its text and of the calls it made. So a
record alone tells whether the call after it brought something new.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TRAIL_STEPS = 64


@dataclass(frozen=True, slots=True)
class Action:
    """One tool call and what came of it: digests of the canonical arguments and of the masked result (8 bytes each).

    `is_error` is set for a failure whose cause is named (not for a bare exit code). `shape` digests the arguments with
    their numbers masked: equal for calls that differ by a counter only; empty where the numbers come from a list.
    """

    tool: str
    arguments: bytes
    result: bytes
    is_error: bool = False
    shape: bytes = b""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One model call of the session.

    `human` is a digest of the newest person's turn; `text` of the normalised answer text (empty when none);
    `text_simhash` is a 64-bit similarity hash of it, for answers that are nearly the same; `calls` are digests of
    (tool, canonical arguments). `state` is what a surface tells of its own state (a digest; empty when unknown).

    `length` turns were in the history, `place` digests the last of them: so the next step finds what is new to it.
    `spoke` tells that a person had taken the floor, `heard` digests what other named speakers said meanwhile, `since`
    is how many steps the session had had when something last was new (see `loops.py`).
    """

    number: int
    at_s: float
    kind: str
    tier: str
    model: str
    node: str = ""
    agent: str = ""
    human: bytes = b""
    results: tuple[Action, ...] = ()
    text: bytes = b""
    text_simhash: int = 0
    calls: tuple[bytes, ...] = ()
    state: bytes = b""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    length: int = 0
    place: bytes = b""
    spoke: bool = False
    heard: tuple[bytes, ...] = ()
    since: int = 0


@dataclass(frozen=True, slots=True)
class WarmPrefix:
    """What a provider's prompt cache holds of this session: the first `messages` turns, `tokens` long, since `at_s`.

    `digest` is over the tools and those turns: a history that no longer begins so is cold.
    """

    model: str
    messages: int
    tokens: int
    digest: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class LoopState:
    """How far up the ladder of countermeasures a session is. Empty `anchor`: no loop.

    `anchor` identifies the loop, `rungs` are those already used for it, `floor` is the tier an escalation pinned.
    """

    anchor: bytes = b""
    rungs: tuple[str, ...] = ()
    floor: str = ""


@dataclass(frozen=True, slots=True)
class Trail:
    """The newest `TRAIL_STEPS` records, oldest first; how many steps there ever were; what is warm where."""

    steps: tuple[StepRecord, ...] = ()
    count: int = 0
    warm: tuple[WarmPrefix, ...] = ()
    loop: LoopState = LoopState()

    def appended(self, record: StepRecord, warm: WarmPrefix | None = None, loop: LoopState | None = None) -> Trail:
        """Return the trail with one more step, its model's warm prefix replaced and the state of loop control set."""
        kept = self.warm
        if warm is not None:
            kept = (*(entry for entry in self.warm if entry.model != warm.model), warm)
        return replace(
            self,
            steps=(*self.steps[-(TRAIL_STEPS - 1) :], record),
            count=self.count + 1,
            warm=kept,
            loop=self.loop if loop is None else loop,
        )
