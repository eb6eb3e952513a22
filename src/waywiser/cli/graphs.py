"""The graphs that the command line runs: a workflow file, or any LangGraph graph in a Python module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.pregel import Pregel

from waywiser.config.objects import load_object
from waywiser.errors import BadInput, ConfigError
from waywiser.langgraph.router import Router
from waywiser.workflow import load_graph


def load_any_graph(name: str, router: Router) -> Pregel[Any, Any, Any, Any]:
    """Load a workflow file, or a graph by `module:object`, with its models routed.

    The object is a compiled graph (every chat model in it is routed from outside), or a function that takes a chat
    model and returns one. Raises `ConfigError` for anything else.
    """
    if ":" not in name or Path(name).is_file():
        return load_graph(name, router.chat_model())
    try:
        found = load_object(name, Path.cwd())
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    if callable(found) and not isinstance(found, Runnable):
        found = found(router.chat_model())
    if hasattr(found, "compile"):
        found = found.compile()
    if isinstance(found, Pregel):
        return router.wrap(found)
    if isinstance(found, BaseChatModel):
        raise ConfigError(f"{name}: a chat model, not a graph; `waywiser route` decides single calls")
    raise ConfigError(f"{name}: expected a LangGraph graph, or a function that takes a chat model and returns one")


def answer_of(graph: Runnable[Any, Any], text: str, session: str) -> str:
    """Run a graph on what a person says, and return the text of its last message."""
    state = graph.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": session}})
    messages = state.get("messages") if isinstance(state, Mapping) else None
    if not messages or not isinstance(messages[-1], BaseMessage):
        raise BadInput("the graph's final state has no `messages`")
    return str(messages[-1].text)
