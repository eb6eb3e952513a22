"""The proxy's OpenAPI document, by hand: what a client may send, and every kind of answer.

It names the parameters that are read; objects whose fields are a dialect's own affair stay open.
"""

from __future__ import annotations

from waywiser import __version__
from waywiser.core.calls import JSON
from waywiser.core.steps import KINDS
from waywiser.proxy import chat, messages

Object = dict[str, JSON]

_TEXT: Object = {"type": "string"}
_FLAG: Object = {"type": ["boolean", "null"]}
_NUMBER: Object = {"type": ["number", "null"]}
_COUNT: Object = {"type": ["integer", "null"], "minimum": 1}
_OPEN: Object = {"type": "object"}
_LABELS: Object = {"type": ["object", "null"], "additionalProperties": _TEXT, "maxProperties": 16}
_CONTENT: Object = {
    "oneOf": [
        _TEXT,
        {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {"type": _TEXT}}},
    ]
}
_TOOL_CALL: Object = {
    "type": "object",
    "required": ["id", "type", "function"],
    "properties": {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": _TEXT, "arguments": _TEXT},
        },
    },
}
_SHARED: Object = {
    "model": {"type": "string", "description": "`auto`, `tier:NAME`, `policy:NAME`, or a model", "default": "auto"},
    "stream": _FLAG,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
}


def document() -> Object:
    """Write the document."""
    paths: Object = {
        "/v1/chat/completions": _post("A chat completion, whole or streamed", _chat(), "Error"),
        "/v1/responses": _post("A response, stateless, whole or streamed", _responses(), "Error"),
        "/v1/messages": _post("A message in Anthropic's dialect, whole or streamed", _messages(), "AnthropicError"),
        "/v1/models": _get("The names that can be asked for"),
        "/v1/models/{name}": _get("One of them", "name"),
        "/v1/waywiser/receipts/{id}": _get("Why a call went where it went", "id"),
        "/v1/waywiser/sessions/{id}": _get("What a session has cost, and its receipts", "id"),
        "/healthz": _get("Whether the process is alive"),
        "/readyz": _get("Whether requests are welcome"),
        "/metrics": _get("Counters in Prometheus' text format", kind="text/plain"),
        "/openapi.json": _get("This document"),
    }
    error: Object = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT},
    }
    wrapped: Object = {"type": "object", "required": ["error"], "properties": {"error": error}}
    theirs: Object = {
        "type": "object",
        "required": ["type", "error"],
        "properties": {"type": {"const": "error"}, "error": _OPEN},
    }
    schemes: Object = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Waywiser", "version": __version__, "description": "Model calls, routed by a policy."},
        "paths": paths,
        "components": {"schemas": {"Error": wrapped, "AnthropicError": theirs}, "securitySchemes": schemes},
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _post(about: str, body: Object, error: str) -> Object:
    answers: Object = {
        "200": {"description": "The answer", "content": {"application/json": {}, "text/event-stream": {}}},
        "default": {
            "description": "What went wrong",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}},
        },
    }
    headers: list[JSON] = [
        _header("session", {"type": "string", "maxLength": 256}, "the session, percent-encoded"),
        _header("node", {"type": "string", "maxLength": 256}, "the node of the agent's graph"),
        _header("kind", {"enum": [*sorted(KINDS)]}, "the kind of the step"),
        _header("labels", {"type": "string", "pattern": "^[a-z]+=[a-z]+$"}, "labels: name=value, name=value"),
    ]
    request: Object = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": {"summary": about, "parameters": headers, "requestBody": request, "responses": answers}}


def _header(name: str, schema: Object, about: str) -> Object:
    return {"name": f"x-waywiser-{name}", "in": "header", "schema": schema, "description": about}


def _get(about: str, name: str = "", kind: str = "application/json") -> Object:
    answers: Object = {
        "200": {"description": "As asked", "content": {kind: {}}},
        "default": {
            "description": "What went wrong",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        },
    }
    operation: Object = {"summary": about, "responses": answers}
    if name:
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _TEXT}]
    return {"get": operation}


def _request(properties: Object, required: list[JSON], passed: frozenset[str]) -> Object:
    known: Object = {name: {} for name in sorted(passed)}
    return {
        "type": "object",
        "required": required,
        "properties": known | _SHARED | properties,
        "additionalProperties": False,
    }


def _chat() -> Object:
    role: Object = {"enum": ["system", "developer", "user", "assistant", "tool"]}
    message: Object = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": role,
            "content": {"anyOf": [_CONTENT, {"type": "null"}]},
            "tool_calls": {"type": "array", "items": _TOOL_CALL},
            "tool_call_id": _TEXT,
        },
    }
    function: Object = {"type": "object", "required": ["name"], "properties": {"name": _TEXT, "parameters": _OPEN}}
    tool: Object = {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function},
    }
    properties: Object = {
        "messages": {"type": "array", "minItems": 1, "items": message},
        "tools": {"type": "array", "items": tool},
        "tool_choice": {"oneOf": [{"enum": ["auto", "none", "required"]}, _OPEN]},
        "parallel_tool_calls": _FLAG,
        "response_format": _OPEN,
        "max_tokens": _COUNT,
        "max_completion_tokens": _COUNT,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": chat.MOST_SAMPLES},
        "stop": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]},
        "seed": {"type": ["integer", "null"]},
        "logprobs": _FLAG,
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": "boolean"}},
            "additionalProperties": False,
        },
        "metadata": _LABELS,
        "user": _TEXT,
        "prompt_cache_key": _TEXT,
    }
    return _request(properties, ["messages"], chat.PASSED)


def _responses() -> Object:
    item: Object = {"type": "object", "properties": {"type": _TEXT, "role": _TEXT, "content": _CONTENT}}
    tool: Object = {
        "type": "object",
        "required": ["type", "name"],
        "properties": {"type": {"const": "function"}, "name": _TEXT, "parameters": _OPEN},
    }
    properties: Object = {
        "input": {"oneOf": [_TEXT, {"type": "array", "minItems": 1, "items": item}]},
        "instructions": {"type": ["string", "null"]},
        "tools": {"type": "array", "items": tool},
        "tool_choice": {"oneOf": [{"enum": ["auto", "none", "required"]}, _OPEN]},
        "text": _OPEN,
        "reasoning": _OPEN,
        "max_output_tokens": _COUNT,
        "parallel_tool_calls": _FLAG,
        "metadata": _LABELS,
        "store": {"const": False},
    }
    return _request(properties, ["input"], frozenset())


def _messages() -> Object:
    turn: Object = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["user", "assistant"]}, "content": _CONTENT},
    }
    tool: Object = {
        "type": "object",
        "required": ["name", "input_schema"],
        "properties": {"name": _TEXT, "input_schema": _OPEN},
    }
    properties: Object = {
        "messages": {"type": "array", "minItems": 1, "items": turn},
        "system": _CONTENT,
        "max_tokens": {"type": "integer", "minimum": 1},
        "tools": {"type": "array", "items": tool},
        "tool_choice": _OPEN,
        "stop_sequences": {"type": "array", "items": _TEXT},
        "metadata": {"type": "object", "properties": {"user_id": _TEXT}, "additionalProperties": False},
    }
    return _request(properties, ["messages", "max_tokens"], messages.PASSED)
