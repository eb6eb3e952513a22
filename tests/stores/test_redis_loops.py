"""The connections of event loops: each loop has its own, and takes them with it when it ends."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

import pytest

from waywiser.clock import SystemClock
from waywiser.engine import Engine
from waywiser.stores.redis import RedisStore
from waywiser.testing.pieces import CharacterCounter, a_call, a_policy, said
from waywiser.testing.upstream import ScriptedUpstream

LOOPS = 4
AT_ONCE = 5


def an_engine(url: str) -> Engine:
    return Engine(
        a_policy(),
        store=RedisStore(url),
        upstreams={"scripted": ScriptedUpstream({"a/middle": [said("ok")] * (LOOPS * AT_ONCE)})},
        counter=CharacterCounter(),
        clock=SystemClock(),
    )


async def calls(engine: Engine, loop: int) -> None:
    await asyncio.gather(
        *(engine.acomplete(a_call(call_id=f"c{loop}.{number}", session=f"s{number}")) for number in range(AT_ONCE))
    )


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux shows them")
def test_a_loop_that_ended_leaves_no_connection(redis_url: str) -> None:
    engine = an_engine(redis_url)
    asyncio.run(calls(engine, 0))
    gc.collect()
    before = open_files()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for loop in range(1, LOOPS):
            asyncio.run(calls(engine, loop))
        gc.collect()
    assert open_files() <= before
    assert not [str(one.message) for one in caught if "Connection" in str(one.message)]
    engine.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="as above")
def test_closing_the_engine_closes_the_connections_of_the_loop(redis_url: str) -> None:
    async def run() -> None:
        gc.collect()
        before = open_files()
        engine = an_engine(redis_url)
        await calls(engine, 0)
        assert open_files() > before
        await engine.aclose()
        await asyncio.sleep(0.05)
        gc.collect()
        assert open_files() <= before

    asyncio.run(run())
