"""When a call may leave LangChain's ceremony out: nobody listens to it.

`BaseChatModel.invoke` describes a call to handlers and tracers, asks a cache, waits for a rate limiter, and bends what
comes back to an output version: a fifth of the time of a routed call. With no handler, cache or limiter there, all of
it tells nobody anything. LangChain itself is asked who listens, so that tracing by environment, `set_debug`, usage
callbacks and LangGraph's message streams are heard as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_core.utils.uuid import uuid7


def hearing(model: BaseChatModel, config: RunnableConfig) -> dict[str, Any]:
    """Return what a callback manager is configured with, to find out who would hear a call."""
    return {
        "inheritable_callbacks": config.get("callbacks"),
        "local_callbacks": model.callbacks,
        "verbose": model.verbose,
        "inheritable_tags": config.get("tags"),
        "local_tags": model.tags,
        "inheritable_metadata": config.get("metadata"),
        "local_metadata": model.metadata,
    }


def unheard(
    model: BaseChatModel, given: LanguageModelInput, heard: BaseCallbackManager, kwargs: Mapping[str, Any]
) -> list[BaseMessage] | None:
    """Return the history of a call that nobody listens to, or None where LangChain has something to do.

    Contents that are not plain text are LangChain's, too: it turns older forms of them into today's.
    """
    if (
        heard.handlers
        or model.cache
        or model.rate_limiter
        or model.output_version == "v1"
        or "stream" in kwargs
        or (model.cache is None and get_llm_cache() is not None)
    ):
        return None
    if isinstance(given, PromptValue):
        messages = given.to_messages()
    elif isinstance(given, str):
        messages = [HumanMessage(given)]
    elif isinstance(given, Sequence):
        messages = convert_to_messages(given)
    else:
        return None
    return messages if all(isinstance(message.content, str) for message in messages) else None


def named(message: AIMessage, config: RunnableConfig) -> AIMessage:
    """Give a message the id that it would have had from its run."""
    message.id = f"{LC_ID_PREFIX}-{config.get('run_id') or uuid7()}-0"
    return message
