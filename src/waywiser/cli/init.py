"""`waywiser init`: a policy, a graph and a script to start from, in the current folder."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from waywiser.cli.output import write_json
from waywiser.errors import BadInput

FILES = ("policy.yaml", "graph.yaml", "tools.py", "agent.py")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("init", help="write a starter policy, graph and script")
    parser.add_argument("folder", nargs="?", default=".", help="where to write them (default: here)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Write the files. Nothing is overwritten: one that is there already is an error, and then none is written."""
    folder = Path(args.folder)
    if there := [name for name in FILES if (folder / name).exists()]:
        raise BadInput(f"{folder}: {', '.join(there)}: there already; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_text(files("waywiser.cli").joinpath("starter", name).read_text("utf-8"), "utf-8")
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from None
    if args.json:
        write_json({"written": [str(folder / name) for name in FILES]})
    else:
        print(f"wrote {', '.join(FILES)}; next:")
        print('  waywiser run graph.yaml --policy policy.yaml --input "Where is my order W1001?"')
        print("  python agent.py")
    return 0
