"""`waywiser models`: list what the catalogue knows."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from waywiser.catalog.catalog import Catalog
from waywiser.catalog.listing import ModelQuery, rows
from waywiser.cli.output import table, write_json
from waywiser.core.models import Ability


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("models", help="list models with prices, windows and abilities")
    parser.add_argument("words", nargs="*", help="words that must occur in the name")
    parser.add_argument("--provider", default="", help="only this provider's")
    parser.add_argument("--can", action="append", default=[], choices=[*Ability], help="an ability (may be repeated)")
    parser.add_argument("--region", action="append", default=[], help="a region (may be repeated)")
    parser.add_argument("--min-context", type=int, default=0, help="the least context window, in tokens")
    parser.add_argument("--max-usd", type=float, help="the highest blended price, USD per million tokens")
    parser.add_argument("--json", action="store_true", help="write JSON lines")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """List the models. The exit code is 1 when there is none."""
    query = ModelQuery(
        tuple(args.words),
        args.provider,
        frozenset(Ability(name) for name in args.can),
        frozenset(args.region),
        args.min_context,
        args.max_usd,
    )
    found = rows(Catalog(), query)
    if args.json:
        for row in found:
            write_json(asdict(row))
        return int(not found)
    if not found:
        print("no model fits")
        return 1
    print(
        table(
            ("model", "USD/M in", "cached", "out", "context", "abilities"),
            [
                (
                    row.name,
                    _usd(row.input_usd),
                    _usd(row.cached_usd),
                    _usd(row.output_usd),
                    f"{row.context_tokens:,}",
                    ", ".join(row.abilities),
                )
                for row in found
            ],
            right=(1, 2, 3, 4),
        )
    )
    return 0


def _usd(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
