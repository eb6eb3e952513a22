"""Tools as LangChain binds them, turned into ours once per binding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from langchain_core.utils.function_calling import convert_to_openai_tool

from waywiser.core.calls import ResponseFormat, Tool
from waywiser.errors import BadInput
from waywiser.upstream.tool_schemas import check_parameters

_MOST_BINDINGS = 256
_bindings: dict[tuple[bool | int | None, ...], tuple[tuple[Any, ...], BoundTools]] = {}


class BoundTools(list[dict[str, Any]]):
    """OpenAI tool definitions, as tracers expect to see them, that remember their core form."""

    def __init__(self, definitions: Sequence[dict[str, Any]]) -> None:
        super().__init__(definitions)
        self.core = tuple(_tool(definition, f"tools[{index}]") for index, definition in enumerate(definitions))


def bound(tools: Sequence[Any], *, strict: bool | None = None) -> BoundTools:
    """Convert whatever LangChain takes for tools. Raises `BadInput` for one that is not a function with a schema.

    Agents bind the same tools for every call: a binding of the same tool objects is found again. Definitions given
    as mappings may be changed by whoever gave them, so they are read each time.
    """
    key = (strict, *(id(tool) for tool in tools))
    known = _bindings.get(key)
    if known is not None:
        return known[1]
    definitions = []
    for index, tool in enumerate(tools):
        try:
            definitions.append(convert_to_openai_tool(tool, strict=strict))
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"tools[{index}]: not a tool: {error}") from error
    made = BoundTools(definitions)
    if not any(isinstance(tool, Mapping) for tool in tools):
        if len(_bindings) >= _MOST_BINDINGS:
            _bindings.clear()
        # The tools are kept with the entry, so that no other object gets their ids.
        _bindings[key] = (tuple(tools), made)
    return made


def core_tools(tools: Sequence[Any] | None) -> tuple[Tool, ...]:
    """Return the core form of the tools a call came with."""
    if not tools:
        return ()
    return tools.core if isinstance(tools, BoundTools) else bound(tools).core


def tool_choice(choice: str | bool | Mapping[str, Any] | None, tools: Sequence[Tool]) -> str:
    """Read LangChain's many ways to say which tool must be called. Raises `BadInput` for a tool that is not offered."""
    match choice:
        case None | False | "" | "auto":
            return ""
        case True | "any" | "required":
            return "required"
        case "none":
            return "none"
        case str():
            name = choice
        case {"type": "function", "function": {"name": str(name)}} | {"name": str(name)}:
            pass
        case {"type": "auto" | "none" | "any" | "required" as kind}:
            return tool_choice(kind, tools)
        case _:
            raise BadInput(f"tool_choice: {choice!r} is not understood")
    if not any(tool.name == name for tool in tools):
        raise BadInput(f"tool_choice: no tool {name!r} is offered (there are {', '.join(t.name for t in tools)})")
    return f"tool:{name}"


def response_format(value: Mapping[str, Any] | None) -> ResponseFormat | None:
    """Read an OpenAI `response_format`. Raises `BadInput` for one of another form."""
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return ResponseFormat()
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)} as spec}:
            return ResponseFormat(orjson.dumps(schema).decode(), spec.get("name") or "answer", spec.get("strict"))
        case _:
            raise BadInput("response_format: expected `json_object`, or `json_schema` with a `schema`")


def _tool(definition: Mapping[str, Any], place: str) -> Tool:
    function = definition.get("function")
    if definition.get("type") != "function" or not isinstance(function, Mapping):
        raise BadInput(f"{place}: a tool that a provider runs itself ({definition.get('type')!r}) can't be routed")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise BadInput(f"{place}.function.name: a tool needs a name")
    check_parameters(parameters, f"{place}.function.parameters")
    try:
        schema = orjson.dumps(parameters).decode()
    except TypeError as error:
        raise BadInput(f"{place}.function.parameters: not JSON: {error}") from None
    return Tool(function["name"], function.get("description") or "", schema, function.get("strict"))
