"""How nodes ask models: a node's body is a generator that yields what it asks and gets the answer sent back.

So each node is written once, and two short drivers make a blocking and an `async` node of it. Every question declares
its step kind under `waywiser_kind` in the metadata of the call, where a router finds it and a plain chat model ignores
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from waywiser.langgraph.context import KIND_KEY
from waywiser.workflow.deadline import awithin, within

if TYPE_CHECKING:
    from waywiser.core.calls import JSON

State: TypeAlias = Mapping[str, object]
Update: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: who is asked (a chat model, tools bound or not), the messages, and the step kind it is."""

    model: Runnable[list[AnyMessage], object]
    messages: list[AnyMessage]
    kind: str


Body: TypeAlias = Callable[[State], Generator[Ask, object, Update]]


def as_node(name: str, body: Body) -> RunnableLambda[Any, Update]:
    """Make a node of a body. It works in `invoke` and in `ainvoke`, and keeps to a deadline where one is set."""

    def node(state: State, config: RunnableConfig) -> Update:
        steps = body(state)
        try:
            ask = next(steps)
            while True:
                ask = steps.send(within(partial(ask.model.invoke, ask.messages, _declared(config, ask.kind))))
        except StopIteration as end:
            return _update(end)
        finally:
            steps.close()

    async def anode(state: State, config: RunnableConfig) -> Update:
        steps = body(state)
        try:
            ask = next(steps)
            while True:
                ask = steps.send(await awithin(ask.model.ainvoke(ask.messages, _declared(config, ask.kind))))
        except StopIteration as end:
            return _update(end)
        finally:
            steps.close()

    return RunnableLambda(node, anode, name=name)


def _declared(config: RunnableConfig, kind: str) -> RunnableConfig:
    if not kind:
        return config
    return {**config, "metadata": {**(config.get("metadata") or {}), KIND_KEY: kind}}


def _update(end: StopIteration) -> Update:
    return dict(end.value)


class Structured:
    """A model that is asked for an object of a JSON schema, by whatever means it has for that."""

    def __init__(self, model: BaseChatModel, schema: Mapping[str, JSON]) -> None:
        self.runnable: Runnable[list[AnyMessage], object] = model
        self.in_words = f"Answer with one JSON object of this schema and nothing else:\n{json.dumps(schema)}"
        with suppress(NotImplementedError):  # then it is asked in words, and its answer is searched for JSON
            self.runnable = model.with_structured_output(dict(schema), include_raw=True)
            self.in_words = ""

    def ask(self, messages: list[AnyMessage], kind: str) -> Ask:
        """Make the question. The first message is the system prompt."""
        if self.in_words:
            messages = [SystemMessage(f"{messages[0].text}\n\n{self.in_words}"), *messages[1:]]
        return Ask(self.runnable, messages, kind)


def structured(answer: object) -> tuple[Mapping[str, object], AIMessage]:
    """Read the answer of a `Structured` model: the object (empty when there is none to be found) and the message."""
    if isinstance(answer, Mapping):
        raw, parsed = answer.get("raw"), answer.get("parsed")
        message = raw if isinstance(raw, AIMessage) else AIMessage("")
        if isinstance(parsed, list) and parsed and isinstance(parsed[0], Mapping):
            parsed = parsed[0].get("args", parsed[0])
        if isinstance(parsed, Mapping):
            return parsed, message
    else:
        message = answer if isinstance(answer, AIMessage) else AIMessage("")
    if message.tool_calls:
        return message.tool_calls[0]["args"], message
    return _object_in(str(message.text)), message


def text_of(answer: object) -> str:
    """The text of a chat model's answer."""
    return str(answer.text) if isinstance(answer, BaseMessage) else ""


def _object_in(text: str) -> Mapping[str, object]:
    """Find the first JSON object in a text that may have words, or a code fence, around it."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, start.start())
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return {}
