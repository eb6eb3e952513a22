"""What clients may look up: the models they can ask for, their receipts and their sessions."""

from __future__ import annotations

from dataclasses import asdict
from urllib.parse import quote

from waywiser.core.calls import JSON
from waywiser.core.claims import session_key, session_name
from waywiser.core.receipt import Receipt
from waywiser.proxy.http import Request
from waywiser.proxy.keys import Caller
from waywiser.proxy.service import Service
from waywiser.proxy.troubles import Denied
from waywiser.upstream.wire import Encodable, dump


async def models(service: Service, request: Request, rest: str) -> None:
    """List the names a caller can ask for, or show one of them."""
    caller = service.caller(request)
    names = service.names.listed(caller.policies)
    if rest:
        service.names.resolve(rest, caller.policies)
        await request.answer(200, dump(_model(rest)))
        return
    listed: list[Encodable] = [_model(name) for name in names]
    # Both dialects read this list: OpenAI's `object` and `data`, and what Anthropic's pages have beside them.
    page: Encodable = {"object": "list", "data": listed, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    await request.answer(200, dump(page))


async def receipt(service: Service, request: Request, rest: str) -> None:
    """Show a receipt of the caller's tenant."""
    caller = service.caller(request)
    found = await service.receipt(rest) if rest else None
    if found is None or (service.keys.on and found.tenant != caller.tenant):
        raise Denied(404, "receipt_not_found", "there is no such receipt")
    await request.answer(200, dump(_written(found)))


async def session(service: Service, request: Request, rest: str) -> None:
    """Show a session of the caller's tenant: what it has cost, and each of its steps."""
    caller = service.caller(request)
    receipts = await service.receipts(session_key(rest, _tenant(service, caller, request))) if rest else []
    if not receipts:
        raise Denied(404, "session_not_found", "there is no such session")
    newest = receipts[-1]
    out: dict[str, Encodable] = {
        "id": rest,
        "tenant": newest.tenant,
        "calls": len(receipts),
        "cost_usd": sum(entry.cost_nanos for entry in receipts) / 1e9,
        "top_tier_cost_usd": sum(entry.top_tier_nanos for entry in receipts) / 1e9,
        "left_usd": None if newest.left_nanos is None else newest.left_nanos / 1e9,
        "receipts": [_written(entry) for entry in receipts],
    }
    await request.answer(200, dump(out))


def _tenant(service: Service, caller: Caller, request: Request) -> str:
    return caller.tenant if service.keys.on else request.header(b"x-waywiser-tenant")


def _model(name: str) -> dict[str, JSON]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "waywiser",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }


def _written(found: Receipt) -> dict[str, Encodable]:
    out: dict[str, Encodable] = asdict(found)
    out["session"] = session_name(found.session)
    out["cost_usd"] = found.cost_nanos / 1e9
    out["session_url"] = f"/v1/waywiser/sessions/{quote(session_name(found.session), safe='')}"
    return out
