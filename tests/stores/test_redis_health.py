"""Circuits that a fleet shares: who hears what, who probes, and what it costs."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from waywiser.core.calls import Failure, FailureKind
from waywiser.core.health import REST_S, TRIP_AFTER, Circuit, Health
from waywiser.core.policy import Tier, Weights
from waywiser.engine import Engine
from waywiser.health import HealthBoard, board_of
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.stores.redis_health import LOOK_EVERY_S, TELL_EVERY_S, FleetBoard
from waywiser.stores.redis_wire import Away, Run
from waywiser.testing.fakes import FrozenClock
from waywiser.testing.pieces import CharacterCounter, a_call, a_model, a_policy, failed, said
from waywiser.testing.redis_server import RedisServer
from waywiser.testing.upstream import Scripted, ScriptedUpstream

NOW_S = 1_800_000_000.0
DOWN = Failure(FailureKind.CONNECTION, "refused")
KEY = "waywiser:h:{health}"
DEAD, SPARE = "a/dead", "b/spare"
TIERS = (Tier("standard", (a_model(DEAD, 2, 4), a_model(SPARE, 2, 6))), *a_policy().tiers[2:])
STEPS = {kind: rule for kind, rule in a_policy().steps.items() if rule.tier == "standard"}


class Member:
    """One process of a fleet, as far as an engine and its store make one."""

    def __init__(self, url: str, clock: FrozenClock, dead: Iterable[Scripted], **options: Any) -> None:
        self.store = RedisStore(url, **options)
        self.upstream = ScriptedUpstream({DEAD: dead, SPARE: [said("spare")] * 200})
        self.engine = Engine(
            # Without a weight for health: a model that fails would lose its traffic before its circuit opens.
            replace(a_policy(tiers=TIERS, steps=STEPS), weights=Weights(latency=0.0, health=0.0)),
            store=self.store,
            upstreams={"scripted": self.upstream},
            counter=CharacterCounter(),
            clock=clock,
            health=board_of(self.store),
        )
        self.clock = clock

    def call(self) -> str:
        """Make a call of a session of its own; return who answered."""
        name = f"{id(self)}-{self.clock.new_id()}"
        return self.engine.complete(a_call(call_id=name, session=name)).receipt.model

    @property
    def asked(self) -> int:
        """How often the model that dies was asked."""
        return [name for name, _ in self.upstream.asked].count(DEAD)


def circuit(store: RedisStore, now_s: float) -> Circuit:
    return store.health.snapshot().get(DEAD, Health()).circuit(now_s)


def nothing() -> Generator[list[Run], list[Any], None]:
    yield []


def look(store: RedisStore, now_s: float) -> None:
    store._server.drive(store.health.looking(nothing(), now_s))


def tell(store: RedisStore, now_s: float) -> None:
    store._server.drive(store.health.telling(nothing(), now_s))


def fail(store: RedisStore, now_s: float, times: int = TRIP_AFTER) -> None:
    for _ in range(times):
        store.health.note(DEAD, DOWN, 0.1, now_s)
        tell(store, now_s)


def test_what_one_finds_dead_the_others_do_not_ask(redis_url: str) -> None:
    clock = FrozenClock()
    first, second, third = (Member(redis_url, clock, [failed("overloaded")] * 9) for _ in range(3))
    while first.asked < TRIP_AFTER:
        assert first.call() == SPARE
    clock.advance(LOOK_EVERY_S)
    for number in range(5):
        assert second.call() == SPARE
        assert asyncio.run(third.engine.acomplete(a_call(call_id=f"t{number}"))).receipt.model == SPARE
    assert (second.asked, third.asked) == (0, 0)
    for member in (first, second, third):
        member.store.close()


PROCESS = """
import sys
from waywiser.clock import SystemClock
from waywiser.core.calls import Failure, FailureKind
from waywiser.core.messages import user
from waywiser.runtime import build, load
from waywiser.testing.pieces import a_call
from waywiser.testing.upstream import ScriptedUpstream
import waywiser.testing.pieces as pieces

