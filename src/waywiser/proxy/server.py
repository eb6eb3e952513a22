"""The server under the application: uvicorn, with what it leaves open closed (slow and endless heads of requests)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from waywiser.errors import ConfigError
from waywiser.proxy.app import App
from waywiser.proxy.service import Options, open_service

HEAD_TIMEOUT_S = 15.0
HEAD_LIMIT = 64 << 10
KEEP_ALIVE_S = 75
BACKLOG = 4096
MOST_PORT = 65535


class GuardedProtocol(HttpToolsProtocol):
    """One connection, whose requests must have their heads there in time and within the limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._impatience: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._patient()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._impatience is None:
            self._impatience = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self._weigh(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._weigh(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take note that the head is whole."""
        self._patient()
        super().on_headers_complete()

    def _weigh(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT:
            raise ValueError("the head of the request is too long")  # the parser makes it a 400 and closes

    def _patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _too_slow(self) -> None:
        self._impatience = None
        if not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Open the port; 0 picks a free one. Raises `ConfigError` for one that is none or cannot be had."""
    if not 0 <= port <= MOST_PORT:
        raise ConfigError(f"--port: expected a whole number from 0 to {MOST_PORT}, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"--host, --port: {host}:{port} cannot be listened on: {error.strerror or error}") from None


def configured(app: App, options: Options) -> uvicorn.Config:
    """Configure uvicorn: no access log, no web sockets, nothing between the sockets and the application."""
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        loop="auto",
        ws="none",
        lifespan="on",
        workers=options.workers,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(options.grace_s),
    )


def serve(options: Options, sock: socket.socket) -> None:
    """Serve until told to stop; streams that have begun are finished first, for up to `grace_s` seconds."""
    _allow_many_connections()
    if options.workers == 1:
        uvicorn.Server(configured(App(partial(open_service, options)), options)).run(sockets=[sock])
        return
    with TemporaryDirectory(prefix="waywiser-") as folder:
        shared = replace(options, folder=folder)
        Multiprocess(configured(App(partial(open_service, shared)), shared), sockets=[sock]).run()


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1024, to the hard one: a stream takes two sockets."""
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
