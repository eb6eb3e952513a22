"""Between LangChain's messages and ours, both ways. A message converted once is found again by identity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any
from weakref import ref

import orjson
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk

from waywiser.core.calls import Chunk, Finish, Reply, Usage
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall
from waywiser.errors import BadInput
from waywiser.upstream.openai_inbound import write_logprobs

MODEL_KEY = "waywiser_model"
"""Where in `response_metadata` we stamp the catalogue's name of the model that wrote a message."""

_CACHE_ENTRIES = 8192
_NO_CALLS: list[LangChainToolCall] = []
_NOTHING: Mapping[str, Any] = {}
_seen: dict[int, tuple[ref[BaseMessage], object, list[LangChainToolCall], Message]] = {}


def to_core(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Convert a history. Raises `BadInput` with the place of a message or a block that has no meaning here."""
    if not messages:
        raise BadInput("messages: the history is empty")
    return tuple(_remembered(message, index) for index, message in enumerate(messages))


def _remembered(message: BaseMessage, index: int) -> Message:
    """Convert one message, unless the same object was converted before and has the same content and tool calls.

    Tool calls are compared by value with a copy: whoever approves a call may have edited it in place.
    """
    key = id(message)
    content = message.content
    calls = message.tool_calls if isinstance(message, AIMessage) else _NO_CALLS
    known = _seen.get(key)
    if known is not None and known[0]() is message and known[1] is content and known[2] == calls:
        return known[3]
    converted = _converted(message, f"messages[{index}]")
    if isinstance(content, str):
        if len(_seen) >= _CACHE_ENTRIES:
            _seen.clear()
        _seen[key] = (ref(message), content, deepcopy(calls) if calls else _NO_CALLS, converted)
    return converted


def _converted(message: BaseMessage, place: str) -> Message:
    parts = _parts(message.content, place)
    if isinstance(message, HumanMessage):
        return Message(Role.USER, parts, name=message.name or "")
    if isinstance(message, AIMessage):
        calls = tuple(ToolCall(call["id"] or "", call["name"], _json(call["args"])) for call in message.tool_calls)
        broken = tuple(
            ToolCall(call["id"] or "", call["name"] or "", call["args"] or "") for call in message.invalid_tool_calls
        )
        model = message.response_metadata.get(MODEL_KEY, "")
        return Message(Role.ASSISTANT, parts, (*calls, *broken), name=message.name or "", model=str(model))
    if isinstance(message, ToolMessage):
        return Message(
            Role.TOOL,
            parts,
            tool_call_id=message.tool_call_id,
            tool_name=message.name or "",
            is_error=message.status == "error",
        )
    if isinstance(message, SystemMessage):
        return Message(Role.SYSTEM, parts, name=message.name or "")
    if isinstance(message, ChatMessage):
        try:
            role = Role.SYSTEM if message.role == "developer" else Role(message.role)
        except ValueError:
            raise BadInput(f"{place}.role: {message.role!r} is none of {', '.join(Role)}") from None
        return Message(role, parts)
    raise BadInput(f"{place}: a {type(message).__name__} has no place in a chat history")


def _parts(content: str | Sequence[str | Mapping[str, Any]], place: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    parts = []
    for index, block in enumerate(content):
        part = Text(block) if isinstance(block, str) else _part(block, f"{place}.content[{index}]")
        if part is not None:
            parts.append(part)
    return tuple(parts)


def _part(block: Mapping[str, Any], place: str) -> Part | None:
    """Read one content block: of LangChain's standard, the OpenAI or the Anthropic kind."""
    match block.get("type"):
        case "text" | "text-plain":
            return Text(str(block.get("text", "")), cache="cache_control" in block)
        case "tool_use" | "tool_call" | "function_call" | "input_json_delta":
            return None  # said again in tool_calls
        case "thinking" | "reasoning" | "redacted_thinking":
            text = block.get("thinking") or block.get("reasoning") or block.get("data") or ""
            signature = block.get("signature") or (block.get("extras") or {}).get("signature") or ""
            return Thinking(str(text), str(signature), redacted=block["type"] == "redacted_thinking")
        case "image_url":
            image = block["image_url"]
            return Image(image) if isinstance(image, str) else Image(image["url"], image.get("detail") or "")
        case "image":
            return Image(_url(block, "image/png"))
        case "file" | "audio" | "video" | "document" | "input_audio":
            return _file(block)
        case None:
            raise BadInput(f"{place}: a content block needs a `type`")
        case _:
            return Opaque("langchain", _json(block))


def _file(block: Mapping[str, Any]) -> File:
    if isinstance(inner := block.get("file"), Mapping):
        return File(
            "application/octet-stream", inner.get("file_data", ""), inner.get("file_id", ""), inner.get("filename", "")
        )
    media_type = block.get("mime_type") or block.get("media_type") or "application/octet-stream"
    return File(media_type, _url(block, media_type), block.get("file_id") or "", block.get("filename") or "")


def _url(block: Mapping[str, Any], media_type: str) -> str:
    source = block.get("source") if isinstance(block.get("source"), Mapping) else block
    data = source.get("base64") or source.get("data")  # type: ignore[union-attr]  # a mapping either way
    if data:
        kind = source.get("mime_type") or source.get("media_type") or media_type  # type: ignore[union-attr]  # as above
        return f"data:{kind};base64,{data}"
    return str(source.get("url") or "")  # type: ignore[union-attr]  # as above


def _json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, default=str)


