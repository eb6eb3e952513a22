"""The SQLite file: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from waywiser.core.trail import TRAIL_STEPS
from waywiser.errors import StoreError
from waywiser.stores.local import Busy

# "wayw": tells our files from any other SQLite database.
APPLICATION_ID = 0x77617977
SCHEMA_VERSION = 2

CHUNK = 4
"""How many steps of a trail stand in its session's row at most, and in one row of `steps`."""
SLOTS = TRAIL_STEPS // CHUNK

# A commit costs by the page it changes, so a step changes few: two when it reserves, four or five when it settles.
SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (key TEXT PRIMARY KEY, data BLOB NOT NULL, touched_s REAL NOT NULL) WITHOUT ROWID;
-- Holds that are live, and, without an expiry, those settled since the news were last sorted.
CREATE TABLE IF NOT EXISTS holds (id TEXT PRIMARY KEY, expires_s REAL, data BLOB) WITHOUT ROWID;
-- One row: no live hold expires before. A bound, not the minimum: a hold that is settled leaves it where it is.
CREATE TABLE IF NOT EXISTS leases (first_s REAL NOT NULL);
INSERT INTO leases VALUES (9e999);
-- The ids of settled holds: each is charged once.
CREATE TABLE IF NOT EXISTS settled (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
-- The newest steps of a trail stand in its session's row, a line each; older ones in chunks, in a ring.
CREATE TABLE IF NOT EXISTS sessions (
  session TEXT PRIMARY KEY, birth INTEGER NOT NULL, version INTEGER NOT NULL, count INTEGER NOT NULL,
  head BLOB NOT NULL, newest TEXT NOT NULL, touched_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
  session TEXT NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (session, slot)) WITHOUT ROWID;
-- What settlements told and nobody has sorted yet into `spends`, `receipts` and `refusals`.
CREATE TABLE IF NOT EXISTS news (
  seq INTEGER PRIMARY KEY, session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
  tier TEXT NOT NULL, model TEXT NOT NULL, policy TEXT NOT NULL,
  nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, llm_calls INTEGER NOT NULL, tool_calls INTEGER NOT NULL,
  receipt TEXT, refused INTEGER, data BLOB);
CREATE TABLE IF NOT EXISTS receipts (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS receipts_session ON receipts (session);
CREATE TABLE IF NOT EXISTS spends (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, tier TEXT NOT NULL,
  model TEXT NOT NULL, policy TEXT NOT NULL,
  nanos INTEGER NOT NULL, tokens INTEGER NOT NULL, llm_calls INTEGER NOT NULL, tool_calls INTEGER NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, tier, model, policy)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (
  session TEXT NOT NULL, tenant TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL, code TEXT NOT NULL,
  count INTEGER NOT NULL, last_s REAL NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (session, tenant, agent, kind, code)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (
  policy TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (policy, kind, model)) WITHOUT ROWID;
"""

# From a file of schema 1: what changed is set aside, made anew and filled.
_SET_ASIDE = """
DROP INDEX holds_live;
ALTER TABLE holds RENAME TO holds_1;
ALTER TABLE sessions RENAME TO sessions_1;
ALTER TABLE steps RENAME TO steps_1;
"""
_FILL = f"""
INSERT INTO holds SELECT id, expires_s, data FROM holds_1 WHERE expires_s IS NOT NULL;
UPDATE leases SET first_s = ifnull((SELECT min(expires_s) FROM holds), 9e999);
INSERT INTO settled (id) SELECT id FROM holds_1 WHERE expires_s IS NULL ORDER BY seq;
CREATE TEMP TABLE chunks AS
  SELECT session, seq / {CHUNK} AS number, (count - 1) / {CHUNK} AS last,
    group_concat(CAST(data AS TEXT), char(10)) AS data
  FROM (SELECT * FROM steps_1 JOIN sessions_1 USING (session) ORDER BY session, seq) GROUP BY session, number;
INSERT INTO steps SELECT session, number % {SLOTS}, number, data FROM chunks WHERE number < last;
INSERT INTO sessions
  SELECT session, birth, version, count, head, ifnull(chunks.data, ''), touched_s
  FROM sessions_1 LEFT JOIN chunks USING (session) WHERE number IS NULL OR number = last;
DROP TABLE chunks;
DROP TABLE holds_1;
DROP TABLE sessions_1;
DROP TABLE steps_1;
"""  # noqa: S608 - constants

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
        # Only a checkpoint waits for the disk, with every call of the process: a fourth as often as by default.
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
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
    """Make the tables in a new file, or bring those of an older version up to date; refuse any other file."""
    if _version(connection, path) == SCHEMA_VERSION:
        if not os.access(path, os.W_OK):
            raise StoreError(f"{path}: the session store is read-only")
        return
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have done it between the look and the lock.
    version = _version(connection, path)
    if version != SCHEMA_VERSION:
        for script in (_SET_ASIDE, SCHEMA, _FILL) if version else (SCHEMA,):
            for statement in filter(str.strip, script.split(";\n")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of our tables in the file, 0 for a file with nothing in it.

    Raises `StoreError` for somebody else's file and for a version that this one cannot bring up to date.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version not in (1, SCHEMA_VERSION):
            raise StoreError(
                f"{path}: written by another version of Waywiser (schema {version}, this one reads {SCHEMA_VERSION}); "
                "move it away or name another file for the store"
            )
        return int(version)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise StoreError(f"{path}: a SQLite file that is not a session store; name another file for the store")
    return 0
