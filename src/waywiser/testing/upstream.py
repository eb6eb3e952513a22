"""An upstream that answers what it is told to, model by model."""
# ruff: noqa: ARG002 - a script takes no time, so a time limit means nothing to it

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from typing import TypeAlias

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome, Reply, ToolCallDelta
from waywiser.core.messages import Text, Thinking
from waywiser.core.models import Model
from waywiser.testing.fakes import FrozenClock

Stream: TypeAlias = Sequence[Chunk | Failure]
Scripted: TypeAlias = Outcome | Stream | Exception
"""What one request comes to: an outcome, a stream piece by piece, or an exception (an upstream with a bug)."""


class ScriptedUpstream:
    """Answers the n-th request to a model with the n-th entry of the model's script.

    A stream may be asked for whole and a reply piece by piece: either is turned into the other. A stream without a
    chunk that has `finish` set is one that was cut. A request beyond the end of a script, or to a model without one,
    raises `AssertionError`: a test that sends more than was meant should hear of it.

    `asked` holds every request as `(model name, call)`; `closed` counts the streams that were dropped before their end.
    With `clock` and `takes_s`, every request and every piece of a stream lets that much time pass.
    """

    def __init__(
        self, scripts: Mapping[str, Iterable[Scripted]], *, clock: FrozenClock | None = None, takes_s: float = 0.0
    ) -> None:
        self.asked: list[tuple[str, Call]] = []
        self.closed = 0
        self._scripts = {name: list(entries) for name, entries in scripts.items()}
        self._clock = clock
        self._takes_s = takes_s
        self._lock = threading.Lock()

    def left(self, model: str) -> int:
        """How many entries of a model's script are not used up."""
        return len(self._scripts.get(model, ()))

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer whole."""
        scripted = self._next(model, call)
        self._pass()
        return scripted if isinstance(scripted, Reply | Failure) else _whole(scripted)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`; other tasks get a turn before the answer is there."""
        scripted = self._next(model, call)
        await asyncio.sleep(0)
        self._pass()
        return scripted if isinstance(scripted, Reply | Failure) else _whole(scripted)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        """Answer in pieces."""
        pieces = _pieces(self._next(model, call))
        whole = False
        try:
            for piece in pieces:
                self._pass()
                yield piece
            whole = True
        finally:
            self.closed += not whole

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`; other tasks get a turn before every piece."""
        pieces = _pieces(self._next(model, call))
        whole = False
        try:
            for piece in pieces:
                await asyncio.sleep(0)
                self._pass()
                yield piece
            whole = True
        finally:
            self.closed += not whole

    def close(self) -> None:
        """Nothing to release."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def _next(self, model: Model, call: Call) -> Outcome | Stream:
        with self._lock:
            self.asked.append((model.name, call))
            script = self._scripts.get(model.name)
            if not script:
                raise AssertionError(f"request {len(self.asked)}: the script of {model.name} is over")
            scripted = script.pop(0)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted

    def _pass(self) -> None:
        if self._clock is not None:
            self._clock.advance(self._takes_s)


def chunks(reply: Reply, *, size: int = 4) -> tuple[Chunk, ...]:
    """Cut a reply into the chunks of a stream: `size` characters of text or arguments each, then finish and usage."""
    pieces: list[Chunk] = []
    for part in reply.parts:
        if isinstance(part, Thinking):
            pieces.append(Chunk(thinking=part))
        elif isinstance(part, Text):
            pieces.extend(Chunk(part.text[start : start + size]) for start in range(0, len(part.text), size))
    for index, call in enumerate(reply.tool_calls):
        pieces.append(Chunk(tool_calls=(ToolCallDelta(index, call.id, call.name),)))
        pieces.extend(
            Chunk(tool_calls=(ToolCallDelta(index, arguments=call.arguments[start : start + size]),))
            for start in range(0, len(call.arguments), size)
        )
    usage = reply.usage if reply.usage.input_tokens or reply.usage.output_tokens else None
    pieces.append(Chunk(finish=reply.finish, usage=usage, logprobs=reply.logprobs, model=reply.model, id=reply.id))
    return tuple(pieces)


def _pieces(scripted: Outcome | Stream) -> Stream:
    if isinstance(scripted, Reply):
        return chunks(scripted)
    return (scripted,) if isinstance(scripted, Failure) else scripted


def _whole(stream: Stream) -> Outcome:
    assembly = Assembly()
    for piece in stream:
        if isinstance(piece, Failure):
            return piece
        assembly.feed(piece)
    if assembly.finish is None:
        return Failure(FailureKind.CUT_SHORT, "the answer was cut", partial=assembly.reply())
    return assembly.reply()