def from_core(message: Message) -> BaseMessage:
    """Convert one of our messages, for a LangChain model that is used as an upstream."""
    content: Any = message.text if all(isinstance(part, Text) for part in message.parts) else _blocks(message.parts)
    if message.role is Role.SYSTEM:
        return SystemMessage(content)
    if message.role is Role.USER:
        return HumanMessage(content, name=message.name or None)
    if message.role is Role.TOOL:
        return ToolMessage(
            content,
            tool_call_id=message.tool_call_id,
            name=message.tool_name or None,
            status="error" if message.is_error else "success",
        )
    valid, broken = _tool_calls(message.tool_calls)
    return AIMessage(content, tool_calls=valid, invalid_tool_calls=broken)


def _blocks(parts: Sequence[Part]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Text(text):
                blocks.append({"type": "text", "text": text})
            case Image(url, detail):
                blocks.append(
                    {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}
                )
            case File(media_type, url, file_id, name):
                inner = {"file_data": url, "file_id": file_id, "filename": name}
                blocks.append({"type": "file", "file": {key: value for key, value in inner.items() if value}})
                blocks[-1]["mime_type"] = media_type
            case Thinking(text, signature, redacted):
                kind = "redacted_thinking" if redacted else "thinking"
                blocks.append({"type": kind, "data" if redacted else "thinking": text, "signature": signature})
            case Opaque(_, text):
                blocks.append(json.loads(text))
    return blocks


def reply_message(reply: Reply, metadata: Mapping[str, Any], message_id: str | None = None) -> AIMessage:
    """Turn a whole reply into an `AIMessage`; `metadata` joins its `response_metadata`."""
    valid, broken = _tool_calls(reply.tool_calls)
    thinking = any(not isinstance(part, Text) for part in reply.parts)
    content: Any = _blocks(reply.parts) if thinking else reply.text
    return AIMessage(
        content,
        id=message_id,
        tool_calls=valid,
        invalid_tool_calls=broken,
        usage_metadata=usage_metadata(reply.usage),
        response_metadata={"finish_reason": reply.finish.value, **_told(reply.logprobs), **metadata},
    )


def chunk_message(chunk: Chunk, metadata: Mapping[str, Any] | None = None, *, last: bool = False) -> AIMessageChunk:
    """Turn a chunk into an `AIMessageChunk`; the last one carries usage and `metadata`."""
    content: Any = chunk.text
    if chunk.thinking is not None:
        block = {"type": "thinking", "thinking": chunk.thinking.text, "index": 0}
        if chunk.thinking.signature:
            block["signature"] = chunk.thinking.signature
        content = [block, {"type": "text", "text": chunk.text, "index": 1}] if chunk.text else [block]
    deltas = [
        tool_call_chunk(name=delta.name or None, args=delta.arguments, id=delta.id or None, index=delta.index)
        for delta in chunk.tool_calls
    ]
    return AIMessageChunk(
        content=content,
        tool_call_chunks=deltas,
        response_metadata={**_told(chunk.logprobs), **(metadata or {})},
        usage_metadata=usage_metadata(chunk.usage) if last and chunk.usage is not None else None,
        chunk_position="last" if last else None,
    )


def _told(logprobs: Sequence[float]) -> Mapping[str, Any]:
    """Log-probabilities where LangChain's callers look for them: as ChatOpenAI tells them, but for the spelling."""
    return {"logprobs": write_logprobs(logprobs)} if logprobs else _NOTHING


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Write a usage the way LangChain's callbacks and tracers expect it."""
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens, cache_creation=usage.cache_write_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def read_usage(message: AIMessage) -> Usage:
    """Read the usage a LangChain model reported; estimated (zero) when it reported none."""
    seen = message.usage_metadata
    if not seen:
        return Usage(estimated=True)
    inputs = seen.get("input_token_details") or {}
    outputs = seen.get("output_token_details") or {}
    return Usage(
        seen["input_tokens"],
        seen["output_tokens"],
        inputs.get("cache_read") or 0,
        inputs.get("cache_creation") or 0,
        outputs.get("reasoning") or 0,
    )


def read_finish(message: AIMessage) -> Finish:
    """Read why a LangChain model stopped, whatever its provider calls that."""
    reason = str(message.response_metadata.get("finish_reason") or message.response_metadata.get("stop_reason") or "")
    if message.tool_calls or message.invalid_tool_calls:
        return Finish.TOOL_CALLS
    if reason.lower() in {"length", "max_tokens"}:
        return Finish.LENGTH
    return Finish.CONTENT_FILTER if reason.lower() in {"content_filter", "safety", "refusal"} else Finish.STOP


def _tool_calls(calls: Sequence[ToolCall]) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
    valid: list[LangChainToolCall] = []
    broken: list[InvalidToolCall] = []
    for call in calls:
        try:
            arguments = orjson.loads(call.arguments or "{}")
            if not isinstance(arguments, dict):
                raise TypeError("not an object")  # noqa: TRY301 - told like broken JSON, by the handler below
        except (ValueError, TypeError) as error:
            broken.append(
                InvalidToolCall(
                    type="invalid_tool_call", name=call.name, args=call.arguments, id=call.id, error=str(error)
                )
            )
        else:
            valid.append(LangChainToolCall(type="tool_call", name=call.name, args=arguments, id=call.id))
    return valid, broken
