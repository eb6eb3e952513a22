"""What a step saw and what it said, as digests, and whether anything it saw was new.

*New* is: a person took the floor; a tool answered something that no like call had been answered since then; another
named speaker said something else. Everything else is fruitless: the same call with the same result, the same error to
other arguments, the same result to arguments that differ by a counter only, an empty result once more, a fixed reminder
that a scaffold sends along with results, the same exchange of words over again.

A step's history is read from where the step before it ended, so reading costs what is new, not what there is. Two
calls over the same history (a replay, a retry, a second node) see the same moment: it counts once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from waywiser.core.calls import Reply
from waywiser.core.canonical import (
    DIGEST_BYTES,
    alike,
    canonical_arguments,
    masked,
    reads_as_error,
    says_why,
    short_digest,
    text_marks,
    without_echo,
    without_numbers,
)
from waywiser.core.messages import Message, Role, Text, ToolCall
from waywiser.core.policy import LoopControl
from waywiser.core.trail import Action, StepRecord, Trail

WINDOW = 32
"""How many of the newest steps are looked at. A repetition further apart than that is not noticed."""

_NOTHING = frozenset(short_digest(text) for text in ("", "null", "None"))
_NUMBERED = re.compile(r"[^\W_]*\d[^\W_]*")
_LISTS = 256  # messages before the new ones that may hold the list an agent works through
_LOOK_BACK = 8  # messages before the new ones, to find the call that an early result answers


@dataclass(frozen=True, slots=True)
class Seen:
    """The seen side of the coming step; the fields named as in `StepRecord` go there.

    `number` is how many steps the session had before; `before` the `since` of the step this one goes on from, -1 when
    there is none. `answered` and `answered_simhash` are the digests of the text
    this history goes on from, where the step before said text and called no tool (else empty).
    """

    number: int
    agent: str = ""
    node: str = ""
    state: bytes = b""
    human: bytes = b""
    results: tuple[Action, ...] = ()
    heard: tuple[bytes, ...] = ()
    spoke: bool = False
    length: int = 0
    place: bytes = b""
    since: int = 0
    before: int = -1
    answered: bytes = b""
    answered_simhash: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """The said side of a step; the fields go into its `StepRecord`."""

    text: bytes
    text_simhash: int
    calls: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Echo:
    """How often the exchange in question (the text, and what a person or scaffold replied) was had before."""

    same: int
    alike: int


def said(reply: Reply) -> Said:
    """Digest a reply for its `StepRecord`."""
    text, simhash = text_marks(reply.text)
    return Said(
        text,
        simhash,
        tuple(short_digest(call.name, canonical_arguments(call.arguments)) for call in reply.tool_calls),
    )


def seen(
    messages: Sequence[Message],
    trail: Trail,
    control: LoopControl,
    *,
    agent: str = "",
    node: str = "",
    state: bytes = b"",
) -> Seen:
    """Digest what is new in the history of the coming call, and tell whether any of it is progress.

    `agent` separates sub-agents: each is compared with its own steps only. `state` digests the graph's state, messages
    included; empty when unknown.
    """
    own = own_steps(trail, agent)
    previous = own[-1] if own else None
    length = len(messages)
    place = messages[-1].digest[:DIGEST_BYTES] if messages else b""
    start, origin, goes_on = _arrived(messages, place, own)
    arrival = _read(messages, start, origin, own)
    human, spoke = arrival.person, bool(arrival.person)
    if not human:
        human = origin.human if origin is not None else _newest_person(messages, start)
    elif arrival.results and origin is not None:
        # No one waited for a person's word here: what a scaffold repeats beside every result is not a person's.
        spoke = human != origin.human
    answered, answered_simhash = b"", 0
    if goes_on and origin is not None and not origin.calls and not arrival.results:
        answered, answered_simhash = origin.text, origin.text_simhash
    before = -1
    if previous is not None:
        before = origin.since if goes_on and origin is not None else previous.since
    if spoke and answered and echoes(own, answered, answered_simhash, human).alike:
        new = False
    else:
        new = spoke or before < 0 or _brings_news(arrival, own, control, messages if goes_on else ())
    return Seen(
        number=trail.count,
        agent=agent,
        node=node,
        state=state,
        human=human,
        results=arrival.results,
        heard=arrival.heard,
        spoke=spoke,
        length=length,
        place=place,
        since=trail.count if new else before,
        before=before,
        answered=answered,
        answered_simhash=answered_simhash,
    )


def own_steps(trail: Trail, agent: str) -> list[StepRecord]:
    """The steps of one agent among the newest of the trail, oldest first."""
    return [step for step in trail.steps[-WINDOW:] if step.agent == agent]


def same_outcome(one: Action, other: Action) -> bool:
    """Tell whether two calls of a tool came to the same thing, so that the later one is no progress by itself.

    That is so when the arguments are the same, or differ by numbers only; and, whatever the arguments, when the tool
    failed with the same error, or answered nothing at all (as a tool to think aloud does).
    """
    return (
        one.result == other.result
        and one.tool == other.tool
        and (
            one.arguments == other.arguments
            or one.is_error
            or one.result in _NOTHING
            or (one.shape == other.shape != b"")
        )
    )


def echoes(own: Sequence[StepRecord], text: bytes, simhash: int, human: bytes) -> Echo:
    """Count how often, without a tool in between, the text was said before and got the same reply."""
    same = near = 0
    for index in range(len(own) - 1, 0, -1):
        step, before = own[index], own[index - 1]
        if step.results or before.calls:
            break
        if step.human == human and (step.length, step.place) != (before.length, before.place):
            equal = before.text == text
            same += equal
            near += equal or alike(before.text_simhash, simhash)
    return Echo(same, near)


@dataclass(frozen=True, slots=True)
class _Arrival:
    results: tuple[Action, ...] = ()
    heard: tuple[bytes, ...] = ()
    person: bytes = b""


def _arrived(
    messages: Sequence[Message], place: bytes, own: Sequence[StepRecord]
) -> tuple[int, StepRecord | None, bool]:
    """Find where the new messages begin, the step this history goes on from, and whether it grew since.

    A history nobody has seen the beginning of (trimmed, or rewritten) is new from its last assistant turn on.
    """
    length = len(messages)
    for step in reversed(own):
        if 0 < step.length < length and messages[step.length - 1].digest[:DIGEST_BYTES] == step.place:
            return step.length, step, True
        if step.place and step.place == place:
            return length, step, False
    for index in range(length - 1, -1, -1):
        if messages[index].role is Role.ASSISTANT:
            return index, None, False
    return 0, None, False


def _in_line(step: StepRecord, messages: Sequence[Message]) -> bool:
    """Tell whether this history continues the step's. What a branch beside it did, it does not. Empty: not known."""
    if not messages or not step.length:
        return True
    return step.length <= len(messages) and messages[step.length - 1].digest[:DIGEST_BYTES] == step.place


