"""A real server on loopback, in its own process, that answers at once or misbehaves on demand."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from waywiser.core.models import Ability, Model

LOOPBACK = Path(__file__).resolve().parents[2] / "benchmarks" / "loopback.py"


class Loopback:
    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    def model(self, remote: str, api: str = "openai") -> Model:
        return Model("test/model", api=api, remote=remote, base_url=self.url, abilities=frozenset({Ability.TOOLS}))

    def stats(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as response:
            return json.load(response)


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    process = subprocess.Popen([sys.executable, LOOPBACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    yield Loopback(int(process.stdout.readline()))
    process.stdin.close()
    process.wait(5)
    process.stdout.close()
