"""`waywiser train`: train the classifier from labelled sets, and correct it by receipts of one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from waywiser.cli.output import write_json
from waywiser.errors import ConfigError
from waywiser.runtime import load

TIERS = ("economy", "standard", "premium")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train",
        help="train the classifier's weights, or correct them by your own receipts",
        description="Trains every head from the labelled sets in a folder, and writes weights and a model card of "
        "held-out figures; the same data and seed give the same bytes. With --receipts instead, what became of your "
        "own calls corrects how far the weights that judged them are believed about a tier. A policy uses what was "
        "written by `classifier: {weights: FOLDER}`.",
    )
    learnt = parser.add_mutually_exclusive_group(required=True)
    learnt.add_argument("--data", type=Path, help="a folder of labelled sets")
    learnt.add_argument("--receipts", type=Path, help="receipts as JSON lines (`waywiser explain session:ID --json`)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write weights and card into")
    parser.add_argument("--seed", type=int, default=0, help="what every draw hangs on (default: 0)")
    ladder = parser.add_mutually_exclusive_group()
    ladder.add_argument("--tiers", nargs="+", default=TIERS, metavar="NAME", help="their ladder, cheapest first")
    ladder.add_argument("--policy", help="the policy they were made under: its ladder and weights")
    parser.add_argument("--json", action="store_true", help="write what was done as JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Train. The exit code is 1 when receipts were given and taught nothing that holds on sessions left out."""
    try:
        from waywiser.classifier.train import learn_receipts, train  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"train: {error.name} is not installed; pip install 'waywiser[train]'") from None
    from waywiser.classifier.classifier import WEIGHTS  # noqa: PLC0415 - reads numpy
    from waywiser.classifier.train_receipts import read_outcomes  # noqa: PLC0415 - reads numpy

    if args.data and not args.data.is_dir():
        raise ConfigError(f"train: {args.data}: no such folder")
    done: dict[str, object] = {"out": str(args.out), "seed": args.seed}
    kept = True
    if args.data:
        train(args.data, args.out, args.seed, _say)
    if args.receipts:
        tiers, weights = args.tiers, WEIGHTS
        if args.policy:
            loaded = load(args.policy)
            tiers, weights = [tier.name for tier in loaded.policy.tiers], loaded.weights or WEIGHTS
        learned = learn_receipts(read_outcomes(args.receipts, tiers), weights, args.out, args.seed, _say)
        kept = learned.kept
        done["receipts"] = {
            "outcomes": learned.rows,
            "kept": kept,
            "slope": learned.slope,
            "offset": learned.offset,
            "log_loss_before": learned.loss_before,
            "log_loss_after": learned.loss_after,
        }
    if args.json:
        write_json(done)
    else:
        print(f"wrote weights and MODEL_CARD.md into {args.out}")
        print(f"a policy uses them by `classifier: {{weights: {args.out}}}` (a path relative to the policy's file)")
        if not kept:
            print("the receipts taught nothing that holds on sessions left out; sufficiency is as it was")
    return 0 if kept else 1


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
