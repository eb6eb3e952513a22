"""LangSmith run exports: one run a line (or an array of runs). Runs of type `llm` are the model calls.

A call's session is its thread (`metadata.thread_id`, `session_id` or `conversation_id`), else its trace. Messages come
as LangChain writes them (`{"lc": 1, "kwargs": …}`, `{"type": "human", "data": …}`) or in the OpenAI dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waywiser.core.calls import Origin, Reply, Tool, Usage
from waywiser.errors import BadInput
from waywiser.replay.chat_logs import dollars, read_usage
from waywiser.replay.recording import Problem, Recorded, Session
from waywiser.replay.spool import Spool
from waywiser.replay.trajectories import count, instant, mended, tools_used
from waywiser.upstream.openai_inbound import read_messages, read_tools
from waywiser.upstream.wire import dump

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "chat": "user"}
_CLASSES = {
    "HumanMessage": "user",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessage": "system",
    "ToolMessage": "tool",
    "FunctionMessage": "tool",
}


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a LangSmith run from the other formats."""
    return "run_type" in record


def session_of(record: Mapping[str, Any], spool: Spool) -> str | None:  # noqa: ARG001 - every format is asked alike
    """Name the session of a model call; None for another kind of run. Raises `BadInput` for a run that failed."""
    if record.get("run_type") != "llm":
        return None
    if record.get("error"):
        raise BadInput("the run failed: no answer to replay")
    metadata = _metadata(record)
    names = [metadata.get(key) for key in ("thread_id", "session_id", "conversation_id")]
    names += [record.get("trace_id"), record.get("parent_run_id"), record.get("id")]
    return next((str(name) for name in names if name), None)


def read_session(records: Sequence[tuple[str, Mapping[str, Any]]], tools: tuple[Tool, ...]) -> Session | Problem:
    """Read the calls of one session in the order of their times. Raises `BadInput` with the place of a broken one."""
    calls = []
    for place, record in records:
        try:
            calls.append((instant(record.get("start_time")) or 0.0, _call(record, tools)))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
    calls.sort(key=lambda entry: entry[0])
    first = records[0][1]
    name = session_of(first, Spool()) or records[0][0]
    return Session(name, records[0][0], tuple(call for _, call in calls))


def _call(record: Mapping[str, Any], tools: tuple[Tool, ...]) -> Recorded:
    inputs, outputs = _object(record.get("inputs")), _object(record.get("outputs"))
    extra = _object(record.get("extra"))
    told, metadata = _object(extra.get("invocation_params")), _metadata(record)
    history = [_turn(raw) for raw in _flat(inputs.get("messages"))]
    if not history:
        raise BadInput("inputs.messages: missing")
    message, raw_usage = _answer(outputs)
    turns = read_messages(mended([*history, {**message, "role": "assistant"}]))
    asked, answer = turns[:-1], turns[-1]
    model = metadata.get("ls_model_name") or told.get("model") or told.get("model_name") or ""
    node = metadata.get("langgraph_node")
    return Recorded(
        asked,
        len(asked),
        Reply(answer.parts, answer.tool_calls),
        str(model),
        _tools(told.get("tools")) or tools or tools_used(turns),
        origin=Origin(node=node if isinstance(node, str) else ""),
        usage=_usage(raw_usage, record),
        cost_nanos=dollars(record.get("total_cost")),
        at_s=instant(record.get("end_time")) or instant(record.get("start_time")),
    )


def _answer(outputs: Mapping[str, Any]) -> tuple[dict[str, Any], object]:
    """Find the answer and its usage in what a run put out."""
    generation: Any = outputs.get("generations")
    while isinstance(generation, list):
        generation = generation[0] if generation else None
    raw: Any = generation.get("message") if isinstance(generation, dict) else None
    raw = raw or outputs.get("message") or outputs.get("output")
    if isinstance(outputs.get("choices"), list) and outputs["choices"]:
        raw = raw or _object(outputs["choices"][0]).get("message")
    if not isinstance(raw, dict):
        raw = next(iter(reversed(_flat(outputs.get("messages")))), None)
    if not isinstance(raw, dict):
        raise BadInput("outputs: no message")
    kwargs = _object(raw.get("kwargs")) or _object(raw.get("data")) or raw
    usage = kwargs.get("usage_metadata") or outputs.get("usage") or outputs.get("usage_metadata")
    usage = usage or _object(outputs.get("llm_output")).get("token_usage")
    return _turn(raw), usage


def _turn(raw: Any) -> dict[str, Any]:
    """Write a turn in the OpenAI dialect. Raises `BadInput`."""
    if isinstance(raw, list) and len(raw) == 2 and isinstance(raw[0], str):
        raw = {"type": raw[0], "content": raw[1]}
    if not isinstance(raw, dict):
        raise BadInput("messages: expected objects")
    said = _object(raw.get("kwargs")) or _object(raw.get("data")) or raw
    kinds = raw.get("id") if isinstance(raw.get("id"), list) else []
    role = raw.get("role") or said.get("role") or _CLASSES.get(str(kinds[-1]) if kinds else "")
    kind = str(said.get("type") or raw.get("type") or "")
    role = role or _ROLES.get(kind, kind)
    extra = _object(said.get("additional_kwargs"))
    calls = [_tool_call(call) for call in said.get("tool_calls") or extra.get("tool_calls") or ()]
    turn: dict[str, Any] = {"role": role, "content": _text(said.get("content"))}
    if calls:
        turn["tool_calls"] = calls
    if said.get("tool_call_id"):
        turn["tool_call_id"] = said["tool_call_id"]
    return turn


def _tool_call(raw: Any) -> dict[str, Any]:
    call = _object(raw)
    if "function" in call:
        return {"id": call.get("id"), "type": "function", "function": call["function"]}
    function = {"name": call.get("name"), "arguments": dump(_object(call.get("args"))).decode()}
    return {"id": call.get("id"), "type": "function", "function": function}


def _text(content: Any) -> Any:
    """Keep the blocks that every model reads; tool calls are told of beside the content."""
    if not isinstance(content, list):
        return "" if content is None else content
    return [
        block
        for block in content
        if isinstance(block, str) or (isinstance(block, dict) and block.get("type") in {"text", "image_url"})
    ]


def _usage(raw: object, record: Mapping[str, Any]) -> Usage | None:
    told = _object(raw)
    details = _object(told.get("input_token_details"))
    usage = read_usage(told) or read_usage(record)
    if usage is None or not details:
        return usage
    cached, written = count(details.get("cache_read")) or 0, count(details.get("cache_creation")) or 0
    reasoning = count(_object(told.get("output_token_details")).get("reasoning")) or 0
    return Usage(usage.input_tokens, usage.output_tokens, cached, written, reasoning)


def _tools(raw: Any) -> tuple[Tool, ...]:
    """Read tools in the OpenAI form; Anthropic's (`input_schema`) are turned into it."""
    if not isinstance(raw, list):
        return ()
    turned = []
    for tool in raw:
        entry = _object(tool)
        if "input_schema" in entry:
            about = {"name": entry.get("name"), "description": entry.get("description")}
            entry = {"type": "function", "function": {**about, "parameters": entry["input_schema"]}}
        turned.append(entry)
    return read_tools(turned)


def _metadata(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(_object(record.get("extra")).get("metadata")) or _object(record.get("metadata"))


def _object(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _flat(raw: Any) -> list[Any]:
    """Unpack the list of one history that LangChain writes around it."""
    if not isinstance(raw, list):
        return []
    return raw[0] if len(raw) == 1 and isinstance(raw[0], list) else raw
