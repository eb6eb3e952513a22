"""OpenTelemetry spans with the GenAI conventions, as JSON: OTLP (`{"resourceSpans": …}`) or one span a line.

Spans of chats are the model calls. The prompt is read from `gen_ai.input.messages` and `gen_ai.output.messages`, from
the older events (`gen_ai.user.message`, …, `gen_ai.choice`) or from numbered attributes (`gen_ai.prompt.0.role`). A
session is `gen_ai.conversation.id` or `session.id`, else the trace. A span without its messages (capturing them is
off by default) can't be replayed, and is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from waywiser.core.calls import Origin, Reply, Tool, Usage
from waywiser.errors import BadInput
from waywiser.replay.chat_logs import dollars
from waywiser.replay.recording import Problem, Recorded, Session
from waywiser.replay.spool import Spool
from waywiser.replay.trajectories import count, instant, mended, tools_used
from waywiser.upstream.openai_inbound import read_messages, read_tools
from waywiser.upstream.wire import dump

_CHATS = frozenset({"chat", "text_completion", "generate_content", "completion"})
_SESSION_KEYS = ("gen_ai.conversation.id", "session.id", "gen_ai.session.id", "langsmith.trace.session_id", "thread_id")
_EVENT_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a span from the other formats."""
    return "attributes" in record and ("traceId" in record or "trace_id" in record or "context" in record)


def unpacked(document: Mapping[str, Any]) -> list[Any]:
    """Take the spans out of an OTLP document."""
    spans: list[Any] = []
    for resource in document.get("resourceSpans") or ():
        for scope in resource.get("scopeSpans") or ():
            spans.extend(scope.get("spans") or ())
    return spans


def session_of(record: Mapping[str, Any], spool: Spool) -> str | None:  # noqa: ARG001 - every format is asked alike
    """Name the session of a model call; None for another kind of span."""
    told = _attributes(record)
    operation = told.get("gen_ai.operation.name")
    if operation not in _CHATS and not (operation is None and "gen_ai.request.model" in told):
        return None
    trace = record.get("traceId") or record.get("trace_id") or _object(record.get("context")).get("trace_id")
    return next((str(name) for name in (*(told.get(key) for key in _SESSION_KEYS), trace) if name), None)


def read_session(records: Sequence[tuple[str, Mapping[str, Any]]], tools: tuple[Tool, ...]) -> Session | Problem:
    """Read the calls of one session in the order of their times. Raises `BadInput` with the place of a broken one."""
    calls = []
    for place, record in records:
        try:
            calls.append(_call(record, tools))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
    calls.sort(key=lambda call: call.at_s or 0.0)
    return Session(session_of(records[0][1], Spool()) or records[0][0], records[0][0], tuple(calls))


def _call(record: Mapping[str, Any], tools: tuple[Tool, ...]) -> Recorded:
    told = _attributes(record)
    history, answers = _said(record, told)
    if not history or not answers:
        raise BadInput("the span holds no messages (capturing them was off)")
    turns = read_messages(mended([*history, answers[0]]))
    asked, answer = turns[:-1], turns[-1]
    model = str(told.get("gen_ai.response.model") or told.get("gen_ai.request.model") or "")
    return Recorded(
        asked,
        len(asked),
        Reply(answer.parts, answer.tool_calls),
        model,
        _tools(told) or tools or tools_used(turns),
        origin=Origin(node=str(told.get("langgraph.node") or told.get("gen_ai.agent.name") or "")),
        usage=_usage(told),
        cost_nanos=dollars(told.get("gen_ai.usage.cost")),
        at_s=_ended(record),
    )


