"""`waywiser explain`: tell why a call went where it went."""

from __future__ import annotations

import argparse

from waywiser.cli.names import MOST, beginning, meant, sessions
from waywiser.cli.output import plain, table, usd, write_json
from waywiser.core.classification import Classification, Head
from waywiser.core.receipt import Considered, Receipt
from waywiser.errors import BadInput
from waywiser.ports import SessionStore
from waywiser.runtime import DEFAULT_STORE, open_existing


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("explain", help="tell why a call went where it went")
    parser.add_argument("receipt", help="a receipt's id, an unambiguous beginning of it, or `session:ID`")
    parser.add_argument("--store", default=DEFAULT_STORE, help=f"the session store (default: {DEFAULT_STORE})")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Explain one receipt, or every receipt of a session."""
    store = open_existing(args.store)
    try:
        receipts = _found(store, args.receipt, args.store)
    finally:
        store.close()
    for receipt in receipts:
        if args.json:
            write_json(receipt)
        else:
            print(plain(explained(receipt)))
    return 0


def _found(store: SessionStore, asked: str, where: str) -> list[Receipt]:
    """Find what was asked for. Raises `BadInput` that says what it may have meant, or between what it does not tell."""
    if asked.startswith("session:"):
        session = asked.removeprefix("session:")
        receipts = list(store.receipts(session))
        if not receipts:
            raise BadInput(f"{where}: no receipts of a session {session!r}{meant(session, sessions(store))}")
        return receipts
    found = store.receipt(asked)
    if found is not None:
        return [found]
    several = beginning(store, asked)
    if len(several) < 2:
        raise BadInput(f"{where}: no receipt is {asked!r} or begins so")
    told = "".join(f"\n  {one.id}  {one.kind or '?'} of session {one.session}" for one in several[:MOST])
    more = "\n  …" if len(several) > MOST else ""
    raise BadInput(f"{where}: more than one receipt begins with {asked!r}:{plain(told)}{more}")


def explained(receipt: Receipt) -> str:
    """Tell a receipt in words."""
    lines = [
        f"receipt {receipt.id}{'  (simulated)' if receipt.simulated else ''}",
        f"  session {receipt.session}, step {receipt.step}"
        + (f", node {receipt.node}" if receipt.node else "")
        + (f", agent {receipt.agent}" if receipt.agent else ""),
        f"  kind    {receipt.kind or '?'} ({receipt.kind_by or '?'}, {receipt.kind_confidence:.0%} sure)",
        f"  model   {receipt.model or '—'}" + (f" ({receipt.tier})" if receipt.tier else ""),
    ]
    if receipt.refused:
        lines.append(f"  refused {receipt.refused}")
    lines += [f"  because {reason}" for reason in receipt.reasons]
    if receipt.classification is not None:
        lines += _seen(receipt.classification)
    usage = receipt.usage
    lines.append(
        f"  cost    {usd(receipt.cost_nanos)} for {usage.input_tokens} tokens in ({usage.cached_tokens} cached), "
        f"{usage.output_tokens} out{' (estimated)' if usage.estimated else ''}; held {usd(receipt.held_nanos)}; "
        f"on the top tier {usd(receipt.top_tier_nanos)}"
    )
    if receipt.left_nanos is not None:
        lines.append(f"  left    {usd(receipt.left_nanos)}")
    lines.append(f"  time    decided in {receipt.decision_ms:.2f} ms, {receipt.took_s:.2f} s in all")
    for attempt in receipt.attempts:
        outcome = f"{attempt.failure}: {attempt.detail}" if attempt.failure else "answered"
        notes = f" ({', '.join(attempt.notes)})" if attempt.notes else ""
        lines.append(f"  tried   {attempt.model}: {outcome}{notes}, {attempt.took_s:.2f} s, {usd(attempt.cost_nanos)}")
    if receipt.considered:
        lines += ["", _considered(receipt.considered)]
    return "\n".join(lines) + "\n"


def _seen(seen: Classification) -> list[str]:
    """Tell what the classifier was asked, what it said, and by what it went."""
    judged = {
        Head.TASK: f"task {seen.task.label} ({seen.task.confidence:.0%})",
        Head.DIFFICULTY: f"{seen.difficulty.label} ({seen.difficulty.confidence:.0%})",
        Head.SUFFICIENCY: "enough with " + " / ".join(f"{chance:.2f}" for chance in seen.sufficiency),
        Head.RISK: ", ".join(f"risk {risk.label} ({risk.confidence:.0%})" for risk in seen.risk) or "no risk",
        Head.LANGUAGE: f"language {seen.language.label} ({seen.language.confidence:.0%})",
        Head.TIME_SENSITIVE: f"time-sensitive ({seen.time_sensitive:.0%})",
        Head.KIND: f"kind {seen.kind.label} ({seen.kind.confidence:.0%})",
    }
    lines = [f"  seen    {'; '.join(judged[head] for head in seen.heads)}"]
    return [*lines, f"  why     {'; '.join(seen.why)}"] if seen.why else lines


def _considered(considered: tuple[Considered, ...]) -> str:
    names = next(([term.name for term in entry.terms] for entry in considered if entry.terms), [])
    rows = [
        (
            entry.model,
            entry.tier,
            f"{entry.score:.3f}" if entry.terms else "—",
            *(f"{term.weighted:+.3f}" for term in entry.terms),
            *("" for _ in range(len(names) - len(entry.terms))),
            usd(entry.cost_nanos) if entry.terms else "",
            entry.excluded or ("only as a fallback" if entry.tier != considered[0].tier else ""),
        )
        for entry in considered
    ]
    return table(("model", "tier", "score", *names, "expected", "excluded"), rows, right=range(2, 4 + len(names)))
