"""Log-probabilities of LangChain models: asked of the classes that take the question, read from what they answer."""

from __future__ import annotations

from typing import Any, get_args

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from waywiser.core.calls import Call
from waywiser.core.models import Model
from waywiser.upstream.openai_replies import decode_logprobs
from waywiser.upstream.openai_wire import asks_logprobs, quirks_of

_KEY = "logprobs"


def asking(chat: BaseChatModel, model: Model, call: Call, *, stream: bool) -> dict[str, Any]:
    """The arguments that ask `chat` for log-probabilities; none where nobody wants them or its class has no such field.

    ChatOpenAI and those built on it have a field `logprobs` that is true or false. Others that have one mean a number
    by it, and tell what they find in forms of their own.
    """
    fields = type(chat).model_fields
    kind = fields[_KEY].annotation if _KEY in fields else None
    alternatives = asks_logprobs(call, quirks_of(model), stream=stream)
    if alternatives is None or bool not in (get_args(kind) or (kind,)):
        return {}
    return {_KEY: True} | ({"top_logprobs": alternatives} if alternatives and "top_logprobs" in fields else {})


def read_logprobs(message: AIMessage, thinking: str = "") -> tuple[float, ...]:
    """The log-probability of each token of a message, or of a chunk of one, where its model tells them."""
    return decode_logprobs(message.response_metadata.get(_KEY), thinking)
