"""A hypothesis state machine for ledgers: random claims, settlements, expiries and changes of limit.

Beside the store runs a model that remembers everything and adds it up from scratch at every question: so slow and
plain that it can be read. The store must answer as the model does, and in strict mode never hold or spend more than
a limit. Subclass `LedgerMachine`, say how to make a store, and run `Subclass.TestCase`. Needs hypothesis.
"""
# ruff: noqa: S101 - a state machine asserts

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from waywiser.core.budget import COUNTED, Amounts, Claim, Hold, Keep, Limits, Scope, Shortfall
from waywiser.testing.ledger import NOW_S, settlement

if TYPE_CHECKING:
    from waywiser.testing.stores import SessionBooks

KINDS = ("tool_call", "synthesis")
SESSIONS = ("s1", "s2")

amounts = st.builds(Amounts, st.integers(0, 60), st.integers(0, 60), st.integers(0, 1), st.integers(0, 2))
limit = st.none() | st.integers(0, 200)
limits = st.builds(Limits, nanos=limit, tokens=limit, llm_calls=st.none() | st.integers(0, 6))


@dataclass
class _Held:
    """A hold as the model remembers it."""

    claim: Claim
    amounts: Amounts


class LedgerMachine(RuleBasedStateMachine):
    """Two sessions with a sub-agent each, under one tenant. `exact_root` is false for a store that allots in blocks."""

    exact_root = True
    issued = Bundle("issued")

    @abstractmethod
    def make_store(self) -> SessionBooks:
        """Return an empty store."""

    @initialize(
        strict=st.booleans(),
        tenant=limits,
        session=limits,
        agent=limits,
        kept=st.integers(0, 100),
        calls=st.integers(0, 2),
    )
    def start(self, strict: bool, tenant: Limits, session: Limits, agent: Limits, kept: int, calls: int) -> None:
        """Make a store, and draw the limits and whether estimates are strict."""
        self.store = self.make_store()
        self.strict = strict
        self.limits = {"tenant": tenant, "session": session, "agent": agent}
        self.keep = (Keep("session", "synthesis", kept, calls),)
        self.now_s = NOW_S
        self.number = 0
        self.live: dict[str, _Held] = {}
        self.settled: set[str] = set()
        self.charges: list[tuple[str, tuple[Scope, ...], str, Amounts]] = []
        self.granted: dict[str, Amounts] = {}
        self.changed = False

    def teardown(self) -> None:
        """Close the store."""
        if hasattr(self, "store"):
            self.store.close()

    def path(self, session: str) -> tuple[Scope, ...]:
        """Return the path of a session's sub-agent, with the limits of now."""
        keys = {"tenant": "tenant/t/1", "session": f"session/{session}", "agent": f"agent/{session}/a"}
        return tuple(Scope(key, name, self.limits[name]) for name, key in keys.items())

    @rule(
        target=issued,
        session=st.sampled_from(SESSIONS),
        kind=st.sampled_from(KINDS),
        wanted=amounts,
        lease_s=st.integers(1, 20),
    )
    def reserve(self, session: str, kind: str, wanted: Amounts, lease_s: int) -> tuple[str, str, str]:
        """Claim something and compare the answer with the model's."""
        self.number += 1
        hold_id = f"h{self.number}"
        least = wanted if self.strict else Amounts(min(wanted.nanos, 1), min(wanted.tokens, 1), wanted.llm_calls)
        claim = Claim(
            hold_id, self.path(session), kind, wanted, least, self.now_s, self.now_s + lease_s, self.keep, session
        )
        expected = self.room(claim)
        found = self.store.reserve(claim)
        if any(getattr(expected, what) < getattr(least, what) for what in COUNTED):
            assert isinstance(found, Shortfall), (expected, found)
        else:
            assert isinstance(found, Hold), (expected, found)
            assert found.amounts == expected, (found, expected)
            self.live[hold_id] = _Held(claim, found.amounts)
        return hold_id, session, kind

    @rule(hold=issued, share=st.floats(0, 1), over=st.integers(0, 30))
    def settle(self, hold: tuple[str, str, str], share: float, over: int) -> None:
        """Settle a hold that is live, expired, refused or settled already."""
        hold_id, session, kind = hold
        held = self.live.get(hold_id)
        # Strict: a call never uses more than it holds, and one that holds nothing is not made.
        ceiling = held.amounts if held else Amounts()
        used = Amounts(int(ceiling.nanos * share), int(ceiling.tokens * share), ceiling.llm_calls, 0)
        if not self.strict:
            used = replace(used, nanos=used.nanos + over)
        self.store.settle(
            settlement(hold_id, *self.path(session), used=used, kind=kind, session=session, at_s=self.now_s - NOW_S)
        )
        if hold_id not in self.settled:
            self.settled.add(hold_id)
            self.charges.append((hold_id, self.path(session), kind, used))
        self.live.pop(hold_id, None)

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        """Let time pass: leases run out."""
        self.now_s += seconds
        self.live = {key: held for key, held in self.live.items() if held.claim.expires_s > self.now_s}

    @precondition(lambda self: not self.strict)
    @rule(name=st.sampled_from(("tenant", "session", "agent")), new=limits)
    def change_limits(self, name: str, new: Limits) -> None:
        """Change a limit in mid-run. What was allotted under a tenant's old limit stays allotted."""
        if name != "tenant" or self.exact_root:
            self.limits[name] = new

    @rule(session=st.sampled_from(SESSIONS), more=amounts)
    def grant(self, session: str, more: Amounts) -> None:
        """Add to a session's limit."""
        scope = self.path(session)[1]
        self.store.grant(session, scope, more, self.now_s)
        self.granted[scope.key] = self.granted.get(scope.key, Amounts()) + more

    @invariant()
    def standings_agree(self) -> None:
        """The store knows of every scope what the model adds up."""
        if not hasattr(self, "store"):
            return
        for session in SESSIONS:
            path = self.path(session)
            standings = self.store.open(session, path, self.now_s).standings
            for scope, standing in zip(path, standings, strict=True):
                spent, held = self.spent(scope.key), self.held(scope.key)
                if scope.name != "tenant" or self.exact_root:
                    assert (standing.spent, standing.held) == (spent, held), scope.key
                if self.strict:
                    granted = self.granted.get(scope.key, Amounts())
                    for what in COUNTED:
                        limited = getattr(scope.limits, what)
                        if limited is not None:
                            total = getattr(standing.spent, what) + getattr(standing.held, what)
                            assert total <= limited + getattr(granted, what)

    def spent(self, key: str, kind: str | None = None) -> Amounts:
        """Add up what was charged to a scope."""
        total = Amounts()
        for _, path, of, used in self.charges:
            if kind in (None, of) and any(scope.key == key for scope in path):
                total += used
        return total

    def held(self, key: str, kind: str | None = None) -> Amounts:
        """Add up what is held in a scope."""
        total = Amounts()
        for held in self.live.values():
            if kind in (None, held.claim.kind) and any(scope.key == key for scope in held.claim.path):
                total += held.amounts
        return total

    def kept(self, keep: Keep, key: str, what: str) -> int:
        """Say how much of a scope is still kept for the kind that a keep names: the law, from scratch."""
        if what == "nanos":
            return max(keep.nanos - self.spent(key, keep.kind).nanos - self.held(key, keep.kind).nanos, 0)
        return keep.llm_calls if what == "llm_calls" else 0

    def room(self, claim: Claim) -> Amounts:
        """Return what the law grants a claim: the least of what it wants and what each scope has left."""
        granted = claim.wanted
        for scope in claim.path:
            used = self.spent(scope.key) + self.held(scope.key)
            for what in COUNTED:
                cap = getattr(scope.limits, what)
                if cap is None:
                    continue
                left = cap + getattr(self.granted.get(scope.key, Amounts()), what) - getattr(used, what)
                for keep in claim.keep:
                    if keep.scope == scope.name and keep.kind != claim.kind:
                        left -= self.kept(keep, scope.key, what)
                granted = replace(granted, **{what: min(getattr(granted, what), max(left, 0))})
        return granted
