"""Loops: repetition without progress, and the ladder of what is done about it.

`progress.py` says of each step since when nothing new has come (`since`). A loop is found at the newest step when,
since then, the same thing has come of it often enough. All that follows from there is one loop, however it changes its
pattern: its `anchor` is the agent and `since`, so that every rung of the ladder is used once until something new comes.

How often is enough, with `after` from the policy:

| what repeats                                                       | occurrences |
|---|---|
| the same call with the same result; a cycle of 2 to 4 such calls   | `after` |
| the same, while other calls between differ each time               | 2 x `after` |
| the same error of the same tool, whatever the arguments            | `after` |
| the same words (nearly the same, where no one spoke in between)    | `after` |
| nearly the same words, each time to the same reply                 | 2 x `after` |
| the same result to arguments that differ by their numbers only     | 2 x `after` |
| 2 to 4 graph nodes in turn over unchanged state                    | `after` rounds |

Numbers get twice the patience because work through a list (the next order, the next file) looks like a counter too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from waywiser.core.canonical import short_digest
from waywiser.core.policy import LoopControl
from waywiser.core.progress import Said, Seen, echoes, own_steps, said, same_outcome, seen
from waywiser.core.trail import Action, LoopState, StepRecord, Trail

__all__ = [
    "LADDER",
    "Loop",
    "LoopKind",
    "Said",
    "Seen",
    "carried",
    "find_loop",
    "hint_text",
    "next_rung",
    "said",
    "seen",
]

LADDER = ("hint", "escalate", "conclude", "stop")
"""The rungs there are, in order. A policy names any of them."""

_LONGEST_PERIOD = 4
_PATIENCE = 2  # times `after`, where repetition may be work through a list


class LoopKind(StrEnum):
    """What repeats."""

    CALL = "call"
    COUNTER = "counter"
    ERROR = "error"
    CYCLE = "cycle"
    TEXT = "text"
    NODES = "nodes"


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop, at the newest step.

    `period` is its length in steps, 0 when irregular; `repeats` how often its newest part occurred; `tools` which tools
    take part; `what` describes it for a person and quotes nothing of the session but names of tools and nodes. `anchor`
    identifies the loop as long as nothing new comes.
    """

    kind: LoopKind
    period: int
    repeats: int
    what: str
    anchor: bytes
    tools: tuple[str, ...] = ()


def find_loop(trail: Trail, coming: Seen, control: LoopControl) -> Loop | None:
    """Find the loop the coming step is part of, if any. Looks at the newest `progress.WINDOW` steps at most."""
    if coming.since >= coming.number:
        return None
    own = own_steps(trail, coming.agent)
    # Steps of a branch that runs beside this one have a `since` of their own.
    run = [step for step in own if step.since == coming.since]
    after = max(control.after, 2)
    if coming.results:
        return _repeated_call(own, run, coming, after)
    if coming.answered:
        first = own.index(run[0]) if run else len(own)
        loop = _repeated_text(own[max(first - 1, 0) :], coming, after)
        if loop is not None:
            return loop
    return _alternating_nodes(run, coming, after)


def next_rung(loop: Loop, state: LoopState, ladder: Sequence[str]) -> tuple[str, LoopState]:
    """Choose what to do about the loop, and the state that remembers it.

    Each rung of the ladder is used once for a loop. When all are, the answer is empty (the loop is let go on), unless
    `stop` was one of them: a session that was stopped stays stopped until something new comes.
    """
    if state.anchor != loop.anchor:
        state = LoopState(loop.anchor)
    for rung in ladder:
        if rung not in state.rungs:
            return rung, LoopState(state.anchor, (*state.rungs, rung), state.floor)
    return ("stop" if "stop" in state.rungs else ""), state


def carried(state: LoopState, coming: Seen) -> LoopState:
    """Keep the state of the ladder while its loop lasts; forget it, and the tier it pinned, once there is progress.

    The steps of other agents, and of branches that run beside, leave it as it is.
    """
    if coming.before >= 0 and coming.since != coming.before and state.anchor == _anchor(coming, coming.before):
        return LoopState()
    return state


def holds(state: LoopState, coming: Seen) -> bool:
    """Tell whether the state of the ladder (and the tier it pinned) is about the coming step's own loop."""
    return state.anchor == _anchor(coming, coming.since)


