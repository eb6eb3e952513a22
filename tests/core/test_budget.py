"""The law of the ledger: a state machine over the memory store, and the corners of the pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings

from waywiser.core.budget import Account, Amounts, Hold, Keep, Limits, Scope, Shortfall, ended, left, reserve, settle
from waywiser.stores.memory import MemoryStore
from waywiser.testing.ledger import CALL, NOW_S, claim, session_scope
from waywiser.testing.ledger_machine import LedgerMachine
from waywiser.testing.stores import SessionBooks


class MemoryLedger(LedgerMachine):
    def make_store(self) -> SessionBooks:
        return MemoryStore()


TestMemoryLedger = MemoryLedger.TestCase
TestMemoryLedger.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


def test_accounts_carry_the_hold_and_are_freed_of_it() -> None:
    scope = session_scope(Limits(nanos=5000))
    found = reserve(claim("h1", scope), [Account(scope.key, scope.name)])
    assert isinstance(found, tuple)
    hold, (account,) = found
    assert isinstance(hold, Hold)
    assert (account.held, account.started_s, account.kinds) == (CALL, NOW_S, {"tool_call": (0, 1000)})
    assert ended(account, "tool_call", hold.amounts).held == Amounts()
    settled = settle(account, "tool_call", Amounts(7, 1, 1), hold.amounts, NOW_S + 5)
    assert (settled.spent, settled.held, settled.kinds) == (Amounts(7, 1, 1), Amounts(), {"tool_call": (7, 0)})
    assert settled.started_s == NOW_S


def test_a_scope_that_waiting_cannot_help_is_named_first() -> None:
    tenant = Scope("tenant/t", "tenant", Limits(nanos=1000))
    session = session_scope(Limits(nanos=10))
    accounts = [Account("tenant/t", "tenant", held=CALL), Account(session.key, "session")]
    found = reserve(claim("h1", tenant, session), accounts)
    assert isinstance(found, Shortfall)
    assert found.name == "session"
    roomy = replace(session, limits=Limits())
    found = reserve(claim("h1", tenant, roomy), accounts)
    assert isinstance(found, Shortfall)
    assert (found.name, found.waiting_may_help) == ("tenant", True)


def test_several_lacks_in_one_scope_are_exhausted_if_one_is() -> None:
    scope = session_scope(Limits(nanos=1000, llm_calls=0))
    found = reserve(claim("h1", scope), [Account(scope.key, "session", held=Amounts(nanos=500))])
    assert isinstance(found, Shortfall)
    assert (found.what, found.waiting_may_help) == ("llm_calls", False)


def test_waiting_for_the_kept_kind_gives_nothing_back() -> None:
    # What a synthesis step holds belongs to its keep: when it comes back, it is kept again.
    scope = session_scope(Limits(nanos=1000))
    account = Account(scope.key, "session", held=Amounts(nanos=600), kinds={"synthesis": (0, 600)})
    found = reserve(claim("h1", scope, keep=(Keep("session", "synthesis", 600),)), [account])
    assert isinstance(found, Shortfall)
    assert (found.left, found.held_by_others) == (400, 0)


@pytest.mark.parametrize(
    ("spent", "kind", "expected"), [(0, "tool_call", 700), (0, "synthesis", 1000), (900, "tool_call", 0)]
)
def test_left(spent: int, kind: str, expected: int) -> None:
    scope = session_scope(Limits(nanos=1000, tokens=50))
    account = Account(scope.key, "session", spent=Amounts(nanos=spent, tokens=80))
    assert left(scope, account, kind, (Keep("session", "synthesis", 300),)) == Limits(nanos=expected, tokens=0)
