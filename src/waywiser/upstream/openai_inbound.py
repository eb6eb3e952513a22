"""The chat completions dialect from the other side: what a client of ours sends, and what it gets back.

For the proxy, for `waywiser route` and for recorded sessions. Everything wrong is a `BadInput` that names its place,
such as `messages[3].tool_call_id`. Settings this dialect does not name are kept in `Settings.extra` and passed on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias, cast

from waywiser.core.calls import JSON, Call, Chunk, Origin, Reply, ResponseFormat, Settings, Tool, Usage
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall
from waywiser.errors import BadInput
from waywiser.upstream.remembered import Remembered
from waywiser.upstream.tool_schemas import check_parameters
from waywiser.upstream.wire import Raw, dump, mapping_of, mend, parse, text_of

Object: TypeAlias = "dict[str, JSON]"

_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM}
_READ = frozenset({
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p",
    "max_tokens", "max_completion_tokens", "stop", "seed", "logprobs", "top_logprobs", "stream", "stream_options", "n",
})  # fmt: skip
_LEGACY = {"functions": "tools", "function_call": "tool_choice"}
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def read_json(body: bytes | str) -> Mapping[str, Raw]:
    """Parse the body of a request. Raises `BadInput` unless it is a JSON object in UTF-8."""
    try:
        if isinstance(body, bytes):
            body.decode("utf-8")
        data = parse(body)
    except UnicodeDecodeError as error:
        raise BadInput(f"body: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"body: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput("body: expected a JSON object")
    return data


def read_call(
    data: Mapping[str, Raw], call_id: str, origin: Origin | None = None, remembered: Remembered | None = None
) -> Call:
    """Read a whole request. `model` is kept as it is written: what it means is the caller's affair.

    What is `remembered` of earlier requests is not read again.
    """
    for old, new in _LEGACY.items():
        if data.get(old) is not None:
            raise BadInput(f"{old}: no longer supported, use `{new}`")
    if data.get("n") not in (None, 1):
        raise BadInput("n: only one answer can be asked for")
    offered = data.get("tools")
    tools = read_tools(offered) if remembered is None else remembered.tools(offered, lambda: read_tools(offered))
    return Call(
        call_id,
        read_messages(data.get("messages"), remembered=remembered),
        tools,
        _format(data.get("response_format")),
        _settings(data),
        origin or Origin(),
        stream=as_flag(data, "stream") or False,
        model=as_text(data.get("model"), "model") if data.get("model") is not None else "",
    )


def read_messages(raw: Raw, place: str = "messages", remembered: Remembered | None = None) -> tuple[Message, ...]:
    """Read a history. Each tool result must answer a tool call made before it."""
    if not isinstance(raw, list):
        raise BadInput(f"{place}: expected an array of messages")
    if not raw:
        raise BadInput(f"{place}: empty, there is nothing to answer")
    names: dict[str, str] = {}
    messages: list[Message] = []
    for index, item in enumerate(raw):
        read = partial(_message, item, f"{place}[{index}]", names)
        message = read() if remembered is None else remembered.message(item, names, read)
        for call in message.tool_calls:
            names[call.id] = call.name
        messages.append(message)
    return tuple(messages)


def read_tools(raw: Raw, place: str = "tools") -> tuple[Tool, ...]:
    """Read tool definitions. Names must be unique, parameters a JSON schema of an object."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadInput(f"{place}: expected an array of tools")
    tools: list[Tool] = []
    for index, item in enumerate(raw):
        where = f"{place}[{index}]"
        function = as_object(as_object(item, where).get("function"), f"{where}.function")
        name = as_text(function.get("name"), f"{where}.function.name")
        if not name:
            raise BadInput(f"{where}.function.name: empty")
        if any(tool.name == name for tool in tools):
            raise BadInput(f"{where}.function.name: a tool called {name!r} is there already")
        parameters = function.get("parameters")
        schema = as_object(
            {"type": "object", "properties": {}} if parameters is None else parameters, f"{where}.function.parameters"
        )
        check_parameters(schema, f"{where}.function.parameters")
        about = _optional_text(function.get("description"), f"{where}.function.description")
        tools.append(Tool(name, about, dump(dict(schema)).decode(), as_flag(function, "strict", f"{where}.function.")))
    return tuple(tools)


