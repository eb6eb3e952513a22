"""The SQLite file: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from waywiser.errors import StoreError
from waywiser.stores.local import Busy

# "wayw": tells our files from any other SQLite database.
APPLICATION_ID = 0x77617977
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE accounts (key TEXT PRIMARY KEY, data BLOB NOT NULL, touched_s REAL NOT NULL) WITHOUT ROWID;
-- A hold is live while it has an expiry. One without was settled: its id is remembered, so that it is charged once.
CREATE TABLE holds (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data BLOB, expires_s REAL);
CREATE INDEX holds_live ON holds (expires_s) WHERE expires_s IS NOT NULL;
CREATE TABLE sessions (
  session TEXT PRIMARY KEY, birth INTEGER NOT NULL, version INTEGER NOT NULL, count INTEGER NOT NULL,
  head BLOB, touched_s REAL NOT NULL) WITHOUT ROWID;
-- A ring: step n of a session lies in slot n modulo the length of a trail.
CREATE TABLE steps (
  session TEXT NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (session, slot)) WITHOUT ROWID;
CREATE TABLE receipts (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX receipts_session ON receipts (session);
CREATE TABLE spends (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, tier TEXT NOT NULL,
  model TEXT NOT NULL, policy TEXT NOT NULL,
  nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, llm_calls INTEGER NOT NULL, tool_calls INTEGER NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, tier, model, policy)) WITHOUT ROWID;
CREATE TABLE refusals (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, code TEXT NOT NULL,
  count INTEGER NOT NULL, last_s REAL NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, code)) WITHOUT ROWID;
CREATE TABLE costs (
  policy TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (policy, kind, model)) WITHOUT ROWID;
"""

_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    """Open a store's file, making it if it is missing. Waits up to `timeout_s` for others that do the same.

    Raises `StoreError`, which names the file, for one that cannot be opened, written or understood.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return _connect(path)
        except Busy:
            if time.monotonic() >= deadline_s:
                raise StoreError(f"{path}: another process kept the file locked for {timeout_s:g} s") from None
            time.sleep(0.005)
        except (sqlite3.Error, OSError) as error:
            raise failure(path, error) from error


def failure(path: Path, error: Exception) -> StoreError:
    """Say in a `StoreError` what is wrong with a file."""
    if isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
        return StoreError(f"{path}: this is not a SQLite file; move it away or name another file for the store")
    return StoreError(f"{path}: the session store cannot be used: {error}")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether an error only means that another process is writing."""
    # The low byte is the primary code, the rest says which kind of busy it is.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode NORMAL survives a crash of the process; a power cut may lose the newest commits, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        # Sessions are spread over the whole file: without these, one in a large file is read by a system call a page.
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA mmap_size = 268435456")
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise (Busy() if is_busy(error) else error) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file; refuse a foreign or an incompatible one."""
    if _known(connection, path):
        if not os.access(path, os.W_OK):
            raise StoreError(f"{path}: the session store is read-only")
        return
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have made them between the look and the lock.
    if not _known(connection, path):
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _known(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has our tables already. Raises `StoreError` for somebody else's file or another version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written by another version of Waywiser (schema {version}, this one reads {SCHEMA_VERSION}); "
                "move it away or name another file for the store"
            )
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise StoreError(f"{path}: a SQLite file that is not a session store; name another file for the store")
    return False
