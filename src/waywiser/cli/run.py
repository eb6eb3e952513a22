"""`waywiser run`: run a workflow under a policy, and show each step as it happens."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from waywiser.cli.output import plain, read_lines, table, usd, write_json
from waywiser.config.objects import died
from waywiser.core.conclude import NOTICE_MODEL
from waywiser.core.receipt import Receipt
from waywiser.errors import BadInput, WaywiserError
from waywiser.runtime import DEFAULT_STORE

if TYPE_CHECKING:
    from waywiser.langgraph.router import Session

COLUMNS = ("step", "node", "kind", "tier", "model", "in", "cached", "out", "cost", "why")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("run", help="run a workflow under a policy")
    parser.add_argument("graph", help="a graph file (YAML), or `module:object` for a LangGraph graph in Python")
    parser.add_argument("--policy", required=True, help="the policy file")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--input", help="what the person says (default: standard input)")
    given.add_argument("--inputs", help="a JSONL file of {id, input}: one run each")
    parser.add_argument("--session", default="", help="the session's id (default: a new one)")
    parser.add_argument("--tenant", default="", help="whose budget it is")
    parser.add_argument("--store", default=DEFAULT_STORE, help=f"the session store (default: {DEFAULT_STORE})")
    parser.add_argument("--json", action="store_true", help="write JSON, one line a run")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Run every input. The exit code is 1 when any run failed, was refused, or was ended by a fixed notice."""
    from waywiser.cli.graphs import answer_of, load_any_graph  # noqa: PLC0415 - LangGraph is slow to import
    from waywiser.langgraph.router import Router  # noqa: PLC0415 - as above

    if args.inputs is not None and args.session:
        raise BadInput("--session goes with one --input; each line of --inputs is a session of its own")
    inputs = list(_inputs(args))
    shown = Shown(quiet=args.json)
    code = 0
    with Router.from_policy(args.policy, store=args.store, sinks=[shown]) as router:
        graph = load_any_graph(args.graph, router)
        router.runtime.engine.warm_up()
        for run_id, text in inputs:
            shown.begin(text)
            answer, error = "", ""
            with router.session(args.session, tenant=args.tenant) as session:
                try:
                    answer = answer_of(graph, text, session.id)
                except WaywiserError as problem:
                    error = f"{problem.code}: {problem}"
                except Exception as problem:  # noqa: BLE001 - a tool or a node of the user's may raise anything
                    error = died("the graph failed", problem)
            if shown.broken is not None:
                raise shown.broken
            code = max(code, int(bool(error) or any(step.model == NOTICE_MODEL for step in shown.steps)))
            _finish(args, session, shown.steps, run_id, answer, error)
    return code


class Shown:
    """A sink that prints a line for each step as it happens, and keeps the steps of the run."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.steps: list[Receipt] = []
        self.broken: OSError | None = None

    def begin(self, text: str) -> None:
        """Begin a run: say what is asked."""
        self.steps = []
        if not self._quiet:
            print(f"» {plain(text.strip(), 500)}\n", flush=True)

    def emit(self, receipt: Receipt) -> None:
        """Print one finished step."""
        self.steps.append(receipt)
        if self._quiet or self.broken is not None:
            return
        what = receipt.refused or receipt.model
        loop = f"  [loop: {receipt.loop}]" if receipt.loop else ""
        try:
            print(f"  {receipt.step:>3}  {receipt.kind:<10} {what:<28} {usd(receipt.cost_nanos)}{loop}", flush=True)
        except OSError as error:  # whoever read our output has gone: this run is ended, no other begun
            self.broken = error


def _finish(
    args: argparse.Namespace, session: Session, steps: list[Receipt], run_id: object, answer: str, error: str
) -> None:
    steps = sorted(steps, key=lambda step: (step.step, step.at_s))
    simulated = any(step.simulated for step in steps)
    if args.json:
        write_json(
            {
                "id": run_id,
                "session": session.key,
                "answer": answer,
                "error": error or None,
                "simulated": simulated,
                "total_usd": sum(step.cost_nanos for step in steps) / 1e9,
                "top_tier_usd": sum(step.top_tier_nanos for step in steps) / 1e9,
                "steps": [_step(step) for step in steps],
            }
        )
        return
    print(f"\n{plain(answer or error)}\n")
    print(summary(steps))
    if simulated:
        print("simulated models: the answers are made up by rules, the prices are examples")
    if args.store != ":memory:":
        store = "" if args.store == DEFAULT_STORE else f" --store {shlex.quote(args.store)}"
        print(f"why each step went where it went: waywiser explain {shlex.quote(f'session:{session.key}')}{store}")


def summary(receipts: Any) -> str:
    """Lay out the steps of a run, the total, and what it would have cost on the top tier alone."""
    rows = [
        (
            str(receipt.step),
            "/".join(filter(None, (receipt.agent, receipt.node))) or "—",
            receipt.kind,
            receipt.tier or "—",
            receipt.model or receipt.refused,
            str(receipt.usage.input_tokens),
            str(receipt.usage.cached_tokens),
            str(receipt.usage.output_tokens),
            usd(receipt.cost_nanos),
            _why(receipt),
        )
        for receipt in receipts
    ]
    total = sum(receipt.cost_nanos for receipt in receipts)
    top = sum(receipt.top_tier_nanos for receipt in receipts)
    saved = f", {1 - total / top:.0%} saved" if top and total <= top else ""
    return (
        f"{table(COLUMNS, rows, right=(0, 5, 6, 7, 8))}\n\n"
        f"total {usd(total)}; the same run on the top tier alone {usd(top)}{saved}"
    )


def _why(receipt: Receipt) -> str:
    """The reasons in short: what failed on the way, then what decided the tier."""
    failed = [f"{attempt.model} {attempt.failure}" for attempt in receipt.attempts if attempt.failure]
    return "; ".join((*failed, f"{receipt.kind_by}: {'; '.join(receipt.reasons[:2])}"))[:110]


def _step(receipt: Receipt) -> dict[str, object]:
    return {
        "receipt": receipt.id,
        "step": receipt.step,
        "agent": receipt.agent,
        "node": receipt.node,
        "kind": receipt.kind,
        "kind_by": receipt.kind_by,
        "tier": receipt.tier,
        "model": receipt.model,
        "input_tokens": receipt.usage.input_tokens,
        "cached_tokens": receipt.usage.cached_tokens,
        "output_tokens": receipt.usage.output_tokens,
        "cost_usd": receipt.cost_nanos / 1e9,
        "top_tier_usd": receipt.top_tier_nanos / 1e9,
        "refused": receipt.refused or None,
        "attempts": len(receipt.attempts),
        "reasons": list(receipt.reasons),
    }


def _inputs(args: argparse.Namespace) -> Iterator[tuple[object, str]]:
    if args.inputs is not None:
        for place, line in read_lines(args.inputs):
            text = line.get("input")
            if not isinstance(text, str) or not text.strip():
                raise BadInput(f"{place}: input: expected a text that is not empty")
            yield line.get("id", place), text
        return
    text = args.input
    if text is None:
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"stdin: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise BadInput("--input: empty, there is nothing to answer")
    yield "1", text
