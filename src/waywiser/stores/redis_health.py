"""The health of models, shared by a fleet over Redis: what one process finds out, all know a moment later.

The server keeps one row a model, what all processes know of it together. A process keeps what it last heard of a row
and the lessons it has learned since; what it believes is the one with the other on top. To give its lessons it writes
what it believes, if nobody has written since it last heard (compare and set); otherwise it hears what was written,
puts its lessons on top of that and gives them the next time. So the rules are those of `core/health.py`, whoever
learned what, and no lesson is lost. The one probe of a half-open circuit is claimed in the same way: of all who write
"I am probing" on top of the same row, one succeeds.

Reading travels with `open`, writing with `settle`: neither costs a round trip of its own, but for a probe and for a
failure whose writing somebody crossed. While the server is away everybody goes on with what they know.

A process whose own road is cut sees models fail that are well. What it writes then is contradicted by whoever has had
an answer since those failures began, so it closes nobody's road but its own. That it does close: beside the fleet's
circuit every process has one of what it has seen itself, by the same rules, and a call must pass both. When the fleet's
closes, one call may try whether the own one can.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import count
from typing import Any, TypeAlias, TypeVar

from waywiser.core.calls import Failure
from waywiser.core.health import Health, admit
from waywiser.errors import StoreError
from waywiser.health import HealthBoard, Lesson
from waywiser.stores import codec
from waywiser.stores.redis_wire import Away, Run, Turns

T = TypeVar("T")

LOOK_EVERY_S = 0.1
TELL_EVERY_S = 1.0
LESSONS_AT_ONCE = 64
LESSONS_KEPT = 256
TRIES = 3
TTL_S = 3600

Performs: TypeAlias = Callable[[Turns[bool], Callable[[], bool]], bool]
"""How the store talks to its server, and what is done instead while that is away."""
APerforms: TypeAlias = Callable[[Turns[bool], Callable[[], bool]], Coroutine[Any, Any, bool]]


@dataclass(slots=True)
class _Row:
    """One model: what the server last said (`raw`), and the lessons that are not given yet.

    `fleet` is what the server said with the lessons on top, `own` what this process alone would know. `busy` while
    lessons are on their way, `urgent` when they should be. `heard` says when `raw` came, in the order of all that was
    heard; `good_s` when the model last answered *this* process; `told_s` when lessons were last given. `crossed` counts
    the writings in a row that came too late.
    """

    raw: bytes = b""
    fleet: Health = field(default_factory=Health)
    own: Health = field(default_factory=Health)
    lessons: list[Lesson] = field(default_factory=list)
    urgent: bool = False
    busy: bool = False
    heard: int = 0
    good_s: float = 0.0
    told_s: float = 0.0
    crossed: int = 0


@dataclass(frozen=True, slots=True)
class _News:
    """What is written of one model: `after` in the place of `before`, with the first `lessons` of its row in it."""

    model: str
    before: bytes
    after: bytes
    lessons: int


class FleetBoard(HealthBoard):
    """A health board whose models are those of all processes that share a server and a `prefix`.

    A model is known by its name: processes that share a prefix must mean the same by it.
    """

    def __init__(self, prefix: str, perform: Performs, aperform: APerforms) -> None:
        super().__init__()
        self._key = f"{prefix}:h:{{health}}"
        self._perform, self._aperform = perform, aperform
        self._rows: dict[str, _Row] = {}
        self._looked_s = float("-inf")
        self._heard = 0
        self._name, self._written = secrets.token_hex(6), count(1)

    def admit(self, model: str, now_s: float) -> bool:
        """Whether a call may go to `model` now. The one probe of a half-open circuit is given out over the fleet."""
        if not self._probes(model, now_s):
            return self._try(model, now_s)
        try:
            return self._perform(self._claim(model, now_s), partial(self._alone, model, now_s))
        except StoreError:
            return self._alone(model, now_s)

    async def aadmit(self, model: str, now_s: float) -> bool:
        """Like `admit`, for an event loop."""
        if not self._probes(model, now_s):
            return self._try(model, now_s)
        claim = self._claim(model, now_s)
        try:
            return await self._aperform(claim, partial(self._alone, model, now_s))
        except StoreError:
            return self._alone(model, now_s)
        finally:
            claim.close()

    def note(
        self, model: str, failure: Failure | None, took_s: float, now_s: float, first_s: float | None = None
    ) -> None:
        """Note how a call to `model` ended; no failure is a good answer, whose first piece took `first_s`."""
        super().note(model, failure, took_s, now_s, first_s)
        if failure is None:
            self._rows[model].good_s = now_s

    def looking(self, turns: Turns[T], now_s: float) -> Turns[T]:
        """Perform turns; now and then have their first batch bring what the others have learned."""
        if 0 <= now_s - self._looked_s < LOOK_EVERY_S:
            return (yield from turns)
        self._looked_s, since = now_s, self._heard
        return (yield from _aboard(turns, Run("HGETALL", (self._key,)), partial(self._saw, since)))

    def telling(self, turns: Turns[T], now_s: float) -> Turns[T]:
        """Perform turns; have their first batch take along what is to be told. What was crossed may go again."""
        news = self._news(now_s)
        if not news:
            return (yield from turns)
        try:
            result = yield from _aboard(turns, self._run(news), partial(self._told, news, now_s))
        finally:
            self._landed(news)
        for _ in range(TRIES):
            if not (news := self._news(now_s, again=True)):
                break
            try:
                (reply,) = yield [self._run(news)]
                self._told(news, now_s, reply)
            except Away:
                break
            finally:
                self._landed(news)
        return result

    # --- what this process learns

    def _learn(self, model: str, lesson: Lesson) -> None:
        with self._lock:
            self._add(model, lesson)

    def _add(self, model: str, lesson: Lesson) -> None:
        row = self._rows.setdefault(model, _Row())
        row.own = lesson(row.own)
        self._put(row, lesson)
        self._show(model, row)

    @staticmethod
    def _put(row: _Row, lesson: Lesson) -> None:
        """Put a lesson on top of what the fleet knows."""
        before, row.fleet = row.fleet, lesson(row.fleet)
        row.lessons.append(lesson)
        row.urgent = row.urgent or _state(row.fleet) != _state(before)
        if len(row.lessons) > LESSONS_KEPT and not row.busy:
            # The server is away. Figures that forget are hardly poorer for the oldest lessons.
            del row.lessons[: LESSONS_KEPT // 2]

    def _show(self, model: str, row: _Row) -> None:
        """Let the snapshot show what is believed: the fleet's figures, and whichever circuit is open."""
        fleet, own = row.fleet, row.own
        if own.open_until_s and not fleet.open_until_s:
            fleet = replace(fleet, open_until_s=own.open_until_s, probing_s=own.probing_s)
        self._known[model] = fleet

    def _probes(self, model: str, now_s: float) -> bool:
        """Whether a call to `model` would be the fleet's probe."""
        known = self._known.get(model)
        if known is None or not known.open_until_s or not known.admits(now_s):
            return False
        return bool(self._rows[model].fleet.open_until_s)

    def _try(self, model: str, now_s: float) -> bool:
        """Whether a call that is not the fleet's probe may go to `model`: for its own circuit it may be one."""
        known = self._known.get(model)
        if known is None or not known.open_until_s:
            return True
        with self._lock:
            row = self._rows[model]
            let = None if row.fleet.open_until_s else admit(row.own, now_s)
            if let is not None:
                row.own = let
                self._show(model, row)
            return let is not None

    def _alone(self, model: str, now_s: float) -> bool:
        """Decide on the fleet's probe without the others."""
        with self._lock:
            known = self._rows[model].fleet
            let = admit(known, now_s)
            if let is not None and let is not known:
                self._add(model, partial(_probing, now_s=now_s))
            return let is not None

    def _claim(self, model: str, now_s: float) -> Turns[bool]:
        """Write that this process is probing, if nobody has written anything else meanwhile."""
        for _ in range(TRIES):
            with self._lock:
                row = self._rows[model]
                let = admit(row.fleet, now_s)
                if let is None or row.busy:
                    return False
                if let is row.fleet:
                    return True
                news = _News(model, row.raw, self._written_down(let), len(row.lessons))
                row.busy = True
            try:
                (reply,) = yield [self._run([news])]
                self._told([news], now_s, reply)
            except GeneratorExit:  # whoever asked was cancelled, and what was claimed would be nobody's
                self._learn(model, partial(_not_probing, since_s=let.probing_s))
                row.urgent = True
                raise
            finally:
                self._landed([news])
            if reply[0] == news.after:
                with self._lock:
                    row.own = _probing(row.own, now_s)
                return True
        return False

    # --- what goes to the others

    def _news(self, now_s: float, *, again: bool = False) -> list[_News]:
        """Collect what is due to be told: at once what changes a circuit, the rest now and then (not `again`)."""
        due = []
        with self._lock:
            for model, row in self._rows.items():
                if row.busy or not row.lessons:
                    continue
                old = not 0 <= now_s - row.told_s < TELL_EVERY_S or len(row.lessons) >= LESSONS_AT_ONCE
                if row.urgent or row.crossed > 1 or (old and not again):
                    row.busy = True
                    after = self._written_down(row.fleet)
                    due.append(_News(model, row.raw, after, len(row.lessons)))
        return due

    def _written_down(self, health: Health) -> bytes:
        """Write a row that nobody else can have written: whoever finds it knows whose writing succeeded."""
        return f"{self._name}.{next(self._written)} ".encode() + codec.encode_named(health)

    def _run(self, news: Sequence[_News]) -> Run:
        args: list[str | bytes | float] = [TTL_S]
        for one in news:
            args += [codec.clean(one.model), one.before, one.after]
        return Run("health", (self._key,), tuple(args))

    def _told(self, news: Sequence[_News], now_s: float, reply: Sequence[bytes]) -> None:
        """Learn what became of what was written."""
        with self._lock:
            for one, told in zip(news, reply, strict=True):
                row = self._rows[one.model]
                if told == one.after:
                    del row.lessons[: one.lessons]
                    row.urgent, row.crossed, row.told_s = row.urgent and bool(row.lessons), 0, now_s
                else:
                    row.crossed += 1
                self._hear(one.model, row, told)

    def _landed(self, news: Sequence[_News]) -> None:
        with self._lock:
            for one in news:
                self._rows[one.model].busy = False

    # --- what comes from the others

    def _saw(self, since: int, rows: Mapping[bytes, bytes]) -> None:
        """Take in all rows. They may be older than what was heard after `since`, when they were asked for."""
        told = {name.decode(): raw for name, raw in rows.items()}
        with self._lock:
            for model in {*self._rows, *told}:
                row = self._rows.setdefault(model, _Row())
                if not row.busy and row.heard <= since:
                    self._hear(model, row, told.get(model, b""))

    def _hear(self, model: str, row: _Row, raw: bytes) -> None:
        """Put the lessons of this process on top of what the server says now."""
        if raw == row.raw:
            return
        self._heard += 1
        row.raw, row.heard = raw, self._heard
        told = _read(raw)
        if told is None:  # a server that has forgotten, or says what nobody understands, is told what is known here
            row.lessons, row.urgent = [partial(_replaced, by=row.fleet)], bool(row.fleet.open_until_s)
            return
        was_open, row.fleet = row.fleet.open_until_s, reduce(_taught, row.lessons, told)
        if told.open_until_s and told.failing_s < row.good_s:
            self._put(row, _answered)
        if was_open and not row.fleet.open_until_s and row.own.open_until_s:
            row.own = replace(row.own, open_until_s=row.own.opened_s, probing_s=0.0)
        self._show(model, row)


