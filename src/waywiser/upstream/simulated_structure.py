"""How a simulated model fills a JSON schema: choices by the words they share with the prompt, plans from the tools.

The result is valid against the schema for the keywords models are given in practice: type, enum, const, properties,
required, items, bounds on numbers, lengths and counts, unions, references. Recursion ends at `DEPTH`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from waywiser.core.calls import JSON, Tool
from waywiser.upstream.simulated_arguments import Schema, Want, nearest, properties, required, resolve
from waywiser.upstream.simulated_reading import Clause, keywords, stems
from waywiser.upstream.simulated_tools import THINGS, Reading, chain, goals

DEPTH = 12
_AGREES = frozenset(
    [
        "ok",
        "pass",
        "passed",
        "approved",
        "approve",
        "accept",
        "accepted",
        "done",
        "complete",
        "sufficient",
        "good",
        "valid",
        "supported",
        "correct",
    ]
)
_TASK_WORDS = frozenset(
    [
        "task",
        "goal",
        "description",
        "instruction",
        "step",
        "title",
        "action",
        "what",
        "objective",
        "name",
        "prompt",
        "query",
        "question",
    ]
)
_DEPENDS = re.compile(r"depend|after|needs|requires|prereq|parents|inputs_from")
_DEGREE = re.compile(r"confiden|score|probab|rating|quality|certain|relevan|grade")
_PEOPLE = stems("customer")
_HURRY = frozenset(["urgent", "immediately", "asap", "emergency", "now", "angry", "terrible", "critical", "today"])


@dataclass(frozen=True, slots=True)
class Brief:
    """What the filler knows: the reading, the tools a plan may use, the prompt's explanations, an answer in words.

    `second` makes it take the second-best of a set of choices, as a weaker model sometimes does.
    """

    reading: Reading
    tools: tuple[Tool, ...]
    guidance: str
    text: str
    second: bool = False

    @property
    def topic(self) -> str:
        """What the request is about, in a few of its own words."""
        return keywords(" ".join(clause.text for clause in self.reading.asked), 6)

    @property
    def request(self) -> str:
        """Everything people asked, newest first."""
        return " ".join(clause.text for clause in reversed(self.reading.asked))


@dataclass(frozen=True, slots=True)
class Task:
    """One sub-task of a plan: `after` are the places of the tasks it needs."""

    text: str
    tool: str
    after: tuple[int, ...]


def fill_schema(schema: Schema, brief: Brief) -> JSON:
    """Return a value that is valid against `schema`; an empty schema gets an object with the answer in words."""
    if not properties(schema) and not any(
        key in schema for key in ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref")
    ):
        return {"answer": brief.text}
    return _value("", schema, schema, brief, DEPTH)


def tasks(brief: Brief) -> list[Task]:
    """Break the request down: one chain of tools for each thing asked; what two chains share is done once."""
    found: dict[tuple[str, str], Task] = {}
    for tool, want in goals(brief.tools, brief.reading.asked, brief.reading.known):
        links = chain(tool, want, brief.tools, brief.reading)
        # who is asking is found out once, whatever is asked
        keys = {link: (link.name, "" if stems(link.name) & _PEOPLE else want.anchor) for link in links}
        for link, sources in links.items():
            order = list(found)
            text = _worded(link, want, brief, last=link is tool)
            found.setdefault(keys[link], Task(text, link.name, tuple(order.index(keys[source]) for source in sources)))
    if found:
        return list(found.values())
    return [Task(clause.text, "", ()) for clause in brief.reading.asked[-3:]] or [Task("Answer the request.", "", ())]


def _worded(link: Tool, want: Want, brief: Brief, *, last: bool) -> str:
    """Word a sub-task so that whoever gets it alone has the ids and the details a person gave."""
    title = link.name.replace("_", " ").capitalize()
    if last:
        about = f"{want.anchor}: " if want.anchor and want.anchor not in want.clause.text else ""
        return f"{title} for: {about}{want.clause.text}"
    if stems(link.name) & _PEOPLE:
        given = [f"{f.kind}: {f.value}" for f in brief.reading.known if f.said and f.kind in {"email", "name", "zip"}]
        return f"{title} by {', '.join(dict.fromkeys(given)) or 'what was said'}"
    return f"{title} {want.anchor}".strip()


def _value(name: str, schema: Schema, root: Schema, brief: Brief, depth: int) -> JSON:
    depth -= "$ref" in str(list(schema.items())[:4])  # a recursive schema ends sooner
    schema = resolve(schema, root)
    if "const" in schema or depth < 0:
        return schema.get("const")
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return _choose(choices, schema, brief)
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), "null") if isinstance(kind, list) else kind
    kind = kind or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if kind == "object":
        return _object(schema, root, brief, depth)
    if kind == "array":
        return _array(name, schema, root, brief, depth)
    if kind == "boolean":
        return _boolean(name, schema, brief)
    if kind in {"integer", "number"}:
        return _bounded(name, schema, brief, whole=kind == "integer")
    return None if kind == "null" else _string(name, schema, brief)


def _object(schema: Schema, root: Schema, brief: Brief, depth: int) -> JSON:
    must = required(schema)
    wanted = [(name, field) for name, field in properties(schema).items() if name in must or depth > DEPTH // 2]
    filled = {name: _value(name, field, root, brief, depth - 1) for name, field in wanted if depth > 0 or name in must}
    extra = schema.get("additionalProperties")
    for name in must:
        if name not in filled:
            filled[name] = _value(
                name, extra if isinstance(extra, dict) else {"type": "string"}, root, brief, depth - 1
            )
    return filled


def _array(name: str, schema: Schema, root: Schema, brief: Brief, depth: int) -> JSON:
    least = min(_whole(schema.get("minItems"), 0), 1000)
    most = _whole(schema.get("maxItems"), 12)
    items = schema.get("items")
    item = resolve(items, root) if isinstance(items, dict) else {"type": "string"}
    if depth <= 0 or _DEPENDS.search(name):
        return [_value(name, item, root, brief, depth - 1) for _ in range(least)]
    choices = item.get("enum")
    if _is_task(item):
        return [
            _task_value(task, place, item, root, brief, depth)
            for place, task in enumerate(tasks(brief)[: max(most, 1)])
        ]
    if isinstance(choices, list) and choices:
        found: list[JSON] = [choice for choice in choices if stems(str(choice)) & stems(brief.request)]
        found = found or [nearest(choices, [brief.request])]
    elif item.get("type") == "string" and "tool" in name:
        found = [task.tool for task in tasks(brief) if task.tool]
    elif item.get("type") == "string" and stems(name) & stems("step task query question point subtask"):
        found = [task.text for task in tasks(brief)]
    elif item.get("type") == "string":
        found = list[JSON](keywords(brief.request).split()[:3])
    else:
        found = [_value(name.removesuffix("s"), item, root, brief, depth - 1)]
    found = [value for place, value in enumerate(found) if value not in found[:place]][:most]
    spare = [choice for choice in choices if choice not in found] if isinstance(choices, list) else []
    while len(found) < least:
        found.append(spare.pop(0) if spare else _other(_value(name, item, root, brief, depth - 1), len(found)))
    return found


def _is_task(item: Schema) -> bool:
    names = set(properties(item))
    told = any(set(re.split("[_-]", name.lower())) & _TASK_WORDS for name in names)
    return told and any("tool" in name or _DEPENDS.search(name) or name in {"id", "step", "agent"} for name in names)


def _task_value(task: Task, place: int, item: Schema, root: Schema, brief: Brief, depth: int) -> JSON:
    """Fill one sub-task: ids are `t1`, `t2`, … (or numbers), dependencies name earlier ones."""
    clause = Clause(task.text, 0, stems(task.text))
    narrow = replace(brief, reading=replace(brief.reading, asked=(clause,)), text=task.text)
    filled: dict[str, JSON] = {}
    for name, raw in properties(item).items():
        field = resolve(raw, root)
        inner = resolve(field["items"], root) if isinstance(field.get("items"), dict) else {}  # type: ignore[arg-type]
        if name in {"id", "task_id", "step_id", "number", "index"}:
            filled[name] = place + 1 if field.get("type") in {"integer", "number"} else f"t{place + 1}"
        elif _DEPENDS.search(name) and field.get("type") == "array":
            numbers = inner.get("type") in {"integer", "number"}
            filled[name] = [i + 1 if numbers else f"t{i + 1}" for i in task.after]
        elif "tool" in name and field.get("type") in {"array", "string", None}:
            offered = inner.get("enum") or field.get("enum")
            known = task.tool and (not isinstance(offered, list) or task.tool in offered)
            if field.get("type") == "array":
                filled[name] = [task.tool] if known else []
            elif known or name in required(item):
                filled[name] = task.tool if known else _value(name, field, root, narrow, depth - 1)
        elif (
            set(re.split("[_-]", name.lower())) & _TASK_WORDS and field.get("type") == "string" and "enum" not in field
        ):
            filled[name] = _fitting(task.text, field)
        elif name in required(item):
            filled[name] = _value(name, field, root, narrow, depth - 1)
    return filled


def _choose(choices: Sequence[JSON], schema: Schema, brief: Brief) -> JSON:
    """Take the choice whose own words, or whose explanation in the prompt, share most with the newest request."""
    told = f"{brief.guidance}\n{schema.get('description', '')}"
    agreeing = [choice for choice in choices if str(choice).lower() in _AGREES]
    asked = brief.reading.asked
    ranked = []
    for place, choice in enumerate(choices):
        own = stems(str(choice))
        lines = [part for part in re.split(r"[\n;]+", told) if re.search(rf"\b{re.escape(str(choice))}\b", part)]
        explained = stems(" ".join(lines)) - own if len(lines) < 3 else frozenset[str]()
        weight = 0.0
        for clause in asked:
            weight += (
                2.0 * len(own & clause.stems - THINGS)
                + 0.7 * len(own & clause.stems & THINGS)
                + 0.5 * len(explained & clause.stems)
            )
        weight += 0.4 * (str(choice).lower() in {"other", "general", "none", "unknown", "question"}) + 0.3 * (
            choice in agreeing
        )
        weight += _degree(str(choice), brief)
        ranked.append((-weight, place, choice))
    ranked.sort(key=lambda entry: entry[:2])
    return ranked[1 if brief.second and len(ranked) > 1 else 0][2]


def _degree(choice: str, brief: Brief) -> float:
    """A lean for scales such as low, medium, high: by hurry and by how much is asked."""
    asked = brief.request.lower()
    heavy = bool(_HURRY & set(re.findall(r"[a-z]+", asked))) or len(brief.reading.asked) > 6
    light = len(asked.split()) < 15 and not heavy
    wanted = (
        {"high", "urgent", "hard", "complex"}
        if heavy
        else {"low", "easy", "simple"}
        if light
        else {"medium", "normal", "moderate"}
    )
    return 0.35 * (choice.lower() in wanted)


def _boolean(name: str, schema: Schema, brief: Brief) -> bool:
    words = set(re.findall(r"[a-z]+", name.lower()))
    if words & _AGREES:
        return not brief.second
    own = stems(f"{name} {schema.get('description', '')}")
    return len(own & stems(brief.request)) > 1


def _bounded(name: str, schema: Schema, brief: Brief, *, whole: bool) -> int | float:
    low, high = _number(schema.get("minimum")), _number(schema.get("maximum"))
    above, below = _number(schema.get("exclusiveMinimum")), _number(schema.get("exclusiveMaximum"))
    step = 1.0 if whole else 1e-3
    low = above + step if above is not None else low
    high = below - step if below is not None else high
    said = [
        f.value
        for f in brief.reading.known
        if f.kind == "number" and isinstance(f.value, int | float) and stems(f.key) & stems(name)
    ]
    if _DEGREE.search(name.lower()):
        start = 0.0 if low is None else low
        end = (10.0 if whole else 1.0) if high is None else high
        value = start + (end - start) * (0.6 if brief.second else 0.8)
    else:
        value = float(said[-1]) if said else (low if low is not None else 1.0)
    value = max(value, low) if low is not None else value
    value = min(value, high) if high is not None else value
    multiple = _number(schema.get("multipleOf"))
    if multiple:
        value = math.ceil((low or 0.0) / multiple) * multiple if low is not None else 0.0
    return math.ceil(value - 1e-9) if whole else round(value, 4)


def _string(name: str, schema: Schema, brief: Brief) -> str:  # noqa: PLR0911 - a table of names
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    known = [fact for fact in brief.reading.known if isinstance(fact.value, str)]
    exact = [
        str(f.value)
        for f in known
        if f.key.lower() == name.lower() or (f.kind in words and f.kind not in {"text", "number"})
    ]
    ids = [str(f.value) for f in known if f.kind == "id" and stems(f.key) & stems(name)]
    if schema.get("format") in {"date", "date-time"} or "date" in words:
        date = next((str(f.value) for f in reversed(known) if f.kind == "date"), "2026-01-01")
        return f"{date}T00:00:00Z" if schema.get("format") == "date-time" else date
    if exact or (ids and "id" in words):
        return _fitting((exact or ids)[-1], schema)
    if "tool" in words or words & {"agent", "next", "route"}:
        chosen = [tool.name for tool, _ in goals(brief.tools, brief.reading.asked)]
        return _fitting(chosen[0] if chosen else brief.tools[0].name if brief.tools else "none", schema)
    if words & {"language", "lang", "locale"}:
        return _fitting("en", schema)
    if words & {"query", "topic", "title", "subject", "keywords", "label", "category", "intent", "name"}:
        return _fitting(brief.topic or "request", schema)
    if words & {"reason", "rationale", "why", "explanation", "reasoning", "because"}:
        return _fitting(f"The request speaks of {brief.topic or 'nothing in particular'}.", schema)
    if words & {"feedback", "critique", "issue", "issues", "problem", "problems", "missing"}:
        return _fitting(f"Say more about {brief.topic}." if brief.second else "Nothing to correct.", schema)
    if words & {"goal", "task", "request", "question", "instruction", "objective"}:
        return _fitting(brief.reading.asked[0].text if brief.reading.asked else "Answer the request.", schema)
    return _fitting(brief.text, schema)


def _fitting(text: str, schema: Schema) -> str:
    """Make a text meet its length bounds and, where a simple candidate does, its pattern."""
    text = text[: _whole(schema.get("maxLength"), 4000)]
    text += "." * (min(_whole(schema.get("minLength"), 0), 20_000) - len(text))
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            wanted = re.compile(pattern)
        except re.error:
            return text
        word = "".join(re.findall(r"[a-z]+", text.lower()))
        digits = "".join(re.findall(r"\d", text)) or "1"
        tries = [
            text,
            *text.split(),
            word,
            word[:8],
            digits,
            "a",
            "A",
            "a1",
            "A1",
            "t1",
            "T1",
            "A-1",
            *(n * "1" for n in range(1, 17)),
            *(n * "A" for n in range(1, 9)),
        ]
        return next((candidate for candidate in tries if wanted.search(candidate)), text)
    return text


def _other(value: JSON, place: int) -> JSON:
    """Return a variation, for lists whose items must differ."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    return f"{value} {place + 1}" if isinstance(value, str) else value + place


def _whole(value: JSON, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _number(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
