"""The simulated model family: `simulated/economy`, `simulated/standard` and `simulated/premium`.

They run in process, need no network and no key, and always answer a call the same way, so a demonstration, a test or a
benchmark of the router needs no provider. They work with any tools and prompts: they match words, fill arguments from
the conversation, follow ids from result to result, and word an answer from what the tools returned. They know nothing
and reason about nothing; what they write begins with `[simulated] `.

The three differ as tiers do. Economy slips now and then (a required argument left out, the second-best label), looks at
less and says less; standard slips rarely; premium never does, and asks for several tools at once. Slips are drawn
from a digest of the conversation: the same call slips again, a retry after the error does not have to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from waywiser.core.calls import JSON, Call, Chunk, Finish, Reply, Tool, ToolCallDelta, Usage
from waywiser.core.messages import Message, Role, Text, ToolCall, digest
from waywiser.core.models import Model
from waywiser.upstream.simulated_answers import MARK, answer
from waywiser.upstream.simulated_arguments import Want, fill, properties, required
from waywiser.upstream.simulated_plans import Brief
from waywiser.upstream.simulated_reading import LISTED, Clause, documents
from waywiser.upstream.simulated_structure import fill_schema
from waywiser.upstream.simulated_tools import Plan, Reading, Step, next_steps, parameters, read

__all__ = ["MARK", "simulate", "simulate_stream"]

PIECE = 24  # characters in a streamed piece: a few words, as providers send them


@dataclass(frozen=True, slots=True)
class Skill:
    """What sets one simulated tier apart. `slips` means one tool call in so many lacks an argument (0: none does)."""

    slips: int
    mislabels: int
    calls: int
    sentences: int
    careful: bool
    together: bool


SKILLS = {
    "economy": Skill(slips=8, mislabels=6, calls=5, sentences=1, careful=False, together=False),
    "standard": Skill(slips=64, mislabels=40, calls=6, sentences=3, careful=True, together=False),
    "premium": Skill(slips=0, mislabels=0, calls=6, sentences=4, careful=True, together=True),
}


def simulate(model: Model, call: Call, count_tokens: Callable[[str], int]) -> Reply:
    """Answer a call: tool calls, JSON for the asked schema, or a text. The same call always gets the same reply.

    `count_tokens` counts a text; input counts every message, tool call, tool and schema, output what was written.
    """
    skill = skill_of(model)
    seed = digest([model.name, *(message.digest.hex() for message in call.messages), *(t.name for t in call.tools)])
    reading = read(call.messages)
    steps, missing = _tool_steps(call, reading, skill, seed)
    calls = tuple(_tool_call(step, skill, seed, place) for place, step in enumerate(steps))
    if calls:
        text, finish = "", Finish.TOOL_CALLS
        written = sum(count_tokens(each.name) + count_tokens(each.arguments) for each in calls)
    else:
        whole = _structured(call, reading, skill, seed) if call.response_format else ""
        whole = whole or answer(call.messages, call.tools, missing, skill.sentences)
        text, finish = _cut(whole.encode(errors="replace").decode(), call, count_tokens)
        written = count_tokens(text)
    usage = Usage(input_tokens=_input_tokens(call, count_tokens), output_tokens=max(written, 1))
    parts = (Text(text),) if text else ()
    return Reply(parts, calls, finish, usage, model=model.remote or model.name, id=f"sim-{seed.hex()[:16]}")


def simulate_stream(model: Model, call: Call, count_tokens: Callable[[str], int]) -> Iterator[Chunk]:
    """Answer like `simulate`, in pieces: text and arguments a few words at a time, then how it ended and the usage."""
    reply = simulate(model, call, count_tokens)
    yield Chunk(model=reply.model, id=reply.id)
    for place in range(0, len(reply.text), PIECE):
        yield Chunk(text=reply.text[place : place + PIECE], model=reply.model, id=reply.id)
    for index, asked in enumerate(reply.tool_calls):
        yield Chunk(tool_calls=(ToolCallDelta(index, asked.id, asked.name),), model=reply.model, id=reply.id)
        for place in range(0, len(asked.arguments), PIECE):
            piece = ToolCallDelta(index, arguments=asked.arguments[place : place + PIECE])
            yield Chunk(tool_calls=(piece,), model=reply.model, id=reply.id)
    yield Chunk(finish=reply.finish, usage=reply.usage, model=reply.model, id=reply.id)


def skill_of(model: Model) -> Skill:
    """Return the tier's skill by the last part of its name; an unknown name is placed by its quality."""
    name = (model.remote or model.name).rpartition("/")[2]
    by_quality = "economy" if model.quality < 0.6 else "standard" if model.quality < 0.8 else "premium"
    return SKILLS[name if name in SKILLS else by_quality]


def _tool_steps(call: Call, reading: Reading, skill: Skill, seed: bytes) -> tuple[Sequence[Step], tuple[str, ...]]:
    """Decide which tools to call now, honouring `tool_choice`; and what no tool and nobody has provided."""
    choice = call.settings.tool_choice
    if not call.tools or choice == "none":
        return (), ()
    named = [tool for tool in call.tools if choice == f"tool:{tool.name}"]
    if named:
        return (_forced(named[0], call, reading, skill, seed),), ()
    together = skill.together and call.settings.parallel_tool_calls is not False
    plan = next_steps(call.tools, reading, careful=skill.careful, limit=skill.calls, together=together)
    if plan.steps or choice != "required":
        return plan.steps, plan.missing
    return (_best_forced(call, reading, skill, seed, plan),), ()


