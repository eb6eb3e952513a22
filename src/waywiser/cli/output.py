"""How the command line writes: tables, money, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from waywiser.errors import BadInput


def usd(nanos: int) -> str:
    """Write nano-dollars as USD, with the digits that small amounts need."""
    value = nanos / 1e9
    return f"${value:.2f}" if value >= 100 else f"${value:.6f}"


_ODD = "\N{REPLACEMENT CHARACTER}"


def plain(text: str, most: int = 20_000) -> str:
    """Make a text safe for a terminal: control characters are shown, not obeyed, and a long text is cut."""
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else _ODD for letter in text)
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(shown):,} characters)"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Lay out a table in plain text; `right` are the columns that are aligned to the right."""
    rows = [tuple(plain(cell).replace("\n", " ") for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, ["─" * width for width in widths], *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_json(value: object) -> None:
    """Write one JSON line to standard output."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))


def read_lines(name: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Read JSON objects, one a line, from a file or standard input, each with its place. Empty lines are passed over.

    Raises `BadInput` with the place of the first line that is not a JSON object in UTF-8.
    """
    label = name or "stdin"
    try:
        with sys.stdin.buffer if name is None else Path(name).open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if not raw.strip():
                    continue
                place = f"{label}:{number}"
                try:
                    value = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    raise BadInput(f"{place}: not JSON: {error}") from None
                if not isinstance(value, dict):
                    raise BadInput(f"{place}: expected a JSON object, got {type(value).__name__}")
                yield place, value
    except OSError as error:
        raise BadInput(f"{label}: {error.strerror or error}") from None
