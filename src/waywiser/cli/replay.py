"""`waywiser replay`: price a policy on recorded sessions, before it goes live. Nobody is called."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from waywiser.cli.output import table, usd, write_json
from waywiser.core.budget import Limits
from waywiser.errors import BadInput
from waywiser.runtime import LazyClassifier, load

if TYPE_CHECKING:
    from waywiser.replay.comparison import Comparison
    from waywiser.replay.outcomes import Frontier
    from waywiser.replay.result import SessionResult
    from waywiser.replay.totals import Problems, Totals
    from waywiser.replay.work import Order, Replayed

BAR = 30
REDRAW_S = 0.2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        help="price a policy on recorded sessions",
        description="Runs the real decisions (classifier, policy, budget, loops, scores with warm prefixes) over "
        "recorded sessions. Nobody is called and no reply is made anew, so quality is not simulated.",
    )
    parser.add_argument("traces", help="sessions, receipts, LangSmith runs, OpenTelemetry spans, chat logs; .gz too")
    parser.add_argument("--policy", required=True, help="the policy to price")
    parser.add_argument("--against", help="the policy in force: exit 1 if the new one costs more or stops successes")
    parser.add_argument(
        "--max-increase", type=float, default=0.0, metavar="PERCENT", help="how much more it may cost (default: 0)"
    )
    parser.add_argument("--outcomes", metavar="FILE", help="outcomes of several models on the same tasks (JSON)")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page, too")
    parser.add_argument("--tools", default="", metavar="FILE", help="tools to offer where a recording names none")
    parser.add_argument("--resume", metavar="FILE", help="keep results here, and go on from them after an interruption")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--decisions", action="store_true", help="with --json: every decision of every session")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:  # noqa: C901 - one run, its parts in order
    """Replay, report, and judge. The exit code is 1 when the new policy does not hold against the one in force."""
    # Numpy and the processes are only for those who replay.
    from waywiser.replay.comparison import Comparison  # noqa: PLC0415 - only for this command
    from waywiser.replay.recording import Problem  # noqa: PLC0415 - only for this command
    from waywiser.replay.totals import Problems, Totals  # noqa: PLC0415 - only for this command
    from waywiser.replay.work import Order  # noqa: PLC0415 - only for this command

    path = Path(args.traces)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    files = tuple(filter(None, (args.policy, args.against)))
    loaded = [load(file) for file in files]
    policies = [one.policy for one in loaded]
    names = _names(files, [policy.name for policy in policies])
    totals = [Totals(name, policy.budget.tenant != Limits()) for name, policy in zip(names, policies, strict=True)]
    problems = Problems()
    comparison = Comparison(args.max_increase / 100) if args.against else None
    writer = _Writer() if args.json else None
    order = Order(files, args.tools, args.decisions)
    for item in _results(path, order, args):
        if isinstance(item, Problem):
            problems.add(item)
            continue
        for total, result in zip(totals, item, strict=True):
            total.add(result)
        if comparison is not None:
            comparison.add(*item)
        if writer is not None:
            writer.session(item, decisions=args.decisions)
    if not totals[0].sessions and writer is None:
        raise BadInput(_nothing(path, problems))
    frontier = None
    if args.outcomes:
        from waywiser.replay.outcomes import frontier as drawn  # noqa: PLC0415 - only for this command

        frontier = drawn(Path(args.outcomes), policies[0], loaded[0].classifier or LazyClassifier())
    if args.html:
        from waywiser.replay.page import page  # noqa: PLC0415 - only for this command

        text = page(totals, problems, source=path.name, comparison=comparison, frontier=frontier)
        Path(args.html).write_text(text, encoding="utf-8")
    if writer is not None:
        writer.end(totals, problems, comparison, frontier)
        if not totals[0].sessions:
            raise BadInput(_nothing(path, problems))
    else:
        _print(totals, problems, comparison, frontier)
    return int(comparison is not None and bool(comparison.against()))


def _names(files: tuple[str, ...], names: list[str]) -> list[str]:
    """Call the policies by their names; by their files where two have the same."""
    return names if len(set(names)) == len(names) else list(files)


def _results(path: Path, order: Order, args: argparse.Namespace) -> Iterator[Replayed]:
    """Replay, with a progress bar on a terminal, and a checkpoint where one is asked for."""
    from waywiser.replay.checkpoint import Checkpoint, fingerprint  # noqa: PLC0415 - only for this command
    from waywiser.replay.work import replayed  # noqa: PLC0415 - only for this command

    with ExitStack() as stack:
        bar = stack.enter_context(_Bar(path.stat().st_size))
        checkpoint = None
        skip = 0
        if args.resume:
            checkpoint = stack.enter_context(Checkpoint(Path(args.resume), fingerprint(path, order)))
            for item in checkpoint.earlier():
                skip += 1
                yield item
        for item in replayed(path, order, workers=args.workers, skip=skip, note=bar.note):
            if checkpoint is not None:
                checkpoint.keep(item)
            yield item


class _Bar:
    """A progress bar on standard error, by bytes read; nothing where that is no terminal."""

    def __init__(self, size: int) -> None:
        self._size = max(size, 1)
        self._shown = sys.stderr.isatty()
        self._drawn_s = 0.0

    def __enter__(self) -> _Bar:  # noqa: PYI034 - not meant for heirs
        return self

    def note(self, done: int) -> None:
        """Draw how far the input is read."""
        now_s = time.monotonic()
        if not self._shown or now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        full = min(done * BAR // self._size, BAR)
        print(f"\r  {'█' * full}{'░' * (BAR - full)} {done / self._size:4.0%}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._shown and self._drawn_s:
            print("\r" + " " * (BAR + 10) + "\r", end="", file=sys.stderr, flush=True)


class _Writer:
    """Writes the JSON while the sessions come in: they need not all be kept."""

    def __init__(self) -> None:
        self._first = True

    def session(self, item: tuple[SessionResult, ...], *, decisions: bool) -> None:
        """Write one session: what it comes to under the policy, and beside it under the one in force."""
        row = session_json(item[0], decisions=decisions)
        if len(item) > 1:
            row["against"] = session_json(item[1], decisions=decisions)
        print('{"sessions": [' if self._first else ",", end="", flush=True)
        self._first = False
        write_json(row)

    def end(
        self, totals: list[Totals], problems: Problems, comparison: Comparison | None, frontier: Frontier | None
    ) -> None:
        """Write the totals."""
        print(('{"sessions": [' if self._first else "") + '], "totals": ', end="", flush=True)
        write_json(totals[0].as_json(problems))
        rest: dict[str, object] = {}
        if comparison is not None:
            rest["against"] = {"totals": totals[1].as_json(problems)}
            rest["comparison"] = comparison.as_json()
        if frontier is not None:
            rest["outcomes"] = frontier.as_json()
        for key, value in rest.items():
            print(f', "{key}": ', end="", flush=True)
            write_json(value)
        print("}")


def session_json(result: SessionResult, *, decisions: bool = False) -> dict[str, object]:
    """Write one session as `--json` prints it. Money in USD."""
    stopped = result.stopped
    row: dict[str, object] = {
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
    if decisions:
        row["decisions"] = list(result.decisions)
    return row


def _print(totals: list[Totals], problems: Problems, comparison: Comparison | None, frontier: Frontier | None) -> None:
    from waywiser.replay.unknowns import unknowns  # noqa: PLC0415 - only for this command

    ours = totals[0]
    rows = [(one.policy, usd(one.cost), _share(one.cost, ours.top), f"{sum(one.stopped.values())}") for one in totals]
    if ours.recorded_sessions == ours.sessions:
        rows.append(("as recorded", usd(ours.recorded), _share(ours.recorded, ours.top), ""))
    rows.append(("top tier alone", usd(ours.top), _share(ours.top, ours.top), ""))
    print(f"{ours.sessions} sessions, {ours.calls} calls\n")
    print(table(("course", "cost", "of the top tier", "sessions stopped"), rows, right=(1, 2, 3)) + "\n")
    spent = [
        (row.kind or "—", row.tier or "—", row.model, str(row.calls), usd(row.nanos), _share(row.nanos, ours.cost))
        for row in ours.by("kind", "tier", "model")
    ]
    print(table(("kind", "tier", "model", "calls", "cost", "share"), spent, right=(3, 4, 5)) + "\n")
    print(f"switches  {ours.switches}, whose cold prefixes cost {usd(ours.cold)}")
    print(f"revealed  {ours.reveals} steps showed their kind on a cheap tier first")
    for by, count in sorted(ours.stopped.items()):
        print(f"stopped   {count} by {by}, {ours.stopped_successes[by]} of them had been successful")
    if ours.stopped:
        print(f"saved     {usd(ours.saved)} by stopping")
    quantiles = ", ".join(f"{share:.0%} up to {usd(round(1e9 * value))}" for share, value in ours.quantiles().items())
    print(f"a session {quantiles}")
    if comparison is not None:
        band = comparison.increase_95()
        between = f" (95%: {band[0]:+.1%} to {band[1]:+.1%})" if band else ""
        print(f"\nagainst {totals[1].policy}: {comparison.increase:+.1%}{between}")
        print("it holds" if not comparison.against() else f"it does not hold: {'; '.join(comparison.against())}")
    if frontier is not None:
        points = [*frontier.singles, frontier.policy, frontier.oracle]
        cells = [
            (one.name, f"${one.cost:.4f}", f"{one.success:.0%}", f"{one.success_95[0]:.0%}–{one.success_95[1]:.0%}")
            for one in points
        ]
        print("\n" + table(("on the same tasks", "cost", "success", "95%"), cells, right=(1, 2, 3)))
        print(frontier.said)
    print("\nnot known:")
    for line in unknowns(ours, problems):
        print(f"  {line}")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "—"


def _nothing(path: Path, problems: Problems) -> str:
    if not path.stat().st_size:
        return f"{path}: the file is empty"
    why = f" ({problems.named[0].place}: {problems.named[0].why})" if problems.named else ""
    return f"{path}: there is no session in it that could be replayed{why}"
