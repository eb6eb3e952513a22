"""The fleet's probe belongs to nobody when whoever asked for it is gone before the answer came."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from waywiser.core.budget import Amounts
from waywiser.core.calls import FailureKind
from waywiser.core.health import TRIP_AFTER
from waywiser.core.session import Settlement
from waywiser.core.steps import StepKind
from waywiser.stores.redis import RedisStore
from waywiser.testing.pieces import failed

LONG_AGO_S = 10.0


def a_settlement(now_s: float) -> Settlement:
    return Settlement(
        hold="h", path=(), kind=StepKind.SYNTHESIS, used=Amounts(0, 0, 0, 0), now_s=now_s, session="s", tenant="",
        agent="", tier="t", model="m", policy="p",
    )  # fmt: skip


@pytest.mark.parametrize("written", [True, False], ids=["written", "not written"])
def test_a_claim_whose_caller_was_cancelled_is_given_back(redis_url: str, written: bool) -> None:
    async def run() -> None:
        store = RedisStore(redis_url)
        now_s = time.time()
        await store.aopen("s", (), now_s, "p")
        for count in range(TRIP_AFTER):
            store.health.note("m", failed(FailureKind.OVERLOADED), 0.1, now_s - LONG_AGO_S + count / 10)
        await store.asettle(a_settlement(now_s))
        perform: Any = store._server._aperform
        reached = asyncio.Event()

        async def stuck(batch: Any) -> Any:
            if written:
                await perform(batch)
            reached.set()
            await asyncio.sleep(60)

        store._server._aperform = stuck  # type: ignore[method-assign]
        asking = asyncio.ensure_future(store.health.aadmit("m", now_s))
        await reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        store._server._aperform = perform  # type: ignore[method-assign]
        await store.asettle(a_settlement(now_s))
        other = RedisStore(redis_url)
        await other.aopen("s", (), now_s + 1, "p")
        assert other.health.snapshot()["m"].open_until_s
        assert await other.health.aadmit("m", now_s + 1), "nobody is probing"
        assert not await store.health.aadmit("m", now_s + 1), "the other one is"
        for one in (store, other):
            await one.aclose()
            one.close()

    asyncio.run(run())