def _said(record: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Find the prompt and the answers of a span, in the OpenAI dialect."""
    asked, said = _parsed(told.get("gen_ai.input.messages")), _parsed(told.get("gen_ai.output.messages"))
    if asked or said:
        system = _parsed(told.get("gen_ai.system_instructions"))
        first = [{"role": "system", "parts": system}] if isinstance(system, list) and system else []
        return _turns([*first, *_list(asked)]), _turns(_list(said), role="assistant")
    history, answers = _events(record)
    if history or answers:
        return history, answers
    return list(_numbered(told, "gen_ai.prompt")), list(_numbered(told, "gen_ai.completion"))


def _turns(raw: list[Any], role: str = "") -> list[dict[str, Any]]:
    """Turn messages made of parts into the OpenAI dialect: a tool's answers become turns of their own."""
    turns: list[dict[str, Any]] = []
    for entry in raw:
        message = _object(entry)
        text: list[str] = []
        calls: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for part in _list(message.get("parts")):
            kind = _object(part).get("type")
            if kind == "text":
                text.append(str(part.get("content") or ""))
            elif kind == "tool_call":
                calls.append(_tool_call(part))
            elif kind == "tool_call_response":
                answer = part.get("response", part.get("result"))
                content = answer if isinstance(answer, str) else dump(answer).decode()
                results.append({"role": "tool", "tool_call_id": part.get("id"), "content": content})
        if "parts" not in message and isinstance(message.get("content"), str):
            text.append(message["content"])
        if results:
            turns.extend(results)
        if text or calls or not results:
            turn: dict[str, Any] = {"role": message.get("role") or role, "content": "\n".join(text)}
            turns.append(turn | ({"tool_calls": calls} if calls else {}))
    return turns


def _events(record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    history: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for event in _list(record.get("events")):
        name = str(_object(event).get("name") or "")
        told = _attributes(event)
        body = _object(_parsed(told.get("body"))) or _object(event.get("body")) or told
        if name == "gen_ai.choice":
            message = _object(_parsed(body.get("message"))) or body
            answers.append(_from_event("assistant", message))
        elif name.startswith("gen_ai.") and name.endswith(".message"):
            role = _EVENT_ROLES.get(name.split(".")[1])
            if role:
                history.append(_from_event(role, body))
    return history, answers


def _from_event(role: str, body: Mapping[str, Any]) -> dict[str, Any]:
    calls = [_tool_call(call) for call in _list(_parsed(body.get("tool_calls")))]
    content = body.get("content")
    turn: dict[str, Any] = {
        "role": role,
        "content": content if isinstance(content, str) else dump(content or "").decode(),
    }
    if not content:
        turn["content"] = ""
    if role == "tool":
        turn["tool_call_id"] = body.get("id") or body.get("tool_call_id")
    return turn | ({"tool_calls": calls} if calls else {})


def _numbered(told: Mapping[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    index = 0
    while (role := told.get(f"{prefix}.{index}.role")) is not None:
        turn: dict[str, Any] = {"role": role, "content": told.get(f"{prefix}.{index}.content") or ""}
        if role == "tool":
            turn["tool_call_id"] = told.get(f"{prefix}.{index}.tool_call_id")
        calls: list[dict[str, Any]] = []
        while (name := told.get(f"{prefix}.{index}.tool_calls.{len(calls)}.name")) is not None:
            at = f"{prefix}.{index}.tool_calls.{len(calls)}"
            calls.append(
                _tool_call({"id": told.get(f"{at}.id"), "name": name, "arguments": told.get(f"{at}.arguments")})
            )
        yield turn | ({"tool_calls": calls} if calls else {})
        index += 1


def _tool_call(raw: Any) -> dict[str, Any]:
    call = _object(raw)
    told = _object(call.get("function")) or call
    arguments = told.get("arguments")
    text = arguments if isinstance(arguments, str) else dump(arguments if arguments is not None else {}).decode()
    return {"id": call.get("id"), "type": "function", "function": {"name": told.get("name"), "arguments": text}}


def _tools(told: Mapping[str, Any]) -> tuple[Tool, ...]:
    raw = _parsed(told.get("gen_ai.tool.definitions"))
    return read_tools(
        [entry if "function" in _object(entry) else {"type": "function", "function": entry} for entry in _list(raw)]
    )


def _usage(told: Mapping[str, Any]) -> Usage | None:
    asked = count(told.get("gen_ai.usage.input_tokens", told.get("gen_ai.usage.prompt_tokens")))
    said = count(told.get("gen_ai.usage.output_tokens", told.get("gen_ai.usage.completion_tokens")))
    if not asked or said is None:
        return None
    cached = count(told.get("gen_ai.usage.cache_read.input_tokens")) or 0
    written = count(told.get("gen_ai.usage.cache_creation.input_tokens")) or 0
    return Usage(asked, said, min(cached, asked), min(written, asked))


def _ended(record: Mapping[str, Any]) -> float | None:
    for key in ("endTimeUnixNano", "startTimeUnixNano"):
        raw = record.get(key)
        if isinstance(raw, int) or (isinstance(raw, str) and raw.isdigit()):
            return int(raw) / 1e9
    return instant(record.get("end_time")) or instant(record.get("start_time"))


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read attributes, a plain object or OTLP's list of typed values."""
    raw = record.get("attributes")
    if isinstance(raw, dict):
        return raw
    return {str(entry.get("key")): _value(entry.get("value")) for entry in _list(raw) if isinstance(entry, dict)}


def _value(raw: Any) -> Any:
    value = _object(raw)
    if "intValue" in value:
        return int(value["intValue"])
    if "arrayValue" in value:
        return [_value(entry) for entry in _list(_object(value["arrayValue"]).get("values"))]
    if "kvlistValue" in value:
        values = _list(_object(value["kvlistValue"]).get("values"))
        return {str(entry.get("key")): _value(entry.get("value")) for entry in values}
    return next(iter(value.values()), None)


def _parsed(raw: Any) -> Any:
    if not isinstance(raw, str):
        return raw
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _object(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _list(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else []
