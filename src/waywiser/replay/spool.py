"""Calls put aside by session, on disk: so that a file larger than memory, its sessions interleaved, can be grouped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Self


class Spool:
    """A temporary SQLite database, gone when it is closed. It also remembers which history belongs to which session."""

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._unnamed = 0

    def __enter__(self) -> Self:
        """Use as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop everything."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def used(self) -> bool:
        """Whether anything was put aside."""
        return self._db is not None

    def put(self, session: str, place: str, raw: bytes) -> None:
        """Put one call of a session aside."""
        db = self._open()
        db.execute("INSERT OR IGNORE INTO sessions (name) VALUES (?)", (session,))
        (number,) = db.execute("SELECT number FROM sessions WHERE name = ?", (session,)).fetchone()
        db.execute("INSERT INTO calls VALUES (?, ?, ?)", (number, place, raw))

    def fresh(self) -> str:
        """Name a session that nothing names."""
        self._unnamed += 1
        return f"unnamed {self._unnamed}"

    def link(self, history: bytes, session: str) -> None:
        """Remember that a history (a digest) was reached by a session."""
        self._open().execute("INSERT OR REPLACE INTO histories VALUES (?, ?)", (history, session))

    def linked(self, histories: list[bytes]) -> str | None:
        """Find the session that reached one of these histories, the last ones asked first."""
        db = self._open()
        for history in reversed(histories):
            row = db.execute("SELECT session FROM histories WHERE history = ?", (history,)).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def sessions(self) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """Yield each session's calls as they were put, the session that began first, first."""
        if self._db is None:
            return
        self._db.execute("CREATE INDEX IF NOT EXISTS by_session ON calls (session)")
        rows = self._db.execute(
            "SELECT name, place, raw FROM calls JOIN sessions ON session = number ORDER BY session, calls.rowid"
        )
        for name, group in groupby(rows, key=itemgetter(0)):
            yield name, [(place, raw) for _, place, raw in group]

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # An empty name is a private database on disk that SQLite deletes itself; small ones stay in memory.
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
                "CREATE TABLE sessions (number INTEGER PRIMARY KEY, name TEXT UNIQUE);"
                "CREATE TABLE calls (session INTEGER, place TEXT, raw BLOB);"
                "CREATE TABLE histories (history BLOB PRIMARY KEY, session TEXT);"
            )
        return self._db
