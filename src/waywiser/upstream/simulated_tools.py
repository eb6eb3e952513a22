"""How a simulated model picks its next tool call.

Backwards from what is asked: every clause of the request is matched with the tool that does it; if an argument is missing, the
tool that could provide it comes first, and so on down to something that can be called now. A call is never made twice
with the same arguments. Pure functions of the conversation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from waywiser.core.calls import JSON, Tool
from waywiser.core.messages import Message, Role
from waywiser.upstream.simulated_arguments import Schema, Want, fill, properties, required
from waywiser.upstream.simulated_reading import READING, Clause, Fact, facts, requests, stem, stems

_KEEP_OUT = re.compile(r"\b(?:not|never|don't|dont|without|no)\b(?:\W+\w+){0,2}\W*$")
_LOOKS = frozenset((READING, "track", "calculate", "think", "ask", "analyse", "summar"))


@dataclass(frozen=True, slots=True)
class Step:
    """A tool call to be made now."""

    tool: Tool
    arguments: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: calls that can be made now, and the argument names nobody could provide."""

    steps: tuple[Step, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation as the model understood it. `made` holds the calls done, `spent` those since the last request."""

    asked: tuple[Clause, ...]
    known: tuple[Fact, ...]
    made: frozenset[tuple[str, str]]
    spent: int


def read(messages: Sequence[Message]) -> Reading:
    """Read a conversation once."""
    calls = [(call.name, canonical(call.arguments)) for message in messages for call in message.tool_calls]
    ends = [turn for turn, message in enumerate(messages) if message.role is Role.USER and message.text.strip()]
    since = sum(len(message.tool_calls) for message in messages[(ends[-1] if ends else 0) :])
    return Reading(tuple(requests(messages)), tuple(facts(messages)), frozenset(calls), since)


def canonical(arguments: str) -> str:
    """Arguments in one spelling, so that a repeated call is seen whatever its key order."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments


def writes(tool: Tool) -> bool:
    """Whether the tool changes something, by its name: nothing in it says that it only looks."""
    return not stems(tool.name) & _LOOKS


@lru_cache(maxsize=512)
def parameters(tool: Tool) -> Schema:
    """Return the tool's schema, or an empty one where it cannot be read."""
    try:
        schema = json.loads(tool.parameters or "{}")
    except ValueError:
        schema = {}
    return schema if isinstance(schema, dict) else {}


def goals(tools: Sequence[Tool], asked: Sequence[Clause], known: Sequence[Fact] = ()) -> list[tuple[Tool, Want]]:
    """Match every clause with the tool that does what it asks for, in the order it was asked, each pair once.

    A tool that changes something is taken only where its verb is used, is not negated, and is not merely asked about.
    """
    if not tools:
        return []
    documents = {tool: stems(f"{tool.name} {tool.description[:400]}") for tool in tools}
    weight = _rarities(list(documents.values()))
    found: dict[tuple[str, str], tuple[Tool, Want]] = {}
    for clause in asked:
        ids = _ids(clause, known)
        scored = [
            (_score(tool, documents[tool], clause, weight, bool(ids)), -place) for place, tool in enumerate(tools)
        ]
        score, place = max(scored)
        if score < 1.0:
            continue
        tool = tools[-place]
        for anchor in ids or [""]:
            found.setdefault((tool.name, anchor), (tool, Want(clause, anchor)))
    named = {name for name, anchor in found if anchor}
    return [goal for (name, anchor), goal in found.items() if anchor or name not in named]


def next_steps(tools: Sequence[Tool], reading: Reading, *, careful: bool, limit: int, together: bool) -> Plan:
    """Choose the calls to make now. `careful` looks at a thing before changing it; `together` allows several at once."""
    steps: dict[tuple[str, str], Step] = {}
    missing: dict[str, None] = {}
    if reading.spent >= limit:
        return Plan((), ())
    for tool, want in goals(tools, reading.asked, reading.known):
        lacking: list[str] = []
        step = _towards(tool, _settled(want, reading), tools, reading, frozenset(), lacking, careful=careful)
        if step is None:
            missing |= dict.fromkeys(lacking)
            continue
        steps.setdefault((step.tool.name, canonical(json.dumps(dict(step.arguments)))), step)
        if not together:
            break
    return Plan(tuple(steps.values())[: max(limit - reading.spent, 1)], tuple(missing))


def chain(
    tool: Tool, want: Want, tools: Sequence[Tool], reading: Reading, seen: frozenset[str] = frozenset()
) -> list[Tool]:
    """Return the tools that lead to `tool`, first to last and itself at the end, for a plan made before any call."""
    seen |= {tool.name}
    path: list[Tool] = []
    if properties(parameters(tool)):
        _, missing = fill(parameters(tool), want, reading.known, reading.asked)
        sources = (_producers(name, tool, tools, seen) for name in missing)
        for options in sources:
            path += chain(options[0], want, tools, reading, seen) if options else []
    if writes(tool):  # look at the thing before changing it
        nouns = stems(tool.name) - {stem(tool.name.split("_")[0])}
        looks = [t for t in tools if READING in stems(t.name) and nouns & stems(t.name) and t.name not in seen]
        path += (
            [min(looks, key=lambda t: (len(stems(t.name)), not t.name.startswith("get"), len(t.name)))] if looks else []
        )
    return list(dict.fromkeys([*path, tool]))


def _towards(
    tool: Tool, want: Want, tools: Sequence[Tool], reading: Reading, seen: frozenset[str], lacking: list[str], *, careful: bool
) -> Step | None:  # fmt: skip
    """Return the first call on the way to `tool`, or None when it is done or cannot be reached."""
    arguments, missing = fill(parameters(tool), want, reading.known, reading.asked)
    here = Step(tool, arguments)
    seen |= {tool.name}
    if not missing:
        if _done(here, reading):
            return None
        first = _look_first(here, tools, reading) if careful and writes(tool) else None
        return first or here
    for name in missing:
        for producer in _producers(name, tool, tools, seen):
            step = _towards(producer, want, tools, reading, seen, lacking, careful=careful)
            if step is not None:
                return step
    lacking.extend(name for name in missing if not name.endswith(("_id", "verification", "token")))
    return None


def _look_first(step: Step, tools: Sequence[Tool], reading: Reading) -> Step | None:
    """Find a reading tool for the very thing that is about to be changed, if it was not looked at yet."""
    for tool in tools:
        needs = required(parameters(tool))
        if writes(tool) or not needs or not set(needs) <= set(step.arguments) or "verification" in needs:
            continue
        look = Step(tool, {name: step.arguments[name] for name in needs})
        if stems(needs[0]) & stems(tool.name) and READING in stems(tool.name) and needs[0].endswith("id"):
            return None if _done(look, reading) else look
    return None


def _producers(name: str, tool: Tool, tools: Sequence[Tool], seen: frozenset[str]) -> list[Tool]:
    """Reading tools that could return the argument `name`, likeliest first: named by its description, then by its noun."""
    told = str(properties(parameters(tool)).get(name, {}).get("description", ""))
    nouns = stems(name) - stems("id number code new")
    ranked = []
    for place, other in enumerate(tools):
        if other.name in seen or writes(other) or name in required(parameters(other)):
            continue
        score = 4.0 * (re.search(rf"\b{re.escape(other.name)}\b", told) is not None)
        score += 2.0 * len(nouns & stems(other.name)) + 1.0 * len(nouns & stems(other.description[:400]))
        if score > 0:
            ranked.append((-score, place, other))
    return [other for _, _, other in sorted(ranked, key=lambda entry: entry[:2])]


def _score(tool: Tool, document: frozenset[str], clause: Clause, weight: Mapping[str, float], named: bool) -> float:
    name = stems(tool.name)
    shared_name, shared = name & clause.stems - {READING}, document & clause.stems - {READING}
    score = 1.2 * sum(weight[s] for s in shared_name) + 0.6 * sum(weight[s] for s in shared - shared_name)
    if not shared_name and len(shared) < 2:
        return 0.0
    if writes(tool):
        verbs = {
            stem(word) for text in (tool.name.replace("_", " "), tool.description) for word in text.lower().split()[:1]
        }
        verbs |= name - stems("order item product customer address booking reservation user pending delivered to agent")
        used = verbs & clause.stems
        if not used or (clause.asks and not named) or _negated(clause.text, used):
            return 0.0
        score += 1.5
    elif clause.asks and shared & stems("policy rules documents handbook knowledge"):
        score += 0.8
    return score


def _negated(text: str, verbs: set[str]) -> bool:
    places = [match.start() for match in re.finditer(r"\w+", text.lower()) if stem(match.group()) in verbs]
    return bool(places) and all(_KEEP_OUT.search(text.lower()[:place]) for place in places)


def _rarities(documents: Sequence[frozenset[str]]) -> dict[str, float]:
    every = frozenset().union(*documents)
    return {s: 0.5 + math.log(1 + len(documents) / (1 + sum(s in document for document in documents))) for s in every}


def _ids(clause: Clause, known: Sequence[Fact]) -> list[str]:
    found = [
        str(f.value)
        for f in known
        if f.kind == "id" and f.said and f.turn == clause.turn and str(f.value) in clause.text
    ]
    return list(dict.fromkeys(found))


def _settled(want: Want, reading: Reading) -> Want:
    """Let a clause without an id mean the one named last before it, or right after it."""
    if want.anchor:
        return want
    said = [fact for fact in reading.known if fact.kind == "id" and fact.said and fact.turn <= want.clause.turn]
    return replace(want, anchor=str(said[-1].value)) if len({fact.value for fact in said}) == 1 else want


def _done(step: Step, reading: Reading) -> bool:
    return (step.tool.name, canonical(json.dumps(dict(step.arguments)))) in reading.made
