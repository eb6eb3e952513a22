"""Names of keys in Redis. All keys of a session share a hash tag, so that one slot of a cluster holds them."""

from __future__ import annotations

import hashlib
import re

from waywiser.stores.codec import clean

SHARDS = 16

_PLAIN = re.compile(r"[\w.:/@+-]{1,80}", re.ASCII)


def tag(name: str) -> str:
    """Return a hash tag for a name: itself if it is short and plain, else a digest of it."""
    if _PLAIN.fullmatch(name):
        return name
    return "~" + hashlib.blake2b(clean(name).encode(), digest_size=16).hexdigest()


def session_keys(prefix: str, session: str) -> tuple[str, ...]:
    """Return the keys of a session, in the order of `lua/session.lua`."""
    base = f"{prefix}:s:{{{tag(session)}}}"
    names = ("expiries", "settled", "steps", "spends", "receipts", "order", "refusals")
    return (base, *[f"{base}:{name}" for name in names])


def scope_keys(prefix: str, scope: str) -> tuple[str, str]:
    """Return the keys of a scope above sessions, in the order of `lua/allot.lua`."""
    base = f"{prefix}:t:{{{tag(scope)}}}"
    return base, f"{base}:idle"


def costs_key(prefix: str, policy: str) -> str:
    """Return the key of what steps of a policy have cost."""
    return f"{prefix}:c:{{{tag(policy)}}}"


def index_key(prefix: str, shard: int) -> str:
    """Return the key of one shard of the index of receipts."""
    return f"{prefix}:i:{{{shard}}}"


def shard_of(receipt_id: str) -> int:
    """Return the shard of the index that a receipt's id belongs to."""
    return hashlib.blake2b(clean(receipt_id).encode(), digest_size=1).digest()[0] % SHARDS