def write_reply(reply: Reply, *, reply_id: str, model: str, created: int) -> Object:
    """Write a whole answer as a chat completion."""
    message: Object = {"role": "assistant", "content": mend(reply.text) if reply.text else None}
    thinking = "".join(part.text for part in reply.parts if isinstance(part, Thinking))
    if thinking:
        message["reasoning_content"] = mend(thinking)
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    choice: Object = {"index": 0, "message": message, "finish_reason": reply.finish.value}
    if reply.logprobs:
        choice["logprobs"] = write_logprobs(reply.logprobs)
    out: Object = {"id": reply_id, "object": "chat.completion", "created": created, "model": model}
    return out | {"choices": [choice], "usage": write_usage(reply.usage)}


def write_chunk(
    chunk: Chunk, *, reply_id: str, model: str, created: int, first: bool = False, usage: bool = True
) -> list[Object]:
    """Write a piece of an answer as the events it makes: none for an empty piece, one more for the usage if it has any.

    `first` adds the role, as the first event of a stream has it; `usage` says whether the client asked for the usage.
    """
    base: Object = {"id": reply_id, "object": "chat.completion.chunk", "created": created, "model": model}
    delta: Object = {"role": "assistant", "content": ""} if first else {}
    if chunk.text:
        delta["content"] = mend(chunk.text)
    if chunk.thinking is not None and chunk.thinking.text:
        delta["reasoning_content"] = mend(chunk.thinking.text)
    if chunk.tool_calls:
        delta["tool_calls"] = [_delta(piece.index, piece.id, piece.name, piece.arguments) for piece in chunk.tool_calls]
    events: list[Object] = []
    if delta or chunk.finish is not None:
        finish = chunk.finish.value if chunk.finish is not None else None
        events.append(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    if usage and chunk.usage is not None:
        events.append(base | {"choices": [], "usage": write_usage(chunk.usage)})
    return events


def write_logprobs(logprobs: Sequence[float]) -> Object:
    """Write log-probabilities, one a token. Only the numbers are known, not how the tokens are spelled."""
    return {"content": [{"token": "", "logprob": value, "bytes": None, "top_logprobs": []} for value in logprobs]}


def write_usage(usage: Usage) -> Object:
    """Write a usage object."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _delta(index: int, call_id: str, name: str, arguments: str) -> Object:
    function: Object = {"arguments": arguments}
    if name:
        function["name"] = name
    out: Object = {"index": index, "function": function}
    return out | ({"id": call_id, "type": "function"} if call_id else {})


def _message(item: Raw, place: str, names: Mapping[str, str]) -> Message:
    raw = as_object(item, place)
    role = _ROLES.get(text_of(raw.get("role")))
    if role is None:
        raise BadInput(f"{place}.role: expected one of {', '.join(_ROLES)}, got {raw.get('role')!r}")
    parts = _parts(raw.get("content"), f"{place}.content", required=role is not Role.ASSISTANT)
    name = _optional_text(raw.get("name"), f"{place}.name")
    if role is Role.TOOL:
        call_id = as_text(raw.get("tool_call_id"), f"{place}.tool_call_id")
        if call_id not in names:
            raise BadInput(f"{place}.tool_call_id: no earlier tool call has the id {call_id!r}")
        return Message(role, parts, tool_call_id=call_id, tool_name=name or names[call_id])
    if role is not Role.ASSISTANT:
        return Message(role, parts, name=name)
    calls = _calls(raw.get("tool_calls"), f"{place}.tool_calls")
    reasoning = text_of(raw.get("reasoning_content")) or text_of(raw.get("reasoning"))
    refusal = text_of(raw.get("refusal"))
    thoughts = (Thinking(reasoning),) if reasoning else ()
    return Message(role, (*thoughts, *parts, *((Text(refusal),) if refusal else ())), calls, name=name)


def _calls(raw: Raw, place: str) -> tuple[ToolCall, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadInput(f"{place}: expected an array of tool calls")
    calls: list[ToolCall] = []
    for index, item in enumerate(raw):
        where = f"{place}[{index}]"
        entry = as_object(item, where)
        function = as_object(entry.get("function"), f"{where}.function")
        said = function.get("arguments")
        arguments = dump(said).decode() if isinstance(said, dict) else as_text(said, f"{where}.function.arguments")
        name = as_text(function.get("name"), f"{where}.function.name")
        call_id = as_text(entry.get("id"), f"{where}.id")
        if any(call.id == call_id for call in calls):
            raise BadInput(f"{where}.id: a call before it has the id {call_id[:100]!r} too")
        calls.append(ToolCall(call_id, name, arguments))
    return tuple(calls)


def _parts(content: Raw, place: str, *, required: bool) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    if content is None:
        if required:
            raise BadInput(f"{place}: missing")
        return ()
    if not isinstance(content, list):
        raise BadInput(f"{place}: expected text or an array of parts")
    return tuple(_part(item, f"{place}[{index}]") for index, item in enumerate(content))


def _part(item: Raw, place: str) -> Part:
    if isinstance(item, str):
        return Text(item)
    raw = as_object(item, place)
    kind = as_text(raw.get("type"), f"{place}.type")
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = raw.get("refusal" if kind == "refusal" else "text")
        return Text(as_text(text, f"{place}.text"), cache=bool(raw.get("cache_control")))
    if kind == "image_url":
        image = raw.get("image_url")
        if isinstance(image, str):
            return Image(image)
        shown = as_object(image, f"{place}.image_url")
        return Image(as_text(shown.get("url"), f"{place}.image_url.url"), text_of(shown.get("detail")))
    if kind == "input_audio":
        audio = as_object(raw.get("input_audio"), f"{place}.input_audio")
        media_type = _AUDIO.get(text_of(audio.get("format")), "audio/wav")
        return File(media_type, f"data:{media_type};base64,{as_text(audio.get('data'), f'{place}.input_audio.data')}")
    if kind == "file":
        file = as_object(raw.get("file"), f"{place}.file")
        url = text_of(file.get("file_data"))
        media_type = url[5:].partition(";")[0] if url.startswith("data:") else "application/octet-stream"
        return File(media_type, url, text_of(file.get("file_id")), text_of(file.get("filename")))
    return Opaque("openai", dump(dict(raw)).decode())


def _format(raw: Raw) -> ResponseFormat | None:
    if raw is None:
        return None
    kind = as_object(raw, "response_format").get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat()
    if kind != "json_schema":
        raise BadInput(f"response_format.type: expected text, json_object or json_schema, got {kind!r}")
    said = as_object(raw.get("json_schema"), "response_format.json_schema")
    schema = as_object(said.get("schema"), "response_format.json_schema.schema")
    name = _optional_text(said.get("name"), "response_format.json_schema.name") or "answer"
    return ResponseFormat(dump(dict(schema)).decode(), name, as_flag(said, "strict", "response_format.json_schema."))


def _settings(data: Mapping[str, Raw]) -> Settings:
    stop = data.get("stop")
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise BadInput("stop: expected text or an array of texts")
    most = as_whole(data, "max_completion_tokens") or as_whole(data, "max_tokens")
    return Settings(
        temperature=as_number(data, "temperature"),
        top_p=as_number(data, "top_p"),
        max_output_tokens=most,
        stop=tuple(stops),
        seed=as_whole(data, "seed", least=-(2**63)),
        tool_choice=_choice(data.get("tool_choice")),
        parallel_tool_calls=as_flag(data, "parallel_tool_calls"),
        logprobs=(as_whole(data, "top_logprobs", least=0) or 0) if as_flag(data, "logprobs") else None,
        extra=cast("Mapping[str, JSON]", {name: value for name, value in data.items() if name not in _READ}),
    )


def _choice(raw: Raw) -> str:
    if raw is None:
        return ""
    if raw in ("auto", "none", "required"):
        return cast("str", raw)
    name = text_of(mapping_of(mapping_of(raw).get("function")).get("name"))
    if not name:
        raise BadInput(f"tool_choice: expected auto, none, required or a function by name, got {raw!r}"[:200])
    return f"tool:{name}"


def as_object(raw: Raw, place: str) -> Mapping[str, Raw]:
    """Read an object, or say that `place` holds none."""
    if not isinstance(raw, dict):
        raise BadInput(f"{place}: {'missing' if raw is None else 'expected an object'}")
    return raw


def as_text(raw: Raw, place: str) -> str:
    """Read text, or say that `place` holds none."""
    if not isinstance(raw, str):
        raise BadInput(f"{place}: {'missing' if raw is None else 'expected text'}")
    return raw


def _optional_text(raw: Raw, place: str) -> str:
    return "" if raw is None else as_text(raw, place)


def as_flag(data: Mapping[str, Raw], name: str, place: str = "") -> bool | None:
    """Read true or false from the field `name`, None where it is missing."""
    raw = data.get(name)
    if raw is not None and not isinstance(raw, bool):
        raise BadInput(f"{place}{name}: expected true or false")
    return raw


def as_number(data: Mapping[str, Raw], name: str) -> float | None:
    """Read a finite number from the field `name`, None where it is missing."""
    raw = data.get(name)
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise BadInput(f"{name}: expected a number")
    return raw


def as_whole(data: Mapping[str, Raw], name: str, *, least: int = 1) -> int | None:
    """Read a whole number from the field `name`, None where it is missing."""
    raw = data.get(name)
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < least:
        raise BadInput(f"{name}: expected a whole number{f' of at least {least}' if least >= 0 else ''}")
    return raw
