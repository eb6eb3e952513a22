"""The simulated models as an upstream: in process, no network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator

from waywiser.core.calls import Call, Chunk, Failure, Outcome
from waywiser.core.models import Model
from waywiser.upstream.simulated import simulate, simulate_stream


class SimulatedUpstream:
    """Answers calls to `simulated/…` models. `count_tokens` counts a text."""

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        self._count_tokens = count_tokens

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:  # noqa: ARG002 - answers at once
        """Answer a call whole."""
        return simulate(model, call, self._count_tokens)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`."""
        return self.send(model, call, timeout_s)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:  # noqa: ARG002 - answers at once
        """Answer a call in pieces."""
        yield from simulate_stream(model, call, self._count_tokens)

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`."""
        for chunk in self.stream(model, call, timeout_s):
            yield chunk

    def close(self) -> None:
        """Nothing to release."""

    async def aclose(self) -> None:
        """Nothing to release."""