def _read(messages: Sequence[Message], start: int, origin: StepRecord | None, own: Sequence[StepRecord]) -> _Arrival:
    if start >= len(messages):
        return _Arrival()
    pending = _calls_before(messages, start) if messages[start].role is Role.TOOL else []
    results: list[Action] = []
    heard: list[bytes] = []
    person = ""
    for message in messages[start:]:
        if message.role is Role.ASSISTANT:
            pending.extend(message.tool_calls)
            if message.name and message.text:
                heard.append(text_marks(message.text)[0])
        elif message.role is Role.TOOL:
            call = _answered(message, pending)
            action = _action(message, call)
            if (
                call is not None
                and _only_counts(action, own)
                and _listed(messages[max(start - _LISTS, 0) : start], call)
            ):
                action = replace(action, shape=b"")
            results.append(action)
        elif message.role is Role.USER:
            person = _content(message)
    spoken = b""
    if person:
        spoken = short_digest(without_numbers(person) if results else " ".join(person.split()))
    # Our own reply comes back as a turn of the history; it is not somebody else's word.
    ours = origin.text if origin is not None else b""
    return _Arrival(tuple(results), tuple(word for word in heard if word != ours), spoken)


def _calls_before(messages: Sequence[Message], start: int) -> list[ToolCall]:
    for index in range(start - 1, max(start - 1 - _LOOK_BACK, -1), -1):
        if messages[index].role is Role.ASSISTANT:
            return list(messages[index].tool_calls)
    return []


