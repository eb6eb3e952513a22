"""The chat completions dialect, outbound: a `Call` to the bytes of a request. Responses: `openai_replies.py`.

Spoken by OpenAI and, with small differences, by most others; `_QUIRKS` lists the differences by host. Where a history
holds what this dialect has no words for (thinking of another model, an image in a tool result), it is left out of the
outbound copy; `core/portability.py` names such losses before the call is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from waywiser.core.calls import Call, Outcome, ResponseFormat, Tool
from waywiser.core.messages import File, Image, Message, Opaque, Part, Role, Text, Thinking, ToolCall
from waywiser.core.models import Model
from waywiser.upstream.openai_replies import StreamDecoder, decode_reply
from waywiser.upstream.wire import Encodable, EventDecoder, Fragments, Request, Unencodable, data_url, dump, fragment


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a host differs from the common dialect.

    `signed_calls`: tool calls of an earlier turn must carry a thought signature (Gemini 3 and later; the documented
    placeholder stands in for calls that another model made). `logprobs_with_tools`: a stream that offers tools may be
    asked for log-probabilities (llama.cpp's server refuses the whole call, so a host must be known to allow it).
    """

    max_tokens: str = "max_tokens"
    seed: str = "seed"
    stream_options: bool = True
    signed_calls: bool = False
    logprobs_with_tools: bool = False


_COMMON = Quirks()
_QUIRKS = {
    "api.openai.com": Quirks(max_tokens="max_completion_tokens", logprobs_with_tools=True),
    "openai.azure.com": Quirks(max_tokens="max_completion_tokens", logprobs_with_tools=True),
    "api.mistral.ai": Quirks(seed="random_seed", stream_options=False),
    "generativelanguage.googleapis.com": Quirks(signed_calls=True),
}
_UNSIGNED = "skip_thought_signature_validator"
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def quirks_of(model: Model) -> Quirks:
    """Look up how the host of this model differs."""
    host = model.base_url.partition("://")[2].partition("/")[0].partition(":")[0]
    for suffix, quirks in _QUIRKS.items():
        if host == suffix or host.endswith(f".{suffix}"):
            return quirks
    return _COMMON


class OpenAICodec:
    """The codec of the dialect. Holds what it encoded before; shared by all threads."""

    def __init__(self) -> None:
        self._messages = Fragments()
        self._tools = Fragments(4 << 20)
        self._quirks: dict[str, Quirks] = {}

    def request(self, model: Model, call: Call, key: str, *, stream: bool) -> Request:
        """Encode a call. Raises `Unencodable` for a tool schema or a setting that is not JSON."""
        quirks = self._quirks.get(model.base_url)
        if quirks is None:
            quirks = self._quirks[model.base_url] = quirks_of(model)
        body: dict[str, Encodable] = {"model": model.remote or model.name.partition("/")[2]}
        body["messages"] = [self._message(message, model.name, quirks) for message in call.messages]
        if call.tools:
            body["tools"] = [self._tool(tool, index) for index, tool in enumerate(call.tools)]
        _settings(body, call, quirks, stream=stream)
        if stream:
            body["stream"] = True
            if quirks.stream_options:
                body["stream_options"] = {"include_usage": True}
        body.update(call.settings.extra)
        headers = {"content-type": "application/json", **dict(model.headers)}
        if key:
            headers["authorization"] = f"Bearer {key}"
        try:
            return Request(f"{model.base_url.rstrip('/')}/chat/completions", headers, dump(body))
        except TypeError as error:
            raise Unencodable(f"settings.extra is not JSON: {error}") from None

    def reply(self, body: bytes) -> Outcome:
        """Decode the body of a 200 response."""
        return decode_reply(body)

    def decoder(self) -> EventDecoder:
        """Return a fresh reader for one streamed response."""
        return StreamDecoder()

    def _message(self, message: Message, model: str, quirks: Quirks) -> orjson.Fragment:
        own = message.model == model
        key = (message.digest, own, quirks.signed_calls)
        return orjson.Fragment(self._messages.get(key, lambda: dump(_encode_message(message, own, quirks))))

    def _tool(self, tool: Tool, index: int) -> orjson.Fragment:
        return orjson.Fragment(self._tools.get(tool.digest, lambda: dump(_encode_tool(tool, index))))