def _forced(tool: Tool, call: Call, reading: Reading, skill: Skill, seed: bytes) -> Step:
    """Fill a tool that must be called, structured output in the guise of a tool included."""
    schema = parameters(tool)
    clause = reading.asked[-1] if reading.asked else Clause("", 0, frozenset())
    arguments, missing = fill(schema, Want(clause), reading.known, reading.asked)
    plain = all(
        field.get("type") in {"string", "integer", "number"} and "enum" not in field
        for field in properties(schema).values()
    )
    if plain and not missing:
        return Step(tool, arguments)
    whole = fill_schema(schema, _brief(call, reading, skill, seed)) if properties(schema) else {}
    found = {name: value for name, value in arguments.items() if name.endswith(("id", "email", "zip"))}
    return Step(tool, {**(whole if isinstance(whole, dict) else {}), **found})


def _best_forced(call: Call, reading: Reading, skill: Skill, seed: bytes, plan: Plan) -> Step:
    """Pick the tool to call when one must be and none is asked for: one not used yet, that lacks least."""
    used = {name for name, _ in reading.made}

    def unfit(tool: Tool) -> tuple[bool, bool, int]:
        _, missing = fill(parameters(tool), Want(Clause("", 0, frozenset())), reading.known, ())
        ids = [name for name in required(parameters(tool)) if name in missing and name.endswith(("id", "verification"))]
        return tool.name in used, bool(ids), len(set(missing) & set(plan.missing))

    return _forced(min(call.tools, key=unfit), call, reading, skill, seed)


def _tool_call(step: Step, skill: Skill, seed: bytes, place: int) -> ToolCall:
    arguments = dict(step.arguments)
    must = [name for name in required(parameters(step.tool)) if name in arguments]
    if must and _drawn(seed, f"slip {place}", skill.slips):
        del arguments[must[-1]]
    key = digest([seed.hex(), step.tool.name, str(place)]).hex()
    written = json.dumps(arguments, ensure_ascii=False).encode(errors="replace").decode()
    return ToolCall(f"call_{key[:16]}", step.tool.name, written)


def _structured(call: Call, reading: Reading, skill: Skill, seed: bytes) -> str:
    """Return JSON for the asked schema; empty when the schema itself cannot be read."""
    text = call.response_format.schema if call.response_format else ""
    try:
        schema: JSON = json.loads(text) if text else {}
    except ValueError:
        return ""
    value = fill_schema(schema if isinstance(schema, dict) else {}, _brief(call, reading, skill, seed))
    return json.dumps(value, ensure_ascii=False)


def _brief(call: Call, reading: Reading, skill: Skill, seed: bytes) -> Brief:
    guidance = "\n".join(message.text for message in call.messages if message.role is Role.SYSTEM)
    text = answer(call.messages, (), (), skill.sentences)
    listed = _listed_tools(call.messages)
    offered = tuple(tool for tool in call.tools if call.settings.tool_choice != f"tool:{tool.name}")
    return Brief(reading, offered or listed, guidance, text, second=_drawn(seed, "label", skill.mislabels))


def _listed_tools(messages: Sequence[Message]) -> tuple[Tool, ...]:
    """Return the tools a prompt describes in words: lines such as `- name(argument): what it does`, or their JSON."""
    found: dict[str, Tool] = {}
    for message in messages:
        if message.role not in {Role.SYSTEM, Role.USER}:
            continue
        for value in documents(message.text):
            for entry in value if isinstance(value, list) else [value]:
                inner = entry.get("function", entry) if isinstance(entry, dict) else None
                if isinstance(inner, dict) and isinstance(inner.get("name"), str) and "description" in inner:
                    schema = json.dumps(inner.get("parameters") or {})
                    found[str(inner["name"])] = Tool(str(inner["name"]), str(inner["description"]), schema)
        for line in message.text.splitlines():
            if match := LISTED.match(line):
                names = [name.split(":")[0].strip(" *?") for name in (match.group(2) or "").split(",")]
                fields = {name: {"type": "string"} for name in names if name.isidentifier()}
                schema = json.dumps({"type": "object", "properties": fields, "required": list(fields)})
                found.setdefault(match.group(1), Tool(match.group(1), match.group(3), schema))
    return tuple(found.values())


def _cut(text: str, call: Call, count_tokens: Callable[[str], int]) -> tuple[str, Finish]:
    """Obey the stop sequences and the output limit, as a provider does: a cut answer says that it was cut."""
    for stop in call.settings.stop:
        text = text.partition(stop)[0] if stop else text
    limit = call.settings.max_output_tokens
    if limit is None or count_tokens(text) <= limit:
        return text, Finish.STOP
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(text[:middle]) <= limit else (low, middle - 1)
    return text[:low], Finish.LENGTH


def _input_tokens(call: Call, count_tokens: Callable[[str], int]) -> int:
    """Count like a provider: each text, each tool call and schema, and four tokens of frame around every message."""
    total = 0
    for message in call.messages:
        total += 4 + (count_tokens(message.text) if message.parts else 0)
        total += sum(count_tokens(each.name) + count_tokens(each.arguments) for each in message.tool_calls)
    total += sum(count_tokens(f"{tool.name} {tool.description} {tool.parameters}") for tool in call.tools)
    return total + (count_tokens(call.response_format.schema) if call.response_format else 0)


def _drawn(seed: bytes, label: str, one_in: int) -> bool:
    """Draw from the digest of the conversation: true for one in so many, always the same for the same call."""
    return bool(one_in) and int.from_bytes(digest([seed.hex(), label])[:4], "big") % one_in == 0