def hint_text(loop: Loop) -> str:
    """Tell the model what it repeated and what came of it, and to do something else."""
    return (
        f"Note: no progress is being made. {_sentence(loop.what)} Doing the same again will bring the same. "
        "Look at what you already know and do something else: a different tool or different arguments; or, if the task "
        "cannot be taken further, answer now with what you have and say plainly what is missing."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _anchor(coming: Seen, since: int) -> bytes:
    return short_digest(coming.agent) + since.to_bytes(8, "little")


def _repeated_call(own: Sequence[StepRecord], run: Sequence[StepRecord], coming: Seen, after: int) -> Loop | None:
    """Count how often a result of the coming step, none of which is new, has come since something was."""
    for action in coming.results:
        exact, counted, like = _occurrences(action, run)
        if exact >= after and exact >= after * (_PATIENCE if _works_between(action, own, run) else 1):
            return _loop_of_calls(run, coming, action, exact)
        if action.is_error and like >= after:
            what = f"`{action.tool}` failed with the same error {like} times, with different arguments"
            return Loop(LoopKind.ERROR, 0, like, what, _anchor(coming, coming.since), (action.tool,))
        if counted >= after * _PATIENCE:
            what = f"`{action.tool}` gave the same result {counted} times to arguments that differ only by a number"
            return Loop(LoopKind.COUNTER, 0, counted, what, _anchor(coming, coming.since), (action.tool,))
    return None


def _occurrences(action: Action, run: Sequence[StepRecord]) -> tuple[int, int, int]:
    """Count the steps, the coming one included, with the same outcome: to equal arguments, equal but numbers, any."""
    exact = counted = like = 1
    result, arguments, shape = action.result, action.arguments, action.shape
    for step in run:
        equal = near = same = False
        for old in step.results:
            if old.result == result and same_outcome(action, old):
                same = True
                near = near or old.shape == shape
                equal = equal or old.arguments == arguments
        exact, counted, like = exact + equal, counted + near, like + same
    return exact, counted, like


def _works_between(action: Action, own: Sequence[StepRecord], run: Sequence[StepRecord]) -> bool:
    """Tell whether, between two occurrences of the action, something was done that was done only this once.

    It came to nothing new (a number, a word thought aloud, an acknowledgement), yet it may be work through a list.
    """
    done = Counter((old.tool, old.arguments) for step in own for old in step.results)
    done[action.tool, action.arguments] += 1
    inside = False
    for step in run:
        inside = inside or any(old.tool == action.tool and old.arguments == action.arguments for old in step.results)
        if inside and any(done[old.tool, old.arguments] == 1 for old in step.results):
            return True
    return False


def _loop_of_calls(run: Sequence[StepRecord], coming: Seen, action: Action, repeats: int) -> Loop:
    rounds = [step.results for step in run if step.results]
    rounds.append(coming.results)
    period = _period(rounds)
    tools = tuple(dict.fromkeys(one.tool for results in rounds[-max(period, 1) :] for one in results))
    anchor = _anchor(coming, coming.since)
    if period > 1:
        names = ", ".join(f"`{tool}`" for tool in tools)
        what = f"the same {period} calls in turn ({names}) were made {repeats} times, with the same results each time"
        return Loop(LoopKind.CYCLE, period, repeats, what, anchor, tools)
    if action.is_error:
        what = f"`{action.tool}` was called {repeats} times with the same arguments and failed with the same error"
        return Loop(LoopKind.ERROR, period, repeats, what, anchor, (action.tool,))
    what = f"`{action.tool}` was called {repeats} times with the same arguments and gave the same result each time"
    return Loop(LoopKind.CALL, period, repeats, what, anchor, (action.tool,))


def _period(rounds: Sequence[tuple[Action, ...]]) -> int:
    """The least period, 1 to 4, of the newest rounds; 0 when there is none."""
    for period in range(1, _LONGEST_PERIOD + 1):
        newest = rounds[-2 * period :]
        if len(newest) == 2 * period and newest[:period] == newest[period:]:
            return period
    return 0


def _repeated_text(own: Sequence[StepRecord], coming: Seen, after: int) -> Loop | None:
    echo = echoes(own, coming.answered, coming.answered_simhash, coming.human)
    same, near = echo.same + 1, echo.alike + 1
    enough_alike = after * _PATIENCE if coming.spoke else after
    if same < after and near < enough_alike:
        return None
    if same >= after:
        what = f"the same answer was given {same} times"
    else:
        what = f"nearly the same answer was given {near} times"
    what += ", each time to the same message" if coming.spoke else ", with nothing new in between"
    return Loop(LoopKind.TEXT, 1 if same == near else 0, max(same, near), what, _anchor(coming, coming.since))


def _alternating_nodes(run: Sequence[StepRecord], coming: Seen, after: int) -> Loop | None:
    """Nodes that take turns while the state (or, where that is unknown, each one's history) stands still."""
    places = [(step.node, step.state or step.place, bool(step.results) or step.spoke) for step in run]
    places.append((coming.node, coming.state or coming.place, False))
    for period in range(2, _LONGEST_PERIOD + 1):
        newest = places[-period * after :]
        if len(newest) < period * after:
            return None
        nodes = tuple(node for node, _, _ in newest[:period])
        turns = all(newest[index][:2] == newest[index - period][:2] for index in range(period, len(newest)))
        if turns and len(set(nodes)) > 1 and not any(busy for _, _, busy in newest[1:]):
            names = ", ".join(f"`{node}`" for node in dict.fromkeys(nodes))
            what = f"the nodes {names} took turns {after} times while nothing they work on changed"
            return Loop(LoopKind.NODES, period, after, what, _anchor(coming, coming.since))
    return None
