"""Timing one request for the pipeline and for the health board."""

from __future__ import annotations

from waywiser.core.calls import Chunk, Failure, FailureKind, Outcome
from waywiser.core.effects import Heard, Pulled, Sent
from waywiser.health import HealthBoard
from waywiser.ports import Clock

CIRCUIT_OPEN = Failure(FailureKind.OVERLOADED, "not asked: its circuit is open after repeated failures", sent=False)
CUT = Failure(FailureKind.CUT_SHORT, "the stream ended without a finish reason")


class Tally:
    """Times one request to a model and tells the health board how it went, once.

    `admitted` says whether the model's circuit lets it pass; one that is not admitted is not to be sent.
    """

    __slots__ = ("_board", "_clock", "_first_s", "_model", "_noted", "admitted", "began_s")

    def __init__(
        self, board: HealthBoard, clock: Clock, model: str = "", began_s: float = 0.0, *, admitted: bool = False
    ) -> None:
        self._board = board
        self._clock = clock
        self._model = model
        self.began_s = began_s
        self.admitted = admitted
        self._noted = not admitted
        self._first_s: float | None = None

    @classmethod
    def begun(cls, board: HealthBoard, clock: Clock, model: str) -> Tally:
        """Begin to time a request, if the circuit lets it pass."""
        began_s = clock.now()
        return cls(board, clock, model, began_s, admitted=board.admit(model, began_s))

    @classmethod
    async def abegun(cls, board: HealthBoard, clock: Clock, model: str) -> Tally:
        """Like `begun`, for an event loop."""
        admitted = await board.aadmit(model, clock.now())
        return cls(board, clock, model, clock.now(), admitted=admitted)

    def sent(self, outcome: Outcome) -> Sent:
        """Take the whole answer."""
        now_s = self._clock.now()
        self._note(outcome if isinstance(outcome, Failure) else None, now_s)
        return Sent(outcome, self.began_s, now_s, self._clock.jitter())

    def pulled(self, item: Chunk | Failure | None) -> Pulled:
        """Take the next piece of a stream; None is its end."""
        now_s = self._clock.now()
        if item is None or isinstance(item, Failure):
            self._note(item or CUT, now_s)
        else:
            if self._first_s is None and item.says_something:
                self._first_s = now_s - self.began_s
            if item.finish is not None:
                self._note(None, now_s)
        return Pulled(item, now_s, self._clock.jitter())

    def heard(self, lane: int, outcome: Outcome | None) -> Heard:
        """Take what a request beside others came to; None is a stream that has begun to speak."""
        now_s = self._clock.now()
        if outcome is not None:
            self._note(outcome if isinstance(outcome, Failure) else None, now_s)
        elif self._first_s is None:
            self._first_s = now_s - self.began_s
        return Heard(lane, outcome, now_s, self._clock.jitter())

    def outrun(self, outcome: Outcome | None, *, stream: bool) -> None:
        """Note that the request was dropped because another one answered first; `outcome`: it came, but too late."""
        if outcome is not None:
            self._note(outcome if isinstance(outcome, Failure) else None, self._clock.now())
        elif not self._noted:
            self._noted = True
            now_s = self._clock.now()
            self._board.outrun(self._model, now_s - self.began_s, stream, now_s)

    def let_go(self) -> None:
        """Note that the request was dropped, if it is still under way: its caller went, or what it said was enough."""
        if not self._noted:
            self._noted = True
            now_s = self._clock.now()
            self._board.dropped(self._model, now_s - self.began_s, self._first_s, now_s)

    def _note(self, failure: Failure | None, now_s: float) -> None:
        if not self._noted:
            self._noted = True
            self._board.note(self._model, failure, now_s - self.began_s, now_s, self._first_s)
