"""How a simulated model fills a JSON schema: choices by the words they share with the prompt, plans from the tools.

The result is valid against the schema for the keywords models are given in practice: type, enum, const, properties,
required, items, bounds on numbers, lengths and counts, unions, references. Recursion ends at `DEPTH`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from waywiser.core.calls import JSON
from waywiser.upstream.simulated_arguments import Schema, nearest, properties, required, resolve
from waywiser.upstream.simulated_plans import Brief, Task, tasks
from waywiser.upstream.simulated_reading import Clause, keywords, stems
from waywiser.upstream.simulated_tools import THINGS, goals

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
_HURRY = frozenset(["urgent", "immediately", "asap", "emergency", "now", "angry", "terrible", "critical", "today"])


def fill_schema(schema: Schema, brief: Brief) -> JSON:
    """Return a value that is valid against `schema`; an empty schema gets an object with the answer in words."""
    if not properties(schema) and not any(
        key in schema for key in ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref")
    ):
        return {"answer": brief.text}
    return _value("", schema, schema, brief, DEPTH)


def _value(name: str, schema: Schema, root: Schema, brief: Brief, depth: int) -> JSON:
    depth -= _refers(schema)  # a recursive schema ends sooner
    schema = resolve(schema, root)
    if "const" in schema or depth < -4:
        return schema.get("const")
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return _choose(choices, schema, brief)
    kind = _type(schema)
    if kind == "object":
        return _object(schema, root, brief, depth) if depth >= 0 else None
    if kind == "array":
        return _array(name, schema, root, brief, depth)
    if kind == "boolean":
        return _boolean(name, schema, brief)
    if kind in {"integer", "number"}:
        return _bounded(name, schema, brief, whole=kind == "integer")
    return None if kind == "null" else _string(name, schema, brief)


def _refers(schema: Schema) -> bool:
    unions = [schema.get(key) for key in ("anyOf", "oneOf", "allOf")]
    return "$ref" in schema or any("$ref" in b for u in unions if isinstance(u, list) for b in u if isinstance(b, dict))


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
        plan = tasks(brief)[:most]
        plan += [Task("Check what was found.", "", (i - 1,) if i else ()) for i in range(len(plan), least)]
        return [_task_value(task, place, item, root, brief, depth) for place, task in enumerate(plan)]
    if isinstance(choices, list) and choices:
        found: list[JSON] = [choice for choice in choices if stems(str(choice)) & stems(brief.request)]
        found = found or [nearest(choices, [brief.request])]
    elif "const" in item or "format" in item:
        found = [_value(name, item, root, brief, depth - 1)]
    elif _type(item) == "string" and "tool" in name:
        found = [task.tool for task in tasks(brief) if task.tool]
    elif _type(item) == "string" and stems(name) & stems("step task query question point subtask"):
        found = [task.text for task in tasks(brief)]
    elif _type(item) == "string":
        found = list[JSON](keywords(brief.request).split()[:3])
    else:
        found = [_value(name.removesuffix("s"), item, root, brief, depth - 1)]
    if _type(item) == "string" and not choices and "const" not in item:
        found = [_fitting(str(value), item) for value in found]
    found = [value for place, value in enumerate(found) if value not in found[:place]][:most]
    spare = [choice for choice in choices if choice not in found] if isinstance(choices, list) else []
    while len(found) < least:
        more = spare.pop(0) if spare else _value(name, item, root, brief, depth - 1)
        found.append(_other(more, len(found)) if schema.get("uniqueItems") and not spare else more)
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
        value = None if "enum" in field or "const" in field else _task_field(name, field, root, task, place)
        if value is not None:
            filled[name] = value
        elif name in required(item):
            offered = field.get("enum")
            known = isinstance(offered, list) and task.tool in offered
            filled[name] = task.tool if known else _value(name, field, root, narrow, depth - 1)
    return filled


def _task_field(name: str, field: Schema, root: Schema, task: Task, place: int) -> JSON:
    """Return what the sub-task says of a field by its name and type; None where it says nothing."""
    kind, words = _type(field), set(re.split("[_-]", name.lower()))
    if kind == "array":
        items = field.get("items")
        inner = resolve(items, root) if isinstance(items, dict) else {}
        offered = inner.get("enum", [task.tool])
        numbers = _type(inner) in {"integer", "number"}
        found: list[JSON] = [i + 1 if numbers else f"t{i + 1}" for i in task.after] if _DEPENDS.search(name) else []
        if "tool" in name and task.tool and isinstance(offered, list) and task.tool in offered and not numbers:
            found = [task.tool]
        return found if len(found) >= _whole(field.get("minItems"), 0) and (found or _DEPENDS.search(name)) else None
    if words & {"id", "number", "index"} and kind in {"string", "integer"}:
        bounded = {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"} & field.keys()
        return _fitting(f"t{place + 1}", field) if kind == "string" else None if bounded else place + 1
    if kind != "string" or not words & (_TASK_WORDS | {"tool"}):
        return None
    text = task.tool if "tool" in words else task.text
    return _fitting(text, field) if text else None


def _type(schema: Schema) -> str:
    """Return the one type to fill, of a list the first real one; told by the other keywords where none is given."""
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), "null") if isinstance(kind, list) else kind
    return str(kind or ("object" if "properties" in schema else "array" if "items" in schema else "string"))


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
        return _fitting(f"{date}T00:00:00Z" if schema.get("format") == "date-time" else date, schema)
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
