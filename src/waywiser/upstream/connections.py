"""HTTP connections, kept alive: a blocking pool over the standard library, and one aiohttp session per event loop.

Why not httpx: measured with `benchmarks/loopback.py`, a small call costs 0.07 ms of CPU over `http.client`, 0.21 over
`httpx.HTTPTransport` and 0.33 over `httpx.Client`; on an event loop with 32 calls at once 0.06 ms over aiohttp, 0.13
over `httpx_aiohttp.AiohttpTransport` and 0.25 over `httpx.AsyncClient` with it.

Nobody here retries. A connection that the server closed while it was idle is noticed before it is used again.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import select
import socket
import ssl
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from waywiser.upstream.wire import Request

if TYPE_CHECKING:
    import aiohttp

IDLE_S = 60.0  # load balancers drop idle connections after a minute or more
KEPT = 100  # idle connections kept for one origin
_AGENT = {"user-agent": "waywiser", "accept-encoding": "identity"}


@cache
def tls() -> ssl.SSLContext:
    """The one TLS context of the process: making one reads a few hundred certificates, so it is made when first needed.

    The system's certificates count, and those of certifi where it is installed, since not every system has any.
    """
    context = ssl.create_default_context()
    try:
        import certifi  # noqa: PLC0415 - optional
    except ImportError:
        return context
    if not os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(certifi.where())
    return context


class Unreached(OSError):  # noqa: N818 - says what it means
    """No connection came about, so the provider has not seen the request. The cause says why."""


class Exchange:
    """One request on its way, and its response. Whoever opened it calls `release` or `discard`, whatever happens."""

    __slots__ = ("_connection", "_idle", "response")

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        idle: deque[tuple[http.client.HTTPConnection, float]],
    ) -> None:
        self._connection = connection
        self._idle = idle
        self.response = response

    def release(self) -> None:
        """Give the connection back if its response was read to the end, else close it."""
        if self.response.isclosed() and not self.response.will_close and self._connection.sock is not None:
            self._idle.append((self._connection, time.monotonic()))
        else:
            self._connection.close()

    def drain(self, seconds: float = 0.05) -> None:
        """Read the little that follows an answer that is over, so that the connection can be used again."""
        if self._connection.sock is None:
            return
        self._connection.sock.settimeout(seconds)
        try:
            while self.response.read1(4096):
                pass
        except (OSError, http.client.HTTPException):
            self._connection.close()

    def discard(self) -> None:
        """Close the connection: the rest of the response is not wanted."""
        self._connection.close()


class ConnectionPool:
    """Blocking connections by origin. As many as there are concurrent calls; idle ones are shared by all threads."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[tuple[http.client.HTTPConnection, float]]] = {}
        self._origins: dict[str, tuple[SplitResult, SplitResult | None]] = {}
        self._process = os.getpid()

    def send(self, request: Request, timeout_s: float) -> Exchange:
        """Send a request and read the head of the response.

        Raises `OSError` (`Unreached`, timeouts and TLS failures among them) and `http.client.HTTPException`.
        """
        if self._process != os.getpid():  # a fork: its parent still uses these sockets
            self._idle = {}
            self._process = os.getpid()
        base, path = _split(request.url)
        if base not in self._origins:
            self._origins[base] = _route(base)
            self._idle.setdefault(base, deque(maxlen=KEPT))
        origin, proxy = self._origins[base]
        idle = self._idle.setdefault(base, deque(maxlen=KEPT))
        connection = self._alive(idle, timeout_s) or _connect(origin, proxy, timeout_s)
        try:
            if proxy is not None and origin.scheme == "http":
                path = request.url
            connection.request("POST", path, request.body, {**_AGENT, **request.headers, **_proxy_auth(origin, proxy)})
            return Exchange(connection, connection.getresponse(), idle)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop()[0].close()

    @staticmethod
    def _alive(
        idle: deque[tuple[http.client.HTTPConnection, float]], timeout_s: float
    ) -> http.client.HTTPConnection | None:
        while idle:
            try:
                connection, since = idle.pop()  # newest first: the others may grow old and be dropped
            except IndexError:
                return None
            if connection.sock is not None and time.monotonic() - since < IDLE_S and not _readable(connection.sock):
                connection.timeout = timeout_s
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()
        return None


def _split(url: str) -> tuple[str, str]:
    start = url.find("/", url.find("://") + 3)
    return (url, "/") if start < 0 else (url[:start], url[start:])


def _route(base: str) -> tuple[SplitResult, SplitResult | None]:
    """Find out how to reach an origin: directly, or through the proxy that the environment names."""
    origin = urlsplit(base)
    if origin.scheme not in ("http", "https") or not origin.hostname:
        raise http.client.InvalidURL(f"base_url must be an http(s) URL, got {base!r}")
    proxy = getproxies().get(origin.scheme, "")
    if not proxy or proxy_bypass(origin.netloc):
        return origin, None
    return origin, urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _connect(origin: SplitResult, proxy: SplitResult | None, timeout_s: float) -> http.client.HTTPConnection:
    host, port = origin.hostname or "", origin.port
    if proxy is not None:
        host, port = proxy.hostname or "", proxy.port
    connection: http.client.HTTPConnection
    if origin.scheme == "http":
        connection = http.client.HTTPConnection(host, port or 80, timeout=timeout_s)
        return _connected(connection)
    connection = http.client.HTTPSConnection(
        host, port or (443 if proxy is None else 80), timeout=timeout_s, context=tls()
    )
    if proxy is not None:
        connection.set_tunnel(origin.hostname or "", origin.port or 443, _credentials(proxy))
    return _connected(connection)


def _connected(connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
    try:
        connection.connect()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise Unreached(str(error)) from error
    return connection


def _proxy_auth(origin: SplitResult, proxy: SplitResult | None) -> dict[str, str]:
    return _credentials(proxy) if proxy is not None and origin.scheme == "http" else {}


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _readable(sock: socket.socket) -> bool:
    """Whether an idle socket has something to say, which can only be its end."""
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


class LoopSessions:
    """One aiohttp session per event loop, closed when its loop ends, whoever ends it.

    Each session is held by an async generator that has begun: `asyncio.run`, `asyncio.Runner` and their like close such
    generators before they close the loop. So a program that never says `aclose` leaves nothing open either.
    """

    def __init__(self) -> None:
        self._holders: dict[
            asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[aiohttp.ClientSession, None]]
        ] = {}

    async def session(self) -> aiohttp.ClientSession:
        """Return the session of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._holders.get(loop)
        if found is not None and not found[0].closed:
            return found[0]
        for ended in [other for other in list(self._holders) if other.is_closed()]:  # other threads have loops, too
            self._holders.pop(ended, None)
        holder = _holding()
        session = await anext(holder)
        self._holders[loop] = (session, holder)
        return session

    async def aclose(self) -> None:
        """Close the session of the running loop."""
        found = self._holders.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].aclose()


async def _holding() -> AsyncGenerator[aiohttp.ClientSession, None]:
    import aiohttp  # noqa: PLC0415 - takes 100 ms to import, and blocking callers never need it

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_AGENT,
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=any(name in getproxies() for name in ("http", "https")),
        read_bufsize=1 << 16,
    )
    try:
        yield session
    finally:
        await session.close()
