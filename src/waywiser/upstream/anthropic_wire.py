"""The Messages dialect of Anthropic, outbound: a `Call` to the bytes of a request. Responses: `anthropic_replies.py`.

What differs from chat completions: the system prompt stands apart, tool results are blocks of a user turn, neighbours
of one role are one turn, thinking goes back with its signature (to the model that wrote it, and to no other), and
prompt caching happens only where a block is marked. A call that offers tools is a step of an agent whose next step
begins with the same words; so unless the author marked blocks himself, the end of the system prompt and of the history
are marked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from waywiser.core.calls import Call, Outcome, Tool
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall
from waywiser.core.models import Model
from waywiser.upstream.anthropic_replies import MessageDecoder, decode_message
from waywiser.upstream.wire import (
    Encodable,
    EventDecoder,
    Fragments,
    Request,
    Unencodable,
    data_url,
    dump,
    fragment,
    parse,
)

VERSION = "2023-06-01"
_CACHED = b',"cache_control":{"type":"ephemeral"}}'
_VERSIONED = re.compile(r"/v\d+$")


class AnthropicCodec:
    """The codec of the dialect. Holds what it encoded before; shared by all threads."""

    def __init__(self) -> None:
        self._messages = Fragments()
        self._tools = Fragments(4 << 20)

    def request(self, model: Model, call: Call, key: str, *, stream: bool) -> Request:
        """Encode a call. Raises `Unencodable` for a tool schema or a setting that is not JSON."""
        marks = bool(call.tools) and model.cache_ttl_s > 0 and not _marked(call.messages)
        leading = next((n for n, m in enumerate(call.messages) if m.role is not Role.SYSTEM), len(call.messages))
        body: dict[str, Encodable] = {
            "model": model.remote or model.name.partition("/")[2],
            "max_tokens": call.settings.max_output_tokens or model.max_output_tokens,
        }
        if call.tools:
            body["tools"] = [self._tool(tool, index) for index, tool in enumerate(call.tools)]
        prompt = self._blocks(call.messages[:leading], model.name)
        if prompt:
            body["system"] = _array([*prompt[:-1], _mark(prompt[-1]) if marks else prompt[-1]])
        body["messages"] = self._turns(call.messages[leading:], model.name, marks=marks)
        _settings(body, call)
        if stream:
            body["stream"] = True
        body.update(call.settings.extra)
        headers = {"content-type": "application/json", "anthropic-version": VERSION, **dict(model.headers)}
        if key:
            headers["x-api-key"] = key
        base = model.base_url.rstrip("/")
        url = f"{base}/messages" if _VERSIONED.search(base) else f"{base}/v1/messages"
        try:
            return Request(url, headers, dump(body))
        except TypeError as error:
            raise Unencodable(f"settings.extra is not JSON: {error}") from None

    def reply(self, body: bytes) -> Outcome:
        """Decode the body of a 200 response."""
        return decode_message(body)

    def decoder(self) -> EventDecoder:
        """Return a fresh reader for one streamed response."""
        return MessageDecoder()

    def _turns(self, messages: Sequence[Message], model: str, *, marks: bool) -> list[Encodable]:
        turns: list[tuple[str, list[bytes]]] = []
        for message in messages:
            role = "assistant" if message.role is Role.ASSISTANT else "user"
            blocks = self._blocks((message,), model)
            if not blocks:
                continue
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(blocks)
            else:
                turns.append((role, blocks))
        if marks and turns and not turns[-1][1][-1].startswith(b'{"type":"thinking"'):
            turns[-1][1][-1] = _mark(turns[-1][1][-1])
        return [{"role": role, "content": _array(blocks)} for role, blocks in turns]

    def _blocks(self, messages: Sequence[Message], model: str) -> list[bytes]:
        """Encode messages to blocks, each message once. A held message's blocks are separated by newlines."""
        blocks: list[bytes] = []
        for message in messages:
            own = message.model == model
            held = self._messages.get((message.digest, own), lambda m=message, o=own: b"\n".join(_encode(m, own=o)))  # type: ignore[misc]
            if held:
                blocks.extend(held.split(b"\n"))
        return blocks

    def _tool(self, tool: Tool, index: int) -> orjson.Fragment:
        return orjson.Fragment(self._tools.get(tool.digest, lambda: dump(_encode_tool(tool, index))))


