"""What the three dialects have in common: how a request is read, an answer written, and trouble told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from waywiser.core.calls import JSON, Call, Chunk, Reply
from waywiser.proxy.troubles import Trouble
from waywiser.upstream.wire import Raw


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as read: the call without its origin, and what the body says of session, labels and samples.

    `samples` is how many answers are asked for; `told` says whether a stream is to end with its usage; `echo` holds
    what the dialect's answers repeat of the request.
    """

    call: Call
    session: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    samples: int = 1
    told: bool = False
    echo: Mapping[str, JSON] = field(default_factory=dict)


class EventWriter(Protocol):
    """Writes one stream. `sample` numbers the answers of a stream that has several."""

    def start(self) -> bytes:
        """Write what comes before any chunk."""
        ...

    def chunk(self, chunk: Chunk, sample: int = 0) -> bytes:
        """Write a piece of an answer; empty when it says nothing in this dialect."""
        ...

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Write what comes after the last chunk of a whole answer."""
        ...


class Dialect(Protocol):
    """One wire format of the proxy. Pure: nothing here knows of sockets."""

    name: str

    def read(self, data: Mapping[str, Raw], call_id: str) -> Asked:
        """Read a request. Raises `BadInput` naming the place."""
        ...

    def whole(self, replies: Sequence[Reply], asked: Asked, *, model: str, now_s: float) -> bytes:
        """Write a whole answer; `model` is the name of who answered."""
        ...

    def events(self, asked: Asked, *, model: str, now_s: float) -> EventWriter:
        """Begin to write a stream."""
        ...

    def trouble(self, trouble: Trouble) -> bytes:
        """Write trouble as the body of an error response."""
        ...

    def broken(self, trouble: Trouble) -> bytes:
        """Write trouble as the last event of a stream that began well."""
        ...
