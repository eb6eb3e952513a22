"""Setting money aside for an attempt: what to ask the store for, and what to do when it says no."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from waywiser.core.budget import Hold, Scope, Shortfall
from waywiser.core.calls import Call
from waywiser.core.claims import Asked, ask
from waywiser.core.draft import InFlight
from waywiser.core.effects import Effect, Moment, Reserve, perform
from waywiser.core.policy import BudgetRule
from waywiser.core.quantiles import History

RESERVE_WAIT_S = 0.02
"""First wait for money that others hold; it doubles up to half a second."""


@dataclass(slots=True)
class Purse:
    """What a call may spend, and from where. `costs` tells what a (kind, model) has cost, in nano-dollars."""

    budget: BudgetRule
    path: tuple[Scope, ...]
    deadline_s: float
    costs: Mapping[tuple[str, str], History] = field(default_factory=dict)

    def reserve(
        self, call: Call, flight: InFlight, limit: int | None, moment: Moment, *, patient: bool = True
    ) -> Generator[Effect[object], object, int | Shortfall]:
        """Set the money for one attempt aside; the answer is how much was, and `flight.limit` how long it may answer.

        `limit` is the longest answer wanted, in tokens. Who is `patient` waits for the holds of others, within the
        deadline, before giving up.
        """
        wait, room, most = RESERVE_WAIT_S, None, limit
        while True:
            asked = self._ask(call, flight, limit, moment.now_s, room)
            if asked is not None:
                answer = yield from perform(Reserve(asked.claim))
                if isinstance(answer, Hold):
                    flight.limit = asked.output_limit
                    return answer.amounts.nanos
                room, limit = answer, asked.output_limit
                if self.budget.estimate == "strict" and answer.what in {"nanos", "tokens"}:
                    continue
            if room is None:
                raise AssertionError("a claim is only refused by the store")
            if not patient or not room.waiting_may_help or moment.now_s + wait >= self.deadline_s:
                return room
            yield from moment.sleep(wait * (0.5 + moment.jitter))
            wait = min(wait * 2, 0.5)
            room, limit = None, most

    def _ask(
        self, call: Call, flight: InFlight, limit: int | None, now_s: float, room: Shortfall | None
    ) -> Asked | None:
        return ask(
            self.budget,
            call,
            flight.kind,
            flight.candidate,
            self.path,
            hold=flight.hold,
            output_limit=limit,
            now_s=now_s,
            history=self.costs.get((flight.kind, flight.candidate.model.name)),
            room=room,
        )
