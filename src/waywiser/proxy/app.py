"""The ASGI application: a table of routes, and what a request that fits none is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from waywiser.errors import WaywiserError
from waywiser.proxy import metrics, records
from waywiser.proxy.chat import ChatDialect
from waywiser.proxy.dialect import Dialect
from waywiser.proxy.exchange import exchange
from waywiser.proxy.http import Message, Receive, Request, Send
from waywiser.proxy.messages import MessagesDialect
from waywiser.proxy.openapi import document
from waywiser.proxy.responses import ResponsesDialect
from waywiser.proxy.service import Service
from waywiser.proxy.troubles import Denied, trouble_of
from waywiser.upstream.wire import dump

_log = logging.getLogger(__name__)
Show = Callable[[Service, Request, str], Awaitable[None]]

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": ChatDialect(),
    "/v1/responses": ResponsesDialect(),
    "/v1/messages": MessagesDialect(),
}


async def _health(service: Service, request: Request, rest: str) -> None:  # noqa: ARG001 - a row of the table
    await request.answer(200, b'{"status":"ok"}')


async def _ready(service: Service, request: Request, rest: str) -> None:  # noqa: ARG001 - as above
    """Say whether requests are welcome: the store answers."""
    await service.receipts("readyz")
    await request.answer(200, b'{"status":"ready"}')


async def _metrics(service: Service, request: Request, rest: str) -> None:  # noqa: ARG001 - as above
    await request.answer(200, service.fleet.text(), kind=metrics.KIND)


async def _openapi(service: Service, request: Request, rest: str) -> None:  # noqa: ARG001 - as above
    await request.answer(200, dump(document()))


PAGES: Mapping[str, Show] = {
    "/healthz": _health,
    "/readyz": _ready,
    "/metrics": _metrics,
    "/openapi.json": _openapi,
    "/v1/models": records.models,
    "/v1/waywiser/receipts": records.receipt,
    "/v1/waywiser/sessions": records.session,
}
_DEEP = ("/v1/models", "/v1/waywiser/receipts", "/v1/waywiser/sessions")


class App:
    """The application. `open_service` makes what it serves, once the server is up: each worker has its own."""

    def __init__(self, open_service: Callable[[], Service]) -> None:
        self._open = open_service
        self._service: Service | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Take one connection event of ASGI."""
        if scope["type"] == "http":
            await self._http(Request(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    @property
    def service(self) -> Service:
        """The service, made when it is first needed."""
        if self._service is None:
            self._service = self._open()
        return self._service

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        writing = asyncio.create_task(self.service.fleet.keep_writing())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await self.service.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, request: Request) -> None:
        service = self.service
        dialect = DIALECTS.get(request.path)
        if dialect is not None and request.method == "POST":
            await exchange(service, dialect, request)
            return
        try:
            await self._page(service, request, dialect)
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client is told
            trouble = trouble_of(error, budget_status=402, now_s=service.clock.now())
            if not isinstance(error, WaywiserError | Denied):
                _log.error("internal error: %s", type(error).__name__)
            body = (dialect or DIALECTS["/v1/chat/completions"]).trouble(trouble)
            await request.answer(trouble.status, body, trouble.headers)

    @staticmethod
    async def _page(service: Service, request: Request, dialect: Dialect | None) -> None:
        if dialect is not None:
            raise _not_allowed("POST")
        path, rest = request.path, ""
        show = PAGES.get(path)
        for base in _DEEP:
            if show is None and path.startswith(f"{base}/"):
                show, rest = PAGES[base], path[len(base) + 1 :]
        if show is None:
            raise Denied(404, "not_found", "there is nothing at this address")
        if request.method not in ("GET", "HEAD"):
            raise _not_allowed("GET")
        await show(service, request, rest)


def _not_allowed(method: str) -> Denied:
    return Denied(405, "method_not_allowed", f"only {method} is possible here", headers=(("allow", method),))