def asks_logprobs(call: Call, quirks: Quirks, *, stream: bool) -> int | None:
    """How many alternatives of each token to ask for, besides its log-probability; None to ask for neither.

    For the policy it is one alternative: llama.cpp tells nothing for 0, and twenty where no number is said.
    """
    settings = call.settings
    if settings.logprobs is not None or not settings.confidence:
        return settings.logprobs
    return None if stream and call.tools and not quirks.logprobs_with_tools else 1


def _settings(body: dict[str, Encodable], call: Call, quirks: Quirks, *, stream: bool) -> None:
    settings = call.settings
    simple: tuple[tuple[str, Encodable], ...] = (
        ("temperature", settings.temperature),
        ("top_p", settings.top_p),
        (quirks.max_tokens, settings.max_output_tokens),
        ("stop", settings.stop or None),
        (quirks.seed, settings.seed),
    )
    body.update((name, value) for name, value in simple if value is not None)
    alternatives = asks_logprobs(call, quirks, stream=stream)
    if alternatives is not None:
        body["logprobs"] = True
        if alternatives:
            body["top_logprobs"] = alternatives
    if call.tools:
        choice = settings.tool_choice
        if choice.startswith("tool:"):
            body["tool_choice"] = {"type": "function", "function": {"name": choice[5:]}}
        elif choice:
            body["tool_choice"] = choice
        if settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = settings.parallel_tool_calls
    if call.response_format is not None:
        body["response_format"] = _encode_format(call.response_format)


def _encode_format(form: ResponseFormat) -> Encodable:
    if form.schema:
        schema: dict[str, Encodable] = {"name": form.name, "schema": fragment(form.schema, "response_format.schema")}
        if form.strict is not None:
            schema["strict"] = form.strict
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"}


def _encode_tool(tool: Tool, index: int) -> Encodable:
    function: dict[str, Encodable] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = fragment(tool.parameters, f"tools[{index}].parameters")
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _encode_message(message: Message, own: bool, quirks: Quirks) -> Encodable:
    out: dict[str, Encodable] = {"role": message.role.value}
    if message.role is Role.TOOL:
        return out | {"tool_call_id": message.tool_call_id, "content": message.text}
    content = [part for part in map(_encode_part, message.parts) if part is not None]
    if all(isinstance(part, Text | Thinking) for part in message.parts):
        out["content"] = message.text or (None if message.tool_calls else "")
    else:
        out["content"] = content or (None if message.tool_calls else "")
    if message.name:
        out["name"] = message.name
    if message.role is Role.ASSISTANT:
        thoughts = [part for part in message.parts if isinstance(part, Thinking)] if own else []
        reasoning = "".join(part.text for part in thoughts if not part.signature)
        if reasoning:
            out["reasoning_content"] = reasoning
        if message.tool_calls:
            signature = next((part.signature for part in thoughts if part.signature), "")
            out["tool_calls"] = _encode_calls(message.tool_calls, signature, quirks)
    return out


def _encode_calls(calls: tuple[ToolCall, ...], signature: str, quirks: Quirks) -> Encodable:
    out: list[Encodable] = []
    for index, call in enumerate(calls):
        function: Encodable = {"name": call.name, "arguments": call.arguments or "{}"}
        item: dict[str, Encodable] = {"id": call.id, "type": "function", "function": function}
        if index == 0 and quirks.signed_calls:
            item["extra_content"] = {"google": {"thought_signature": signature or _UNSIGNED}}
        out.append(item)
    return out


def _encode_part(part: Part) -> Encodable:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text} if text else None
        case Image(url=url, detail=detail):
            return {"type": "image_url", "image_url": {"url": url, "detail": detail} if detail else {"url": url}}
        case File(media_type=media_type, url=url, file_id=file_id, name=name):
            audio = data_url(url)
            if media_type in _AUDIO and audio is not None:
                return {"type": "input_audio", "input_audio": {"data": audio[1], "format": _AUDIO[media_type]}}
            said: dict[str, Encodable] = {"file_id": file_id} if file_id else {"file_data": url}
            return {"type": "file", "file": said | ({"filename": name} if name else {})}
        case Opaque(dialect="openai", json=text):
            return fragment(text, "an opaque part")
    return None
