"""How a simulated model picks its next tool call.

Backwards from what is asked: every clause of the request is matched with the tool that does it; if an argument is
missing, the tool that could provide it comes first, and so on down to something that can be called now. A call is never
made twice with the same arguments. Pure functions of the conversation.
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
_SEARCHES = stems("query question keywords topic")
_RULES = stems("policy documents handbook knowledge")
THINGS = stems("order item product customer address booking reservation user pending delivered agent to")
_PEOPLE = stems("customer")
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
    return not stems(tool.name) & _LOOKS and not hands_over(tool.name)


def hands_over(name: str) -> bool:
    """Whether a tool's name says that it passes the conversation to another agent."""
    return re.match(r"transfer_(?:back_)?to_|hand_?off|delegate|assign_to_|ask_", name) is not None


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
    documents = {tool: stems(f"{tool.name} {tool.description[:400]} {' '.join(_looked_up_by(tool))}") for tool in tools}
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
            found.setdefault((tool.name, anchor), (tool, Want(_in_context(clause, asked), anchor)))
    if not found:
        found = _general(tools, documents, asked)
    named = {name for name, anchor in found if anchor}
    return [goal for (name, anchor), goal in found.items() if anchor or name not in named]


def _in_context(clause: Clause, asked: Sequence[Clause]) -> Clause:
    """Put the sentence before a clause that only says `it` or `them`, so that what is meant is in it."""
    before = [other for other in asked[: asked.index(clause)] if other.turn == clause.turn]
    if not before or not re.search(r"\b(?:it|them|that|this|these|those|one|ones)\b", clause.text.lower()):
        return clause
    return Clause(f"{before[-1].text} {clause.text}", clause.turn, before[-1].stems | clause.stems)


def _general(
    tools: Sequence[Tool], documents: Mapping[Tool, frozenset[str]], asked: Sequence[Clause]
) -> dict[tuple[str, str], tuple[Tool, Want]]:  # fmt: skip
    """Where no tool is plainly meant, a question is looked up with the nearest tool that takes a free query."""
    over = [tool for tool in tools if hands_over(tool.name)]
    able = over + [tool for tool in tools if _looked_up_by(tool) and not writes(tool)]
    questions = [clause for clause in asked if over or clause.asks or "?" in clause.text]
    if not able or not questions:
        return {}
    clause = questions[-1]
    tool = max(able, key=lambda t: 2 * len(documents[t] & clause.stems) + bool(documents[t] & _RULES))
    return {(tool.name, ""): (tool, Want(clause))} if tool not in over or documents[tool] & clause.stems else {}


@lru_cache(maxsize=512)
def _looked_up_by(tool: Tool) -> tuple[str, ...]:
    """Return the descriptions of the tool's free search arguments; none when it has no such argument."""
    fields = properties(parameters(tool))
    return tuple(f"{field.get('description', name)}" for name, field in fields.items() if stems(name) & _SEARCHES)


def next_steps(tools: Sequence[Tool], reading: Reading, *, careful: bool, limit: int, together: bool) -> Plan:
    """Choose the calls to make now. `careful` looks at a thing before changing it; `together` allows several."""
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


def chain(tool: Tool, want: Want, tools: Sequence[Tool], reading: Reading) -> dict[Tool, tuple[Tool, ...]]:
    """Return the tools that lead to `tool`, sources first and itself last, each with those whose results it needs.

    Made before any call, for a plan. Where a tool's arguments are not known, its name tells what it is likely to need.
    """
    path: dict[Tool, tuple[Tool, ...]] = {}

    def add(link: Tool, above: frozenset[str]) -> None:
        known = properties(parameters(link))
        missing = fill(parameters(link), want, reading.known, reading.asked)[1] if known else _guessed(link, want)
        options = [_producers(name, link, tools, above) for name in missing]
        sources = [found[0] for found in options if found] + (_looks(link, tools, above) if writes(link) else [])
        for source in sources:
            if source not in path:
                add(source, above | {source.name})
        path[link] = tuple(dict.fromkeys(sources))

    add(tool, frozenset((tool.name,)))
    return path


def _guessed(tool: Tool, want: Want) -> list[str]:
    """Likely arguments that nobody has given yet, for a tool of which only the name is known."""
    nouns = stems(tool.name) | stems(tool.description[:200])
    if stems(tool.name) & _PEOPLE and not writes(tool) and "order" not in stems(tool.name):
        return []
    needs = ["order_id"] if "order" in nouns and not want.anchor and not stems(tool.name) & {"order"} else []
    return [*needs, "customer_id"] if writes(tool) or "list" in tool.name else needs


def _looks(tool: Tool, tools: Sequence[Tool], above: frozenset[str]) -> list[Tool]:
    """Return the tool that shows the thing `tool` changes: looking comes before changing."""
    nouns = stems(tool.name) - {stem(tool.name.split("_")[0])}
    looks = [t for t in tools if READING in stems(t.name) and t.name not in above and not stems(t.name) & _PEOPLE]
    by_name = [t for t in looks if nouns & stems(t.name)]
    found = by_name or [t for t in looks if nouns & stems(t.description) and t.name.startswith("get")]
    return sorted(found, key=lambda t: (len(stems(t.name)), not t.name.startswith("get"), len(t.name)))[:1]


def _towards(
    tool: Tool, want: Want, tools: Sequence[Tool], reading: Reading, seen: frozenset[str], lacking: list[str], *,
    careful: bool,
) -> Step | None:  # fmt: skip
    """Return the first call on the way to `tool`, or None when it is done or cannot be reached."""
    arguments, missing = fill(parameters(tool), want, reading.known, reading.asked)
    here = Step(tool, arguments)
    seen |= {tool.name}
    if not missing:
        if _done(here, reading) or _identified(tool, reading):
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
    """Reading tools that could return the argument `name`, likeliest first: by its description, then by its noun."""
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
    if writes(tool):
        verbs = {
            stem(text.split()[0]) for text in (tool.name.replace("_", " ").lower(), tool.description.lower()) if text
        }
        used = (verbs | (name - THINGS)) & clause.stems
        if not used or (clause.asks and not named) or _negated(clause.text, used):
            return 0.0
        return score + 1.5
    if not shared_name and len(shared) < (2 if clause.asks else 3):
        return 0.0
    if named and not _looked_up_by(tool) and not any(stems(p) & clause.stems for p in required(parameters(tool))):
        score /= 2  # the clause names the thing itself: a tool that takes it fits better than one that lists
    return score + 0.8 * bool(clause.asks and shared & _RULES)


def _negated(text: str, verbs: set[str]) -> bool:
    places = [match.start() for match in re.finditer(r"\w+", text.lower()) if stem(match.group()) in verbs]
    return bool(places) and all(_KEEP_OUT.search(text.lower()[max(place - 60, 0) : place]) for place in places)


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


def _identified(tool: Tool, reading: Reading) -> bool:
    """Whether the tool only finds out who is speaking, and an earlier result has told."""
    if writes(tool) or not stems(tool.name) & _PEOPLE or any(n.endswith("id") for n in required(parameters(tool))):
        return False
    return any(fact.kind == "id" and fact.source and stems(fact.key) & _PEOPLE for fact in reading.known)


def _done(step: Step, reading: Reading) -> bool:
    return (step.tool.name, canonical(json.dumps(dict(step.arguments)))) in reading.made
