"""The tool loop: a small graph in which a model calls tools until it has no more to call, or its turns are over.

Its last turn is made without tools, so that it always ends in words. It's a graph of its own, not a loop in a function,
so that every step is checkpointed, streamed and drawn, and a tool may interrupt without a model call being repeated.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, InvalidToolCall, ToolCall, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from waywiser.errors import RoutingRefused
from waywiser.langgraph.context import CALLS_KEY, KIND_KEY, VISITS_KEY
from waywiser.workflow import prompts
from waywiser.workflow.asking import Ask, State, Update, as_node
from waywiser.workflow.deadline import Late, awithin, in_thread, within
from waywiser.workflow.state import Builder, Compiled, Messages, schema_of

Result = ToolMessage | Command[Any]


class Turn(TypedDict):
    """What a running loop knows besides the state around it: which turn it's in."""

    loop_turn: int


@dataclass(frozen=True, slots=True)
class Loop:
    """What a loop is made of. `prompt` is filled from the state it runs on; `kind` is declared by its model calls."""

    name: str
    model: BaseChatModel
    tools: Sequence[BaseTool]
    turns: int
    kind: str
    prompt: str

    def compiled(self, schema: type) -> Compiled:
        """Make the graph, on states of `schema`; it gives back messages only."""
        graph: Builder = StateGraph(schema_of("LoopState", schema, Turn), input_schema=schema, output_schema=Messages)
        metadata = {KIND_KEY: self.kind, CALLS_KEY: 1, VISITS_KEY: self.turns}
        graph.add_node("model", as_node("model", self._turn()), metadata=metadata)
        graph.add_edge(START, "model")
        if not self.tools:
            graph.add_edge("model", END)
            return graph.compile(name=self.name)
        graph.add_node("tools", _tool_node(self.tools))
        graph.add_edge("tools", "model")
        graph.add_conditional_edges("model", self._way, ["tools", "model", END])
        return graph.compile(name=self.name)

    def _turn(self) -> Callable[[State], Generator[Ask, object, Update]]:
        bound: dict[tuple[frozenset[str], bool], Runnable[list[AnyMessage], object]] = {}

        def bind(names: frozenset[str], *, last: bool) -> Runnable[list[AnyMessage], object]:
            if (names, last) not in bound:
                tools = [tool for tool in self.tools if tool.name in names]
                choice: dict[str, str] = {"tool_choice": "none"} if last else {}
                bound[names, last] = self.model.bind_tools(tools, **choice) if tools else self.model
            return bound[names, last]

        def body(state: State) -> Generator[Ask, object, Update]:
            turn = int(str(state.get("loop_turn") or 0)) + 1
            last = turn >= self.turns and bool(self.tools)
            prompt = prompts.filled(self.prompt, state)
            prompt = f"{prompt}\n\n{prompts.LAST_TURN}" if last else prompt
            names = frozenset(tool.name for tool in self.tools).intersection(_allowed(state, self.tools))
            kind = "synthesis" if last and turn > 1 and self.kind == "tool_call" else self.kind
            said = yield Ask(bind(names, last=last), prompts.to_model(prompt, prompts.messages_of(state)), kind)
            reply = said if isinstance(said, AIMessage) else AIMessage(str(said))
            return {"messages": [reply, *_told(reply, last=last)], "loop_turn": turn}

        return body

    def _way(self, state: State) -> Literal["tools", "model", "__end__"]:
        messages = prompts.messages_of(state)
        reply = next(message for message in reversed(messages) if isinstance(message, AIMessage))
        if int(str(state.get("loop_turn") or 0)) >= self.turns:
            return "__end__"
        return "tools" if reply.tool_calls else "model" if reply.invalid_tool_calls else "__end__"


def _allowed(state: State, tools: Sequence[BaseTool]) -> list[str]:
    allowed = state.get("allowed") if isinstance(state, Mapping) else None
    return [str(name) for name in allowed] if isinstance(allowed, list) else [tool.name for tool in tools]


def _told(reply: AIMessage, *, last: bool) -> list[ToolMessage]:
    """Answer calls that can't be made: a history with calls that nobody answered is refused by most providers."""
    unread: list[InvalidToolCall | ToolCall] = [*reply.invalid_tool_calls]
    reason = "The arguments are not valid JSON."
    if last:
        unread, reason = [*unread, *reply.tool_calls], "Not called: there are no turns left."
    return [
        ToolMessage(reason, tool_call_id=call["id"], name=call["name"], status="error") for call in unread if call["id"]
    ]


def _tool_node(tools: Sequence[BaseTool]) -> ToolNode:
    return ToolNode(
        [_cancellable(tool) for tool in tools],
        handle_tool_errors=_explained,
        wrap_tool_call=_call,
        awrap_tool_call=_acall,
    )


def _explained(error: Exception) -> str:
    """Tell the model what went wrong in a tool. What stops the run, or the sub-task, is not for the model."""
    if isinstance(error, RoutingRefused | Late):
        raise error
    return f"Error: {error}"


def _call(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Result]) -> Result:
    refusal = _forbidden(request)
    return within(lambda: execute(request)) if refusal is None else refusal


async def _acall(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[Result]]) -> Result:
    refusal = _forbidden(request)
    return await awithin(execute(request)) if refusal is None else refusal


def _forbidden(request: ToolCallRequest) -> ToolMessage | None:
    """Refuse a tool that exists and that this sub-task may not use."""
    call, state = request.tool_call, request.state
    allowed = state.get("allowed") if isinstance(state, Mapping) else None
    if not isinstance(allowed, list) or call["name"] in allowed:
        return None
    return ToolMessage(
        f"Error: {call['name']} may not be used here.", tool_call_id=call["id"], name=call["name"], status="error"
    )


def _cancellable(tool: BaseTool) -> BaseTool:
    """Give a blocking tool a coroutine with a thread of its own, so that a call that hangs can be left behind."""
    if not isinstance(tool, StructuredTool) or tool.coroutine is not None or tool.func is None:
        return tool
    func = tool.func

    async def coroutine(*args: object, **kwargs: object) -> object:
        return await in_thread(lambda: func(*args, **kwargs))

    coroutine.__signature__ = inspect.signature(func)  # type: ignore[attr-defined]  # inspect reads it
    coroutine.__annotations__ = func.__annotations__
    return tool.model_copy(update={"coroutine": coroutine})
