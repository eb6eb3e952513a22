"""`waywiser check`: say everything that is wrong or unwise in a policy before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from waywiser.cli.output import table, write_json
from waywiser.config.policy import LoadedPolicy
from waywiser.core.budget import Limits
from waywiser.core.steps import StepKind
from waywiser.errors import BadInput, ConfigError, Problem
from waywiser.runtime import load, missing_keys


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("check", help="check a policy before anything runs")
    parser.add_argument("policy", help="the policy file")
    parser.add_argument("graph", nargs="?", help="a graph to check under it: a file, or `module:object`")
    parser.add_argument("--mermaid", action="store_true", help="draw the graph with its tiers as colours (Mermaid)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Check and report. The exit code is 2 when the policy can't be used."""
    try:
        loaded = load(args.policy)
    except ConfigError as error:
        if not args.json:
            raise
        write_json({"ok": False, "errors": [problem(entry) for entry in error.problems], "warnings": []})
        return 2
    warnings = (*loaded.warnings, *missing_keys(loaded, {}))
    if args.graph is None:
        if args.mermaid:
            raise BadInput("--mermaid: which graph? name it after the policy")
        if args.json:
            write_json({"ok": True, "errors": [], "warnings": [problem(entry) for entry in warnings]})
            return 0
        print(_summary(loaded, warnings))
        for warning in warnings:
            print(f"warning: {warning}")
        return 0
    return _with_graph(args, loaded, warnings)


def _with_graph(args: argparse.Namespace, loaded: LoadedPolicy, warnings: tuple[Problem, ...]) -> int:
    from waywiser.cli.check_graph import check_graph, report  # noqa: PLC0415 - LangGraph is slow to import

    found = check_graph(args.graph, loaded)
    if args.mermaid:
        print(found.mermaid, end="")
    elif args.json:
        said = asdict(found)
        said["cycles"] = [str(cycle) for cycle in found.cycles]
        said["graph_warnings"] = said.pop("warnings")
        write_json({"ok": True, "errors": [], "warnings": [problem(entry) for entry in warnings], **said})
    else:
        print(f"{_summary(loaded, (*warnings, *found.warnings))}\n\n{report(found)}")
        for warning in (*warnings, *found.warnings):
            print(f"warning: {warning}")
    return 0


def problem(entry: Problem) -> dict[str, object]:
    """Write a problem as JSON."""
    return {
        "file": entry.place.file,
        "line": entry.place.line,
        "column": entry.place.column,
        "message": entry.message,
        "hint": entry.hint,
    }


def _summary(loaded: LoadedPolicy, warnings: Sequence[object]) -> str:
    policy = loaded.policy
    verdict = f"can be used, with {_count(len(warnings))}, see below" if warnings else "fine"
    tiers = table(
        ("tier", "models", "USD per M in", "out", "context"),
        [
            (
                tier.name,
                model.name,
                f"{model.prices[0].input_picos / 1e6:g}",
                f"{model.prices[0].output_picos / 1e6:g}",
                f"{model.context_tokens:,}",
            )
            for tier in policy.tiers
            for model in tier.models
        ],
        right=(2, 3, 4),
    )
    steps = ", ".join(f"{kind} → {policy.step_rule(kind).tier or 'auto'}" for kind in StepKind)
    return (
        f"policy {policy.name}: {verdict}\n\n{tiers}\n\nsteps: {steps}\nrules: {len(policy.rules)}\n"
        f"a session: {_limits(policy.budget.session)} ({policy.budget.estimate} estimates); "
        f"when that is used up: {policy.budget.on_exhausted}"
    )


def _count(number: int) -> str:
    return "a warning" if number == 1 else f"{number} warnings"


def _limits(limits: Limits) -> str:
    said = [
        f"{limits.nanos / 1e9:g} USD" if limits.nanos is not None else "",
        f"{limits.tokens:,} tokens" if limits.tokens is not None else "",
        f"{limits.llm_calls} model calls" if limits.llm_calls is not None else "",
        f"{limits.tool_calls} tool calls" if limits.tool_calls is not None else "",
        f"{limits.seconds:g} s" if limits.seconds is not None else "",
    ]
    return ", ".join(entry for entry in said if entry) or "no limit"
