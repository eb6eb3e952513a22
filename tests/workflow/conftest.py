"""A deterministic chat model whose answers a test writes as a function of what it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, ensure_config
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field


class Asked:
    """What a model was asked: messages, the names of the tools offered, the choice of tool, and the metadata."""

    def __init__(self, messages: list[BaseMessage], tools: list[dict[str, Any]], choice: str, kind: str, node: str):
        self.messages, self.choice, self.kind, self.node = messages, choice, kind, node
        self.tools = [item["function"]["name"] for item in tools]
        self.schemas = {item["function"]["name"]: item["function"]["parameters"] for item in tools}
        self.system = str(messages[0].content)
        self.results = [str(message.content) for message in messages if message.type == "tool"]
        self.last = str(messages[-1].content)


class Fake(BaseChatModel):
    """Answers by a function; keeps what it was asked."""

    answer: Callable[[Asked], AIMessage | str | dict[str, Any]]
    asked: list[Any] = Field(default_factory=list)
    lock: Any = None

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Runnable[Any, Any]:
        return self.bind(tools=[convert_to_openai_tool(item) for item in tools], tool_choice=tool_choice or "")

    def _reply(self, messages: list[BaseMessage], run_manager: Any, kwargs: dict[str, Any]) -> AIMessage:
        metadata = run_manager.metadata if run_manager else ensure_config().get("metadata") or {}
        kind, node = str(metadata.get("waywiser_kind", "")), str(metadata.get("langgraph_node", ""))
        asked = Asked(messages, kwargs.get("tools", []), kwargs.get("tool_choice", ""), kind, node)
        with self.lock:
            self.asked.append(asked)
        said = self.answer(asked)
        if isinstance(said, dict):  # the arguments of the only tool, as in a structured answer
            call = {"name": asked.tools[0], "args": said, "id": f"c{len(self.asked)}"}
            return AIMessage("", tool_calls=[call])
        return AIMessage(said) if isinstance(said, str) else said

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, run_manager, kwargs))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        reply = self._reply(messages, run_manager, kwargs)
        words = str(reply.content).split(" ") if reply.content else []
        for index, word in enumerate(words):
            text = word if index == 0 else f" {word}"
            chunk = ChatGenerationChunk(message=AIMessageChunk(text))
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        calls = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": index}
            for index, call in enumerate(reply.tool_calls)
        ]
        if calls or not words:
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=calls))

    @property
    def _llm_type(self) -> str:
        return "fake"


@pytest.fixture
def fake() -> Callable[..., Fake]:
    """Make a chat model of a function."""
    return lambda answer: Fake(answer=answer, asked=[], lock=threading.Lock())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a workflow file."""

    def written(text: str, name: str = "graph.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


@tool
def look_up(order: str) -> str:
    """Look up an order.

    Args:
        order: Its number.
    """
    return f"order {order}: pending, two lamps"


@tool
def cancel(order: str) -> str:
    """Cancel an order."""
    if order == "W9":
        raise ValueError("it has been sent")
    return f"order {order} is cancelled"


@pytest.fixture
def shop_tools() -> list[Any]:
    """Two toy tools."""
    return [look_up, cancel]
