"""The chat completions dialect, inbound half of a call: the bytes of a response to a `Reply`, `Failure` or `Chunk`s.

Reads what servers really send: content as text or as parts, reasoning under either of its names, arguments as text or
as an object, indexes and ids left out, an error within a 200 response.
"""

from __future__ import annotations

from math import isnan
from uuid import uuid4

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Chunk, Failure, FailureKind, Finish, Outcome, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Opaque, Part, Text, Thinking, ToolCall
from waywiser.upstream import failures
from waywiser.upstream.wire import Raw, count_of, dump, list_of, malformed, mapping_of, mend, parse, text_of

_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "model_length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
    "safety": Finish.CONTENT_FILTER,
    "refusal": Finish.CONTENT_FILTER,
}


_IMPOSSIBLE = -9999.0
"""What OpenAI writes for a token that is very unlikely; others write the lowest number there is."""


def decode_reply(body: bytes) -> Outcome:
    """Decode a whole chat completion. An answer that is none comes back as a `Failure`, with what it used."""
    try:
        data = parse(body)
    except ValueError as error:
        return malformed(f"the response is not JSON: {error}")
    if not isinstance(data, dict):
        return malformed("the response is no JSON object")
    if data.get("error"):
        return failures.from_body(data, usage=decode_usage(data.get("usage") or {}))
    usage = decode_usage(data.get("usage"))
    choices = list_of(data.get("choices"))
    choice = mapping_of(choices[0]) if choices else {}
    message = mapping_of(choice.get("message"))
    parts = _decode_content(message)
    calls, signature = _decode_calls(message)
    if signature:
        parts.append(Thinking("", signature))
    finish = _FINISH.get(text_of(choice.get("finish_reason")).lower(), Finish.STOP)
    reply = Reply(
        tuple(parts),
        calls,
        Finish.TOOL_CALLS if calls and finish is Finish.STOP else finish,
        usage,
        text_of(data.get("model")),
        text_of(data.get("id")),
        decode_logprobs(choice.get("logprobs"), "".join(part.text for part in parts if isinstance(part, Thinking))),
    )
    return checked(reply, text_of(message.get("refusal")), mapping_of(choice.get("error")))


def checked(reply: Reply, refusal: str = "", error: Raw = None) -> Outcome:
    """Turn an answer that is a refusal, an error or nothing at all into the `Failure` it is."""
    partial = reply if reply.text or reply.tool_calls else None
    if error:
        told = failures.from_body({"error": error}, usage=reply.usage)
        return Failure(told.kind, told.message, 200, told.retry_after_s, reply.usage, partial)
    if refusal or reply.finish is Finish.CONTENT_FILTER:
        told_why = failures.masked(refusal) if refusal else "the provider's content filter stopped the answer"
        return Failure(FailureKind.REFUSED, told_why, 200, usage=reply.usage, partial=partial)
    if partial is None:
        why = f"neither text nor tool calls (finish: {reply.finish.value})"
        return Failure(FailureKind.MALFORMED, f"an empty reply: {why}", 200, usage=reply.usage)
    return reply


def decode_usage(raw: Raw) -> Usage:
    """Read a usage object. Without one, `estimated` is true and the counts are zero.

    Some providers (xAI, Gemini) leave reasoning out of `completion_tokens` and in `total_tokens`; what is billed as
    output is what the prompt leaves of the total.
    """
    if not isinstance(raw, dict):
        return Usage(estimated=True)
    prompt, completion = count_of(raw.get("prompt_tokens")), count_of(raw.get("completion_tokens"))
    details = mapping_of(raw.get("prompt_tokens_details"))
    cached = count_of(details.get("cached_tokens")) or count_of(raw.get("prompt_cache_hit_tokens"))
    cached = cached or count_of(raw.get("cached_tokens"))
    written = count_of(details.get("cache_write_tokens")) or count_of(raw.get("cache_creation_input_tokens"))
    reasoning = count_of(mapping_of(raw.get("completion_tokens_details")).get("reasoning_tokens"))
    output = max(completion, count_of(raw.get("total_tokens")) - prompt)
    return Usage(prompt, output, min(cached, prompt), min(written, prompt), min(reasoning, output))


