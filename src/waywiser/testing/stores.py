"""What every session store must do.

Subclass `StoreConformance` and give it a fixture: a store with nothing in it, for every test. Needs pytest-asyncio.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> Iterator[SessionBooks]:
            ...
"""
# ruff: noqa: D102, S101 - a suite asserts, and the names of its tests say what they are for

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from waywiser.core.budget import Amounts, Hold, Keep, Limits, Scope, Shortfall, Standing
from waywiser.core.spending import Outstanding, Refusal, Spend
from waywiser.core.trail import TRAIL_STEPS, LoopState, WarmPrefix
from waywiser.ports import SessionStore
from waywiser.testing.ledger import CALL, NOW_S, a_receipt, claim, session_scope, settlement, step_record


class SessionBooks(SessionStore, Protocol):
    """A session store together with its report on budgets."""

    def spends(self, tenant: str | None = None, session: str | None = None) -> Sequence[Spend]:
        """Return who spent what, dearest first."""
        ...

    def holds(self, now_s: float) -> Sequence[Outstanding]:
        """Return the holds that are neither settled nor expired."""
        ...

    def refusals(self, tenant: str | None = None, session: str | None = None) -> Sequence[Refusal]:
        """Return what was refused and why, newest first."""
        ...

    def forget(self, before_s: float) -> int:
        """Drop sessions that nobody has touched since."""
        ...


