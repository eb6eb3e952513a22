"""One request of any dialect, from its bytes to the last byte of its answer.

    who calls → read → which policy → which session → the engine → write

A stream begins when its first piece is there, so that whatever goes wrong before has a status of its own. What goes
wrong later is told within the stream, which then has no proper end.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import replace
from time import perf_counter

from waywiser.core.calls import Call
from waywiser.engine import Answer, Engine
from waywiser.errors import WaywiserError
from waywiser.proxy import marks
from waywiser.proxy.dialect import Asked, Dialect
from waywiser.proxy.fanout import branches, complete_all, stream_all
from waywiser.proxy.http import ClientGone, Request, Watch
from waywiser.proxy.keys import Caller
from waywiser.proxy.pulse import Pulse
from waywiser.proxy.service import Service
from waywiser.proxy.sessions import origin_of
from waywiser.proxy.troubles import Denied, trouble_of
from waywiser.proxy.upstreams import Errand, on_errand
from waywiser.upstream.openai_inbound import read_json

_log = logging.getLogger(__name__)
GONE = 499


async def exchange(service: Service, dialect: Dialect, request: Request) -> None:
    """Answer one request."""
    metrics, began = service.metrics, perf_counter()
    metrics.in_flight += 1
    running = _Exchange(service, dialect, request, began)
    try:
        await running.run()
    except ClientGone:
        pass
    finally:
        metrics.in_flight -= 1
        metrics.request(dialect.name, running.status, perf_counter() - began)


class _Exchange:
    __slots__ = ("_began", "_dialect", "_request", "_service", "status")

    def __init__(self, service: Service, dialect: Dialect, request: Request, began: float) -> None:
        self._service = service
        self._dialect = dialect
        self._request = request
        self._began = began
        self.status = GONE

    async def run(self) -> None:
        """Answer, whatever happens."""
        service = self._service
        try:
            caller = service.caller(self._request)
            with service.gate.entered(caller):
                await self._admitted(caller)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client is told in its dialect
            await self._fail(error)

    async def _admitted(self, caller: Caller) -> None:
        service, request = self._service, self._request
        data = read_json(await request.body(service.options.body_limit, service.options.body_timeout_s))
        asked = self._dialect.read(data, service.clock.new_id())
        wanted = service.names.resolve(asked.call.model, caller.policies)
        origin = origin_of(request, caller, asked.call.messages, asked.session, asked.labels)
        call = replace(asked.call, origin=origin, model=wanted.model, tier=wanted.tier)
        errand = Errand(service.own_keys(request))
        on_errand(errand)
        calls = branches(call, asked.samples)
        engine = service.engines[wanted.policy]
        with request.watch(service.options.slow_client_s) as watch:
            if call.stream:
                await self._stream(engine, asked, calls, errand, watch)
            else:
                await self._whole(engine, asked, calls)

    async def _whole(self, engine: Engine, asked: Asked, calls: list[Call]) -> None:
        answers = await complete_all(engine, calls)
        receipts = [answer.receipt for answer in answers]
        model = receipts[0].model or answers[0].reply.model
        replies = [answer.reply for answer in answers]
        body = self._dialect.whole(replies, asked, model=model, now_s=receipts[0].at_s)
        for receipt in receipts:
            self._service.metrics.receipt(receipt)
        self.status = 200
        await self._request.answer(200, body, marks.of_receipts(receipts))

    async def _stream(self, engine: Engine, asked: Asked, calls: list[Call], errand: Errand, watch: Watch) -> None:
        request, metrics = self._request, self._service.metrics
        answers: list[Answer] = []

        def beginning() -> marks.Pairs:
            return marks.of_beginning(calls, engine.policy, errand)

        metrics.streams += 1
        try:
            writer = None
            with Pulse(request, beginning) as pulse:
                async with aclosing(stream_all(engine, calls, answers)) as pieces:
                    async for sample, chunk in pieces:
                        if writer is None:
                            model = errand.models[-1] if errand.models else chunk.model
                            writer = self._dialect.events(asked, model=model, now_s=self._service.clock.now())
                            metrics.first_chunk(self._dialect.name, perf_counter() - self._began)
                            if not request.started:
                                await request.begin_stream(beginning())
                            data = writer.start() + writer.chunk(chunk, sample)
                        else:
                            data = writer.chunk(chunk, sample)
                        if data:
                            pulse.beat()
                            watch.sending()
                            await request.piece(data)
                            watch.sent()
            receipts = [answer.receipt for answer in answers]
            for receipt in receipts:
                metrics.receipt(receipt)
            if writer is None:
                raise Denied(502, "empty_stream", "the model said nothing")
            watch.sending()
            self.status = 200
            end = writer.end([answer.reply for answer in answers])
            await request.piece(marks.comment(receipts) + end, last=True)
        finally:
            metrics.streams -= 1

    async def _fail(self, error: Exception) -> None:
        service, request = self._service, self._request
        trouble = trouble_of(error, budget_status=service.options.budget_status, now_s=service.clock.now())
        if not isinstance(error, WaywiserError | Denied):
            # The traceback tells where; the message might hold what a client or a provider said.
            _log.error("internal error: %s", type(error).__name__, exc_info=_anonymous(error))
        service.metrics.refused(trouble.code)
        headers = list(trouble.headers)
        if trouble.receipt is not None:
            service.metrics.receipt(trouble.receipt)
            headers += marks.of_receipts([trouble.receipt])
        self.status = trouble.status
        if request.started:
            await request.piece(self._dialect.broken(trouble), last=True)
        else:
            await request.answer(trouble.status, self._dialect.trouble(trouble), headers)


def _anonymous(error: Exception) -> Exception:
    """Keep an error's traceback and drop its words."""
    return Exception(type(error).__name__).with_traceback(error.__traceback__)