down = Failure(FailureKind.OVERLOADED, "down")
upstream = ScriptedUpstream({"simulated/standard": [down] * 99, "simulated/premium": [pieces.said("done")] * 99})
runtime = build(load(sys.argv[1]), store=sys.argv[2], upstreams={"simulated": upstream}, clock=SystemClock())
for number in range(8):
    runtime.engine.complete(a_call(call_id=f"{sys.argv[3]}{number}", session=f"{sys.argv[3]}{number}"))
print([name for name, _ in upstream.asked].count("simulated/standard"))
runtime.close()
"""


def test_processes_of_one_policy_share_it_without_being_told_to(redis_url: str) -> None:
    policy = Path(__file__).resolve().parents[2] / "policies" / "simulated.yaml"
    asked = []
    for name in ("one", "two"):
        command = [sys.executable, "-c", PROCESS, str(policy), redis_url, name]
        asked.append(int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout))
    # The second begins while the circuit rests, or a probe later.
    assert asked[0] == TRIP_AFTER
    assert asked[1] <= 1


def test_failures_count_together(redis_url: str) -> None:
    clock = FrozenClock()
    fleet = [Member(redis_url, clock, [failed("overloaded")] * 9) for _ in range(8)]
    for member in fleet:
        member.call()
        clock.advance(LOOK_EVERY_S)
    assert sum(member.asked for member in fleet) == TRIP_AFTER
    for member in fleet:
        member.store.close()


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_one_probe_for_the_fleet(redis_url: str, how: str) -> None:
    stores = [RedisStore(redis_url) for _ in range(8)]
    fail(stores[0], NOW_S)
    for store in stores:
        look(store, NOW_S + REST_S)
        assert store.health.snapshot()[DEAD].admits(NOW_S + REST_S)
    for round_ in range(5):
        at = NOW_S + REST_S + round_ * 0.01
        if how == "threads":
            start = Barrier(len(stores))

            def ask(store: RedisStore, at: float = at, start: Barrier = start) -> bool:
                start.wait()
                return store.health.admit(DEAD, at)

            with ThreadPoolExecutor(len(stores)) as pool:
                let = list(pool.map(ask, stores))
        else:

            async def all_at_once(at: float = at) -> list[bool]:
                return await asyncio.gather(*(store.health.aadmit(DEAD, at) for store in stores))

            let = asyncio.run(all_at_once())
        # The first round gives the probe out; after that it is under way.
        assert sum(let) == (round_ == 0)
        if round_ == 0:
            prober = stores[let.index(True)]
    prober.health.note(DEAD, None, 0.1, at)
    tell(prober, at)
    for store in stores:
        look(store, at + LOOK_EVERY_S)
        assert store.health.admit(DEAD, at + LOOK_EVERY_S)
        store.close()


def test_a_failed_probe_makes_all_rest(redis_url: str) -> None:
    one, two = RedisStore(redis_url), RedisStore(redis_url)
    fail(one, NOW_S)
    due = NOW_S + REST_S
    look(two, due)
    assert two.health.admit(DEAD, due)
    assert not one.health.admit(DEAD, due)
    two.health.note(DEAD, DOWN, 0.1, due + 1)
    tell(two, due + 1)
    look(one, due + 1)
    assert one.health.snapshot()[DEAD].open_until_s == two.health.snapshot()[DEAD].open_until_s == due + 1 + REST_S
    one.close()
    two.close()


def test_one_whose_own_road_is_cut_closes_nobody_elses_but_its_own(redis_url: str) -> None:
    cut, well, alone = RedisStore(redis_url), RedisStore(redis_url), HealthBoard()
    tries = {"cut": 0, "alone": 0}
    for tenth in range(300):
        now = NOW_S + tenth / 10
        for name, board in (("cut", cut.health), ("alone", alone)):
            if board.admit(DEAD, now):
                tries[name] += 1
                board.note(DEAD, DOWN, 0.1, now)
        tell(cut, now)
        look(well, now + 0.02)
        assert well.health.admit(DEAD, now + 0.02)
        well.health.note(DEAD, None, 0.1, now + 0.05)
        tell(well, now + 0.05)
        look(cut, now + 0.08)
    # It is no worse off than if it knew nobody, but for one call: others hold the model for well, so it looks again.
    assert tries["cut"] <= tries["alone"] + 1
    for _ in range(2):
        now += 60
        assert cut.health.admit(DEAD, now)
        cut.health.note(DEAD, None, 0.1, now)
    assert cut.health.snapshot()[DEAD].open_until_s == 0.0
    cut.close()
    well.close()


def test_who_had_an_answer_since_the_failures_began_knows_better(redis_url: str) -> None:
    cut, well = RedisStore(redis_url), RedisStore(redis_url)
    well.health.note(DEAD, None, 0.1, NOW_S)
    tell(well, NOW_S)
    for began_s, believed in ((NOW_S - 0.05, False), (NOW_S + 0.05, True)):
        look(cut, NOW_S + 1)
        for _ in range(TRIP_AFTER):
            cut.health.note(DEAD, DOWN, 0.1, began_s)
        tell(cut, NOW_S + 1)
        look(well, NOW_S + 1.5 + believed)
        assert well.health.admit(DEAD, NOW_S + 1.5) is not believed
        tell(well, NOW_S + 1.5)
    cut.close()
    well.close()


def test_whoever_failed_itself_tries_once_when_the_others_are_answered_again(redis_url: str) -> None:
    one, two = RedisStore(redis_url), RedisStore(redis_url)
    fail(one, NOW_S)
    at = NOW_S + REST_S
    look(two, at)
    assert two.health.admit(DEAD, at)
    two.health.note(DEAD, None, 0.1, at)
    tell(two, at)
    assert [two.health.admit(DEAD, at) for _ in range(3)] == [True] * 3
    look(one, at + 1)
    assert [one.health.admit(DEAD, at + 1) for _ in range(3)] == [True, False, False]
    one.health.note(DEAD, None, 0.1, at + 1)
    assert [one.health.admit(DEAD, at + 1) for _ in range(3)] == [True] * 3
    one.close()
    two.close()


def test_answers_from_before_it_died_do_not_hide_that_it_did(redis_url: str) -> None:
    fleet = [RedisStore(redis_url) for _ in range(TRIP_AFTER)]
    for number, store in enumerate(fleet):
        store.health.note(DEAD, None, 0.1, NOW_S - 0.1)
        store.health.note(DEAD, DOWN, 0.1, NOW_S + number / 100)
    for store in fleet:
        tell(store, NOW_S + 0.1)
    assert circuit(fleet[-1], NOW_S + 0.1) is Circuit.OPEN
    for store in fleet:
        store.close()


def test_figures_are_those_of_all(redis_url: str) -> None:
    fleet = [RedisStore(redis_url) for _ in range(4)]
    rng = random.Random(3)
    for second in range(30):
        for number, store in enumerate(fleet):
            now = NOW_S + second + number / 10
            look(store, now)
            for _ in range(3):
                store.health.note(DEAD, None, rng.lognormvariate(0.0, 0.3), now, 0.2)
            tell(store, now)
    known = []
    for store in fleet:
        tell(store, NOW_S + 60)
    for store in fleet:
        look(store, NOW_S + 61)
        known.append(store.health.snapshot()[DEAD])
        store.close()
    assert all(health == known[0] for health in known)
    assert known[0].calls == 30 * 4 * 3
    assert known[0].latency_s == pytest.approx(1.0, abs=0.5)
    slow_s = known[0].patience_s(False)
    assert slow_s is not None
    assert 1.2 < slow_s < 2.6


def test_no_round_trip_of_its_own(redis_url: str) -> None:
    member = Member(redis_url, FrozenClock(), [said("well")] * 100)
    trips: list[list[str]] = []
    perform = member.store._server._perform

    def counted(batch: list[Run]) -> list[object]:
        trips.append([run.keys[0] for run in batch])
        return perform(batch)

    member.store._server._perform = counted
    for _ in range(60):
        member.call()
        member.clock.advance(0.04)
    assert len(trips) == 3 * 60
    # Of 60 calls in 2.4 seconds, every third looks and one in a second tells.
    looking = [trip for trip in trips[::3] if KEY in trip]
    telling = [trip for trip in trips[2::3] if KEY in trip]
    assert 18 <= len(looking) <= 24
    assert 2 <= len(telling) <= 4
    assert not [trip for trip in trips[1::3] if KEY in trip]
    member.store.close()


def test_a_server_that_dies_fails_no_call(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    clock = FrozenClock()
    member = Member(server.url, clock, [failed("overloaded")] * 50, away="local", timeout_s=0.5)
    member.call()
    server.kill()
    for _ in range(10):
        assert member.call() == SPARE
    assert member.asked == TRIP_AFTER  # the circuit opened without the server
    clock.advance(REST_S)
    assert member.call() == SPARE
    assert member.asked == TRIP_AFTER + 1  # and gave out its probe
    assert member.call() == SPARE
    assert asyncio.run(member.engine.acomplete(a_call())).receipt.model == SPARE
    assert member.asked == TRIP_AFTER + 1
    server.start()
    member.store._look_again_s = 0.0
    clock.advance(LOOK_EVERY_S)
    member.call()
    other = RedisStore(server.url)
    look(other, clock.now())
    assert circuit(other, clock.now()) is Circuit.OPEN  # what was learned meanwhile is told
    other.close()
    member.store.close()


def test_a_server_that_forgot_is_told_again(redis_url: str) -> None:
    one, two = RedisStore(redis_url), RedisStore(redis_url)
    fail(one, NOW_S)
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    look(one, NOW_S + 1)
    tell(one, NOW_S + 1)
    look(two, NOW_S + 1)
    assert circuit(two, NOW_S + 1) is Circuit.OPEN
    client.hset(KEY, DEAD, b"[not a row")
    look(two, NOW_S + 1.5)
    tell(two, NOW_S + 1.5)
    look(one, NOW_S + 1.5)
    assert circuit(one, NOW_S + 1.5) is Circuit.OPEN
    assert 0 < client.ttl(KEY) <= 3600
    client.close()
    one.close()
    two.close()


def test_health_and_sessions_may_live_in_different_slots(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("--cluster-enabled", "yes")
    client = redis.Redis(port=server.port)
    client.execute_command("CLUSTER ADDSLOTS", *range(16384))
    while str(client.execute_command("CLUSTER INFO")["cluster_state"]) != "ok":
        time.sleep(0.01)
    clock = FrozenClock()
    member = Member(server.url, clock, [failed("overloaded")] * 9)
    while member.asked < TRIP_AFTER:
        assert member.call() == SPARE
    clock.advance(REST_S)
    assert member.call() == SPARE
    assert member.asked == TRIP_AFTER + 1
    client.close()
    member.store.close()


def test_a_store_without_a_board_of_its_own_leaves_health_to_the_process() -> None:
    assert type(board_of(MemoryStore())) is HealthBoard


# The same, without a server, in every order


class Table:
    """What the script does, on a dictionary; it may be away."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.away = False

    def answer(self, batch: Iterable[Run]) -> list[Any]:
        if self.away:
            raise Away("away")
        return [self._answer(run) for run in batch]

    def _answer(self, run: Run) -> Any:
        if run.script == "HGETALL":
            return dict(self.rows)
        now = []
        for name, before, after in zip(run.args[1::3], run.args[2::3], run.args[3::3], strict=True):
            if self.rows.get(str(name).encode(), b"") == before:
                self.rows[str(name).encode()] = bytes(after)
            now.append(self.rows[str(name).encode()])
        return now

    def perform(self, turns: Generator[Any, list[Any], bool], instead: Callable[[], bool]) -> bool:
        try:
            return bool(drive(turns, self))
        except Away:
            return instead()

    async def aperform(self, turns: Generator[Any, list[Any], bool], instead: Callable[[], bool]) -> bool:
        return self.perform(turns, instead)


