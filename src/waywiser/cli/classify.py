"""`waywiser classify`: what is asked, how hard it is, and which tier is enough."""

from __future__ import annotations

import argparse

from waywiser.cli.output import read_lines, write_json
from waywiser.core.classification import Classification
from waywiser.core.messages import Message, user
from waywiser.errors import BadInput
from waywiser.runtime import LazyClassifier, load
from waywiser.upstream.openai_inbound import read_messages, read_tools

TIERS = ("economy", "standard", "premium")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "classify",
        help="say what is asked, how hard it is, and which tier is enough",
        description="Reads one prompt a line (JSON: id, and text or messages, and optionally tools) and writes one "
        "classification a line, in the same order. Local: nothing is called.",
    )
    parser.add_argument("prompts", nargs="?", help="a JSONL file (default: standard input)")
    ladder = parser.add_mutually_exclusive_group()
    ladder.add_argument("--tiers", nargs="+", default=TIERS, metavar="NAME", help="the ladder, cheapest first")
    ladder.add_argument("--policy", help="a policy file: its ladder, and its own classifier if it names one")
    parser.add_argument("--json", action="store_true", help="accepted for symmetry: the output is always JSON lines")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Classify every line of the input."""
    tiers, own = args.tiers, None
    if args.policy:
        loaded = load(args.policy)
        tiers, own = [tier.name for tier in loaded.policy.tiers], loaded.classifier
    classifier = own or LazyClassifier()
    for place, line in read_lines(args.prompts):
        try:
            messages, tools = _messages(line), read_tools(line.get("tools"))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
        seen = classifier.classify(messages, tools, len(tiers))
        write_json({"id": line.get("id"), **classified(seen, tiers)})
    return 0


def classified(seen: Classification, tiers: list[str] | tuple[str, ...]) -> dict[str, object]:
    """Write a classification with the names of the tiers."""
    return {
        "task": seen.task.label,
        "difficulty": seen.difficulty.label,
        "sufficiency": {tier: round(enough, 4) for tier, enough in zip(tiers, seen.sufficiency, strict=False)},
        "risk": [risk.label for risk in seen.risk],
        "language": seen.language.label,
        "time_sensitive": seen.time_sensitive >= 0.5,
        "kind": seen.kind.label,
        "confidence": {
            "task": round(seen.task.confidence, 4),
            "difficulty": round(seen.difficulty.confidence, 4),
            "risk": {risk.label: round(risk.confidence, 4) for risk in seen.risk},
            "language": round(seen.language.confidence, 4),
            "time_sensitive": round(seen.time_sensitive, 4),
            "kind": round(seen.kind.confidence, 4),
        },
        "why": list(seen.why),
    }


def _messages(line: dict[str, object]) -> tuple[Message, ...]:
    if "messages" in line:
        return read_messages(line["messages"])
    text = line.get("text")
    if not isinstance(text, str):
        raise BadInput("expected `text` or `messages`")
    return (user(text),)
