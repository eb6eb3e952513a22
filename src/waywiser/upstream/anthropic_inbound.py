"""The Messages dialect from the other side: requests of clients to a `Call`, and answers and their events back.

Everything wrong is a `BadInput` that names its place. Settings this dialect does not name (`thinking`, `metadata`, …)
are kept in `Settings.extra` and passed on. Cache marks are kept where `Text.cache` can tell them: on text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from waywiser.core.calls import JSON, Call, Chunk, Finish, Origin, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall
from waywiser.errors import BadInput
from waywiser.upstream.anthropic_replies import decode_block
from waywiser.upstream.openai_inbound import as_flag, as_number, as_object, as_text, as_whole
from waywiser.upstream.tool_schemas import check_parameters
from waywiser.upstream.wire import Raw, dump, list_of, mapping_of, mend, parse, text_of

Object: TypeAlias = "dict[str, JSON]"

_READ = frozenset({
    "model", "messages", "system", "max_tokens", "tools", "tool_choice", "temperature", "top_p", "stop_sequences",
    "stream", "output_config",
})  # fmt: skip
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_REASONS = {
    Finish.STOP: "end_turn",
    Finish.TOOL_CALLS: "tool_use",
    Finish.LENGTH: "max_tokens",
    Finish.CONTENT_FILTER: "refusal",
}


def read_call(data: Mapping[str, Raw], call_id: str, origin: Origin | None = None) -> Call:
    """Read a whole request. `model` is kept as it is written."""
    most = as_whole(data, "max_tokens")
    if most is None:
        raise BadInput("max_tokens: missing")
    stops = list_of(data.get("stop_sequences"))
    if not all(isinstance(item, str) for item in stops):
        raise BadInput("stop_sequences: expected an array of texts")
    choice = mapping_of(data.get("tool_choice"))
    alone = as_flag(choice, "disable_parallel_tool_use", "tool_choice.")
    settings = Settings(
        temperature=as_number(data, "temperature"),
        top_p=as_number(data, "top_p"),
        max_output_tokens=most,
        stop=tuple(stops),
        tool_choice=_choice(choice),
        parallel_tool_calls=None if alone is None else not alone,
        extra=cast("Mapping[str, JSON]", {name: value for name, value in data.items() if name not in _READ}),
    )
    prompt = _parts(data.get("system"), "system") if data.get("system") else ()
    messages = ((Message(Role.SYSTEM, prompt),) if prompt else ()) + _messages(data.get("messages"))
    model = as_text(data.get("model"), "model") if data.get("model") is not None else ""
    stream = as_flag(data, "stream") or False
    form = _format(data.get("output_config"))
    return Call(call_id, messages, _tools(data.get("tools")), form, settings, origin or Origin(), stream, model)


def write_reply(reply: Reply, *, reply_id: str, model: str) -> Object:
    """Write a whole answer as a message."""
    content: list[JSON] = []
    for part in reply.parts:
        block = _block(part)
        if block is not None:
            content.append(block)
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        for call in reply.tool_calls
    ]
    return _envelope(reply_id, model, content, write_usage(reply.usage)) | {"stop_reason": _REASONS[reply.finish]}


def write_usage(usage: Usage) -> Object:
    """Write a usage object, the cached tokens apart from the fresh ones as this dialect has it."""
    return {
        "input_tokens": max(usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens, 0),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
    }


class EventWriter:
    """Writes the chunks of one answer as the events of this dialect, which open and close each block."""

    def __init__(self, *, reply_id: str, model: str) -> None:
        self._id = reply_id
        self._model = model
        self._block = -1  # the index of the block that is open, or was last
        self._open = ""  # what is open: "text", "thinking", "tool <index>", or nothing

    def start(self) -> list[Object]:
        """Write the events that come before any chunk."""
        message = _envelope(self._id, self._model, [], write_usage(Usage())) | {"stop_reason": None}
        return [{"type": "message_start", "message": message}]

    def chunk(self, chunk: Chunk) -> list[Object]:
        """Write the events of one chunk."""
        events: list[Object] = []
        if chunk.thinking is not None:
            self._thought(chunk.thinking, events)
        if chunk.text:
            self._switch("text", {"type": "text", "text": ""}, events)
            events.append(self._delta({"type": "text_delta", "text": mend(chunk.text)}))
        for piece in chunk.tool_calls:
            opened: Object = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
            self._switch(f"tool {piece.index}", opened, events)
            if piece.arguments:
                events.append(self._delta({"type": "input_json_delta", "partial_json": mend(piece.arguments)}))
        if chunk.finish is not None:
            self._close(events)
            usage = write_usage(chunk.usage or Usage(estimated=True))
            delta: Object = {"stop_reason": _REASONS[chunk.finish], "stop_sequence": None}
            events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
        return events

    def _thought(self, thinking: Thinking, events: list[Object]) -> None:
        if thinking.redacted:
            self._close(events)
            self._switch("redacted", {"type": "redacted_thinking", "data": thinking.signature}, events)
            self._close(events)
            return
        self._switch("thinking", {"type": "thinking", "thinking": "", "signature": ""}, events)
        if thinking.text:
            events.append(self._delta({"type": "thinking_delta", "thinking": mend(thinking.text)}))
        if thinking.signature:
            events.append(self._delta({"type": "signature_delta", "signature": thinking.signature}))
            self._close(events)

    def _switch(self, what: str, block: Object, events: list[Object]) -> None:
        if self._open == what:
            return
        self._close(events)
        self._block += 1
        self._open = what
        events.append({"type": "content_block_start", "index": self._block, "content_block": block})

    def _close(self, events: list[Object]) -> None:
        if self._open:
            events.append({"type": "content_block_stop", "index": self._block})
            self._open = ""

    def _delta(self, delta: Object) -> Object:
        return {"type": "content_block_delta", "index": self._block, "delta": delta}


def _envelope(reply_id: str, model: str, content: list[JSON], usage: Object) -> Object:
    out: Object = {"id": reply_id, "type": "message", "role": "assistant", "model": model, "content": content}
    return out | {"stop_sequence": None, "usage": usage}


def _block(part: Part) -> JSON:
    match part:
        case Text(text=text) if text:
            return {"type": "text", "text": mend(text)}
        case Thinking(signature=signature, redacted=True):
            return {"type": "redacted_thinking", "data": signature}
        case Thinking(text=text, signature=signature):
            return {"type": "thinking", "thinking": mend(text), "signature": signature}
        case Opaque(dialect="anthropic", json=text):
            return cast("JSON", parse(text))
    return None


def _input(arguments: str) -> JSON:
    try:
        return cast("JSON", dict(mapping_of(parse(arguments or "{}"))))
    except ValueError:
        return {"unreadable_arguments": arguments}


def _messages(raw: Raw) -> tuple[Message, ...]:
    if not isinstance(raw, list):
        raise BadInput("messages: expected an array of messages")
    if not raw:
        raise BadInput("messages: empty, there is nothing to answer")
    names: dict[str, str] = {}
    messages: list[Message] = []
    for index, item in enumerate(raw):
        place = f"messages[{index}]"
        turn = as_object(item, place)
        if turn.get("role") not in ("user", "assistant"):
            raise BadInput(f"{place}.role: expected user or assistant, got {turn.get('role')!r}")
        if turn["role"] == "assistant":
            messages.append(_assistant(turn.get("content"), f"{place}.content", names))
        else:
            messages.extend(_user(turn.get("content"), f"{place}.content", names))
    return tuple(messages)


def _assistant(content: Raw, place: str, names: dict[str, str]) -> Message:
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(_blocks(content, place)):
        where = f"{place}[{index}]"
        if block.get("type") == "tool_use":
            call_id, name = as_text(block.get("id"), f"{where}.id"), as_text(block.get("name"), f"{where}.name")
            names[call_id] = name
            calls.append(ToolCall(call_id, name, dump(dict(as_object(block.get("input"), f"{where}.input"))).decode()))
        else:
            parts.extend(_read_block(block, where))
    return Message(Role.ASSISTANT, tuple(parts), tuple(calls))


def _user(content: Raw, place: str, names: Mapping[str, str]) -> list[Message]:
    """Read a user turn: its tool results are turns of their own to us, in their order, before what the user says."""
    results: list[Message] = []
    parts: list[Part] = []
    for index, block in enumerate(_blocks(content, place)):
        where = f"{place}[{index}]"
        if block.get("type") != "tool_result":
            parts.extend(_read_block(block, where))
            continue
        call_id = as_text(block.get("tool_use_id"), f"{where}.tool_use_id")
        if call_id not in names:
            raise BadInput(f"{where}.tool_use_id: no earlier tool call has the id {call_id!r}")
        said = _parts(block.get("content") or [], f"{where}.content")
        failed = as_flag(block, "is_error", f"{where}.") or False
        results.append(Message(Role.TOOL, said, (), call_id, names[call_id], failed))
    return [*results, Message(Role.USER, tuple(parts))] if parts or not results else results


def _blocks(content: Raw, place: str) -> list[Mapping[str, Raw]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadInput(f"{place}: {'missing' if content is None else 'expected text or an array of blocks'}")
    return [as_object(item, f"{place}[{index}]") for index, item in enumerate(content)]


def _parts(content: Raw, place: str) -> tuple[Part, ...]:
    blocks = enumerate(_blocks(content, place))
    return tuple(part for index, block in blocks for part in _read_block(block, f"{place}[{index}]"))


def _read_block(block: Mapping[str, Raw], place: str) -> tuple[Part, ...]:
    kind = as_text(block.get("type"), f"{place}.type")
    if kind == "text":
        as_text(block.get("text"), f"{place}.text")
    if kind in ("image", "document"):
        source = as_object(block.get("source"), f"{place}.source")
        media_type, url = text_of(source.get("media_type")), text_of(source.get("url"))
        if source.get("type") == "base64":
            url = f"data:{media_type};base64,{as_text(source.get('data'), f'{place}.source.data')}"
        file_id = text_of(source.get("file_id"))
        if url and kind == "image":
            return (Image(url),)
        if url or file_id:
            wanted = media_type or ("image/*" if kind == "image" else "application/pdf")
            return (File(wanted, url, file_id, text_of(block.get("title"))),)
    part = decode_block(block)
    return () if part is None else (part,)


def _tools(raw: Raw) -> tuple[Tool, ...]:
    if raw is not None and not isinstance(raw, list):
        raise BadInput("tools: expected an array of tools")
    tools: list[Tool] = []
    for index, item in enumerate(list_of(raw)):
        where = f"tools[{index}]"
        tool = as_object(item, where)
        if tool.get("type") not in (None, "custom"):
            raise BadInput(f"{where}.type: tools that the provider runs itself can't be routed, got {tool['type']!r}")
        schema = as_object(tool.get("input_schema"), f"{where}.input_schema")
        check_parameters(schema, f"{where}.input_schema")
        about = text_of(tool.get("description"))
        strict = as_flag(tool, "strict", f"{where}.")
        tools.append(Tool(as_text(tool.get("name"), f"{where}.name"), about, dump(dict(schema)).decode(), strict))
    return tuple(tools)


def _choice(choice: Mapping[str, Raw]) -> str:
    kind = text_of(choice.get("type"))
    if not choice or kind in _CHOICES:
        return _CHOICES.get(kind, "")
    if kind != "tool":
        raise BadInput(f"tool_choice.type: expected auto, any, none or tool, got {choice.get('type')!r}")
    return f"tool:{as_text(choice.get('name'), 'tool_choice.name')}"


def _format(raw: Raw) -> ResponseFormat | None:
    form = mapping_of(mapping_of(raw).get("format"))
    if not form:
        return None
    return ResponseFormat(dump(dict(as_object(form.get("schema"), "output_config.format.schema"))).decode())
