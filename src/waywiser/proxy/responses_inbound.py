"""Reads requests of `/v1/responses`: the stateless subset, in which a client sends the whole conversation each time.

What would need an answer kept here (`previous_response_id`, `conversation`, `background`, `store: true`) or a tool that
the provider runs is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from waywiser.core.calls import JSON, Call, ResponseFormat, Settings, Tool
from waywiser.core.messages import File, Image, Message, Part, Role, Text, ToolCall
from waywiser.errors import BadInput
from waywiser.upstream.openai_inbound import as_flag, as_number, as_object, as_text, as_whole
from waywiser.upstream.tool_schemas import check_parameters
from waywiser.upstream.wire import Raw, dump, text_of

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_READ = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "text", "max_output_tokens", "temperature", "top_p",
    "parallel_tool_calls", "stream", "stream_options", "reasoning", "truncation", "include", "background",
    "top_logprobs",
})  # fmt: skip
_KEPT = frozenset({"metadata", "user", "prompt_cache_key", "safety_identifier", "store"})
_PASSED = frozenset({"service_tier", "prompt_cache_retention"})


def read_call(data: Mapping[str, Raw], call_id: str) -> Call:
    """Read a whole request. Raises `BadInput` naming the place."""
    _refuse(data)
    extra = {name: value for name, value in data.items() if name in _PASSED and value is not None}
    effort = as_object(data.get("reasoning") or {}, "reasoning").get("effort")
    if effort is not None:
        extra["reasoning_effort"] = as_text(effort, "reasoning.effort")
    shape = as_object(data.get("text") or {}, "text")
    if shape.get("verbosity") is not None:
        extra["verbosity"] = as_text(shape["verbosity"], "text.verbosity")
    settings = Settings(
        temperature=as_number(data, "temperature"),
        top_p=as_number(data, "top_p"),
        max_output_tokens=as_whole(data, "max_output_tokens"),
        tool_choice=_choice(data.get("tool_choice")),
        parallel_tool_calls=as_flag(data, "parallel_tool_calls"),
        extra=cast("Mapping[str, JSON]", extra),
    )
    instructions = data.get("instructions")
    messages = [Message(Role.SYSTEM, (Text(as_text(instructions, "instructions")),))] if instructions else []
    messages += _input(data.get("input"))
    model = as_text(data["model"], "model") if data.get("model") is not None else ""
    return Call(
        call_id,
        tuple(messages),
        _tools(data.get("tools")),
        _format(shape.get("format")),
        settings,
        stream=as_flag(data, "stream") or False,
        model=model,
    )


def _refuse(data: Mapping[str, Raw]) -> None:
    for name, value in data.items():
        if value is not None and name not in _READ and name not in _KEPT and name not in _PASSED:
            raise BadInput(f"{name[:100]}: this parameter is not supported")
    if as_flag(data, "background"):
        raise BadInput("background: answers are not kept here, only false is possible")
    if data.get("truncation") not in (None, "disabled"):
        raise BadInput("truncation: only disabled is possible")
    if data.get("include") not in (None, [], ["reasoning.encrypted_content"]):
        raise BadInput("include: nothing more can be included")
    if as_whole(data, "top_logprobs", least=0):
        raise BadInput("top_logprobs: only 0 is possible")


def _input(raw: Raw) -> list[Message]:
    if isinstance(raw, str):
        return [Message(Role.USER, (Text(raw),))]
    if not isinstance(raw, list) or not raw:
        raise BadInput(f"input: {'missing' if raw is None else 'expected text or an array of items, at least one'}")
    messages: list[Message] = []
    names: dict[str, str] = {}
    for index, value in enumerate(raw):
        place = f"input[{index}]"
        item = as_object(value, place)
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_message(item, place))
        elif kind == "function_call":
            call = ToolCall(
                as_text(item.get("call_id"), f"{place}.call_id"),
                as_text(item.get("name"), f"{place}.name"),
                as_text(item.get("arguments"), f"{place}.arguments"),
            )
            names[call.id] = call.name
            _called(messages, call)
        elif kind == "function_call_output":
            messages.append(_result(item, place, names))
        elif kind != "reasoning":  # what a model thought belongs to that model; the next may be another
            raise BadInput(f"{place}.type: items of type {str(kind)[:100]!r} are not supported")
    if not messages:
        raise BadInput("input: nothing to answer")
    return messages


def _called(messages: list[Message], call: ToolCall) -> None:
    """Add a tool call: to the assistant's turn it belongs to, or as a turn of its own."""
    last = messages[-1] if messages else None
    if last is not None and last.role is Role.ASSISTANT:
        messages[-1] = Message(Role.ASSISTANT, last.parts, (*last.tool_calls, call))
    else:
        messages.append(Message(Role.ASSISTANT, (), (call,)))


