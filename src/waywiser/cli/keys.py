"""`waywiser keys`: make and revoke the virtual keys of the proxy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from waywiser.cli.output import table, write_json
from waywiser.errors import BadInput
from waywiser.proxy.keys import KeyEntry, make_key, read_keys


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("keys", help="make, list and revoke virtual keys of the proxy")
    parser.add_argument("file", help="the file of keys (made when it is missing)")
    parser.add_argument("--add", metavar="ID", default="", help="make a key; it is printed once, only its hash is kept")
    parser.add_argument("--revoke", metavar="ID", default="", help="revoke a key, in a running proxy within a second")
    parser.add_argument("--tenant", default="", help="whose budget the new key draws on")
    parser.add_argument("--policies", default="", help="the policies it may use, with commas in between (default: all)")
    parser.add_argument("--requests-per-minute", type=int, help="how often it may call")
    parser.add_argument("--concurrent", type=int, help="how many requests it may have at once")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Make, revoke or list."""
    path = Path(args.file)
    entries = read_keys(path) if path.exists() else {}
    if args.revoke:
        if args.revoke not in entries:
            raise BadInput(f"{path}: there is no key {args.revoke!r}")
        _revoke(path, args.revoke)
    elif args.add:
        if args.add in entries:
            raise BadInput(f"{path}: there is a key {args.add!r} already")
        key = _added(path, args)
        if args.json:
            write_json({"id": args.add, "key": key})
        else:
            print(key)
    else:
        _list(entries, as_json=args.json)
    return 0


def _added(path: Path, args: argparse.Namespace) -> str:
    key, sha256 = make_key(args.add)
    given: dict[str, object] = {
        "id": args.add,
        "sha256": sha256,
        "tenant": args.tenant,
        "policies": [name.strip() for name in args.policies.split(",") if name.strip()],
        "requests_per_minute": args.requests_per_minute,
        "concurrent": args.concurrent,
    }
    given = {name: value for name, value in given.items() if value not in (None, "", [])}
    try:
        KeyEntry.model_validate(given)
    except ValidationError as error:
        told = error.errors(include_input=False, include_url=False)
        raise BadInput("; ".join(f"{found['loc'][0]}: {found['msg']}" for found in told)) from None
    fields = ", ".join(f"{name}: {_yaml(value)}" for name, value in given.items())
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"- {{{fields}}}\n")
    return key


def _list(entries: Mapping[str, KeyEntry], *, as_json: bool) -> None:
    if as_json:
        for entry in entries.values():
            write_json(entry.model_dump(exclude={"sha256"}))
        return
    rows = [
        (entry.id, entry.tenant, ", ".join(entry.policies) or "all", "revoked" if entry.revoked else "in force")
        for entry in entries.values()
    ]
    print(table(("key", "tenant", "policies", "state"), rows) if rows else "no keys")


def _revoke(path: Path, key_id: str) -> None:
    """Mark a key as revoked, and leave the rest of the file as somebody wrote it."""
    text = path.read_text("utf-8")
    line = re.compile(rf'(?m)^- \{{id: "{re.escape(key_id)}", (?!.*revoked: true)(.*)\}}\s*?$')
    changed, count = line.subn(rf'- {{id: "{key_id}", revoked: true, \1}}', text)
    if count != 1:
        raise BadInput(f"{path}: {key_id}: not written as this command writes it; add `revoked: true` by hand")
    path.write_text(changed, "utf-8")


def _yaml(value: object) -> str:
    # Always in quotes: a hash may look like a number.
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
