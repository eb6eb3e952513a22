"""What the wire dialects share: JSON in and out, fragments encoded once, and what a codec is.

A codec is pure: it turns a `Call` into the bytes of a request and the bytes of a response into a `Reply`, a `Failure`
or a run of `Chunk`s. Who moves the bytes is `client.py`'s affair.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeAlias

import orjson

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome, Reply, Usage
from waywiser.core.models import Model

Raw: TypeAlias = Any  # parsed JSON of a stranger: every access is checked where it happens
Encodable: TypeAlias = (
    "bool | int | float | str | orjson.Fragment | Sequence[Encodable] | Mapping[str, Encodable] | None"
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request ready to be sent. `headers` holds the key: never log it."""

    url: str
    headers: dict[str, str]
    body: bytes


class EventDecoder(Protocol):
    """Reads the events of one streamed response, in order."""

    def event(self, name: str, data: str) -> list[Chunk | Failure]:
        """Take one event. A `Failure` ends the stream."""
        ...

    def end(self) -> list[Chunk | Failure]:
        """Take note that nothing more will come. Empty when the answer was not finished by then."""
        ...

    def partial(self) -> Reply | None:
        """Return what was streamed so far, if anything a reader could see was."""
        ...

    @property
    def done(self) -> bool:
        """Whether the provider said that the stream is over."""
        ...


class Codec(Protocol):
    """One wire dialect."""

    def request(self, model: Model, call: Call, key: str, *, stream: bool) -> Request:
        """Encode a call. Raises `Unencodable` for what this dialect can't say."""
        ...

    def reply(self, body: bytes) -> Outcome:
        """Decode the body of a 200 response."""
        ...

    def decoder(self) -> EventDecoder:
        """Return a fresh reader for one streamed response."""
        ...


class Unencodable(Exception):  # noqa: N818 - never leaves this package: the client turns it into a Failure
    """A call that can't be written in this dialect. The message names the place."""


def parse(data: bytes | str) -> Raw:
    """Parse JSON. Raises `ValueError` when it is none.

    orjson refuses lone surrogates, which some servers send when they cut an emoji in two; the standard parser takes
    them, and `mend` joins the halves later.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        return json.loads(text)


def dump(value: Encodable) -> bytes:
    """Write JSON; lone surrogates, which UTF-8 can't carry, become U+FFFD. Raises `TypeError` for what is not JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_mended(value))


def mend(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, so that the text can be written as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _mended(value: Encodable) -> Encodable:
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    if isinstance(value, Mapping):
        return {mend(name): _mended(item) for name, item in value.items()}
    return value


def fragment(text: str, place: str) -> orjson.Fragment:
    """Put JSON text into a request as it is. Raises `Unencodable` when it is not JSON."""
    try:
        orjson.loads(text)
    except ValueError:
        try:
            return orjson.Fragment(dump(json.loads(text)))
        except ValueError as error:
            raise Unencodable(f"{place} is not JSON: {error}") from None
    return orjson.Fragment(text)


class Fragments:
    """Encoded pieces of requests by digest, so that a message sent a hundred times is encoded once.

    Bounded by bytes; what was used least recently goes first. Safe to share between threads: a race encodes twice.
    """

    __slots__ = ("_held", "_limit", "_lock", "_size")

    def __init__(self, limit_bytes: int = 32 << 20) -> None:
        self._held: OrderedDict[Hashable, bytes] = OrderedDict()
        self._limit = limit_bytes
        self._size = 0
        self._lock = Lock()

    def get(self, key: Hashable, encode: Callable[[], bytes]) -> bytes:
        """Return the bytes held under `key`, encoding them if they are not there."""
        found = self._held.get(key)
        if found is not None:
            return found
        made = encode()
        if len(made) > self._limit // 4:
            return made
        with self._lock:
            if key not in self._held:
                self._held[key] = made
                self._size += len(made)
            while self._size > self._limit:
                self._size -= len(self._held.popitem(last=False)[1])
        return made

    def __len__(self) -> int:
        """Count the pieces held."""
        return len(self._held)


def data_url(url: str) -> tuple[str, str] | None:
    """Split `data:<type>;base64,<data>` into type and data; None for any other URL."""
    if not url.startswith("data:"):
        return None
    head, _, data = url[5:].partition(",")
    media_type, _, coding = head.partition(";")
    return (media_type, data) if coding.endswith("base64") else None


def malformed(message: str) -> Failure:
    """Say that a provider answered in a way that is no answer."""
    return Failure(FailureKind.MALFORMED, message, 200, usage=Usage(estimated=True))


def text_of(value: Raw) -> str:
    """Return `value` if it is text, else nothing: servers send null where the dialect says string."""
    return value if isinstance(value, str) else ""


def count_of(value: Raw) -> int:
    """Return `value` if it is a count of tokens, else 0."""
    return value if isinstance(value, int) and value > 0 else 0


def mapping_of(value: Raw) -> Mapping[str, Raw]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Raw) -> list[Raw]:
    """Return `value` if it is an array, else an empty one."""
    return value if isinstance(value, list) else []
