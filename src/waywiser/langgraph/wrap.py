"""`Router.wrap()`: route every chat model of a compiled graph from outside, without touching the graph.

The wrapped graph is the same graph with one entry more in its config. LangGraph hands that config down to every node,
subgraph and `Send` branch; and from the first `wrap()` of a process on, `BaseChatModel` looks for the entry when it is
called. With it, the call goes through the policy; without it, everything is as before. So a model in a closure, in a
tool or in a prebuilt agent is found, in `invoke`, `ainvoke`, `stream`, `astream`, `batch` and `generate` alike.

What can't be reached from there is refused with the node's name: a node that holds a provider's own client.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from types import CodeType
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.pregel import Pregel

from waywiser.engine import Engine
from waywiser.errors import ConfigError, Place, Problem
from waywiser.langgraph.chat_model import RoutedChatModel

ENTRY = "__waywiser"
_CLIENTS = frozenset({"openai", "anthropic", "litellm", "mistralai", "cohere", "groq", "ollama", "together", "boto3"})
_SETTINGS = ("temperature", "top_p", "max_tokens", "seed")
_COPIED = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p", "seed"})

G = TypeVar("G", bound=Pregel[Any, Any, Any, Any])
_lock = threading.Lock()
_installed = False


@dataclass(frozen=True, slots=True)
class Routing:
    """What the config's entry holds: the engine, and the role of every node of the wrapped graph."""

    engine: Engine
    roles: Mapping[str, str]


def wrap(graph: G, engine: Engine, roles: Mapping[str, str]) -> G:
    """Return the graph with every chat model in it routed by `engine`; `roles` is what `telling_roles` says of it.

    Raises `ConfigError` naming each node that holds a client this can't reach.
    """
    if problems := list(unreachable(graph)):
        raise ConfigError(problems)
    _install()
    return graph.with_config({"configurable": {ENTRY: Routing(engine, roles)}})


def unreachable(graph: Pregel[Any, Any, Any, Any]) -> Iterator[Problem]:
    """Name every node whose function holds a provider's client or a completion model, in subgraphs too."""
    for name, node in graph.nodes.items():
        for held in _held(node.bound):
            module = type(held).__module__.partition(".")[0]
            if module in _CLIENTS:
                what = f"node `{name}` holds a {type(held).__module__}.{type(held).__name__}, whose calls can't be seen"
                yield Problem(Place("graph"), what, "use a LangChain chat model, or point the client at the proxy")
            elif isinstance(held, BaseLLM):
                what = f"node `{name}` holds {type(held).__name__}, a completion model"
                yield Problem(Place("graph"), what, "use the chat model of the same provider")
        for subgraph in node.subgraphs or ():
            if isinstance(subgraph, Pregel):
                yield from unreachable(subgraph)


