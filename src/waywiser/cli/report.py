"""`waywiser report`: who spent what, what is held, and what was refused and why."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from waywiser.cli.names import meant, sessions
from waywiser.cli.output import plain, table, usd, write_json
from waywiser.core.budget import NOTHING, Amounts
from waywiser.core.spending import Spend
from waywiser.ports import SessionStore
from waywiser.runtime import DEFAULT_STORE, open_existing

GROUPS = ("tenant", "session", "agent", "kind", "tier", "model", "policy")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="who spent what, what is held, what was refused")
    parser.add_argument("--budgets", action="store_true", help="the report on budgets (the only one there is, so far)")
    parser.add_argument("--store", default=DEFAULT_STORE, help=f"the session store (default: {DEFAULT_STORE})")
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("--session", help="only this session")
    parser.add_argument("--by", action="append", choices=GROUPS, help="group by (may be repeated; default: tier, kind)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Report what the store knows. The exit code is 1 where it does not know the session or tenant asked for."""
    store = open_existing(args.store)
    now_s = time.time()
    try:
        spends = store.spends(args.tenant, args.session)
        holds = store.holds(now_s)
        refusals = store.refusals(args.tenant, args.session)
        unknown = "" if spends or refusals else _unknown(store, args)
    finally:
        store.close()
    if unknown:
        print(f"waywiser: {args.store}: {plain(unknown)}", file=sys.stderr)
        return 1
    groups = tuple(args.by or ("tier", "kind"))
    rows = grouped(spends, groups)
    if args.json:
        write_json(
            {
                "spent": [{**dict(zip(groups, key, strict=True)), **_amounts(used)} for key, used in rows],
                "total": _amounts(_sum(used for _, used in rows)),
                "held": [asdict(hold) for hold in holds],
                "refused": [asdict(refusal) for refusal in refusals],
            }
        )
        return 0
    total = _sum(used for _, used in rows)
    print(
        table(
            (*groups, "model calls", "tool calls", "tokens", "cost"),
            [(*(name or "—" for name in key), *_cells(used)) for key, used in (*rows, (_total(groups), total))],
            right=range(len(groups), len(groups) + 4),
        )
    )
    print(f"\nheld: {len(holds) or 'nothing'}")
    for hold in holds:
        left_s = hold.expires_s - now_s
        print(f"  {hold.hold} ({hold.kind}) {usd(hold.amounts.nanos)}, for {left_s:.0f} s more: {hold.path[-1]}")
    print(f"refused: {sum(refusal.count for refusal in refusals) or 'nothing'}")
    for refusal in refusals:
        who = " ".join(filter(None, (refusal.tenant, refusal.session, refusal.agent)))
        print(f"  {refusal.count} × {refusal.code} ({refusal.kind}) {who}: {refusal.reason}")
    return 0


def _unknown(store: SessionStore, args: argparse.Namespace) -> str:
    """Say which of the names asked for the store does not know; empty where it knows them, or none was asked for."""
    if args.session is not None and args.session not in (known := sessions(store)):
        return f"no such session: {args.session!r}{meant(args.session, known)}"
    if args.tenant is not None:
        tenants = {row.tenant for row in store.spends()} | {row.tenant for row in store.refusals()}
        if args.tenant not in tenants:
            return f"no such tenant: {args.tenant!r}{meant(args.tenant, sorted(filter(None, tenants)))}"
    return ""


def grouped(spends: Iterable[Spend], groups: Sequence[str]) -> list[tuple[tuple[str, ...], Amounts]]:
    """Sum what was spent by the named fields, the dearest first."""
    sums: dict[tuple[str, ...], Amounts] = {}
    for spend in spends:
        key = tuple(str(getattr(spend, group)) for group in groups)
        sums[key] = sums.get(key, NOTHING) + spend.used
    return sorted(sums.items(), key=lambda entry: -entry[1].nanos)


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    return sum(amounts, NOTHING)


def _total(groups: Sequence[str]) -> tuple[str, ...]:
    return ("total", *("" for _ in groups[1:]))


def _cells(used: Amounts) -> tuple[str, ...]:
    return str(used.llm_calls), str(used.tool_calls), f"{used.tokens:,}", usd(used.nanos)


def _amounts(used: Amounts) -> dict[str, object]:
    return {**asdict(used), "usd": used.nanos / 1e9}
