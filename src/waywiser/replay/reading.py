"""Reading recordings: any of the formats, plain or gzip, streamed. What cannot be read is named and left out.

A line that is a whole session is passed on as it is. A line that is one call (receipts, chat logs, LangSmith runs,
OpenTelemetry spans) belongs to a session whose calls may lie anywhere in the file: such lines are put aside in a
temporary file, by session, and come back in the order in which their sessions began.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import orjson

from waywiser.core.calls import Tool
from waywiser.errors import BadInput
from waywiser.replay import chat_logs, langsmith, otel, receipts
from waywiser.replay.recording import Problem, Session
from waywiser.replay.spool import Spool
from waywiser.replay.trajectories import is_trajectory, read_trajectory

LONGEST_LINE = 256 * 1024 * 1024
"""Bytes; a longer line is no recording (a broken file may have no line ends at all)."""

LONGEST_DOCUMENT = 64 * 1024 * 1024
"""Bytes; a longer file has to be written line by line."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One session's worth of input as bytes, cheap to hand to another process: one line, or the lines of its calls.

    `done` is how many bytes of the input were read by then.
    """

    place: str
    format: str
    lines: tuple[tuple[str, bytes], ...]
    done: int


def batches(path: Path) -> Iterator[Batch | Problem]:
    """Yield the sessions of a file, in order, undecoded. Raises `BadInput` when the file cannot be read at all."""
    label = path.name
    with Spool() as spool:
        for place, raw, done in _lines(path, label):
            if isinstance(raw, Problem):
                yield raw
                continue
            try:
                value = orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                yield Problem(place, f"not JSON: {error}")
                continue
            if isinstance(value, dict) and is_trajectory(value):
                if spool.used:
                    # Behind calls that wait for the end of the input a session must wait too, to keep its place.
                    spool.put(f"session\n{place}", place, raw)
                    continue
                yield Batch(place, "session", ((place, raw),), done)
                continue
            for inner, record in _records(value, place):
                try:
                    name, session = _recognised(record, spool)
                except BadInput as error:
                    yield Problem(inner, str(error))
                    continue
                if name:
                    spool.put(f"{name}\n{session}", inner, orjson.dumps(record))
        for key, lines in spool.sessions():
            yield Batch(lines[0][0], key.partition("\n")[0], tuple(lines), 0)


def read(batch: Batch, tools: tuple[Tool, ...] = (), patience: int = 3) -> Session | Problem:
    """Decode one session. A session of which a line is broken is left out whole: its cost could not be known.

    `tools` are offered where a recording names none; `patience` is for receipts, see there.
    """
    try:
        found = _decoded(batch, tools, patience)
        return found if isinstance(found, Problem) else replace(found, format=batch.format)
    except BadInput as error:
        return Problem(batch.place, str(error))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # A recording may be broken in more ways than can be foretold; none of them may end a long replay.
        return Problem(batch.place, f"not readable: {type(error).__name__}: {error}")


def _decoded(batch: Batch, tools: tuple[Tool, ...], patience: int) -> Session | Problem:
    records = [(place, orjson.loads(raw)) for place, raw in batch.lines]
    if batch.format == "session":
        return read_trajectory(records[0][1], batch.place, tools)
    if batch.format == "receipts":
        return receipts.read_session(records, tools, patience)
    found: Session | Problem = FORMATS[batch.format].read_session(records, tools)
    return found


FORMATS = {"receipts": receipts, "chat": chat_logs, "langsmith": langsmith, "otel": otel}


def _recognised(record: Any, spool: Spool) -> tuple[str, str]:
    """Tell the format of one call and the session it belongs to. Raises `BadInput` for what is none of them.

    An empty format: the record is no model call (another kind of run or span), and that is fine.
    """
    if not isinstance(record, dict):
        raise BadInput(f"expected a JSON object, got {type(record).__name__}")
    for name, module in FORMATS.items():
        if module.matches(record):
            session = module.session_of(record, spool)
            return (name, session) if session is not None else ("", "")
    raise BadInput("neither a session, a receipt, a chat completion, a LangSmith run nor an OpenTelemetry span")


def _records(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Unpack what an exporter may have put on one line: an array, or OTLP's nested spans."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield f"{place}[{index}]", entry
    elif isinstance(value, dict) and ("resourceSpans" in value or "runs" in value):
        found = otel.unpacked(value) if "resourceSpans" in value else value["runs"]
        for index, entry in enumerate(found if isinstance(found, list) else []):
            yield f"{place}[{index}]", entry
    else:
        yield place, value


def _lines(path: Path, label: str) -> Iterator[tuple[str, bytes | Problem, int]]:
    """Yield the lines of a file with their place and how many bytes of the file are read. Gzip is told by its head.

    A file that is one JSON document over many lines is taken whole.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if zipped else raw)
            number = 0
            try:
                for line in _documents(stream):
                    number += 1
                    if line.strip():
                        yield f"{label}:{number}", line, raw.tell()
            except (OSError, EOFError, zlib.error) as error:
                # A file that was cut off: what came before is good.
                place = f"{label}:{number + 1}"
                yield place, Problem(place, f"the file breaks off: {error}"), 0
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None


def _documents(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a document that spans the whole file as one piece, else line by line."""
    first = stream.readline(LONGEST_LINE)
    if first.lstrip()[:1] in {b"[", b"{"} and not _is_json(first):
        # Either a document written over several lines, or one broken line of many.
        rest = stream.read(LONGEST_DOCUMENT)
        if len(rest) < LONGEST_DOCUMENT and _is_json(first + rest):
            yield first + rest
            return
        yield first
        lines = rest.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += stream.readline(LONGEST_LINE)
        yield from lines
    elif first:
        yield first
    while line := stream.readline(LONGEST_LINE):
        yield line


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
