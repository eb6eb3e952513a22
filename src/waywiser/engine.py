"""The two drivers: one blocking, one for an event loop. They perform what `core/flow.py` asks for, and nothing else.

Both do the same in the same order; what differs is only how they wait. Whatever ends a call early (an exception, a
closed stream, a cancelled task), the open hold is settled before the driver lets go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from waywiser.beside import Beside, BesideAsync, atold, told
from waywiser.core.calls import Call, Chunk, Failure, Reply
from waywiser.core.classification import Head
from waywiser.core.effects import (
    Begin,
    Check,
    Classify,
    Drop,
    Effect,
    Emit,
    Follow,
    Open,
    Pull,
    Pulled,
    Record,
    Reserve,
    Send,
    Settle,
    Situation,
    Sleep,
    StartStream,
    StopStream,
    Wait,
)
from waywiser.core.flow import Done, Pipeline
from waywiser.core.messages import user
from waywiser.core.policy import Policy
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened
from waywiser.errors import BudgetExceeded, LoopDetected, NoEligibleModel, RoutingRefused, StoreError, UpstreamError
from waywiser.health import HealthBoard
from waywiser.ports import Classifier, Clock, LoopBound, SessionStore, Sink, TokenCounter, Upstream
from waywiser.tally import CIRCUIT_OPEN, Tally

Checker = Callable[[Call, Reply, tuple[str, ...]], str]

_REFUSALS: Mapping[str, type[RoutingRefused]] = {error.code: error for error in (LoopDetected, NoEligibleModel)}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and the receipt that says how it came about."""

    reply: Reply
    receipt: Receipt


