"""One page of metrics for all workers of a port: each keeps its numbers in a file, whoever is asked adds them up.

A worker writes before it answers, and others read what was written: so no counter is ever seen to go back, whichever
worker the next question lands on. What others have seen since they last wrote, a second ago at most, is missing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

from waywiser.proxy.metrics import Metrics

WRITE_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class Fleet:
    """The numbers of one worker among those of the others. `folder` is theirs alone; without one there are none."""

    def __init__(self, metrics: Metrics, folder: str = "", worker: int | None = None) -> None:
        self._metrics = metrics
        self._folder = Path(folder) if folder else None
        self._worker = os.getpid() if worker is None else worker
        self._written = b""

    def text(self) -> bytes:
        """Write the page."""
        if self._folder is None:
            return self._metrics.text()
        self.write()
        total = Metrics()
        total.add(self._metrics.dump(), alive=True)
        for path in sorted(self._folder.glob("*.json")):
            worker = int(path.stem)
            if worker != self._worker:
                with suppress(FileNotFoundError):
                    total.add(path.read_bytes(), alive=_alive(worker))
        return total.text()

    def write(self) -> None:
        """Keep the numbers of this worker, where they have changed. A full disk costs the numbers, not the service."""
        numbers = self._metrics.dump()
        if self._folder is None or numbers == self._written:
            return
        path = self._folder / f"{self._worker}.json"
        try:
            path.with_suffix(".new").write_bytes(numbers)
            path.with_suffix(".new").replace(path)
        except OSError as error:
            _log.warning("the numbers for /metrics can't be shared: %s", error)
            return
        self._written = numbers

    async def keep_writing(self) -> None:
        """Write every second, until cancelled."""
        if self._folder is None:
            return
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                self.write()
        finally:
            self.write()


def _alive(process: int) -> bool:
    """Whether a worker of ours still runs. Where that can't be asked for, its file is all that is known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
