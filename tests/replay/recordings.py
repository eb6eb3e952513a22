"""One small session, written in every format that the backtest reads."""

import json
from typing import Any

SYSTEM = {"role": "system", "content": "You help customers of a shop that sells tents."}
ASK = {"role": "user", "content": "Has order W7 left the warehouse?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"order": "W7"}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"order": "W7", "state": "sent on Tuesday"}'}
ANSWER = {"role": "assistant", "content": "Yes, W7 left the warehouse on Tuesday."}
MESSAGES = [SYSTEM, ASK, CALL, RESULT, ANSWER]
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Find an order",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
    },
}
USAGES = ((2000, 25), (2100, 18))
TIMES = ("2026-03-01T10:00:05+00:00", "2026-03-01T10:00:09+00:00")


def trajectory(name: str = "t1", **more: Any) -> dict[str, Any]:
    steps = [
        {"prompt_tokens": asked, "completion_tokens": said, "cost": 0.001 * (number + 1), "ts": at}
        for number, ((asked, said), at) in enumerate(zip(USAGES, TIMES, strict=True))
    ]
    meta = {"simulation_id": name, "termination": "user_stop", "steps": steps}
    base = {"model": "gpt-4.1-mini", "task_id": "7", "success": True, "messages": MESSAGES, "tools": [TOOL]}
    return {**base, "meta": meta, **more}


def chats(session: str | None = "t1", cached: int = 0) -> list[dict[str, Any]]:
    lines = []
    for number, (history, answer) in enumerate(((MESSAGES[:2], CALL), (MESSAGES[:4], ANSWER))):
        asked, said = USAGES[number]
        usage: dict[str, Any] = {"prompt_tokens": asked, "completion_tokens": said}
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
        line: dict[str, Any] = {
            "request": {"model": "gpt-4.1-mini", "messages": history, "tools": [TOOL]},
            "response": {"model": "gpt-4.1-mini-2025-04-14", "choices": [{"message": answer}], "usage": usage},
            "timestamp": TIMES[number],
        }
        lines.append(line if session is None else {**line, "session": session})
    return lines


def langsmith(session: str = "t1") -> list[dict[str, Any]]:
    def lc(name: str, **kwargs: Any) -> dict[str, Any]:
        return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": kwargs}

    called = [{"name": "find_order", "args": {"order": "W7"}, "id": "call_1", "type": "tool_call"}]
    turns = [
        lc("SystemMessage", content=SYSTEM["content"], type="system"),
        lc("HumanMessage", content=ASK["content"], type="human"),
        lc("AIMessage", content="", type="ai", tool_calls=called),
        lc("ToolMessage", content=RESULT["content"], type="tool", tool_call_id="call_1"),
        lc("AIMessage", content=ANSWER["content"], type="ai"),
    ]
    runs: list[dict[str, Any]] = [{"id": "chain", "run_type": "chain", "inputs": {}, "outputs": {}}]
    for number, (length, (asked, said)) in enumerate(zip((2, 4), USAGES, strict=True)):
        answer = json.loads(json.dumps(turns[length]))
        answer["kwargs"]["usage_metadata"] = {"input_tokens": asked, "output_tokens": said}
        runs.append(
            {
                "id": f"run-{number}",
                "run_type": "llm",
                "trace_id": "trace",
                "start_time": TIMES[number],
                "end_time": TIMES[number],
                "inputs": {"messages": [turns[:length]]},
                "outputs": {"generations": [[{"text": "", "message": answer}]]},
                "extra": {
                    "metadata": {"thread_id": session, "ls_model_name": "gpt-4.1-mini", "langgraph_node": "agent"},
                    "invocation_params": {"tools": [TOOL]},
                },
            }
        )
    return runs


def spans(session: str = "t1") -> dict[str, Any]:
    def text(role: str, content: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": content}]}

    called = {"type": "tool_call", "id": "call_1", "name": "find_order", "arguments": {"order": "W7"}}
    turns = [
        text("user", ASK["content"]),
        {"role": "assistant", "parts": [called]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": RESULT["content"]}]},
        text("assistant", ANSWER["content"]),
    ]
    out = []
    for number, (length, (asked, said)) in enumerate(zip((1, 3), USAGES, strict=True)):
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": session,
            "gen_ai.request.model": "gpt-4.1-mini",
            "gen_ai.usage.input_tokens": asked,
            "gen_ai.usage.output_tokens": said,
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": SYSTEM["content"]}]),
            "gen_ai.input.messages": json.dumps(turns[:length]),
            "gen_ai.output.messages": json.dumps([turns[length]]),
            "gen_ai.tool.definitions": json.dumps([{"type": "function", **TOOL["function"]}]),
        }
        typed = [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in attributes.items()
        ]
        out.append(
            {
                "traceId": "abc",
                "spanId": str(number),
                "name": "chat",
                "endTimeUnixNano": str(1772359205000000000 + number * 4_000_000_000),
                "attributes": typed,
            }
        )
    other = {"traceId": "abc", "name": "execute_tool", "attributes": [{"key": "x", "value": {"stringValue": "y"}}]}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [out[0], other, out[1]]}]}]}