def _array(blocks: list[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(blocks) + b"]")


def _mark(block: bytes) -> bytes:
    return block[:-1] + _CACHED


def _marked(messages: Sequence[Message]) -> bool:
    return any(isinstance(part, Text) and part.cache for message in messages for part in message.parts)


def _settings(body: dict[str, Encodable], call: Call) -> None:
    settings = call.settings
    if settings.temperature is not None:
        body["temperature"] = min(settings.temperature, 1.0)  # this dialect's scale ends at 1
    if settings.top_p is not None:
        body["top_p"] = settings.top_p
    if settings.stop:
        body["stop_sequences"] = list(settings.stop)
    choice = settings.tool_choice
    if call.tools and (choice or settings.parallel_tool_calls is False):
        made: dict[str, Encodable] = {"type": {"": "auto", "required": "any"}.get(choice, choice)}
        if choice.startswith("tool:"):
            made = {"type": "tool", "name": choice[5:]}
        if settings.parallel_tool_calls is False and choice != "none":
            made["disable_parallel_tool_use"] = True
        body["tool_choice"] = made
    form = call.response_format
    if form is not None and form.schema:  # "any JSON object" has no words in this dialect: the prompt must ask for it
        schema = fragment(form.schema, "response_format.schema")
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}


def _encode_tool(tool: Tool, index: int) -> Encodable:
    out: dict[str, Encodable] = {"name": tool.name}
    if tool.description:
        out["description"] = tool.description
    out["input_schema"] = fragment(tool.parameters, f"tools[{index}].parameters")
    if tool.strict is not None:
        out["strict"] = tool.strict
    return out


def _encode(message: Message, *, own: bool) -> list[bytes]:
    """Encode one message to its blocks. JSON text holds no raw newline, so one can separate them."""
    if message.role is Role.TOOL:
        content = [block for block in (_encode_part(part, own=own) for part in message.parts) if block is not None]
        for block in content:
            block.pop("cache_control", None)  # the mark belongs to the result, not to a block within it
        result: dict[str, Encodable] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        if content:
            result["content"] = content
        if message.is_error:
            result["is_error"] = True
        if any(isinstance(part, Text) and part.cache for part in message.parts):
            result["cache_control"] = {"type": "ephemeral"}
        return [dump(result)]
    blocks = [dump(block) for block in (_encode_part(part, own=own) for part in message.parts) if block is not None]
    return blocks + [dump(_encode_call(call)) for call in message.tool_calls]


def _encode_call(call: ToolCall) -> Encodable:
    """Encode a tool call. Arguments that are no JSON object can't be said here: they are shown as what they are."""
    try:
        arguments = parse(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"unreadable_arguments": call.arguments}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _encode_part(part: Part, *, own: bool) -> dict[str, Encodable] | None:
    match part:
        case Text(text=text, cache=cache):
            if not text.strip():  # the API refuses blank text blocks
                return None
            return {"type": "text", "text": text} | ({"cache_control": {"type": "ephemeral"}} if cache else {})
        case Image(url=url):
            return {"type": "image", "source": _source(url)}
        case File(media_type=media_type, url=url, file_id=file_id, name=name):
            source: Encodable = {"type": "file", "file_id": file_id} if file_id else _source(url)
            kind = "image" if media_type.startswith("image/") else "document"
            return {"type": kind, "source": source} | ({"title": name} if name and kind == "document" else {})
        case Thinking(text=text, signature=signature, redacted=redacted) if own and signature:
            if redacted:
                return {"type": "redacted_thinking", "data": signature}
            return {"type": "thinking", "thinking": text, "signature": signature}
        case Opaque(dialect="anthropic", json=text):
            raw = parse(text)
            return raw if isinstance(raw, dict) else None
    return None


def _source(url: str) -> Encodable:
    data = data_url(url)
    if data is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": data[0], "data": data[1]}
