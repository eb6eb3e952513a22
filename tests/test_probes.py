"""The one probe of a half-open circuit: what becomes of it when nobody waits for it, and how it is asked for."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from waywiser.core.calls import Call
from waywiser.core.health import REST_S, TRIP_AFTER
from waywiser.core.policy import StepRule
from waywiser.health import HealthBoard
from waywiser.testing.pieces import STEPS, TIERS, Rig, a_call, a_policy, failed, said

DOWN = "a/middle"


def resting() -> Rig:
    """A rig whose first model is due a probe, and is well again."""
    policy = a_policy(tiers=TIERS[1:2], steps=dict.fromkeys(STEPS, StepRule(tier="standard")))
    rig = Rig(policy, {DOWN: [said("well again, I think")] * 4, "b/middle": [said("x")] * 4})
    for _ in range(TRIP_AFTER):
        rig.engine.health.note(DOWN, failed("overloaded"), 0.1, rig.clock.now())
    rig.clock.advance(REST_S)
    return rig


def streamed(name: str) -> Call:
    return a_call(call_id=name, session=name, stream=True)


def test_a_probe_whose_reader_goes_away_makes_room_for_another() -> None:
    rig = resting()
    stream = rig.engine.stream(streamed("one"))
    next(stream)
    assert not rig.engine.health.snapshot()[DOWN].admits(rig.clock.now())
    stream.close()
    assert rig.engine.health.snapshot()[DOWN].open_until_s
    list(rig.engine.stream(streamed("two")))
    assert rig.asked == [DOWN, DOWN]
    assert not rig.engine.health.snapshot()[DOWN].open_until_s


async def test_so_does_one_on_an_event_loop() -> None:
    rig = resting()
    async with aclosing(rig.engine.astream(streamed("one"))) as stream:
        await anext(stream)
    assert rig.engine.health.snapshot()[DOWN].admits(rig.clock.now())
    task = asyncio.ensure_future(rig.engine.acomplete(a_call(call_id="two", session="two")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert rig.engine.health.snapshot()[DOWN].admits(rig.clock.now())


class Asked(HealthBoard):
    """A board that remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.how: list[str] = []

    def admit(self, model: str, now_s: float) -> bool:
        self.how.append("blocking")
        return True

    async def aadmit(self, model: str, now_s: float) -> bool:
        self.how.append("async")
        return True


async def test_an_event_loop_never_waits_for_a_shared_board() -> None:
    rig = resting()
    board = rig.engine.health = Asked()
    await rig.engine.acomplete(a_call(call_id="one", session="one"))
    async for _ in rig.engine.astream(streamed("two")):
        pass
    assert set(board.how) == {"async"}
    rig.engine.complete(a_call(call_id="three", session="three"))
    assert board.how[-1] == "blocking"
