"""Reading one streamed response: bytes in, chunks out, and the truth about how it ended. Pure; two drivers feed it."""

from __future__ import annotations

from collections.abc import Iterator

from waywiser.core.calls import Chunk, Failure, FailureKind, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Text, Thinking
from waywiser.upstream import failures
from waywiser.upstream.sse import Event, EventParser
from waywiser.upstream.wire import EventDecoder, malformed, parse


class Reading:
    """The state of one stream. `over` is true when nothing more is to be read: finished, or failed.

    The law: the items returned over a reading's life are chunks, then either one last chunk with `finish` set or one
    `Failure`, and never both. An end the provider did not announce is a `cut_short`.
    """

    __slots__ = ("_decoder", "_parser", "over")

    def __init__(self, decoder: EventDecoder) -> None:
        self._decoder = decoder
        self._parser = EventParser()
        self.over = False

    def feed(self, data: bytes) -> list[Chunk | Failure]:
        """Take the next bytes."""
        items = self._decode(self._parser.feed(data))
        if not self.over and self._decoder.done:
            items += self._finish(Failure(FailureKind.CUT_SHORT, "the stream ended without a finish reason"))
        elif not self.over and self._parser.stray:
            items += self._finish(self._stray())
        return items

    def end(self) -> list[Chunk | Failure]:
        """Take the end of the response."""
        if self.over:
            return []
        items = self._decode(self._parser.end())
        if self.over:
            return items
        cut = Failure(FailureKind.CUT_SHORT, "the stream ended in the middle of the answer")
        return items + self._finish(self._stray() if self._parser.stray else cut)

    def broken(self, failure: Failure) -> list[Chunk | Failure]:
        """Take a failure of the transport. Harmless if the answer was whole by then and only the goodbye is missing."""
        if self.over:
            return []
        if failure.kind is FailureKind.CONNECTION:
            failure = Failure(
                FailureKind.CUT_SHORT, f"the connection broke in the middle of the answer: {failure.message}"
            )
        return self._finish(failure)

    def _decode(self, events: list[Event]) -> list[Chunk | Failure]:
        items: list[Chunk | Failure] = []
        for event in events:
            for item in self._decoder.event(event.name, event.data):
                items.append(item)
                if isinstance(item, Failure):
                    self.over = True
                    return items
            if self._decoder.done:
                break
        return items

    def _finish(self, otherwise: Failure) -> list[Chunk | Failure]:
        self.over = True
        last = self._decoder.end()
        if last:
            return last
        partial = self._decoder.partial()
        usage = partial.usage if partial is not None else Usage(estimated=True)
        return [Failure(otherwise.kind, otherwise.message, otherwise.status, otherwise.retry_after_s, usage, partial)]

    def _stray(self) -> Failure:
        """Say what a line that is no event was: some servers drop a bare JSON error into their stream."""
        try:
            parsed = parse(self._parser.stray)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict) and parsed.get("error"):
            return failures.from_body(parsed)
        return malformed(f"not an event stream: {failures.masked(self._parser.stray[:120])!r}")


def chunks_of(reply: Reply) -> Iterator[Chunk]:
    """Turn a whole reply into the chunks of a stream, the last one with finish and usage."""
    for part in reply.parts:
        if isinstance(part, Text) and part.text:
            yield Chunk(text=part.text, model=reply.model, id=reply.id)
        elif isinstance(part, Thinking):
            yield Chunk(thinking=part, model=reply.model, id=reply.id)
    if reply.tool_calls:
        calls = enumerate(reply.tool_calls)
        deltas = tuple(ToolCallDelta(index, call.id, call.name, call.arguments) for index, call in calls)
        yield Chunk(tool_calls=deltas, model=reply.model, id=reply.id)
    yield Chunk(finish=reply.finish, usage=reply.usage, logprobs=reply.logprobs, model=reply.model, id=reply.id)