class StoreConformance:
    """The suite. Every test is independent of the others."""

    def test_unknown_session_is_empty(self, store: SessionBooks) -> None:
        opened = store.open("s1", (session_scope(),), NOW_S)
        assert opened.trail.steps == ()
        assert opened.trail.count == 0
        assert opened.standings == (Standing("session/s1", "session", Amounts(), Amounts(), 0.0),)
        assert opened.costs == {}
        assert store.receipts("s1") == []
        assert store.receipt("nothing") is None

    def test_a_hold_counts_until_it_is_settled(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1500))
        hold = store.reserve(claim("h1", scope))
        assert hold == Hold("h1", ("session/s1",), CALL, NOW_S + 60)
        (standing,) = store.open("s1", (scope,), NOW_S).standings
        assert (standing.spent, standing.held, standing.started_s) == (Amounts(), CALL, NOW_S)
        used = Amounts(400, 40, 1, 2)
        (after,) = store.settle(settlement("h1", scope, used=used))
        assert (after.spent, after.held) == (used, Amounts())
        assert store.open("s1", (scope,), NOW_S).standings == (after,)

    def test_all_scopes_or_none(self, store: SessionBooks) -> None:
        agent = Scope("agent/s1/a", "agent", Limits(nanos=900))
        refused = store.reserve(claim("h1", session_scope(Limits(nanos=5000)), agent))
        assert isinstance(refused, Shortfall)
        assert (refused.scope, refused.name, refused.what) == ("agent/s1/a", "agent", "nanos")
        assert (refused.limit, refused.left, refused.wanted, refused.held_by_others) == (900, 900, 1000, 0)
        opened = store.open("s1", (session_scope(), agent), NOW_S)
        assert [standing.held for standing in opened.standings] == [Amounts(), Amounts()]

    def test_every_amount_has_its_limit(self, store: SessionBooks) -> None:
        wanted = Amounts(10, 10, 1, 1)
        for what in ("nanos", "tokens", "llm_calls", "tool_calls"):
            scope = session_scope(Limits(**{what: 0}), session=what)
            refused = store.reserve(claim(f"h-{what}", scope, wanted=wanted, session=what))
            assert isinstance(refused, Shortfall)
            assert refused.what == what

    def test_seconds_count_from_the_first_call(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(seconds=10.0))
        assert isinstance(store.reserve(claim("h1", scope, at_s=0.0)), Hold)
        assert isinstance(store.reserve(claim("h2", scope, at_s=9.5)), Hold)
        refused = store.reserve(claim("h3", scope, at_s=10.0))
        assert isinstance(refused, Shortfall)
        assert (refused.what, refused.waiting_may_help) == ("seconds", False)
        assert (refused.limit, refused.wanted) == (10, 0)

    def test_seconds_can_be_granted(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(seconds=10.0, nanos=100_000))
        assert isinstance(store.reserve(claim("h1", scope, at_s=0.0)), Hold)
        store.settle(settlement("h1", scope, at_s=1.0))
        standing = store.grant("s1", scope, Amounts(nanos=5, seconds=20), NOW_S + 12)
        assert standing.granted == Amounts(nanos=5, seconds=20)
        assert isinstance(store.reserve(claim("h2", scope, at_s=29.5)), Hold)
        assert store.open("s1", (scope,), NOW_S).standings[0].granted.seconds == 20
        refused = store.reserve(claim("h3", scope, at_s=31.0))
        assert isinstance(refused, Shortfall)
        assert (refused.what, refused.limit, refused.wanted) == ("seconds", 30, 1)
        assert store.grant("s1", scope, Amounts(seconds=5), NOW_S + 31).granted.seconds == 25
        assert isinstance(store.reserve(claim("h3", scope, at_s=31.0)), Hold)

    def test_expected_takes_what_is_left(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1500))
        least = Amounts(nanos=1, llm_calls=1)
        first = store.reserve(claim("h1", scope, least=least))
        second = store.reserve(claim("h2", scope, least=least))
        assert isinstance(first, Hold)
        assert isinstance(second, Hold)
        assert (first.amounts.nanos, second.amounts.nanos) == (1000, 500)
        third = store.reserve(claim("h3", scope, least=least))
        assert isinstance(third, Shortfall)
        assert (third.left, third.held_by_others, third.waiting_may_help) == (0, 1500, True)
        assert third.retry_at_s == NOW_S + 60

    def test_exhausted_is_told_from_held_by_others(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1500))
        store.reserve(claim("h1", scope))
        waiting = store.reserve(claim("h2", scope))
        assert isinstance(waiting, Shortfall)
        assert waiting.waiting_may_help
        store.settle(settlement("h1", scope, used=Amounts(1400, 0, 1)))
        exhausted = store.reserve(claim("h2", scope, at_s=2.0))
        assert isinstance(exhausted, Shortfall)
        assert (exhausted.left, exhausted.held_by_others, exhausted.waiting_may_help) == (100, 0, False)
        assert exhausted.retry_at_s == 0

    def test_overshoot_leaves_nothing(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        store.reserve(claim("h1", scope))
        (standing,) = store.settle(settlement("h1", scope, used=Amounts(5000, 0, 1)))
        assert standing.spent.nanos == 5000
        refused = store.reserve(claim("h2", scope, least=Amounts(1, 0, 1)))
        assert isinstance(refused, Shortfall)
        assert refused.left == 0

    def test_a_free_call_needs_no_money(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=0))
        assert isinstance(store.reserve(claim("h1", scope, wanted=Amounts(0, 100, 1))), Hold)

    def test_settling_twice_charges_once(self, store: SessionBooks) -> None:
        scope = session_scope()
        store.reserve(claim("h1", scope))
        first = store.settle(settlement("h1", scope, step=step_record(0), receipt=a_receipt("r1")))
        again = store.settle(settlement("h1", scope, step=step_record(0), receipt=a_receipt("r1")))
        assert first == again
        assert store.open("s1", (scope,), NOW_S).trail.count == 1
        assert [row.used for row in store.spends()] == [CALL]

    def test_reserving_a_live_id_again_holds_once(self, store: SessionBooks) -> None:
        scope = session_scope()
        assert store.reserve(claim("h1", scope)) == store.reserve(claim("h1", scope))
        assert store.open("s1", (scope,), NOW_S).standings[0].held == CALL

    def test_an_expired_hold_does_not_count(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        store.reserve(claim("h1", scope, lease_s=30.0))
        assert isinstance(store.reserve(claim("h2", scope, at_s=29.0)), Shortfall)
        assert store.open("s1", (scope,), NOW_S + 30).standings[0].held == Amounts()
        assert store.holds(NOW_S + 30) == []
        assert isinstance(store.reserve(claim("h2", scope, at_s=30.0)), Hold)

    def test_a_late_settle_is_charged_once(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        store.reserve(claim("h1", scope, lease_s=30.0))
        assert isinstance(store.reserve(claim("h2", scope, at_s=31.0)), Hold)
        (standing,) = store.settle(settlement("h1", scope, at_s=40.0))
        assert (standing.spent, standing.held) == (CALL, CALL)
        assert store.settle(settlement("h1", scope, at_s=41.0)) == (standing,)

    def test_what_was_never_reserved_is_charged_too(self, store: SessionBooks) -> None:
        scope = session_scope()
        (standing,) = store.settle(settlement("h9", scope))
        assert (standing.spent, standing.held) == (CALL, Amounts())

    def test_keep_is_for_its_kind(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        keep = (Keep("session", "synthesis", 300),)
        wanted = Amounts(nanos=800, llm_calls=1)
        least = Amounts(nanos=1, llm_calls=1)
        hold = store.reserve(claim("h1", scope, wanted=wanted, least=least, keep=keep))
        assert isinstance(hold, Hold)
        assert hold.amounts.nanos == 700
        store.settle(settlement("h1", scope, used=Amounts(700, 0, 1)))
        refused = store.reserve(claim("h2", scope, wanted=wanted, least=least, keep=keep))
        assert isinstance(refused, Shortfall)
        assert (refused.left, refused.kept, refused.waiting_may_help) == (0, 300, False)
        answer = store.reserve(claim("h3", scope, wanted=wanted, least=least, keep=keep, kind="synthesis"))
        assert isinstance(answer, Hold)
        assert answer.amounts.nanos == 300

    def test_a_kept_call_is_left_however_many_were_made(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(llm_calls=3))
        keep = (Keep("session", "synthesis", llm_calls=1),)
        store.reserve(claim("h1", scope, keep=keep))
        store.settle(settlement("h1", scope, used=Amounts(1, 1, 1)))
        # The kept kind may take any call; what it took does not count against the one that is kept.
        assert isinstance(store.reserve(claim("h2", scope, keep=keep, kind="synthesis")), Hold)
        refused = store.reserve(claim("h3", scope, keep=keep))
        assert isinstance(refused, Shortfall)
        assert (refused.what, refused.left, refused.kept, refused.waiting_may_help) == ("llm_calls", 0, 1, True)
        store.settle(settlement("h2", scope, used=Amounts(1, 1, 1), kind="synthesis"))
        spent = store.reserve(claim("h3", scope, keep=keep))
        assert isinstance(spent, Shortfall)
        assert not spent.waiting_may_help
        assert isinstance(store.reserve(claim("h4", scope, keep=keep, kind="synthesis")), Hold)

    def test_the_kept_kind_uses_its_keep_first(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        keep = (Keep("session", "synthesis", 300),)
        least = Amounts(nanos=1, llm_calls=1)
        store.reserve(claim("h1", scope, wanted=Amounts(200, 0, 1), keep=keep, kind="synthesis"))
        store.settle(settlement("h1", scope, used=Amounts(200, 0, 1), kind="synthesis"))
        hold = store.reserve(claim("h2", scope, wanted=Amounts(5000, 0, 1), least=least, keep=keep))
        assert isinstance(hold, Hold)
        # 800 are left, of which 100 of the keep.
        assert hold.amounts.nanos == 700

    def test_limits_may_change_in_mid_run(self, store: SessionBooks) -> None:
        store.reserve(claim("h1", session_scope(Limits(nanos=1000))))
        store.settle(settlement("h1", session_scope(Limits(nanos=1000))))
        assert isinstance(store.reserve(claim("h2", session_scope(Limits(nanos=1000)))), Shortfall)
        assert isinstance(store.reserve(claim("h2", session_scope(Limits(nanos=2000)))), Hold)
        assert isinstance(store.reserve(claim("h3", session_scope(Limits(nanos=1500)))), Shortfall)

    def test_a_grant_adds_to_the_limit(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1000))
        store.reserve(claim("h1", scope))
        store.settle(settlement("h1", scope))
        standing = store.grant("s1", scope, Amounts(nanos=1000), NOW_S)
        assert (standing.granted, standing.spent) == (Amounts(nanos=1000), CALL)
        assert isinstance(store.reserve(claim("h2", scope)), Hold)
        refused = store.reserve(claim("h3", scope))
        assert isinstance(refused, Shortfall)
        assert refused.limit == 2000

    async def test_a_named_grant_counts_once(self, store: SessionBooks) -> None:
        session, tenant = session_scope(), Scope("tenant/acme/2027-01-15", "tenant", Limits(nanos=2000))
        for scope in (session, tenant):
            more = Amounts(nanos=300, llm_calls=2)
            store.grant("s1", scope, more, NOW_S, "task/0")
            standing = await store.agrant("s1", scope, more, NOW_S + 1, f"task/{scope.name}")
            again = store.grant("s1", scope, more, NOW_S + 2, f"task/{scope.name}")
            assert again == standing
            assert await store.agrant("s1", scope, more, NOW_S + 3, f"task/{scope.name}") == standing
        assert store.grant("s1", session, Amounts(), NOW_S).granted == Amounts(nanos=600, llm_calls=4)

    def test_sessions_share_a_tenant(self, store: SessionBooks) -> None:
        tenant = Scope("tenant/acme/2027-01-15", "tenant", Limits(nanos=2000))
        assert isinstance(store.reserve(claim("h1", tenant, session_scope(session="s1"))), Hold)
        assert isinstance(store.reserve(claim("h2", tenant, session_scope(session="s2"), session="s2")), Hold)
        refused = store.reserve(claim("h3", tenant, session_scope(session="s3"), session="s3"))
        assert isinstance(refused, Shortfall)
        assert (refused.name, refused.waiting_may_help) == ("tenant", True)
        store.settle(settlement("h1", tenant, session_scope(session="s1"), used=Amounts(10, 1, 1)))
        third = claim("h3", tenant, session_scope(session="s3"), wanted=Amounts(900), session="s3")
        assert isinstance(store.reserve(third), Hold)
        standings = store.settle(settlement("h2", tenant, session_scope(session="s2"), session="s2"))
        assert [standing.name for standing in standings] == ["tenant", "session"]
        assert standings[0].spent.nanos + standings[0].held.nanos <= 2000

    def test_the_trail_comes_back_whole(self, store: SessionBooks) -> None:
        scope = session_scope()
        warm = WarmPrefix("m/small", 5, 900, b"\xf0" * 16, NOW_S)
        loop = LoopState(b"\x01\xff", ("hint", "escalate"), "standard")
        store.settle(settlement("h0", scope, step=step_record(0), warm=warm))
        store.settle(settlement("h1", scope, step=step_record(1), loop=loop))
        trail = store.open("s1", (scope,), NOW_S).trail
        assert trail.steps == (step_record(0), step_record(1))
        assert (trail.count, trail.warm, trail.loop) == (2, (warm,), loop)

    def test_loop_state_without_a_step(self, store: SessionBooks) -> None:
        store.settle(settlement("h0", session_scope(), used=Amounts(), loop=LoopState(b"x", ("hint",))))
        trail = store.open("s1", (session_scope(),), NOW_S).trail
        assert (trail.count, trail.loop) == (0, LoopState(b"x", ("hint",)))

    def test_the_trail_is_bounded(self, store: SessionBooks) -> None:
        total = TRAIL_STEPS + 9
        for number in range(total):
            store.settle(settlement(f"h{number}", session_scope(), step=step_record(number)))
        trail = store.open("s1", (), NOW_S).trail
        assert trail.count == total
        assert [step.number for step in trail.steps] == list(range(9, total))

    def test_costs_are_learned_by_policy_kind_and_model(self, store: SessionBooks) -> None:
        for number in range(20):
            used = Amounts(1000 + number, 50, 1)
            store.settle(settlement(f"h{number}", session_scope(), used=used, step=step_record(number)))
        store.settle(settlement("failed", session_scope(), used=Amounts(9, 1, 1)))
        history = store.open("s1", (), NOW_S + 3600, "p").costs["tool_call", "m/small"]
        cost = history.nanos.quantile(0.9)
        tokens = history.output_tokens.quantile(0.5)
        assert history.nanos.count == 20
        assert cost is not None
        assert 1000 / 1.2 <= cost <= 1020 * 1.2
        assert tokens is not None
        assert 7 / 1.2 <= tokens <= 7 * 1.2
        assert store.open("s1", (), NOW_S + 3600, "another").costs == {}

    def test_receipts(self, store: SessionBooks) -> None:
        store.record(a_receipt("abc-1"))
        store.settle(settlement("h1", session_scope(), receipt=a_receipt("abd-2")))
        store.record(a_receipt("zzz-3", session="s2"))
        assert store.receipt("abc-1") == a_receipt("abc-1")
        assert store.receipt("abd") == a_receipt("abd-2")
        assert store.receipt("ab") is None
        assert store.receipt("") is None
        assert [receipt.id for receipt in store.receipts("s1")] == ["abc-1", "abd-2"]
        assert [receipt.id for receipt in store.receipts("s2")] == ["zzz-3"]

    def test_a_receipt_recorded_again_replaces(self, store: SessionBooks) -> None:
        store.record(a_receipt("r1", refused="budget_exceeded"))
        store.record(a_receipt("r1", refused="budget_exceeded"))
        assert len(store.receipts("s1")) == 1
        assert [row.count for row in store.refusals()] == [1]

    def test_report(self, store: SessionBooks) -> None:
        scope = session_scope()
        store.reserve(claim("h1", scope))
        store.settle(settlement("h1", scope, used=Amounts(30, 3, 1)))
        store.settle(settlement("h2", scope, used=Amounts(20, 2, 1, 1)))
        store.settle(settlement("h3", scope, used=Amounts(90, 9, 1), kind="synthesis"))
        store.reserve(claim("h4", scope, at_s=5.0))
        synthesis, tools = store.spends(session="s1")
        assert synthesis == Spend("acme", "s1", "", "synthesis", "economy", "m/small", "p", Amounts(90, 9, 1))
        assert tools.used == Amounts(50, 5, 2, 1)
        assert store.spends(tenant="other") == []
        (hold,) = store.holds(NOW_S + 6)
        assert hold == Outstanding("h4", ("session/s1",), "tool_call", CALL, NOW_S + 65)
        store.record(a_receipt("r1", refused="budget_exceeded", at_s=7.0))
        store.record(a_receipt("r2", refused="budget_exceeded", at_s=9.0))
        (refusal,) = store.refusals(tenant="acme")
        assert (refusal.code, refusal.count, refusal.last_s) == ("budget_exceeded", 2, NOW_S + 9)
        assert refusal.reason == "naïve Grüße 漢字"

    def test_old_sessions_are_forgotten(self, store: SessionBooks) -> None:
        old, new = session_scope(session="old"), session_scope(session="new")
        store.settle(settlement("h1", old, step=step_record(0), session="old", receipt=a_receipt("r1", session="old")))
        store.settle(settlement("h2", new, step=step_record(0), session="new", at_s=100.0))
        assert store.forget(NOW_S + 50) == 1
        assert store.open("old", (old,), NOW_S).trail.count == 0
        assert store.open("old", (old,), NOW_S).standings[0].spent == Amounts()
        assert store.receipts("old") == []
        assert store.open("new", (new,), NOW_S).trail.count == 1
        store.settle(settlement("h3", old, step=step_record(7), session="old", at_s=101.0))
        assert store.open("old", (old,), NOW_S).trail.steps == (step_record(7),)

    def test_odd_names(self, store: SessionBooks) -> None:
        for name in ("", " ", "a/b{c}*?'\"\n", "naïve 漢字 🧭", "x" * 5000, "nul\x00nul"):
            scope = Scope(f"session/{name}", "session", Limits(nanos=1500))
            assert isinstance(store.reserve(claim(f"h{name}", scope, session=name)), Hold)
            store.settle(settlement(f"h{name}", scope, session=name, step=step_record(0, tool=name)))
            opened = store.open(name, (scope,), NOW_S)
            assert opened.standings[0].spent == CALL
            assert opened.trail.steps == (step_record(0, tool=name),)
        lone = Scope("session/\ud800", "session", Limits(nanos=1500))
        store.settle(settlement("\ud800", lone, session="\ud800", step=step_record(0, tool="\ud800")))
        assert store.open("\ud800", (lone,), NOW_S).trail.count == 1

    def test_threads_do_not_overspend(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=40_000))

        def work(worker: int) -> int:
            met = 0
            for number in range(15):
                hold = f"w{worker}-{number}"
                if isinstance(store.reserve(claim(hold, scope)), Hold):
                    store.settle(settlement(hold, scope, step=step_record(number)))
                    met += 1
            return met

        with ThreadPoolExecutor(8) as pool:
            met = sum(pool.map(work, range(8)))
        opened = store.open("s1", (scope,), NOW_S)
        assert opened.standings[0].spent == Amounts(met * 1000, met * 100, met)
        assert met == 40
        assert opened.trail.count == met

    async def test_async_does_the_same(self, store: SessionBooks) -> None:
        scope = session_scope(Limits(nanos=1500))
        assert (await store.aopen("s1", (scope,), NOW_S, "p")).trail.count == 0
        assert isinstance(await store.areserve(claim("h1", scope)), Hold)
        assert isinstance(await store.areserve(claim("h2", scope)), Shortfall)
        (standing,) = await store.asettle(settlement("h1", scope, step=step_record(0)))
        assert standing.spent == CALL
        await store.arecord(a_receipt("r1"))
        assert store.receipt("r1") == a_receipt("r1")
        assert (await store.aopen("s1", (scope,), NOW_S)).trail.steps == (step_record(0),)
