"""`waywiser replay`: price a policy on recorded sessions, before it goes live. Nobody is called."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from waywiser.cli.output import write_json
from waywiser.errors import BadInput
from waywiser.replay.result import SessionResult


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        help="price a policy on recorded sessions",
        description="Runs the real decisions (classifier, policy, budget, loops, scores with warm prefixes) over recorded "
        "sessions. Nobody is called and no reply is made anew, so quality is not simulated.",
    )
    parser.add_argument("traces", help="recorded sessions, receipts, LangSmith runs, OpenTelemetry spans or chat logs")
    parser.add_argument("--policy", required=True, help="the policy to price")
    parser.add_argument("--against", help="a second policy to compare it with (the one in force)")
    parser.add_argument("--tools", default="", help="tool definitions to offer where a recording names none")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--decisions", action="store_true", help="with --json: every decision of every session")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Replay, report, and judge. The exit code is 1 when the new policy does not hold against the old one."""
    from waywiser.replay.totals import Problems, Totals  # noqa: PLC0415 - numpy, which the other commands never need
    from waywiser.replay.recording import Problem  # noqa: PLC0415
    from waywiser.replay.work import Order, replayed  # noqa: PLC0415

    path = Path(args.traces)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    names = tuple(filter(None, (args.policy, args.against)))
    order = Order(names, args.tools, args.decisions)
    totals = [Totals(name) for name in names]
    problems = Problems()
    out = [[] for _ in names]
    for item in replayed(path, order, workers=args.workers):
        if isinstance(item, Problem):
            problems.add(item)
            continue
        for index, result in enumerate(item):
            totals[index].add(result)
            out[index].append(session_json(result))
    write_json({"sessions": out[0], "totals": totals[0].as_json(problems)})
    return 0


def session_json(result: SessionResult) -> dict[str, object]:
    """Write one session as `--json` prints it. Money in USD."""
    stopped = result.stopped
    return {
        "id": result.id,
        "task_id": result.task_id or None,
        "success": result.success,
        "calls": result.calls,
        "recorded_cost_usd": None if result.recorded_nanos is None else result.recorded_nanos / 1e9,
        "cost_usd": result.cost_nanos / 1e9,
        "top_tier_cost_usd": result.top_nanos / 1e9,
        "switches": result.switches,
        "stopped": None if stopped is None else {"by": stopped.by, "step": stopped.step, "reason": stopped.reason},
    }
