"""What only the Redis store must do: cluster slots, expiry, few round trips, servers that go away and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from waywiser.core.budget import Amounts, Hold, Limits, Scope, Shortfall
from waywiser.errors import ConfigError, StoreError
from waywiser.stores.redis import RedisStore
from waywiser.testing.ledger import CALL, NOW_S, a_receipt, claim, session_scope, settlement, step_record
from waywiser.testing.redis_server import RedisServer

# Between two of its syncs a server may hold back what it writes down, and `kill` loses it: here each write is synced.
LASTING = ("--appendfsync", "always")
TENANT = Scope("tenant/acme/2027-01-15", "tenant", Limits(nanos=100_000, llm_calls=1000))


def run_step(store: RedisStore, number: int, session: str = "s1", nanos: int = 900) -> None:
    path = (TENANT, session_scope(Limits(nanos=10**9), session=session))
    hold = f"{session}-{number}"
    store.open(session, path, NOW_S + number, "p")
    assert isinstance(store.reserve(claim(hold, *path, at_s=number, session=session)), Hold)
    step = step_record(number)
    used = Amounts(nanos, 90, 1)
    receipt = a_receipt(f"r-{hold}", session=session)
    store.settle(settlement(hold, *path, used=used, at_s=number, session=session, step=step, receipt=receipt))


def test_scripts_touch_one_slot_each(start_redis: Callable[..., RedisServer]) -> None:
    # A cluster of one node checks slots as a large one does.
    server = start_redis("--cluster-enabled", "yes")
    client = redis.Redis(port=server.port)
    client.execute_command("CLUSTER ADDSLOTS", *range(16384))
    deadline = time.monotonic() + 10
    while str(client.execute_command("CLUSTER INFO")["cluster_state"]) != "ok" and time.monotonic() < deadline:
        time.sleep(0.01)
    store = RedisStore(server.url)
    for session in ("s1", "s2", "a session with {braces}"):
        for number in range(3):
            run_step(store, number, session)
    tight = Scope(TENANT.key, "tenant", Limits(nanos=9000))
    assert isinstance(store.reserve(claim("x", tight, session_scope(session="s9"), session="s9")), Hold | Shortfall)
    store.grant("s1", session_scope(), Amounts(5), NOW_S)
    store.grant("s1", TENANT, Amounts(5), NOW_S)
    assert len(store.spends()) == 3
    assert store.forget(NOW_S + 10_000) == 3
    store.close()
    client.close()


def test_everything_expires(redis_url: str) -> None:
    store = RedisStore(redis_url)
    for number in range(5):
        run_step(store, number)
    store.record(a_receipt("r9", refused="budget_exceeded"))
    store.close()
    client = redis.Redis.from_url(redis_url)
    lasting = [key for key in client.scan_iter() if client.ttl(key) < 0]
    assert client.dbsize() > 5
    assert lasting == []
    client.close()


def test_three_round_trips_a_step(redis_url: str) -> None:
    store = RedisStore(redis_url)
    trips = 0
    perform = store._server._perform

    def counted(batch: object) -> list[object]:
        nonlocal trips
        trips += 1
        return perform(batch)

    store._server._perform = counted
    for number in range(20):
        run_step(store, number)
    assert trips == 60
    store.close()


def test_most_steps_do_not_touch_the_tenant(redis_url: str) -> None:
    store = RedisStore(redis_url)
    runs: list[str] = []
    perform = store._server._perform

    def seen(batch: list[object]) -> list[object]:
        runs.extend(run.script for run in batch)
        return perform(batch)

    store._server._perform = seen
    for number in range(100):
        # All in one moment, so that no standing is refreshed for its age.
        path = (TENANT, session_scope())
        hold = f"h{number}"
        store.open("s1", path, NOW_S)
        store.reserve(claim(hold, *path, wanted=Amounts(500, 0, 1)))
        store.settle(settlement(hold, *path, used=Amounts(300, 0, 1)))
    assert runs.count("allot") <= 25
    store.close()


def test_idle_allotments_come_back(redis_url: str) -> None:
    one, two = RedisStore(redis_url), RedisStore(redis_url)
    tenant = Scope("tenant/t/1", "tenant", Limits(nanos=64_000))
    for number in range(30):
        session = f"s{number}"
        path = (tenant, session_scope(session=session))
        one.open(session, path, NOW_S)
        one.reserve(claim(session, *path, session=session))
        one.settle(settlement(session, *path, session=session))
    # 30 000 are spent; what 30 sessions have idle must not stand between a large claim and the rest.
    large = claim("big", tenant, session_scope(session="big"), wanted=Amounts(34_000, 0, 1), session="big")
    found = two.reserve(large)
    assert isinstance(found, Hold)
    more = two.reserve(claim("more", tenant, session_scope(session="m"), wanted=Amounts(1, 0, 1), session="m"))
    assert isinstance(more, Shortfall)
    assert (more.name, more.waiting_may_help) == ("tenant", True)
    one.close()
    two.close()


def test_a_dead_workers_hold_comes_back_and_its_allotment_too(redis_url: str) -> None:
    dead, alive = RedisStore(redis_url), RedisStore(redis_url)
    tenant = Scope("tenant/t/1", "tenant", Limits(nanos=10_000))
    dead.open("s1", (tenant, session_scope()), NOW_S)
    assert isinstance(dead.reserve(claim("h1", tenant, session_scope(), wanted=Amounts(9000, 0, 1))), Hold)
    # The worker dies here: nothing is settled, nothing closed.
    path = (tenant, session_scope(session="s2"))
    early = alive.reserve(claim("h2", *path, wanted=Amounts(8000, 0, 1), session="s2"))
    assert isinstance(early, Shortfall)
    assert early.waiting_may_help
    late = alive.reserve(claim("h2", *path, wanted=Amounts(8000, 0, 1), at_s=61, session="s2"))
    assert isinstance(late, Hold)
    dead._server.close()
    alive.close()


def test_closed_refuses_and_charges_later(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*LASTING)
    store = RedisStore(server.url)
    path = (session_scope(Limits(nanos=5000)),)
    assert isinstance(store.reserve(claim("h1", *path)), Hold)
    server.kill()
    with pytest.raises(StoreError):
        store.reserve(claim("h2", *path))
    with pytest.raises(StoreError, match="charged later"):
        store.settle(settlement("h1", *path, step=step_record(0)))
    with pytest.raises(StoreError):
        store.open("s1", path, NOW_S)
    assert store.undelivered == 1
    server.start()
    store._look_again_s = 0.0
    opened = store.open("s1", path, NOW_S)
    assert (opened.standings[0].spent, opened.standings[0].held) == (CALL, Amounts())
    assert opened.trail.steps == (step_record(0),)
    assert store.undelivered == 0
    store.close()


def test_local_goes_on_and_reconciles(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*LASTING)
    store = RedisStore(server.url, away="local")
    path = (session_scope(Limits(nanos=5000)),)
    for number in range(2):
        store.open("s1", path, NOW_S)
        store.reserve(claim(f"h{number}", *path))
        store.settle(settlement(f"h{number}", *path, step=step_record(number)))
    store.reserve(claim("h2", *path))
    server.kill()
    store.settle(settlement("h2", *path, step=step_record(2)))
    opened = store.open("s1", path, NOW_S)
    assert [step.number for step in opened.trail.steps] == [0, 1, 2]
    # 3000 of 5000 are spent as far as anybody knows: two more calls, and no third.
    assert isinstance(store.reserve(claim("h3", *path)), Hold)
    assert isinstance(store.reserve(claim("h4", *path)), Hold)
    assert isinstance(store.reserve(claim("h5", *path)), Shortfall)
    store.settle(settlement("h3", *path, step=step_record(3)))
    server.start()
    store._look_again_s = 0.0
    store.settle(settlement("h4", *path, step=step_record(4)))
    opened = store.open("s1", path, NOW_S)
    assert opened.standings[0].spent == Amounts(5000, 500, 5)
    assert opened.standings[0].held == Amounts()
    assert opened.trail.count == 5
    assert sum(row.used.nanos for row in store.spends()) == 5000
    store.close()


def test_a_restart_between_calls_is_not_noticed(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*LASTING)
    store = RedisStore(server.url)
    for number in range(6):
        run_step(store, number)
        if number % 2:
            server.kill()
            server.start()
    assert store.open("s1", (session_scope(),), NOW_S).standings[0].spent == Amounts(5400, 540, 6)
    store.close()


async def test_many_tasks_on_one_loop(redis_url: str) -> None:
    store = RedisStore(redis_url)
    path = (TENANT, session_scope(Limits(nanos=20_000)))

    async def work(worker: int) -> int:
        met = 0
        for number in range(4):
            hold = f"w{worker}-{number}"
            if isinstance(await store.areserve(claim(hold, *path)), Hold):
                await store.asettle(settlement(hold, *path))
                met += 1
        return met

    met = sum(await asyncio.gather(*(work(worker) for worker in range(16))))
    (_, standing) = (await store.aopen("s1", path, NOW_S)).standings
    assert standing.spent.nanos == met * 1000 <= 20_000
    assert standing.held == Amounts()
    await store.aclose()
    store.close()


def test_threads_share_a_tenant_strictly(redis_url: str) -> None:
    stores = [RedisStore(redis_url), RedisStore(redis_url)]
    tenant = Scope("tenant/t/1", "tenant", Limits(nanos=30_000))

    def work(worker: int) -> int:
        met = 0
        session = f"s{worker % 5}"
        for number in range(8):
            hold = f"w{worker}-{number}"
            path = (tenant, session_scope(session=session))
            if isinstance(stores[worker % 2].reserve(claim(hold, *path, session=session)), Hold):
                stores[worker % 2].settle(settlement(hold, *path, session=session))
                met += 1
        return met

    with ThreadPoolExecutor(10) as pool:
        met = sum(pool.map(work, range(10)))
    # Nobody overspends; and what is left at the end is less than the holds that were in the air.
    assert met <= 30
    assert sum(row.used.nanos for row in stores[0].spends()) == met * 1000
    last = stores[0].reserve(claim("last", tenant, session_scope(), wanted=Amounts((30 - met) * 1000 + 1, 0, 1)))
    assert isinstance(last, Shortfall)
    for store in stores:
        store.close()


def test_a_bad_address() -> None:
    with pytest.raises(ConfigError, match="address"):
        RedisStore("http://nowhere")


def test_no_password_in_errors() -> None:
    store = RedisStore("redis://:sesame@127.0.0.1:1/0", timeout_s=0.2)
    with pytest.raises(StoreError) as caught:
        store.open("s1", (), NOW_S)
    assert "sesame" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
    store.close()
