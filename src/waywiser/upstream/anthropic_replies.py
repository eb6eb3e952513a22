"""The Messages dialect of Anthropic, inbound half of a call: responses and their streams of events.

`input_tokens` of this dialect leaves out what was read from and written to the prompt cache; ours counts all of it.
"""

from __future__ import annotations

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Chunk, Failure, Finish, Outcome, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Opaque, Part, Text, Thinking, ToolCall
from waywiser.upstream import failures
from waywiser.upstream.openai_replies import checked
from waywiser.upstream.wire import Raw, count_of, dump, list_of, malformed, mapping_of, mend, parse, text_of

_FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "pause_turn": Finish.STOP,
    "tool_use": Finish.TOOL_CALLS,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.CONTENT_FILTER,
}


def decode_message(body: bytes) -> Outcome:
    """Decode a whole message. An answer that is none comes back as a `Failure`, with what it used."""
    try:
        data = parse(body)
    except ValueError as error:
        return malformed(f"the response is not JSON: {error}")
    if not isinstance(data, dict):
        return malformed("the response is no JSON object")
    if data.get("error") or data.get("type") == "error":
        return failures.from_body(data)
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for block in map(mapping_of, list_of(data.get("content"))):
        if block.get("type") == "tool_use":
            arguments = dump(mapping_of(block.get("input"))).decode()
            calls.append(ToolCall(text_of(block.get("id")), text_of(block.get("name")), arguments))
        else:
            part = decode_block(block)
            if part is not None:
                parts.append(part)
    finish = _FINISH.get(text_of(data.get("stop_reason")), Finish.STOP)
    usage = decode_usage(data.get("usage"))
    model, reply_id = text_of(data.get("model")), text_of(data.get("id"))
    return checked(Reply(tuple(parts), tuple(calls), finish, usage, model, reply_id))


def decode_block(block: Raw) -> Part | None:
    """Read a block that is no tool call. What we do not understand is kept as it is."""
    match block.get("type"):
        case "text":
            text = mend(text_of(block.get("text")))
            return Text(text, cache=bool(block.get("cache_control"))) if text else None
        case "thinking":
            return Thinking(mend(text_of(block.get("thinking"))), text_of(block.get("signature")))
        case "redacted_thinking":
            return Thinking("", text_of(block.get("data")), redacted=True)
    return Opaque("anthropic", dump(dict(block)).decode()) if block else None


def decode_usage(raw: Raw) -> Usage:
    """Read a usage object. Without one, `estimated` is true and the counts are zero."""
    if not isinstance(raw, dict):
        return Usage(estimated=True)
    cached, written = count_of(raw.get("cache_read_input_tokens")), count_of(raw.get("cache_creation_input_tokens"))
    fresh, output = count_of(raw.get("input_tokens")), count_of(raw.get("output_tokens"))
    return Usage(fresh + cached + written, output, cached, written)


class MessageDecoder:
    """Reads the events of a streamed message. The finish and the usage are told at the end, in one last chunk."""

    __slots__ = ("_assembly", "_calls", "_finish", "_id", "_model", "_usage", "done")

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._calls: dict[int, int] = {}  # the block's index to that of its tool call
        self._finish: Finish | None = None
        self._usage: dict[str, Raw] = {}
        self._model = ""
        self._id = ""
        self.done = False

    def event(self, name: str, data: str) -> list[Chunk | Failure]:
        """Take one event."""
        try:
            raw = parse(data)
        except ValueError as error:
            return [self._failed(malformed(f"an event is not JSON: {error}"))]
        if not isinstance(raw, dict):
            return [self._failed(malformed("an event is no JSON object"))]
        kind = raw.get("type") or name
        if kind == "error" or raw.get("error"):
            return [self._failed(failures.from_body(raw))]
        if kind == "ping":
            return [Chunk()]
        chunk = self._read(kind, raw)
        if chunk is None:
            return []
        self._assembly.feed(chunk)
        return [chunk]

    def _read(self, kind: str, raw: Raw) -> Chunk | None:
        if kind == "content_block_start":
            return self._opened(raw)
        if kind == "content_block_delta":
            return self._delta(raw)
        if kind == "message_start":
            self._start(mapping_of(raw.get("message")))
        elif kind == "message_delta":
            self._finish = _FINISH.get(text_of(mapping_of(raw.get("delta")).get("stop_reason")), Finish.STOP)
            self._usage.update(_counted(raw.get("usage")))
        elif kind == "message_stop":
            self.done = True
        return None

    def end(self) -> list[Chunk | Failure]:
        """Tell how the answer ended; nothing if it had not."""
        if self._finish is None:
            return []
        last = Chunk(finish=self._finish, usage=self._used(), model=self._model, id=self._id)
        self._assembly.feed(last)
        outcome = checked(self._assembly.reply())
        return [outcome if isinstance(outcome, Failure) else last]

    def partial(self) -> Reply | None:
        """Return what was streamed so far, if anything a reader could see was."""
        if not self._assembly.characters:
            return None
        self._assembly.usage = self._assembly.usage or self._estimate()
        return self._assembly.reply()

    def _start(self, message: Raw) -> None:
        self._model, self._id = text_of(message.get("model")), text_of(message.get("id"))
        self._usage.update(_counted(message.get("usage")))

    def _opened(self, raw: Raw) -> Chunk | None:
        block = mapping_of(raw.get("content_block"))
        if block.get("type") == "tool_use":
            index = self._calls[count_of(raw.get("index"))] = len(self._calls)
            given = mapping_of(block.get("input"))  # empty here; the arguments follow as text
            arguments = dump(given).decode() if given else ""
            delta = ToolCallDelta(index, text_of(block.get("id")), text_of(block.get("name")), arguments)
            return Chunk(tool_calls=(delta,), model=self._model, id=self._id)
        part = decode_block(block)
        if isinstance(part, Text):
            return Chunk(text=part.text, model=self._model, id=self._id)
        if isinstance(part, Thinking) and (part.text or part.signature):
            return Chunk(thinking=part, model=self._model, id=self._id)
        return None

    def _delta(self, raw: Raw) -> Chunk | None:
        delta = mapping_of(raw.get("delta"))
        match delta.get("type"):
            case "text_delta":
                return Chunk(text=mend(text_of(delta.get("text"))), model=self._model, id=self._id)
            case "thinking_delta":
                thinking = Thinking(mend(text_of(delta.get("thinking"))))
                return Chunk(thinking=thinking, model=self._model, id=self._id)
            case "signature_delta":
                return Chunk(thinking=Thinking("", text_of(delta.get("signature"))), model=self._model, id=self._id)
            case "input_json_delta":
                index = self._calls.get(count_of(raw.get("index")))
                if index is None:  # a tool that the provider runs itself
                    return None
                piece = ToolCallDelta(index, arguments=text_of(delta.get("partial_json")))
                return Chunk(tool_calls=(piece,), model=self._model, id=self._id)
        return None

    def _used(self) -> Usage:
        return decode_usage(self._usage or None)

    def _estimate(self) -> Usage:
        """Say what is known of the usage before the end: the input is, the output is not."""
        known = self._used()
        return Usage(known.input_tokens, known.output_tokens, known.cached_tokens, known.cache_write_tokens, 0, True)

    def _failed(self, failure: Failure) -> Failure:
        partial = self.partial()
        usage = self._estimate()
        return Failure(failure.kind, failure.message, failure.status, failure.retry_after_s, usage, partial)


def _counted(raw: Raw) -> dict[str, Raw]:
    """Leave out what an event does not say: later events repeat only some of the counts."""
    return {name: value for name, value in mapping_of(raw).items() if isinstance(value, int)}
