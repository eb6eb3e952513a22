"""A hand-written agent loop: one model, its tools, until it answers in text. What the graphs do, without LangGraph."""

from __future__ import annotations

import json
from collections.abc import Sequence

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from waywiser.core.calls import Call, Tool
from waywiser.core.messages import Message, system, tool_result, user
from waywiser.core.models import Model
from waywiser.upstream.simulated import simulate

SYSTEM = (
    "You are the support agent of a small outdoor shop. Use the tools; change nothing the customer did not ask for."
)


def count(text: str) -> int:
    return len(text) // 4 + 1


def offered(tools: Sequence[BaseTool]) -> tuple[Tool, ...]:
    functions = [convert_to_openai_tool(tool)["function"] for tool in tools]
    return tuple(Tool(f["name"], f["description"], json.dumps(f["parameters"])) for f in functions)


def converse(model: Model, tools: Sequence[BaseTool], *said: str, turns: int = 12) -> list[Message]:
    """Let each message of the customer be answered in turn; the history ends with the model's last text."""
    by_name = {tool.name: tool for tool in tools}
    history = [system(SYSTEM)]
    for text in said:
        history.append(user(text))
        for _ in range(turns):
            reply = simulate(model, Call("1", tuple(history), tools=offered(tools)), count)
            history.append(reply.as_message(model.name))
            if not reply.tool_calls:
                break
            history += [_run(by_name[call.name], call.id, call.arguments) for call in reply.tool_calls]
        else:
            raise AssertionError(f"no answer after {turns} turns")
    return history


def _run(tool: BaseTool, call_id: str, arguments: str) -> Message:
    try:
        done = tool.invoke({"type": "tool_call", "id": call_id, "name": tool.name, "args": json.loads(arguments)})
    except ValueError as error:  # arguments that do not fit the schema
        return tool_result(call_id, f"Error: {error}", name=tool.name, is_error=True)
    assert isinstance(done, ToolMessage)
    return tool_result(call_id, str(done.content), name=tool.name, is_error=done.status == "error")