def _answered(message: Message, pending: list[ToolCall]) -> ToolCall | None:
    """Take the call a result answers out of the pending ones: by its id or, where ids are missing, by order."""
    for index, call in enumerate(pending):
        if call.id == message.tool_call_id:
            return pending.pop(index)
    return pending.pop(0) if pending and not message.tool_call_id else None


def _action(message: Message, call: ToolCall | None) -> Action:
    text = _content(message)
    arguments = canonical_arguments(call.arguments) if call is not None else ""
    plain = without_numbers(arguments)
    written = short_digest(arguments)
    outcome = masked(text)
    is_error = (message.is_error or reads_as_error(text)) and says_why(text)
    if is_error:
        # What failed for one value fails alike for the next; a page that tells its number is another page.
        outcome = without_echo(outcome, arguments)
    return Action(
        tool=call.name if call is not None else message.tool_name,
        arguments=written,
        result=short_digest(outcome),
        is_error=is_error,
        shape=written if plain == arguments else short_digest(plain),
    )


def _only_counts(action: Action, own: Sequence[StepRecord]) -> bool:
    """Tell whether the call differs from an earlier one by numbers only and came to the same."""
    if action.shape == action.arguments:
        return False
    result, shape, counts = action.result, action.shape, False
    for step in own:
        for old in step.results:
            if old.result == result and old.shape == shape:
                if old.arguments == action.arguments:
                    return False
                counts = True
    return counts


def _listed(before: Sequence[Message], call: ToolCall) -> bool:
    """Tell whether the numbers that set the call apart from the one before come from a person's or a tool's words.

    Then it takes the next thing of a list; a counter of its own making stands nowhere. One digit proves nothing.
    """
    earlier = (old for message in reversed(before) for old in message.tool_calls if old.name == call.name)
    last = next(earlier, None)
    if last is None:
        return False
    missing = set(_NUMBERED.findall(call.arguments)) - set(_NUMBERED.findall(last.arguments))
    if not missing or min(map(len, missing)) < 2:
        return False
    for message in reversed(before):
        if message.role is Role.TOOL or message.role is Role.USER:
            text = message.text
            if any(word in text for word in missing):
                missing.difference_update(_NUMBERED.findall(text))
                if not missing:
                    return True
    return False


def _content(message: Message) -> str:
    """All a turn says; a picture or a file counts by what it holds."""
    if not [part for part in message.parts if not isinstance(part, Text)]:
        return message.text
    return message.text + "".join(str(part) for part in message.parts if not isinstance(part, Text))


def _newest_person(messages: Sequence[Message], start: int) -> bytes:
    for index in range(min(start, len(messages)) - 1, -1, -1):
        if messages[index].role is Role.USER:
            return short_digest(" ".join(_content(messages[index]).split()))
    return b""


def _brings_news(
    arrival: _Arrival, own: Sequence[StepRecord], control: LoopControl, messages: Sequence[Message]
) -> bool:
    """Tell whether a result or another speaker's word is unlike all since a person last had the floor."""
    results, heard = arrival.results, arrival.heard
    if not results and not heard:
        return False
    if any(action.tool in control.navigation for action in results):
        return True
    unknown, unheard = list(results), set(heard)
    outcomes = {action.result for action in results}
    for step in reversed(own):
        if step.spoke and _in_line(step, messages):
            break
        for old in step.results:
            if old.result in outcomes and _in_line(step, messages):
                unknown = [action for action in unknown if not same_outcome(action, old)]
        if unheard:
            unheard.difference_update(step.heard)
        if not unknown and not unheard:
            return False
    return True
