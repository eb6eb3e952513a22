"""Trails in the SQLite file, inside the caller's transaction: the newest steps in a session's row, the rest in chunks.

A step is appended by one statement that takes the trail as this process last saw it for granted, and changes nothing
if another process has been there since; only then is the row read. Every full chunk of `CHUNK` steps moves out of the
row, so that a long trail is not written anew at every step.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from typing import TypeAlias

from waywiser.core.session import Settlement
from waywiser.core.trail import TRAIL_STEPS, StepRecord, Trail
from waywiser.stores import codec
from waywiser.stores.sqlite_file import CHUNK, SLOTS
from waywiser.stores.trails import Seen, Trails, grown

Row: TypeAlias = tuple[int, int, int, bytes, str]
"""What of a session's row tells its trail: birth, version, count, head, newest."""

COLUMNS = "birth, version, count, head, newest"
_SELECT = f"SELECT {COLUMNS} FROM sessions WHERE session = ?"  # noqa: S608 - constants
_INSERT = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_TOUCH = """
INSERT INTO sessions VALUES (?, ?, 0, 0, ?, '', ?)
ON CONFLICT DO UPDATE SET touched_s = max(touched_s, excluded.touched_s)"""
_AS_SEEN = "WHERE session = ? AND birth = ? AND version = ?"
_CHANGE = f"UPDATE sessions SET version = version + 1, head = ?, touched_s = ? {_AS_SEEN}"  # noqa: S608 - constants
_APPEND = f"""
UPDATE sessions SET version = version + 1, count = count + 1, head = ?, touched_s = ?,
  newest = CASE count % {CHUNK} WHEN 0 THEN '' ELSE newest || char(10) END || ? {_AS_SEEN}"""  # noqa: S608 - constants
_MOVE_OUT = f"""
INSERT OR REPLACE INTO steps
SELECT session, (count / {CHUNK} - 1) % {SLOTS}, count / {CHUNK} - 1, newest FROM sessions {_AS_SEEN}"""  # noqa: S608 - constants
_EMPTY_HEAD = codec.encode_head(Trail())


def known(row: Row | None, seen: Seen | None) -> Seen | None:
    """Return the trail that a session's row tells; None where a chunk is needed too, or there is no row."""
    if row is None:
        return None
    birth, version, count, head, newest = row
    if seen is not None and seen.birth == birth and seen.version == version:
        return seen
    steps = _decoded(newest)
    if count > len(steps):
        missing = count - seen.trail.count if seen is not None and seen.birth == birth else count
        if seen is None or not 0 <= missing <= len(steps):
            return None
        steps = (*seen.trail.steps, *steps[len(steps) - missing :])[-TRAIL_STEPS:]
    return Seen(birth, version, replace(codec.decode_head(head), steps=steps, count=count))


def read(connection: sqlite3.Connection, session: str, trails: Trails) -> Seen | None:
    """Read a session's trail, and remember it; None where the file knows nothing of the session."""
    row: Row | None = connection.execute(_SELECT, (session,)).fetchone()
    if row is None:
        trails.drop(session)
        return None
    seen = known(row, trails.get(session)) or _whole(connection, session, row)
    trails.put(session, seen)
    return seen


def grow(connection: sqlite3.Connection, session: str, settlement: Settlement, trails: Trails) -> Seen:
    """Write what a settlement does to the session's trail, and return the trail after it."""
    seen = trails.get(session)
    if seen is not None and (after := _changed(connection, session, settlement, seen)) is not None:
        return after
    if seen is None and (after := _begun(connection, session, settlement)) is not None:
        return after
    seen = read(connection, session, trails)
    after = _begun(connection, session, settlement) if seen is None else _changed(connection, session, settlement, seen)
    if after is None:
        raise AssertionError("inside a transaction nobody else changes the row")
    return after


def touch(connection: sqlite3.Connection, session: str, now_s: float) -> None:
    """Note that a session is in use, so that it is forgotten later, and only then."""
    connection.execute(_TOUCH, (session, random.getrandbits(60), _EMPTY_HEAD, now_s))


def _begun(connection: sqlite3.Connection, session: str, settlement: Settlement) -> Seen | None:
    """Write the first row of a session; None where there is one."""
    trail = grown(Trail(), settlement)
    birth = random.getrandbits(60)
    row = (session, birth, 1, trail.count, codec.encode_head(trail), _encoded(settlement.step), settlement.now_s)
    return Seen(birth, 1, trail) if connection.execute(_INSERT, row).rowcount else None


def _changed(connection: sqlite3.Connection, session: str, settlement: Settlement, seen: Seen) -> Seen | None:
    """Change the row of a session whose trail is still as it was seen; None where it is not."""
    trail = grown(seen.trail, settlement)
    head = (codec.encode_head(trail), settlement.now_s)
    as_seen = (session, seen.birth, seen.version)
    if settlement.step is None:
        done = connection.execute(_CHANGE, (*head, *as_seen))
    else:
        if seen.trail.count and seen.trail.count % CHUNK == 0:
            connection.execute(_MOVE_OUT, as_seen)
        done = connection.execute(_APPEND, (*head, _encoded(settlement.step), *as_seen))
    return Seen(seen.birth, seen.version + 1, trail) if done.rowcount else None


def _whole(connection: sqlite3.Connection, session: str, row: Row) -> Seen:
    birth, version, count, head, newest = row
    rows = connection.execute("SELECT data FROM steps WHERE session = ? ORDER BY seq", (session,)).fetchall()
    older = tuple([step for (data,) in rows for step in _decoded(data)])
    steps = (*older, *_decoded(newest))[-TRAIL_STEPS:]
    return Seen(birth, version, replace(codec.decode_head(head), steps=steps, count=count))


def _encoded(step: StepRecord | None) -> str:
    return "" if step is None else codec.encode_step(step).decode()


def _decoded(lines: str) -> tuple[StepRecord, ...]:
    return tuple([codec.decode_step(line.encode()) for line in lines.split("\n") if line])
