"""What was probably meant by the name of a receipt, a session or a tenant that the store does not know."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from urllib.parse import unquote

from waywiser.core.claims import session_name
from waywiser.core.receipt import Receipt
from waywiser.ports import SessionStore

MOST = 5
"""Names that are told: enough to see what to type next."""
PATIENCE_S = 2.0
"""How long a large store is looked through for them."""


def sessions(store: SessionStore) -> list[str]:
    """All sessions that hold, have spent or were refused anything, by the names under which a store keeps them."""
    scopes = (key for hold in store.holds(time.time()) for key in hold.path if key.startswith("session/"))
    holding = {unquote(key.rpartition("/")[2]) for key in scopes}
    return sorted(holding | {row.session for row in store.spends()} | {row.session for row in store.refusals()})


def beginning(store: SessionStore, start: str) -> list[Receipt]:
    """Find receipts whose id begins so, one more than would be told."""
    found: list[Receipt] = []
    for receipt in _all_receipts(store):
        if receipt.id.startswith(start):
            found.append(receipt)
            if len(found) > MOST:
                break
    return found


def _all_receipts(store: SessionStore) -> Iterator[Receipt]:
    until_s = time.monotonic() + PATIENCE_S
    for session in sessions(store):
        yield from store.receipts(session)
        if time.monotonic() > until_s:
            return


def meant(name: str, known: Iterable[str]) -> str:
    """Say which of the known names may be meant: the same of some tenant, one that begins so, one that looks alike."""
    known = list(known)
    close = [one for one in known if session_name(one) == name or (name and one.startswith(name))]
    close = close or get_close_matches(name, known, n=MOST, cutoff=0.6)
    if not close:
        return ""
    more = ", …" if len(close) > MOST else ""
    return f"; did you mean {', '.join(repr(one) for one in close[:MOST])}{more}?"
