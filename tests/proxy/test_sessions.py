"""Which requests share a session, and which never do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.claims import session_key, session_name
from waywiser.core.messages import Message, Role, Text, assistant, system, user
from waywiser.proxy.keys import Caller
from waywiser.proxy.sessions import fingerprint

if TYPE_CHECKING:
    from conftest import Proxy

NAMES = st.text(min_size=1, max_size=8, alphabet=st.sampled_from("ab@%/40 é"))
TENANTS = st.text(max_size=5, alphabet="ab4.-")


@given(NAMES, TENANTS, NAMES, TENANTS)
def test_no_choice_of_names_makes_two_sessions_one(one: str, its: str, other: str, others: str) -> None:
    assert (session_key(one, its) == session_key(other, others)) == ((one, its) == (other, others))
    assert session_name(session_key(one, its)) == one


def test_a_growing_history_is_one_session() -> None:
    nobody = Caller()
    start = (system("Be kind."), user("Hello"))
    grown = (*start, assistant("Hi"), user("And now?"))
    marked = (Message(Role.SYSTEM, (Text("Be kind.", cache=True),)), user("Hello"))
    pieces = (Message(Role.SYSTEM, (Text("Be "), Text("kind."))), user("Hello"))
    assert fingerprint(nobody, start) == fingerprint(nobody, grown) == fingerprint(nobody, marked)
    assert fingerprint(nobody, start) == fingerprint(nobody, pieces)
    assert fingerprint(nobody, start) != fingerprint(nobody, (system("Be kind."), user("Goodbye")))
    assert len({fingerprint(Caller(key, tenant), start) for key in ("", "a", "b") for tenant in ("", "x", "y")}) == 9


def test_what_names_a_session(proxy: Proxy) -> None:
    def session(headers: dict[str, str] | None = None, **fields: object) -> str:
        return proxy.chat(headers=headers or {}, **fields).headers["x-waywiser-session"]

    assert session({"x-waywiser-session": "mine"}, prompt_cache_key="other") == "mine"
    assert session(metadata={"session_id": "meta"}, prompt_cache_key="other") == "meta"
    assert session(prompt_cache_key="cached") == "cached"
    assert session(user="somebody") == session(user="somebody else") == session()
    assert session({"x-waywiser-session": "caf%C3%A9%20"}) == "caf%C3%A9%20"
    assert session(metadata={"session_id": "line\r\nbreak: 1"}) == "line%0D%0Abreak%3A%201"


def test_place_and_labels_by_header(proxy: Proxy) -> None:
    headers = {
        "x-waywiser-session": "placed", "x-waywiser-node": "draft", "x-waywiser-kind": "planning",
        "x-waywiser-labels": "residency=eu, team=shop", "x-waywiser-agent": "writer",
    }  # fmt: skip
    answer = proxy.chat(headers=headers, user="u1")
    assert answer.headers["x-waywiser-kind"] == "planning"
    found = proxy.service.store.receipt(answer.headers["x-waywiser-receipt"])
    assert (found.node, found.agent, found.kind_by) == ("draft", "writer", "declared")


def test_receipts_and_sessions_can_be_read(proxy: Proxy) -> None:
    import httpx

    headers = {"x-waywiser-session": "read/me"}
    ids = [proxy.chat(text, headers=headers).headers["x-waywiser-receipt"] for text in ("One", "Two")]
    found = httpx.get(f"{proxy.base_url}/waywiser/sessions/read%2Fme").json()
    assert [entry["id"] for entry in found["receipts"]] == ids
    assert found["calls"] == 2
    assert found["cost_usd"] == pytest.approx(sum(entry["cost_usd"] for entry in found["receipts"]))
    one = httpx.get(f"{proxy.base_url}/waywiser/receipts/{ids[0]}").json()
    assert (one["id"], one["session"]) == (ids[0], "read/me")
    assert one["considered"]
    assert httpx.get(f"{proxy.base_url}/waywiser/receipts/{ids[0][:8]}").status_code == 404
    assert httpx.get(f"{proxy.base_url}/waywiser/sessions/nobody").status_code == 404


def test_tenants_do_not_mix(proxy: Proxy) -> None:
    import httpx

    for tenant, times in (("acme", 3), ("globex", 1)):
        for number in range(times):
            headers = {"x-waywiser-session": "same", "x-waywiser-tenant": tenant}
            assert proxy.chat(f"Question {number}", headers=headers).headers["x-waywiser-session"] == "same"
    for tenant, times in (("acme", 3), ("globex", 1)):
        found = httpx.get(f"{proxy.base_url}/waywiser/sessions/same", headers={"x-waywiser-tenant": tenant}).json()
        assert (found["calls"], found["tenant"]) == (times, tenant)
        assert [entry["step"] for entry in found["receipts"]] == list(range(1, times + 1))
    assert httpx.get(f"{proxy.base_url}/waywiser/sessions/same").status_code == 404
