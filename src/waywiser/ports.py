"""What the engine needs from the outside world, as protocols. Adapters implement them; core never sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Protocol, runtime_checkable

from waywiser.core.budget import Amounts, Claim, Hold, Scope, Shortfall, Standing
from waywiser.core.calls import Call, Chunk, Failure, Outcome, Tool
from waywiser.core.classification import HEADS, Classification, Head
from waywiser.core.messages import Message
from waywiser.core.models import Model
from waywiser.core.receipt import Receipt
from waywiser.core.session import Opened, Settlement
from waywiser.core.spending import Outstanding, Refusal, Spend


class SessionStore(Protocol):
    """Trails, ledgers and receipts, shared by every worker of a store. Each method is one round trip.

    Every method raises `StoreError` when the store can't be reached; none leaves half of its work done.
    """

    def open(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Read a session: its trail, the standing of each scope of `path`, what steps of `policy` have cost.

        Unknown ones are empty.
        """
        ...

    def reserve(self, claim: Claim) -> Hold | Shortfall:
        """Set money aside in every scope of the claim's path, or in none."""
        ...

    def settle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Replace a hold by what was used, append the step, and return the standings of the path."""
        ...

    def record(self, receipt: Receipt) -> None:
        """Keep a receipt, so that it can be explained later."""
        ...

    def grant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Add to what a scope, on the path of a session, may use beyond its limits; what is named `once` adds once."""
        ...

    def receipt(self, receipt_id: str) -> Receipt | None:
        """Find a receipt by its id or by an unambiguous prefix of it."""
        ...

    def receipts(self, session: str) -> Sequence[Receipt]:
        """Return a session's receipts, oldest first."""
        ...

    def spends(self, tenant: str | None = None, session: str | None = None) -> Sequence[Spend]:
        """Return who spent what, dearest first; of one tenant or one session if named."""
        ...

    def holds(self, now_s: float) -> Sequence[Outstanding]:
        """Return the holds that are neither settled nor expired."""
        ...

    def refusals(self, tenant: str | None = None, session: str | None = None) -> Sequence[Refusal]:
        """Return what was refused and why, newest first; of one tenant or one session if named."""
        ...

    async def aopen(self, session: str, path: tuple[Scope, ...], now_s: float, policy: str = "") -> Opened:
        """Like `open`, for an event loop."""
        ...

    async def areserve(self, claim: Claim) -> Hold | Shortfall:
        """Like `reserve`, for an event loop."""
        ...

    async def asettle(self, settlement: Settlement) -> tuple[Standing, ...]:
        """Like `settle`, for an event loop."""
        ...

    async def arecord(self, receipt: Receipt) -> None:
        """Like `record`, for an event loop."""
        ...

    async def agrant(self, session: str, scope: Scope, more: Amounts, now_s: float, once: str = "") -> Standing:
        """Like `grant`, for an event loop."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class Upstream(Protocol):
    """Somebody who answers calls. Trouble of a provider comes back as a `Failure`, never as an exception."""

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer a call whole."""
        ...

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`, for an event loop."""
        ...

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        """Answer a call in pieces. A `Failure` is the last item; a whole answer has a chunk with `finish` set."""
        ...

    def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`, for an event loop."""
        ...

    def close(self) -> None:
        """Close connections of the blocking side."""
        ...

    async def aclose(self) -> None:
        """Close connections of the async side."""
        ...


class TokenCounter(Protocol):
    """Counts tokens. A message counted once is not counted again."""

    def messages(self, messages: Sequence[Message], encoding: str) -> int:
        """Count the tokens of a history, the overhead of its turns included."""
        ...

    def tools(self, tools: Sequence[Tool], encoding: str) -> int:
        """Count the tokens that tool definitions take in a prompt."""
        ...


class Classifier(Protocol):
    """Says what a request is. Local, quick, never raises for odd text."""

    def classify(
        self, messages: Sequence[Message], tools: Sequence[Tool], rungs: int, heads: frozenset[Head] = HEADS
    ) -> Classification:
        """Answer `heads` about the coming call of this history, for a ladder of `rungs` tiers."""
        ...

    def warm_up(self, heads: frozenset[Head] = HEADS) -> None:
        """Read what the first question to these heads would have to wait for."""
        ...


@runtime_checkable
class LoopBound(Protocol):
    """What keeps connections of an event loop's own, as some stores do."""

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        ...


@runtime_checkable
class RemembersAgents(Protocol):
    """A classifier that can learn, from one session to the next, what an agent does: for live calls."""

    def remember_agents(self) -> None:
        """Begin to. What is said of a call then hangs on the sessions before: not for decisions to be reproduced."""
        ...


class Sink(Protocol):
    """Receives every receipt. A sink that fails never fails a call."""

    def emit(self, receipt: Receipt) -> None:
        """Take note of one finished call."""
        ...


class Clock(Protocol):
    """Time and chance, so that tests can freeze both."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def jitter(self) -> float:
        """Return a uniform random number in 0..1."""
        ...

    def new_id(self) -> str:
        """Return a short unique id that sorts by time."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait, blocking."""
        ...

    async def asleep(self, seconds: float) -> None:
        """Wait, without blocking the event loop."""
        ...


__all__ = ["Classifier", "Clock", "Opened", "SessionStore", "Settlement", "Sink", "TokenCounter", "Upstream"]