def _decode_content(message: Raw) -> list[Part]:
    parts: list[Part] = []
    reasoning = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
    if reasoning:
        parts.append(Thinking(mend(reasoning)))
    content = message.get("content")
    if isinstance(content, str) and content:
        parts.append(Text(mend(content)))
    for item in map(mapping_of, list_of(content)):
        if item.get("type") == "text":
            parts.append(Text(mend(text_of(item.get("text")))))
        elif item.get("type") == "thinking":
            parts.append(Thinking(mend(_thinking_text(item))))
        elif item:
            parts.append(Opaque("openai", dump(dict(item)).decode()))
    return parts


def _thinking_text(item: Raw) -> str:
    """Read Mistral's thinking item, whose text is itself an array of text items."""
    inner = item.get("thinking")
    return (
        inner if isinstance(inner, str) else "".join(text_of(mapping_of(piece).get("text")) for piece in list_of(inner))
    )


def _arguments(raw: Raw) -> str:
    """Read arguments: JSON text, or, from some servers, the object itself."""
    return dump(raw).decode() if isinstance(raw, dict) else mend(text_of(raw))


def _signature(raw: Raw) -> str:
    return text_of(mapping_of(mapping_of(raw.get("extra_content")).get("google")).get("thought_signature"))


def new_call_id() -> str:
    """Make up an id for a tool call whose provider gave none."""
    return f"call_{uuid4().hex[:24]}"


def _decode_calls(message: Raw) -> tuple[tuple[ToolCall, ...], str]:
    calls: list[ToolCall] = []
    signature = ""
    for raw in map(mapping_of, list_of(message.get("tool_calls"))):
        function = mapping_of(raw.get("function"))
        call_id = text_of(raw.get("id")) or new_call_id()
        calls.append(ToolCall(call_id, text_of(function.get("name")), _arguments(function.get("arguments"))))
        signature = signature or _signature(raw)
    return tuple(calls), signature


def decode_logprobs(raw: Raw, thinking: str = "") -> tuple[float, ...]:
    """Read the log-probability of each token of the visible answer.

    Tokens without bytes (llama.cpp tells the end of its turn) are none of it, nor are those up to the end of the
    `thinking` that came along: some servers tell those too.
    """
    spelled, found = bytearray(), []
    for item in map(mapping_of, list_of(mapping_of(raw).get("content"))):
        value, token = item.get("logprob"), item.get("bytes")
        if token == [] or isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
            continue
        found.append((len(spelled), max(float(value), _IMPOSSIBLE)))
        if thinking:
            spelled += _spelling(item)
    begin = spelled.find(thinking.encode()) if thinking else -1
    end = begin + len(thinking.encode()) if begin >= 0 else 0
    return tuple(value for place, value in found if place >= end)


def _spelling(token: Raw) -> bytes:
    try:
        return bytes(list_of(token.get("bytes"))) or mend(text_of(token.get("token"))).encode()
    except (TypeError, ValueError):  # no numbers, or none that are bytes
        return b""


