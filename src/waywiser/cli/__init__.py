"""The command line. Exit codes: 0 fine; 1 the thing asked about does not hold; 2 bad input. Never a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
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
    stopped = [] if parsed.command == "serve" else _stoppable()  # the server has its own way to stop
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
        return 128 + (stopped[-1] if stopped else signal.SIGINT)
    except OSError as error:
        # Python would complain again while it closes a stream that can't be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"waywiser: {error}", file=sys.stderr)
        return 2
    return code


def _stoppable() -> list[int]:
    """Let SIGINT and SIGTERM end a command alike: open holds are settled on the way out. The list tells which came."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        if len(came) == 1:
            print("waywiser: stopping what is under way; again to stop at once", file=sys.stderr)
        else:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
    return came
