"""`Router.middleware()`: route the model calls of an agent made by LangChain's `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from waywiser.langgraph.chat_model import RoutedChatModel


class RoutingMiddleware(AgentMiddleware[Any, Any]):
    """Sends every model call of the agent through the policy, whatever model the agent was made with.

    Prompts, tools and structured output stay as the agent and the other middleware made them: they bind to the routed
    model after this. Put it first, so that it is the outermost and others see its errors.
    """

    def __init__(self, model: RoutedChatModel) -> None:
        super().__init__()
        self._model = model

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Route one call."""
        return handler(request.override(model=self._model))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Like `wrap_model_call`, for an event loop."""
        return await handler(request.override(model=self._model))