class StreamDecoder:
    """Reads chat completion chunks. The finish and the usage are told at the end, in one last chunk.

    So a chunk with `finish` is always the last one, and always has the usage (estimated, if the provider never said).
    """

    __slots__ = ("_assembly", "_carry", "_finish", "_ids", "_refusal", "_usage", "done")

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._carry = ""
        self._finish: Finish | None = None
        self._ids: dict[int, str] = {}
        self._refusal = ""
        self._usage: Usage | None = None
        self.done = False

    def event(self, name: str, data: str) -> list[Chunk | Failure]:
        """Take one event."""
        if data == "[DONE]":
            self.done = True
            return []
        try:
            raw = parse(data)
        except ValueError as error:
            return [self._broken(f"an event is not JSON: {error}")]
        if not isinstance(raw, dict):
            return [self._broken("an event is no JSON object")]
        if raw.get("error") or name == "error":
            return [self._failed(failures.from_body(raw))]
        usage = raw.get("usage") or mapping_of(raw.get("x_groq")).get("usage")
        if usage:
            self._usage = decode_usage(usage)
        choices = list_of(raw.get("choices"))
        if not choices:
            return []
        choice = mapping_of(choices[0])
        if choice.get("error"):
            return [self._failed(failures.from_body(choice))]
        finish = text_of(choice.get("finish_reason")).lower()
        if finish:
            self._finish = _FINISH.get(finish, Finish.STOP)
        delta = mapping_of(choice.get("delta"))
        self._refusal += text_of(delta.get("refusal"))
        chunks = self._chunks(
            delta, decode_logprobs(choice.get("logprobs")), text_of(raw.get("model")), text_of(raw.get("id"))
        )
        for chunk in chunks:
            self._assembly.feed(chunk)
        return list(chunks)

    def end(self) -> list[Chunk | Failure]:
        """Tell how the answer ended; nothing if it had not."""
        if self._finish is None:
            return []
        if self._finish is Finish.STOP and self._ids:
            self._finish = Finish.TOOL_CALLS
        last = Chunk(text=mend(self._carry), finish=self._finish, usage=self._usage or Usage(estimated=True))
        self._assembly.feed(last)
        outcome = checked(self._assembly.reply(), self._refusal)
        return [outcome if isinstance(outcome, Failure) else last]

    def partial(self) -> Reply | None:
        """Return what was streamed so far, if anything a reader could see was."""
        return self._assembly.reply() if self._assembly.characters else None

    def _chunks(self, delta: Raw, logprobs: tuple[float, ...], model: str, reply_id: str) -> list[Chunk]:
        content = delta.get("content")
        text, thinking = text_of(content), text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning"))
        for item in map(mapping_of, list_of(content)):
            if item.get("type") == "thinking":
                thinking += _thinking_text(item)
            else:
                text += text_of(item.get("text"))
        text = self._whole_characters(text)
        calls, signature = self._deltas(delta)
        thought = Thinking(mend(thinking), signature) if thinking or signature else None
        if thought is not None and text:  # one chunk has no order: thinking came first
            return [Chunk(thinking=thought, model=model, id=reply_id), Chunk(text, None, calls, logprobs=logprobs)]
        if thought is not None and not calls:  # tokens of thinking, which are none of the answer
            logprobs = ()
        return [Chunk(text, thought, calls, logprobs=logprobs, model=model, id=reply_id)]

    def _deltas(self, delta: Raw) -> tuple[tuple[ToolCallDelta, ...], str]:
        deltas: list[ToolCallDelta] = []
        signature = ""
        for position, raw in enumerate(map(mapping_of, list_of(delta.get("tool_calls")))):
            function = mapping_of(raw.get("function"))
            call_id, index = text_of(raw.get("id")), raw.get("index")
            if not isinstance(index, int):  # Gemini leaves it out and sends whole calls
                index = len(self._ids) if call_id else max(self._ids, default=position)
            if index not in self._ids:
                self._ids[index] = call_id = call_id or new_call_id()
            elif call_id == self._ids[index]:
                call_id = ""
            name = text_of(function.get("name"))
            deltas.append(ToolCallDelta(index, call_id, name, _arguments(function.get("arguments"))))
            signature = signature or _signature(raw)
        return tuple(deltas), signature

    def _whole_characters(self, text: str) -> str:
        """Keep back half an emoji until its other half has come."""
        text = self._carry + text
        if text.isascii():
            self._carry = ""
            return text
        cut = len(text) - 1 if "\ud800" <= text[-1] <= "\udbff" else len(text)
        self._carry = text[cut:]
        return mend(text[:cut])

    def _failed(self, failure: Failure) -> Failure:
        usage = self._usage or Usage(estimated=True)
        return Failure(failure.kind, failure.message, failure.status, failure.retry_after_s, usage, self.partial())

    def _broken(self, message: str) -> Failure:
        return self._failed(malformed(message))