def _aboard(turns: Turns[T], run: Run, heard: Callable[[Any], None]) -> Turns[T]:
    """Perform turns with one more run in their first batch."""
    extra = [run]
    try:
        batch = next(turns)
        while True:
            try:
                replies = yield [*batch, *extra]
            except Away as away:
                batch = turns.throw(away)
            else:
                if extra:
                    heard(replies[-1])
                batch = turns.send(replies[: len(batch)])
            extra = []
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        turns.close()


def _state(health: Health) -> tuple[int, float, float]:
    """What the others should know at once when it changes."""
    return health.failures_in_a_row, health.open_until_s, health.probing_s


def _taught(health: Health, lesson: Lesson) -> Health:
    return lesson(health)


def _probing(health: Health, now_s: float) -> Health:
    return admit(health, now_s) or health


def _not_probing(health: Health, since_s: float) -> Health:
    """The probe that was claimed at `since_s` is not made after all."""
    return replace(health, probing_s=0.0) if health.probing_s == since_s else health


def _answered(health: Health) -> Health:
    """The model has answered here since the failures began that opened its circuit."""
    return replace(health, open_until_s=0.0, failures_in_a_row=0, error_rate=0.0, probing_s=0.0)


def _replaced(_: Health, by: Health) -> Health:
    return by


def _read(raw: bytes) -> Health | None:
    try:
        return codec.decode_named(Health, raw.partition(b" ")[2]) if raw else None
    except codec.UNREADABLE:
        return None
