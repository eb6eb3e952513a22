"""Tools for a model that takes a JSON schema but no tools, as most small local ones do.

The tools go out as a schema: the model must write one JSON object, `{"tool": NAME, "arguments": {…}}`, where NAME is
one of the tools or the pseudo-tool that answers in words. The tool calls and results of the history are told in the
same words, since such a model's chat template knows neither. Where no tool may be called, what was called is told
with its result instead: a model that sees itself write such objects goes on writing them. The reply is turned back
into a `ToolCall` or into text, and noted as `tools_as_schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from waywiser.core.assembly import Assembly
from waywiser.core.calls import JSON, Call, Chunk, Failure, Finish, Outcome, Reply, ResponseFormat, Tool
from waywiser.core.messages import Message, Part, Role, Text, Thinking, ToolCall
from waywiser.core.models import Ability, Model
from waywiser.upstream.openai_replies import new_call_id
from waywiser.upstream.reading import chunks_of
from waywiser.upstream.wire import Unencodable, dump, list_of, malformed, mapping_of, mend, parse, text_of

NOTE = "tools_as_schema"
Schema: TypeAlias = "dict[str, JSON]"
_DEEPEST = 12  # a schema that refers to itself is unrolled this far


def needed(model: Model, call: Call) -> bool:
    """Whether this model must get the tools of this call (or of its history) as a schema."""
    if Ability.TOOLS in model.abilities or Ability.JSON_SCHEMA not in model.abilities:
        return False
    return bool(call.tools) or any(message.tool_calls or message.role is Role.TOOL for message in call.messages)


def as_schema(call: Call) -> Call:
    """Rewrite a call for such a model. Raises `Unencodable` for a tool whose schema is not JSON."""
    offered = _offered(call)
    if not offered:
        reported = [told for message in call.messages if (told := _reported(message, call)) is not None]
        return replace(call, messages=tuple(_merged(reported)), tools=())
    messages = [_told(message, call) for message in call.messages]
    answer = _answer_name(call)
    choices = [_choice(tool.name, _parameters(tool, index)) for index, tool in enumerate(offered)]
    if answer:
        choices.append(_choice(answer, _answer_schema(call)))
    schema: Schema = choices[0] if len(choices) == 1 else {"anyOf": list(choices)}
    settings = replace(call.settings, tool_choice="", parallel_tool_calls=None)
    return replace(
        call,
        messages=tuple(_merged([*_instructed(messages, _instructions(offered, answer))])),
        tools=(),
        response_format=ResponseFormat(dump(schema).decode(), "next_action"),
        settings=settings,
    )


def as_tools(reply: Reply, call: Call) -> Outcome:
    """Turn a schema-constrained reply back into what was asked for. An answer that keeps no form is malformed."""
    if not _offered(call):
        return replace(reply, notes=(*reply.notes, NOTE))
    answer = _answer_name(call)
    try:
        raw = mapping_of(parse(reply.text))
    except ValueError:
        cut = " (it was cut at the token limit)" if reply.finish is Finish.LENGTH else ""
        return replace(malformed(f"tools as a schema: the reply is not JSON{cut}"), usage=reply.usage)
    name, arguments = text_of(raw.get("tool")), raw.get("arguments")
    thoughts: tuple[Part, ...] = tuple(part for part in reply.parts if isinstance(part, Thinking))
    notes = (*reply.notes, NOTE)
    if answer and name == answer:
        said = mapping_of(arguments)
        text = dump(dict(said)).decode() if call.response_format else mend(text_of(said.get("text")))
        if not text.strip():
            return replace(malformed("tools as a schema: an empty answer"), usage=reply.usage)
        return replace(reply, parts=(*thoughts, Text(text)), finish=Finish.STOP, notes=notes)
    if name not in {tool.name for tool in _offered(call)} or not isinstance(arguments, dict):
        return replace(malformed("tools as a schema: the reply names no tool that was offered"), usage=reply.usage)
    made = ToolCall(new_call_id(), name, dump(arguments).decode())
    return replace(reply, parts=thoughts, tool_calls=(made,), finish=Finish.TOOL_CALLS, notes=notes)


class Held:
    """Holds a stream until it is whole, since half a JSON object is neither a tool call nor text.

    While it holds, each chunk passes as an empty one, so that nobody takes the model for silent. Log-probabilities pass
    as they come, for the policy's watch; a caller who asked for them gets them with the whole.
    """

    __slots__ = ("_assembly", "_call", "_watched")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._watched = call.settings.logprobs is None
        self._assembly = Assembly()

    def take(self, item: Chunk | Failure) -> Iterator[Chunk | Failure]:
        """Take the next item of the model's stream and yield what the caller gets for it."""
        if isinstance(item, Failure):
            yield replace(item, partial=None)  # half a JSON object is of no use to anyone
            return
        self._assembly.feed(item)
        if item.finish is None:
            told = item.logprobs if self._watched else ()
            yield Chunk(thinking=item.thinking, logprobs=told, model=item.model, id=item.id)
            return
        whole = self._assembly.reply()
        outcome = as_tools(whole, self._call)
        if isinstance(outcome, Failure):
            yield outcome
        else:  # thinking went through as it came
            parts = tuple(part for part in outcome.parts if not isinstance(part, Thinking))
            untold = item.logprobs if self._watched else outcome.logprobs
            yield from chunks_of(replace(outcome, parts=parts, logprobs=untold))


def _offered(call: Call) -> tuple[Tool, ...]:
    choice = call.settings.tool_choice
    if choice == "none":
        return ()
    if choice.startswith("tool:"):
        return tuple(tool for tool in call.tools if tool.name == choice[5:])
    return call.tools