def _message(item: Mapping[str, Raw], place: str) -> Message:
    role = _ROLES.get(text_of(item.get("role")))
    if role is None:
        raise BadInput(f"{place}.role: expected one of {', '.join(_ROLES)}")
    return Message(role, _parts(item.get("content"), f"{place}.content"))


def _result(item: Mapping[str, Raw], place: str, names: Mapping[str, str]) -> Message:
    call_id = as_text(item.get("call_id"), f"{place}.call_id")
    if call_id not in names:
        raise BadInput(f"{place}.call_id: no earlier function call has the id {call_id[:100]!r}")
    return Message(
        Role.TOOL, _parts(item.get("output"), f"{place}.output"), tool_call_id=call_id, tool_name=names[call_id]
    )


def _parts(content: Raw, place: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    if not isinstance(content, list):
        raise BadInput(f"{place}: {'missing' if content is None else 'expected text or an array of parts'}")
    return tuple(_part(as_object(item, f"{place}[{index}]"), f"{place}[{index}]") for index, item in enumerate(content))


def _part(raw: Mapping[str, Raw], place: str) -> Part:
    kind = raw.get("type")
    if kind in ("input_text", "output_text", "text"):
        return Text(as_text(raw.get("text"), f"{place}.text"))
    if kind == "refusal":
        return Text(as_text(raw.get("refusal"), f"{place}.refusal"))
    if kind == "input_image" and raw.get("image_url"):
        return Image(as_text(raw["image_url"], f"{place}.image_url"), text_of(raw.get("detail")))
    if kind in ("input_image", "input_file"):
        url = text_of(raw.get("file_data")) or text_of(raw.get("file_url"))
        media_type = url[5:].partition(";")[0] if url.startswith("data:") else "application/octet-stream"
        file_id = text_of(raw.get("file_id"))
        if not url and not file_id:
            raise BadInput(f"{place}: names no file")
        return File("image/*" if kind == "input_image" else media_type, url, file_id, text_of(raw.get("filename")))
    raise BadInput(f"{place}.type: parts of type {str(kind)[:100]!r} are not supported")


def _tools(raw: Raw) -> tuple[Tool, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadInput("tools: expected an array of tools")
    tools: list[Tool] = []
    for index, value in enumerate(raw):
        place = f"tools[{index}]"
        item = as_object(value, place)
        if item.get("type") != "function":
            raise BadInput(f"{place}.type: only tools of type 'function' can be routed")
        name = as_text(item.get("name"), f"{place}.name")
        if not name:
            raise BadInput(f"{place}.name: empty")
        parameters = item.get("parameters")
        schema = as_object(
            {"type": "object", "properties": {}} if parameters is None else parameters, f"{place}.parameters"
        )
        check_parameters(schema, f"{place}.parameters")
        tools.append(
            Tool(
                name,
                text_of(item.get("description")),
                dump(dict(schema)).decode(),
                as_flag(item, "strict", f"{place}."),
            )
        )
    return tuple(tools)


def _choice(raw: Raw) -> str:
    if raw is None:
        return ""
    if raw in ("auto", "none", "required"):
        return str(raw)
    if isinstance(raw, dict) and raw.get("type") == "function" and isinstance(raw.get("name"), str):
        return f"tool:{raw['name']}"
    raise BadInput("tool_choice: expected auto, none, required or a function by name")


def _format(raw: Raw) -> ResponseFormat | None:
    if raw is None:
        return None
    form = as_object(raw, "text.format")
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat()
    if kind != "json_schema":
        raise BadInput("text.format.type: expected text, json_object or json_schema")
    schema = as_object(form.get("schema"), "text.format.schema")
    name = text_of(form.get("name")) or "answer"
    return ResponseFormat(dump(dict(schema)).decode(), name, as_flag(form, "strict", "text.format."))