def drive(turns: Generator[Any, list[Any], Any], table: Table) -> Any:
    try:
        batch = next(turns)
        while True:
            try:
                replies = table.answer(batch)
            except Away as away:
                batch = turns.throw(away)
            else:
                batch = turns.send(replies)
    except StopIteration as done:
        return done.value


class Talk:
    """A conversation of one board with the table, batch by batch, so that others can come between."""

    def __init__(self, turns: Generator[Any, list[Any], Any], table: Table) -> None:
        self._turns, self._table = turns, table
        self.over = False
        self._batch = next(turns)
        self._replies: list[Any] | None = None

    def go_on(self) -> None:
        """Reach the server, or hear its reply: the two halves of a round trip."""
        if self._replies is None:
            self._replies = self._table.answer(self._batch)
            return
        replies, self._replies = self._replies, None
        try:
            self._batch = self._turns.send(replies)
        except StopIteration:
            self.over = True


class Fleet:
    """Three boards at one table, whose conversations cross in any order."""

    def __init__(self) -> None:
        self.table = Table()
        self.boards = [FleetBoard("t", self.table.perform, self.table.aperform) for _ in range(3)]
        self.talks: list[list[Talk]] = [[], [], []]
        self.now_s = NOW_S
        self.learned = 0

    def act(self, who: int, act: str) -> None:
        board, talks = self.boards[who], self.talks[who]
        if act == "wait":
            self.now_s += 0.4
        elif act in {"good", "bad"}:
            self.learned += 1
            board.note(DEAD, None if act == "good" else DOWN, 1.0, self.now_s)
        elif act == "look":
            talks.append(Talk(board.looking(nothing(), self.now_s), self.table))
        elif act == "tell":
            talks.append(Talk(board.telling(nothing(), self.now_s), self.table))
        elif talks:
            talks[0].go_on()
            self.talks[who] = [talk for talk in talks if not talk.over]

    def finish(self) -> list[Health]:
        """Let all talks end, then everybody tell and hear everything. Returns what each believes."""
        for who in range(3):
            while self.talks[who]:
                self.act(who, "go on")
        for _ in range(4):
            self.now_s += 2 * TELL_EVERY_S
            for board in self.boards:
                drive(board.telling(nothing(), self.now_s), self.table)
                drive(board.looking(nothing(), self.now_s), self.table)
        return [board._rows[DEAD].fleet if DEAD in board._rows else Health() for board in self.boards]


