"""Several answers to one request (`n`): as many calls at once, each routed, paid and noted for itself.

Each answer but the first is a branch of its own (an *agent* in the words of budgets and loops), so that asking thrice
for the same is not taken for going round in circles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from waywiser.core.calls import Call, Chunk
from waywiser.engine import Answer, Engine


def branches(call: Call, samples: int) -> list[Call]:
    """Make the calls of one request."""
    calls = [call]
    for number in range(1, samples):
        agent = f"{call.origin.agent}/sample-{number}" if call.origin.agent else f"sample-{number}"
        calls.append(replace(call, id=f"{call.id}-{number}", origin=replace(call.origin, agent=agent)))
    return calls


async def complete_all(engine: Engine, calls: Sequence[Call]) -> list[Answer]:
    """Answer every call whole. The first that fails stops the others."""
    if len(calls) == 1:
        return [await engine.acomplete(calls[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.acomplete(call)) for call in calls]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


async def stream_all(
    engine: Engine, calls: Sequence[Call], answers: list[Answer]
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Answer every call in pieces, each with the number of its answer. Whole answers are appended, in order."""
    if len(calls) > 1:
        async with aclosing(_merged(engine, calls, answers)) as pieces:
            async for piece in pieces:
                yield piece
        return
    async with aclosing(engine.astream(calls[0], answers)) as chunks:
        async for chunk in chunks:
            yield 0, chunk


async def _merged(
    engine: Engine, calls: Sequence[Call], answers: list[Answer]
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Follow several streams at once. What ends one badly ends them all."""
    queue: asyncio.Queue[tuple[int, Chunk] | Exception | None] = asyncio.Queue(maxsize=2 * len(calls))
    found: list[list[Answer]] = [[] for _ in calls]

    async def follow(number: int, call: Call) -> None:
        try:
            async with aclosing(engine.astream(call, found[number])) as chunks:
                async for chunk in chunks:
                    await queue.put((number, chunk))
        except Exception as error:  # noqa: BLE001 - raised again where the stream is read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(follow(number, call)) for number, call in enumerate(calls)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
        answers.extend(one for each in found for one in each)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
