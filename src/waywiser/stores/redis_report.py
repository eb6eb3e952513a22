"""Reports over Redis: receipts, who spent what, what is held, what was refused. They scan: nothing for a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from waywiser.core.budget import Amounts
from waywiser.core.receipt import Receipt
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.stores import codec
from waywiser.stores.codec import clean
from waywiser.stores.redis_allot import read_amounts
from waywiser.stores.redis_keys import SHARDS, index_key, session_keys
from waywiser.stores.redis_wire import source

if TYPE_CHECKING:
    import redis


def find_receipt(client: redis.Redis, prefix: str, receipt_id: str) -> Receipt | None:
    """Find a receipt by its id or by an unambiguous prefix of it."""
    start = clean(receipt_id)
    if not start:
        return None
    pipeline = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.zrangebylex(index_key(prefix, shard), f"[{start}", f"[{start}\U0010ffff", 0, 2)
    found = [member.decode().split("\0", 1) for members in pipeline.execute() for member in members]
    exact = [pair for pair in found if pair[0] == start]
    if not exact and len(found) != 1:
        return None
    receipt, session = (exact or found)[0]
    data: Any = client.hget(session_keys(prefix, session)[5], receipt)
    return None if data is None else codec.decode_receipt(data)


def receipts(client: redis.Redis, prefix: str, session: str) -> Sequence[Receipt]:
    """Return a session's receipts, oldest first."""
    keys = session_keys(prefix, session)
    order: Any = client.zrange(keys[6], 0, -1)
    if not order:
        return []
    rows: Any = client.hmget(keys[5], order)
    return [codec.decode_receipt(row) for row in rows if row is not None]


def spends(client: redis.Redis, prefix: str, tenant: str | None, session: str | None) -> Sequence[Spend]:
    """Return who spent what."""
    rows: list[Spend] = []
    for name, base in _sessions(client, prefix, session):
        totals: dict[bytes, list[int]] = {}
        for key, value in _hash(client, f"{base}:spends").items():
            totals.setdefault(key[1:], [0, 0, 0, 0])[b"ntlc".index(key[:1])] = int(value)
        for who, used in totals.items():
            of, agent, kind, tier, model, policy = orjson.loads(who)
            rows.append(Spend(of, name, agent, kind, tier, model, policy, Amounts(*used)))
    return [row for row in rows if tenant is None or row.tenant == tenant]


def refusals(client: redis.Redis, prefix: str, tenant: str | None, session: str | None) -> Sequence[Refusal]:
    """Return what was refused, how often and why."""
    rows = []
    for name, base in _sessions(client, prefix, session):
        found = _hash(client, f"{base}:refusals")
        for key, count in found.items():
            if key[:1] == b"n":
                of, agent, kind, code = orjson.loads(key[1:])
                last_s, reason = float(found[b"t" + key[1:]]), found[b"r" + key[1:]].decode()
                rows.append(Refusal(of, name, agent, kind, code, int(count), last_s, reason))
    return [row for row in rows if tenant is None or row.tenant == tenant]


def holds(client: redis.Redis, prefix: str, now_s: float) -> Sequence[Outstanding]:
    """Return the holds whose lease still runs, the first to end first."""
    rows = []
    for key in client.scan_iter(match=f"{_literal(prefix)}:s:*:expiries", count=1000):
        base = key.decode().removesuffix(":expiries")
        flat: Any = client.eval(source("holds").decode(), 2, base, key, repr(now_s))
        for at in range(0, len(flat), 5):
            hold, path, kind, amounts, expires_s = flat[at : at + 5]
            keys = tuple([one.decode() for one in path])
            rows.append(Outstanding(hold.decode(), keys, kind.decode(), read_amounts(amounts), float(expires_s)))
    return sorted(rows, key=lambda row: row.expires_s)


def forget(client: redis.Redis, prefix: str, before_s: float) -> list[str]:
    """Drop sessions that nobody has touched since `before_s`, and return their names."""
    forgotten = []
    for name, base in _sessions(client, prefix, None):
        at_s: Any = client.hget(base, "at")
        if float(at_s or 0) < before_s:
            # One unlink: all keys of a session are of one slot.
            client.unlink(*session_keys(prefix, name))
            forgotten.append(name)
    return forgotten


def _sessions(client: redis.Redis, prefix: str, session: str | None) -> Iterator[tuple[str, str]]:
    """Yield the names of sessions and their base keys."""
    if session is not None:
        yield session, session_keys(prefix, session)[0]
        return
    for key in client.scan_iter(match=f"{_literal(prefix)}:s:*}}", count=1000):
        name: Any = client.hget(key, "id")
        if name is not None:
            yield name.decode(), key.decode()


def _hash(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    found: Any = client.hgetall(key)
    return dict(found)


def _literal(text: str) -> str:
    """Escape what a key pattern would take for a wildcard."""
    return "".join(f"\\{one}" if one in "*?[]\\^" else one for one in text)
