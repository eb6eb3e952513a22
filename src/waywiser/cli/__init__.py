"""The command line. Exit codes: 0 fine; 1 the thing asked about does not hold; 2 bad input. Never a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from waywiser import __version__
from waywiser.cli import check, classify, explain, init, keys, models, replay, report, route, run, schema, serve, train
from waywiser.errors import BadInput, ConfigError, StoreError, WaywiserError

COMMANDS = (init, run, replay, check, explain, report, route, classify, models, train, serve, keys, schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="waywiser", description="Route every step of an LLM agent to the cheapest model that is enough for it."
    )
    parser.add_argument("--version", action="version", version=f"waywiser {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.perform(parsed)
        sys.stdout.flush()
    except (ConfigError, BadInput, StoreError) as error:
        print(f"waywiser: {error}", file=sys.stderr)
        return 2
    except WaywiserError as error:
        print(f"waywiser: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again while it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