def _answer_name(call: Call) -> str:
    """Name the pseudo-tool that answers in words; empty when a tool must be called."""
    choice = call.settings.tool_choice
    if choice == "required" or choice.startswith("tool:"):
        return ""
    name = "answer"
    while any(tool.name == name for tool in call.tools):
        name = f"final_{name}"
    return name


def _choice(name: str, arguments: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"tool": {"const": name}, "arguments": arguments},
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }


def _answer_schema(call: Call) -> Schema:
    if call.response_format is not None:
        return _read_schema(call.response_format.schema or '{"type":"object"}', "response_format.schema")
    return {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }


def _parameters(tool: Tool, index: int) -> Schema:
    return _read_schema(tool.parameters, f"tools[{index}].parameters")


def _read_schema(text: str, place: str) -> Schema:
    """Read a schema with its local references put in place: inside a larger schema they would point nowhere."""
    try:
        raw = parse(text)
    except ValueError as error:
        raise Unencodable(f"{place} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise Unencodable(f"{place} is no JSON object")
    placed = _placed(raw, raw, 0)
    return placed if isinstance(placed, dict) else {}


def _placed(node: JSON, root: Mapping[str, JSON], depth: int) -> JSON:
    if isinstance(node, list):
        return [_placed(item, root, depth) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        if depth >= _DEEPEST:
            return {}
        target: JSON = dict(root)
        for step in reference.lstrip("#/").split("/") if reference != "#" else ():
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        return _placed(target if isinstance(target, dict) else {}, root, depth + 1)
    return {name: _placed(value, root, depth) for name, value in node.items() if name not in ("$defs", "definitions")}


def _told(message: Message, call: Call) -> Message:
    """Tell a tool call or a tool's result as text, in the form that the model must use itself."""
    if message.role is Role.TOOL:
        name = message.tool_name or _called(message.tool_call_id, call)
        what = "failed" if message.is_error else "returned"
        return Message(Role.USER, (Text(f"[{name} {what}]\n{message.text}"),))
    if message.role is Role.ASSISTANT and message.tool_calls:
        said = [part for part in message.parts if isinstance(part, Text)]
        asked = "\n".join(_asked(made) for made in message.tool_calls)
        return Message(Role.ASSISTANT, (*said, Text(f"\n{asked}" if said else asked)))
    return message


def _reported(message: Message, call: Call) -> Message | None:
    """Tell a tool's result together with what was called; None for a turn that did nothing but call."""
    if message.role is Role.TOOL:
        made = _made(message.tool_call_id, call)
        asked = f"{made.name} {made.arguments}" if made is not None else message.tool_name or "a tool"
        what = "failed" if message.is_error else "returned"
        return Message(Role.USER, (Text(f"[{asked} {what}]\n{message.text}"),))
    if message.role is Role.ASSISTANT and message.tool_calls:
        return replace(message, tool_calls=()) if message.text.strip() else None
    return message


def _called(call_id: str, call: Call) -> str:
    made = _made(call_id, call)
    return made.name if made is not None else "tool"


def _made(call_id: str, call: Call) -> ToolCall | None:
    return next((made for message in call.messages for made in message.tool_calls if made.id == call_id), None)


def _asked(made: ToolCall) -> str:
    try:
        arguments = parse(made.arguments)
    except ValueError:
        arguments = made.arguments
    return dump({"tool": made.name, "arguments": arguments}).decode()


def _merged(messages: list[Message]) -> Iterator[Message]:
    """Join neighbouring turns of one speaker: many chat templates want speakers to take turns."""
    last: Message | None = None
    for message in messages:
        if last is not None and last.role is message.role and message.role is not Role.SYSTEM:
            last = replace(last, parts=(*last.parts, Text("\n"), *message.parts))
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _instructed(messages: list[Message], text: str) -> list[Message]:
    """Append the instructions to the system prompt, where they stay the same from step to step."""
    for index, message in enumerate(messages):
        if message.role is Role.SYSTEM:
            told = replace(message, parts=(*message.parts, Text(f"\n\n{text}")))
            return [*messages[:index], told, *messages[index + 1 :]]
    return [Message(Role.SYSTEM, (Text(text),)), *messages]


def _instructions(tools: tuple[Tool, ...], answer: str) -> str:
    lines = ["Write exactly one JSON object that says what to do next. You may use these tools:"]
    for tool in tools:
        schema = mapping_of(parse(tool.parameters))
        required = [name for name in list_of(schema.get("required")) if isinstance(name, str)]
        takes = ", ".join(
            f"{name}{'' if name in required else '?'}: {_kind(mapping_of(about))}"
            for name, about in mapping_of(schema.get("properties")).items()
        )
        lines.append(f"- {tool.name}({takes}): {tool.description}" if tool.description else f"- {tool.name}({takes})")
    lines.append('To use a tool: {"tool": its name, "arguments": {its arguments}}. You will then see what it returned.')
    if answer:
        lines.append(
            f'To reply to the user instead: {{"tool": "{answer}", "arguments": {{"text": your reply}}}}. '
            "Do that as soon as you know enough, or when you need to ask the user something. "
            "Use only what the user said and what tools returned; never make up an argument."
        )
    return "\n".join(lines)


def _kind(about: Mapping[str, JSON]) -> str:
    choices = about.get("enum")
    if isinstance(choices, list):
        return " | ".join(dump(choice).decode() for choice in choices)
    kind = about.get("type", "any")
    if kind == "array":
        return f"[{_kind(mapping_of(about.get('items')))}]"
    return kind if isinstance(kind, str) else "any"