class Engine:
    """Performs calls under one policy. Blocking and async methods may be used side by side, from many threads."""

    def __init__(
        self,
        policy: Policy,
        *,
        store: SessionStore,
        upstreams: Mapping[str, Upstream],
        counter: TokenCounter,
        clock: Clock,
        classifier: Classifier | None = None,
        checker: Checker | None = None,
        sinks: Sequence[Sink] = (),
        health: HealthBoard | None = None,
    ) -> None:
        self.policy = policy
        self.store = store
        self.clock = clock
        self.sinks = tuple(sinks)
        self.health = health or HealthBoard()
        self._upstreams = upstreams
        self._counter = counter
        self._classifier = classifier
        self._checker = checker

    def warm_up(self) -> None:
        """Read what the first call would have to wait for: the classifier's weights, the tables that count tokens."""
        if self._classifier is not None:
            asked = (rule.when.heads for rule in self.policy.rules)
            self._classifier.warm_up(frozenset((Head.KIND, Head.SUFFICIENCY)).union(*asked))
        for encoding in sorted({model.encoding for tier in self.policy.tiers for model in tier.models}):
            self._counter.messages((user("."),), encoding)

    def complete(self, call: Call) -> Answer:
        """Answer a call whole. Raises `RoutingRefused`, `UpstreamError` or `StoreError`."""
        run = self._drive(call)
        try:
            while True:
                next(run)
        except StopIteration as stop:
            return self._finish(stop.value)

    def stream(self, call: Call) -> Generator[Chunk, None, Answer]:
        """Answer a call in pieces; the generator's return value is the whole. Raises as `complete` does.

        A stream that raises was not whole, whatever came before. Closing it stops the provider.
        """
        return self._finish((yield from self._drive(call)))

    async def acomplete(self, call: Call) -> Answer:
        """Like `complete`, for an event loop."""
        done: list[Done] = []
        async for _ in self._adrive(call, done):
            pass
        return self._finish(done[0])

    async def astream(self, call: Call, answers: list[Answer] | None = None) -> AsyncGenerator[Chunk, None]:
        """Like `stream`, for an event loop; the whole is appended to `answers`."""
        done: list[Done] = []
        async with aclosing(self._adrive(call, done)) as run:
            async for chunk in run:
                yield chunk
        answer = self._finish(done[0])
        if answers is not None:
            answers.append(answer)

    def decide(self, call: Call) -> Receipt:
        """Decide where a call would go, without sending it or setting anything aside."""
        pipeline = Pipeline(call, self.policy, now_s=self.clock.now())
        run = pipeline.run()
        result: object = None
        try:
            while True:
                effect = run.send(result)
                if isinstance(effect, Open):
                    opened = self.store.open(effect.call.origin.session, effect.path, effect.now_s, effect.policy)
                    result = self._situation(effect, opened)
                elif isinstance(effect, Reserve):
                    return pipeline.preview(self.clock.now())
                elif isinstance(effect, Record):
                    return effect.receipt
                else:
                    result = self._thought(effect)
        finally:
            run.close()

    def close(self) -> None:
        """Release the store and the connections of the blocking side."""
        for upstream in {id(one): one for one in self._upstreams.values()}.values():  # they need not be hashable
            upstream.close()
        self.store.close()

    async def aclose(self) -> None:
        """Release the store and all connections."""
        for owner in (*{id(one): one for one in self._upstreams.values()}.values(), self.store):
            if isinstance(owner, LoopBound):
                await owner.aclose()
        self.close()

    def _drive(self, call: Call) -> Generator[Chunk, None, Done]:  # noqa: C901, PLR0912, PLR0915 - one branch an effect
        pipeline = Pipeline(call, self.policy, now_s=self.clock.now())
        run = pipeline.run()
        stream: Generator[Chunk | Failure, None, None] = told()
        beside = Beside(self._upstreams, self.health, self.clock)
        tally = Tally(self.health, self.clock)
        result: object = None
        broken = ""
        try:
            while True:
                try:
                    effect = run.send(result)
                except StopIteration as stop:
                    done: Done = stop.value
                    return done
                if isinstance(effect, Emit):
                    result = None
                    yield effect.chunk
                elif isinstance(effect, Pull):
                    result = tally.pulled(next(stream, None))
                elif isinstance(effect, Open):
                    opened = self.store.open(effect.call.origin.session, effect.path, effect.now_s, effect.policy)
                    result = self._situation(effect, opened)
                elif isinstance(effect, Reserve):
                    result = self.store.reserve(effect.claim)
                elif isinstance(effect, Settle):
                    result = self.store.settle(effect.settlement)
                    self._tell(effect.settlement.receipt)
                elif isinstance(effect, Send):
                    tally = Tally.begun(self.health, self.clock, effect.model.name)
                    if tally.admitted:
                        upstream = self._upstreams[effect.model.api]
                        result = tally.sent(upstream.send(effect.model, effect.call, effect.timeout_s))
                    else:
                        result = tally.sent(CIRCUIT_OPEN)
                elif isinstance(effect, StartStream):
                    tally = Tally.begun(self.health, self.clock, effect.model.name)
                    upstream = self._upstreams[effect.model.api]
                    stream.close()
                    stream = (
                        upstream.stream(effect.model, effect.call, effect.timeout_s)
                        if tally.admitted
                        else told(CIRCUIT_OPEN)
                    )
                    result = tally.began_s
                elif isinstance(effect, StopStream):
                    result = None
                    stream.close()
                    tally.let_go()
                elif isinstance(effect, Record):
                    result = None
                    self.store.record(effect.receipt)
                    self._tell(effect.receipt)
                elif isinstance(effect, Sleep):
                    self.clock.sleep(effect.seconds)
                    result = Pulled(None, self.clock.now(), self.clock.jitter())
                elif isinstance(effect, Begin):
                    result = beside.begin(effect)
                elif isinstance(effect, Wait):
                    result = beside.wait(effect.patience_s)
                elif isinstance(effect, Drop):
                    result = beside.drop(effect.lane)
                elif isinstance(effect, Follow):
                    stream.close()
                    tally, stream = beside.follow(effect.lane)
                    result = tally.began_s
                else:
                    result = self._thought(effect)
        except Exception as error:
            broken = f"{type(error).__name__} below the engine"
            raise
        finally:
            run.close()
            tally.let_go()
            try:
                stream.close()
            finally:
                beside.close()
                self._let_go(pipeline.abandon(self.clock.now(), broken))

    async def _adrive(  # noqa: C901, PLR0912, PLR0915 - as above
        self, call: Call, done: list[Done]
    ) -> AsyncGenerator[Chunk, None]:
        pipeline = Pipeline(call, self.policy, now_s=self.clock.now())
        run = pipeline.run()
        stream: AsyncGenerator[Chunk | Failure, None] = atold()
        beside = BesideAsync(self._upstreams, self.health, self.clock)
        tally = Tally(self.health, self.clock)
        result: object = None
        broken = ""
        try:
            while True:
                try:
                    effect = run.send(result)
                except StopIteration as stop:
                    done.append(stop.value)
                    return
                if isinstance(effect, Emit):
                    result = None
                    yield effect.chunk
                elif isinstance(effect, Pull):
                    result = tally.pulled(await anext(stream, None))
                elif isinstance(effect, Open):
                    opened = await self.store.aopen(
                        effect.call.origin.session, effect.path, effect.now_s, effect.policy
                    )
                    result = self._situation(effect, opened)
                elif isinstance(effect, Reserve):
                    result = await self.store.areserve(effect.claim)
                elif isinstance(effect, Settle):
                    result = await self.store.asettle(effect.settlement)
                    self._tell(effect.settlement.receipt)
                elif isinstance(effect, Send):
                    tally = await Tally.abegun(self.health, self.clock, effect.model.name)
                    if tally.admitted:
                        upstream = self._upstreams[effect.model.api]
                        result = tally.sent(await upstream.asend(effect.model, effect.call, effect.timeout_s))
                    else:
                        result = tally.sent(CIRCUIT_OPEN)
                elif isinstance(effect, StartStream):
                    tally = await Tally.abegun(self.health, self.clock, effect.model.name)
                    upstream = self._upstreams[effect.model.api]
                    await stream.aclose()
                    stream = (
                        upstream.astream(effect.model, effect.call, effect.timeout_s)
                        if tally.admitted
                        else atold(CIRCUIT_OPEN)
                    )
                    result = tally.began_s
                elif isinstance(effect, StopStream):
                    result = None
                    await stream.aclose()
                    tally.let_go()
                elif isinstance(effect, Record):
                    result = None
                    await self.store.arecord(effect.receipt)
                    self._tell(effect.receipt)
                elif isinstance(effect, Sleep):
                    await self.clock.asleep(effect.seconds)
                    result = Pulled(None, self.clock.now(), self.clock.jitter())
                elif isinstance(effect, Begin):
                    result = await beside.begin(effect)
                elif isinstance(effect, Wait):
                    result = await beside.wait(effect.patience_s)
                elif isinstance(effect, Drop):
                    result = await beside.drop(effect.lane)
                elif isinstance(effect, Follow):
                    await stream.aclose()
                    tally, stream = await beside.follow(effect.lane)
                    result = tally.began_s
                else:
                    result = self._thought(effect)
        except Exception as error:
            broken = f"{type(error).__name__} below the engine"
            raise
        finally:
            run.close()
            tally.let_go()
            try:
                if lasts := pipeline.abandon(self.clock.now(), broken):
                    await asyncio.shield(self._alet_go(lasts))
            finally:
                try:
                    await stream.aclose()
                finally:
                    await beside.close()

    def _let_go(self, lasts: Sequence[Settle | Record]) -> None:
        """Perform what a stopped call left to do. The caller should see what stopped it: a lease frees the hold."""
        for last in lasts:
            with suppress(StoreError):
                if isinstance(last, Settle):
                    self.store.settle(last.settlement)
                else:
                    self.store.record(last.receipt)
            self._tell(last.settlement.receipt if isinstance(last, Settle) else last.receipt)

    async def _alet_go(self, lasts: Sequence[Settle | Record]) -> None:
        for last in lasts:
            with suppress(StoreError):
                if isinstance(last, Settle):
                    await self.store.asettle(last.settlement)
                else:
                    await self.store.arecord(last.receipt)
            self._tell(last.settlement.receipt if isinstance(last, Settle) else last.receipt)

    def _situation(self, effect: Open, opened: Opened) -> Situation:
        call = effect.call
        tokens = {
            encoding: self._counter.messages(call.messages, encoding)
            + (self._counter.tools(call.tools, encoding) if call.tools else 0)
            for encoding in effect.encodings
        }
        return Situation(opened.trail, opened.standings, tokens, self.health.snapshot(), opened.costs)

    def _thought(self, effect: Effect[object]) -> object:
        """Perform what needs no waiting."""
        if isinstance(effect, Classify):
            if self._classifier is None:
                return None
            return self._classifier.classify(effect.call.messages, effect.call.tools, effect.rungs, effect.heads)
        if isinstance(effect, Check):
            return self._checker(effect.call, effect.reply, effect.checks) if self._checker is not None else ""
        raise AssertionError(f"no driver performs {type(effect).__name__}")

    @staticmethod
    def _finish(done: Done) -> Answer:
        """Hand over the answer or raise what it came to."""
        if done.reply is not None:
            return Answer(done.reply, done.receipt)
        if done.failure is not None:
            raise UpstreamError(done.failure, done.receipt)
        if done.refused == BudgetExceeded.code:
            raise BudgetExceeded(done.why, done.receipt, done.short)
        raise _REFUSALS[done.refused](done.why, done.receipt)

    def _tell(self, receipt: Receipt | None) -> None:
        """Tell the sinks of a receipt once it is kept. A sink that fails never fails a call; its trouble is logged."""
        if receipt is None:
            return
        for sink in self.sinks:
            try:
                sink.emit(receipt)
            except Exception:  # noqa: BLE001 - whatever a sink raises
                _log.exception("the sink %r failed", sink)
