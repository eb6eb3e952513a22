"""A long replay that was stopped goes on where it was: results are kept in a file, one line an item of the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import orjson

from waywiser.errors import BadInput
from waywiser.replay.recording import Problem
from waywiser.replay.result import SessionResult
from waywiser.replay.work import Order, Replayed
from waywiser.runtime import load
from waywiser.stores.codec import UNREADABLE, decode_named, encode_named

FLUSH_EVERY = 32


def fingerprint(path: Path, order: Order) -> str:
    """Digest what the results depend on: the input's size and time, the policies, their weights, and the tools."""
    state = blake2b(digest_size=16)
    told = path.stat()
    state.update(f"{path.resolve()}\n{told.st_size}\n{told.st_mtime_ns}\n{order}".encode())
    for name in filter(None, (*order.policies, order.tools)):
        state.update(Path(name).read_bytes())
    for weights in filter(None, (load(name).weights for name in order.policies)):
        for file in sorted(weights.glob("*.npz")):
            state.update(file.read_bytes())
    return state.hexdigest()


@dataclass(slots=True)
class Checkpoint:
    """The results of a replay so far. Use as a context; `earlier()` first, then `keep` what is new."""

    path: Path
    mark: str
    _stream: IO[bytes] | None = None
    _kept: int = 0

    def __enter__(self) -> Self:
        """Use as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it stays, for the next run."""
        if self._stream is not None:
            self._stream.close()

    def earlier(self) -> Iterator[Replayed]:
        """Yield what an earlier run has done and open the file for more. A last line cut off in writing is dropped.

        Raises `BadInput` when the file belongs to another replay.
        """
        good = 0
        if self.path.exists():
            with self.path.open("rb") as stream:
                head = stream.readline()
                if head.strip() != self.mark.encode():
                    raise BadInput(f"{self.path}: belongs to another replay (other input, policy or tools); remove it")
                good = stream.tell()
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        item = _decoded(line)
                    except UNREADABLE:
                        break
                    good += len(line)
                    yield item
        self._stream = self.path.open("r+b" if good else "wb")
        if good:
            self._stream.truncate(good)
            self._stream.seek(good)
        else:
            self._stream.write(self.mark.encode() + b"\n")

    def keep(self, item: Replayed) -> None:
        """Write down one more result."""
        if self._stream is None:
            raise AssertionError("`earlier` opens the file")
        self._stream.write(_encoded(item) + b"\n")
        self._kept += 1
        if self._kept % FLUSH_EVERY == 0:
            self._stream.flush()


def _encoded(item: Replayed) -> bytes:
    results: Sequence[SessionResult | Problem] = (item,) if isinstance(item, Problem) else item
    name = b"problem" if isinstance(item, Problem) else b"sessions"
    return b'{"' + name + b'":[' + b",".join(map(encode_named, results)) + b"]}"


def _decoded(line: bytes) -> Replayed:
    told = orjson.loads(line)
    if "problem" in told:
        return decode_named(Problem, orjson.dumps(told["problem"][0]))
    return tuple(decode_named(SessionResult, orjson.dumps(row)) for row in told["sessions"])