def test_what_was_asked_before_something_else_was_heard_is_out_of_date() -> None:
    fleet = Fleet()
    fleet.act(0, "good")
    fleet.finish()
    fleet.act(0, "wait")
    fleet.act(0, "look")
    fleet.act(0, "go on")  # the server has answered; nobody has heard it yet
    board = fleet.boards[0]
    for _ in range(TRIP_AFTER):
        fleet.act(0, "bad")
    drive(board.telling(nothing(), fleet.now_s), fleet.table)
    fleet.act(0, "go on")
    assert board._rows[DEAD].fleet.open_until_s


def test_a_probe_is_not_claimed_while_lessons_are_on_their_way() -> None:
    fleet = Fleet()
    board = fleet.boards[0]
    for _ in range(TRIP_AFTER):
        fleet.act(0, "bad")
    fleet.act(0, "tell")
    due = fleet.now_s + REST_S
    assert not board.admit(DEAD, due)
    fleet.finish()
    assert board.admit(DEAD, due)
    assert board._rows[DEAD].fleet.calls == TRIP_AFTER


ACTS = ["good", "bad", "look", "tell", "go on", "go on", "wait"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTS)), min_size=20, max_size=80))
def test_no_lesson_is_lost_whatever_crosses(order: list[tuple[int, str]]) -> None:
    fleet = Fleet()
    for who, act in order:
        fleet.act(who, act)
    one, two, three = fleet.finish()
    assert one == two == three
    assert one.calls == fleet.learned


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "look", "old"])), min_size=5, max_size=40))
def test_never_two_probes(order: list[tuple[int, str]]) -> None:
    table = Table()
    boards = [FleetBoard("t", table.perform, table.aperform) for _ in range(3)]
    for _ in range(TRIP_AFTER):
        boards[0].note(DEAD, DOWN, 0.1, NOW_S)
    drive(boards[0].telling(nothing(), NOW_S), table)
    for board in boards:
        drive(board.looking(nothing(), NOW_S + 1), table)
    now, let = NOW_S + REST_S, 0
    for who, act in order:
        now += 0.3
        if act == "ask":
            let += boards[who].admit(DEAD, now)
        elif act == "look":
            drive(boards[who].looking(nothing(), now), table)
        else:  # a request that blames only itself says nothing of the model
            boards[who].note(SPARE, Failure(FailureKind.INVALID_REQUEST, "no"), 0.1, now)
            drive(boards[who].telling(nothing(), now), table)
    assert let <= 1
    if any(act == "ask" for _, act in order):
        assert let == 1
