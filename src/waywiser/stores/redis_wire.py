"""Talking to Redis: the scripts, batches of calls to them, and who performs a batch, blocking or not.

The store's logic is written once, as generators that yield batches of `Run` and receive their replies (`Turns`). Each
batch is one round trip. When the server cannot be reached, `Away` is thrown into the generator.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar

from waywiser.errors import ConfigError, StoreError
from waywiser.stores.codec import UNREADABLE

T = TypeVar("T")

TIMEOUT_S = 2.0

# What each script begins with; all are texts in `lua/`.
_PARTS = {
    "open": ("session", "open"),
    "reserve": ("session", "reserve"),
    "settle": ("session", "receipt", "settle"),
    "record": ("session", "receipt", "record"),
    "grant": ("session", "grant"),
    "shrink": ("session", "shrink"),
    "allot": ("allot",),
    "endow": ("endow",),
    "learn": ("learn",),
    "index": ("index",),
    "health": ("health",),
    "holds": ("session", "holds"),
}


class Away(Exception):  # noqa: N818 - a state of the server, handled by the store's policy
    """The server cannot be reached, or is not ready to serve."""


@dataclass(frozen=True, slots=True)
class Run:
    """One call: of a script of ours, or of a plain command where `script` begins with a capital."""

    script: str
    keys: tuple[str, ...]
    args: tuple[str | bytes | float, ...] = ()


Batch: TypeAlias = Sequence[Run]
Turns: TypeAlias = Generator[Batch, list[Any], T]


@cache
def source(script: str) -> bytes:
    """Return the text of a script, what it shares with others before it."""
    folder = files("waywiser.stores") / "lua"
    return b"\n".join((folder / f"{part}.lua").read_bytes() for part in _PARTS[script])


@cache
def _sha(script: str) -> str:
    return hashlib.sha1(source(script), usedforsecurity=False).hexdigest()


def _words(run: Run) -> tuple[Any, ...]:
    if run.script[0].isupper():
        return (run.script, *run.keys, *run.args)
    return ("EVALSHA", _sha(run.script), len(run.keys), *run.keys, *run.args)


class Server:
    """One Redis server, reached through a pool of connections; async callers have a pool for each event loop."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        try:
            import redis  # noqa: PLC0415 - an extra, needed only here
            import redis.asyncio  # noqa: PLC0415 - an extra
            from redis.backoff import NoBackoff  # noqa: PLC0415 - as above
            from redis.retry import Retry  # noqa: PLC0415 - as above
        except ImportError:
            raise ConfigError("the redis store needs the `redis` extra: pip install 'waywiser[redis]'") from None
        self._redis: Any = redis  # untyped in part
        self._url = url
        self._options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "protocol": 2,
        }
        # One more try on a fresh connection: the server may have been restarted since the last call, and every script
        # of ours may run twice.
        self._retries = NoBackoff(), 1
        try:
            self._client: Any = redis.Redis.from_url(url, retry=Retry(*self._retries), **self._options)
        except ValueError as error:
            raise ConfigError(f"the address of the redis store is wrong: {error}") from None
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[Any, None]]] = {}

    def __str__(self) -> str:
        """Name the server without its password."""
        where = self._client.connection_pool.connection_kwargs
        return f"redis at {where.get('host') or where.get('path')}:{where.get('port', '')}".rstrip(":")

    @property
    def client(self) -> Any:
        """The blocking client, for reports that scan."""
        return self._client

    def drive(self, turns: Turns[T]) -> T:
        """Perform the batches of a generator, blocking, and return its result."""
        try:
            batch = next(turns)
            while True:
                try:
                    replies = self._perform(batch)
                except Away as away:
                    batch = turns.throw(away)
                else:
                    batch = turns.send(replies)
        except StopIteration as done:
            result: T = done.value
            return result

    async def adrive(self, turns: Turns[T]) -> T:
        """Like `drive`, for an event loop. A cancelled caller leaves a batch performed or not, never half."""
        try:
            batch = next(turns)
            while True:
                try:
                    replies = await self._aperform(batch)
                except Away as away:
                    batch = turns.throw(away)
                else:
                    batch = turns.send(replies)
        except StopIteration as done:
            result: T = done.value
            return result

    def guard(self, work: Callable[[], T]) -> T:
        """Run work on the blocking client. Raises `StoreError` for whatever goes wrong with the server."""
        try:
            return work()
        except self._redis.exceptions.RedisError as error:
            raise StoreError(f"{self}: {error}") from error
        except UNREADABLE as error:
            raise StoreError(f"{self}: a row of the session store cannot be read: {error}") from error

    def close(self) -> None:
        """Close the blocking connections. Those of an event loop end with it, or by `aclose`."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        found = self._loops.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].aclose()

    def _perform(self, batch: Batch) -> list[Any]:
        try:
            if len(batch) == 1:
                try:
                    return [self._client.execute_command(*_words(batch[0]))]
                except self._redis.exceptions.NoScriptError:
                    self._client.execute_command("SCRIPT LOAD", source(batch[0].script))
                    return [self._client.execute_command(*_words(batch[0]))]
            replies = self._client_pipeline(batch).execute(raise_on_error=False)
            for run in self._missing(batch, replies):
                self._client.execute_command("SCRIPT LOAD", source(run.script))
            if todo := self._todo(replies):
                again = self._client_pipeline([batch[index] for index in todo]).execute(raise_on_error=False)
                for index, reply in zip(todo, again, strict=True):
                    replies[index] = reply
            return self._checked(replies)
        except self._redis.exceptions.RedisError as error:
            raise self._trouble(error) from error

    async def _aperform(self, batch: Batch) -> list[Any]:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        client = found[0] if found is not None else await self._of_this(loop)
        try:
            if len(batch) == 1:
                try:
                    return [await client.execute_command(*_words(batch[0]))]
                except self._redis.exceptions.NoScriptError:
                    await client.execute_command("SCRIPT LOAD", source(batch[0].script))
                    return [await client.execute_command(*_words(batch[0]))]
            replies = await self._queue(client.pipeline(transaction=False), batch).execute(raise_on_error=False)
            for run in self._missing(batch, replies):
                await client.execute_command("SCRIPT LOAD", source(run.script))
            if todo := self._todo(replies):
                pipeline = self._queue(client.pipeline(transaction=False), [batch[index] for index in todo])
                again = await pipeline.execute(raise_on_error=False)
                for index, reply in zip(todo, again, strict=True):
                    replies[index] = reply
            return self._checked(replies)
        except self._redis.exceptions.RedisError as error:
            raise self._trouble(error) from error

    async def _of_this(self, loop: asyncio.AbstractEventLoop) -> Any:
        for ended in [other for other in list(self._loops) if other.is_closed()]:  # other threads have loops, too
            self._loops.pop(ended, None)
        holder = self._holding()
        client = await anext(holder)
        self._loops[loop] = (client, holder)
        return client

    async def _holding(self) -> AsyncGenerator[Any, None]:
        """Hold a client while its event loop runs: `asyncio.run` and its like close what has begun before they end."""
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - an extra, needed only here

        client = self._redis.asyncio.Redis.from_url(self._url, retry=Retry(*self._retries), **self._options)
        try:
            yield client
        finally:
            await client.aclose()

    def _client_pipeline(self, batch: Batch) -> Any:
        return self._queue(self._client.pipeline(transaction=False), batch)

    @staticmethod
    def _queue(pipeline: Any, batch: Batch) -> Any:
        for run in batch:
            pipeline.execute_command(*_words(run))
        return pipeline

    def _missing(self, batch: Batch, replies: list[Any]) -> list[Run]:
        """Return the calls whose script the server did not know (it was restarted), one of each script."""
        found = {batch[index].script: batch[index] for index in self._todo(replies)}
        return list(found.values())

    def _todo(self, replies: list[Any]) -> list[int]:
        kind = self._redis.exceptions.NoScriptError
        return [index for index, reply in enumerate(replies) if isinstance(reply, kind)]

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, self._redis.exceptions.RedisError):
                raise reply
        return replies

    def _trouble(self, error: Exception) -> Exception:
        kinds = self._redis.exceptions
        away = (kinds.ConnectionError, kinds.TimeoutError, kinds.ReadOnlyError, kinds.OutOfMemoryError)
        if isinstance(error, kinds.AuthenticationError | kinds.AuthorizationError):
            return StoreError(f"{self}: not let in: {error}")
        return Away(f"{self}: {error}") if isinstance(error, away) else StoreError(f"{self}: {error}")
