"""`waywiser route`: decide where calls would go, without calling anyone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from waywiser.cli.output import read_lines, write_json
from waywiser.core.calls import Call, Origin, Tool
from waywiser.core.classification import Classification, Head
from waywiser.core.receipt import Receipt
from waywiser.core.steps import KINDS
from waywiser.engine import Engine
from waywiser.errors import BadInput
from waywiser.runtime import build, load
from waywiser.upstream.openai_inbound import read_messages, read_tools


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "route",
        help="decide where calls would go, without calling",
        description="Reads one call a line (JSON: id, messages, and optionally session, tools, node, kind, tenant, "
        "labels) and writes one decision a line, in the same order.",
    )
    parser.add_argument("calls", nargs="?", help="a JSONL file (default: standard input)")
    parser.add_argument("--policy", required=True, help="the policy file")
    parser.add_argument("--json", action="store_true", help="accepted for symmetry: the output is always JSON lines")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Decide every call of the input. The exit code is 1 when any was refused."""
    runtime = build(load(args.policy), store=":memory:", need_keys=False, live=False)
    runtime.engine.warm_up()
    refused = False
    for place, line in read_lines(args.calls):
        receipt = runtime.engine.decide(read_call(line, place, runtime.engine))
        refused = refused or bool(receipt.refused)
        write_json(decision(line.get("id", receipt.id), receipt))
    return int(refused)


def read_call(line: Mapping[str, Any], place: str, engine: Engine) -> Call:
    """Read one line of the input. Raises `BadInput` with its place."""
    call_id = engine.clock.new_id()
    texts = {}
    for key in ("session", "node", "kind", "tenant", "agent"):
        value = line.get(key, "")
        if not isinstance(value, str):
            raise BadInput(f"{place}: {key}: expected text, got {type(value).__name__}")
        texts[key] = value
    if texts["kind"] and texts["kind"] not in KINDS:
        raise BadInput(f"{place}: kind: {texts['kind']!r} is none of {', '.join(sorted(KINDS))}")
    labels = line.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise BadInput(f"{place}: labels: expected a mapping of text to text")
    try:
        messages, tools = read_messages(line.get("messages")), _tools(orjson.dumps(line.get("tools")))
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    origin = Origin(
        session=texts["session"] or call_id,
        tenant=texts["tenant"],
        agent=texts["agent"],
        node=texts["node"],
        labels=labels,
        kind=texts["kind"],
        kind_by="the call" if texts["kind"] else "",
    )
    return Call(call_id, messages, tools, origin=origin)


@lru_cache(maxsize=64)
def _tools(written: bytes) -> tuple[Tool, ...]:
    """Read tools. An agent sends the same ones with every call: read once, they keep what was counted of them."""
    return read_tools(orjson.loads(written))


def decision(call_id: object, receipt: Receipt) -> dict[str, object]:
    """Write a decision as `waywiser route` prints it."""
    return {
        "id": call_id,
        "kind": receipt.kind,
        "kind_by": receipt.kind_by,
        "tier": receipt.tier,
        "model": receipt.model,
        "refused": receipt.refused or None,
        "reasons": list(receipt.reasons),
        "classification": classification(receipt.classification),
        "decision_ms": round(receipt.decision_ms, 4),
    }


def classification(seen: Classification | None) -> dict[str, object]:
    """Write what the classifier said: only what it was asked, so empty when the policy needed nothing of it."""
    if seen is None:
        return {}
    said: dict[Head, object] = {
        Head.TASK: seen.task.label,
        Head.DIFFICULTY: seen.difficulty.label,
        Head.SUFFICIENCY: list(seen.sufficiency),
        Head.RISK: [risk.label for risk in seen.risk],
        Head.LANGUAGE: seen.language.label,
        Head.TIME_SENSITIVE: seen.time_sensitive,
        Head.KIND: seen.kind.label,
    }
    return {**{head.value: said[head] for head in seen.heads}, "why": list(seen.why)}
