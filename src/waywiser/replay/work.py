"""Replaying a whole file: decode, replay, hand the results over in the order of the input; by one or more processes.

The parent reads and never waits for more than a few batches, so memory does not grow with the file. Each session is
replayed with a store of its own, so the results are the same for any number of processes.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import orjson

from waywiser.core.calls import Tool
from waywiser.core.policy import LoopControl, Policy
from waywiser.errors import BadInput
from waywiser.ports import Classifier
from waywiser.replay.reading import Batch, batches, read
from waywiser.replay.recording import Problem
from waywiser.replay.result import SessionResult
from waywiser.replay.simulate import replay
from waywiser.runtime import LazyClassifier, load
from waywiser.upstream.openai_inbound import read_tools

SESSIONS_A_TASK = 8
TASKS_AHEAD = 2
TASKS_WAITING = 32
"""Results of so many tasks may wait for one before them, so that the order is kept."""

WORTH_A_PROCESS = 1 << 20
"""Bytes of input; a smaller file is replayed sooner than a process starts."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to replay and how: policies by file, tools to offer where a recording names none."""

    policies: tuple[str, ...]
    tools: str = ""
    decisions: bool = False


Replayed: TypeAlias = tuple[SessionResult, ...] | Problem
"""One session under each policy of the order, or why there is none."""


class Replayer:
    """Replays sessions by an order. One a process. `classifier` judges where a policy names none of its own."""

    def __init__(self, order: Order, classifier: Classifier | None = None) -> None:
        shared = classifier or LazyClassifier()
        loaded = [load(path) for path in order.policies]
        self._policies: tuple[tuple[Policy, Classifier], ...] = tuple(
            (one.policy, one.classifier or shared) for one in loaded
        )
        self._tools = tools_of(order.tools)
        self._decisions = order.decisions

    def __call__(self, item: Batch | Problem) -> Replayed:
        """Replay the session of a batch under every policy; a problem stays what it is."""
        if isinstance(item, Problem):
            return item
        results: list[SessionResult] = []
        for policy, own in self._policies:
            patience = policy.loops.after if policy.loops is not None else LoopControl().after
            session = read(item, self._tools, patience)
            if isinstance(session, Problem):
                return session
            try:
                results.append(replay(session, policy, own, decisions=self._decisions))
            except BadInput as error:
                return Problem(session.place, str(error))
        return tuple(results)


def tools_of(path: str) -> tuple[Tool, ...]:
    """Read tool definitions (OpenAI form, a JSON array) from a file; none for an empty path. Raises `BadInput`."""
    if not path:
        return ()
    try:
        return read_tools(orjson.loads(Path(path).read_bytes()), path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None


def replayed(
    path: Path, order: Order, *, workers: int = 1, skip: int = 0, note: Callable[[int], None] | None = None
) -> Iterator[Replayed]:
    """Replay every session of a file, in its order. `skip` leaves out the first items; `note` hears of bytes read.

    Raises `BadInput` when the file cannot be read, `ConfigError` for a policy that does not hold.
    """
    here = Replayer(order)  # says at once what is wrong with a policy, in this process
    source = _noted(islice(batches(path), skip, None), note)
    if workers <= 1 or path.stat().st_size < WORTH_A_PROCESS:
        for item in source:
            yield here(item)
        return
    # Spawned, not forked: a fork copies locks that threads of this process may hold.
    context = multiprocessing.get_context("spawn")
    others = workers - 1  # this process works too
    with ProcessPoolExecutor(others, context, initializer=_begin, initargs=(order,)) as pool:
        waiting: deque[Future[list[Replayed]]] = deque()
        try:
            while task := list(islice(source, SESSIONS_A_TASK)):
                if sum(not future.done() for future in waiting) < others * TASKS_AHEAD:
                    waiting.append(pool.submit(_work, task))
                else:
                    own: Future[list[Replayed]] = Future()
                    own.set_result([here(item) for item in task])
                    waiting.append(own)
                while waiting and (waiting[0].done() or len(waiting) > workers * TASKS_WAITING):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _noted(source: Iterator[Batch | Problem], note: Callable[[int], None] | None) -> Iterator[Batch | Problem]:
    for item in source:
        if note is not None and isinstance(item, Batch) and item.done:
            note(item.done)
        yield item


_replayers: list[Replayer] = []


def _begin(order: Order) -> None:
    _replayers[:] = [Replayer(order)]


def _work(task: Sequence[Batch | Problem]) -> list[Replayed]:
    return [_replayers[0](item) for item in task]