def _held(bound: object) -> Iterator[object]:
    """Everything a node's function refers to by closure, by global name, by default or by being a method of it."""
    for function in (getattr(bound, "func", None), getattr(bound, "afunc", None)):
        target = getattr(function, "func", function)  # through functools.partial
        yield from getattr(function, "keywords", {}).values()
        yield from getattr(function, "args", ())
        yield from vars(owner).values() if hasattr(owner := getattr(target, "__self__", None), "__dict__") else ()
        yield from getattr(target, "__defaults__", None) or ()
        for cell in getattr(target, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:
                continue
        code = getattr(target, "__code__", None)
        names = getattr(target, "__globals__", {})
        if isinstance(code, CodeType):
            yield from (names[name] for name in _names(code) if name in names)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _install() -> None:
    """Teach `BaseChatModel` to look for the entry, once a process."""
    global _installed  # noqa: PLW0603 - a class of another package is changed at most once
    with _lock:
        if _installed:
            return
        _installed = True
        for name, replacement in (
            ("invoke", _invoke),
            ("ainvoke", _ainvoke),
            ("stream", _stream),
            ("astream", _astream),
            ("_generate_with_cache", _generate),
            ("_agenerate_with_cache", _agenerate),
        ):
            original = getattr(BaseChatModel, name)
            setattr(BaseChatModel, name, wraps(original)(replacement(original)))


def _invoke(original: Callable[..., AIMessage]) -> Callable[..., AIMessage]:
    def invoke(self: BaseChatModel, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:  # noqa: A002 - LangChain's name
        routed = _routed(self, config)
        if routed is None:
            return original(self, input, config, **kwargs)
        return original(routed, input, _own(self, config), **_translated(self, kwargs))

    return invoke


def _ainvoke(original: Callable[..., Any]) -> Callable[..., Any]:
    async def ainvoke(
        self: BaseChatModel,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        message: AIMessage
        routed = _routed(self, config)
        if routed is None:
            message = await original(self, input, config, **kwargs)
        else:
            message = await original(routed, input, _own(self, config), **_translated(self, kwargs))
        return message

    return ainvoke


def _stream(original: Callable[..., Iterator[AIMessageChunk]]) -> Callable[..., Iterator[AIMessageChunk]]:
    def stream(
        self: BaseChatModel,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        routed = _routed(self, config)
        if routed is None:
            yield from original(self, input, config, **kwargs)
        else:
            yield from original(routed, input, _own(self, config), **_translated(self, kwargs))

    return stream


def _astream(original: Callable[..., AsyncIterator[AIMessageChunk]]) -> Callable[..., AsyncIterator[AIMessageChunk]]:
    async def astream(
        self: BaseChatModel,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        routed = _routed(self, config)
        if routed is None:
            stream = original(self, input, config, **kwargs)
        else:
            stream = original(routed, input, _own(self, config), **_translated(self, kwargs))
        async for chunk in stream:
            yield chunk

    return astream


def _generate(original: Callable[..., ChatResult]) -> Callable[..., ChatResult]:
    """Catch what comes in by `generate()`, below `invoke`."""

    def generate(
        self: BaseChatModel,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        target = _routed(self, None) or self
        translated = kwargs if target is self else _translated(self, kwargs)
        return original(target, messages, stop=stop, run_manager=run_manager, **translated)

    return generate


def _agenerate(original: Callable[..., Any]) -> Callable[..., Any]:
    """Catch what comes in by `agenerate()`, below `ainvoke`."""

    async def agenerate(
        self: BaseChatModel,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        target = _routed(self, None) or self
        translated = kwargs if target is self else _translated(self, kwargs)
        result: ChatResult = await original(target, messages, stop=stop, run_manager=run_manager, **translated)
        return result

    return agenerate


def _routed(model: BaseChatModel, config: RunnableConfig | None) -> RoutedChatModel | None:
    """Make the routed model that answers instead of `model` here; None outside wrapped graphs and for our own."""
    if isinstance(model, RoutedChatModel):
        return None
    routing = (ensure_config(config).get("configurable") or {}).get(ENTRY)
    if not isinstance(routing, Routing):
        return None
    settings = {name: value for name in _SETTINGS if (value := getattr(model, name, None)) is not None}
    return RoutedChatModel(engine=routing.engine, roles=routing.roles, callbacks=model.callbacks, **settings)


def _own(model: BaseChatModel, config: RunnableConfig | None) -> RunnableConfig:
    """Add the tags and metadata that the graph's author gave the model to those of the call."""
    merged = ensure_config(config)
    merged["tags"] = [*(merged.get("tags") or []), *(model.tags or [])]
    merged["metadata"] = {**(merged.get("metadata") or {}), **(model.metadata or {})}
    return merged


def _translated(model: BaseChatModel, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a provider's bound arguments what every provider understands. Raises `ConfigError` for the rest.

    Tools are read in OpenAI's and Anthropic's form. Arguments that only steer tracing are passed over.
    """
    kept = {key: value for key, value in kwargs.items() if key in _COPIED or key == "stop"}
    limit = kwargs.get("max_tokens", kwargs.get("max_completion_tokens", kwargs.get("max_output_tokens")))
    if limit is not None:
        kept["max_tokens"] = limit
    ignorable = {"ls_structured_output_format", "strict", "run_manager", "max_tokens", "max_completion_tokens"}
    unknown = sorted(set(kwargs) - set(kept) - ignorable - {"max_output_tokens"})
    if unknown:
        raise ConfigError(
            f"{type(model).__name__} is bound to {', '.join(unknown)}, which can't be carried to another provider; "
            "leave it out, or use Router.chat_model() in that node"
        )
    return kept
