"""The words that go to the models: the built-in prompts, and how `{key}` in a prompt is filled from the state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool

_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")

TRIAGE = "Read the conversation and decide what it is about. Answer with one of the choices and nothing else."
REFLECT = (
    "You check finished work before it goes out. Compare the last answer with what was asked and with the facts in the"
    " conversation. Judge it by the choices, and say in one or two sentences what decided you."
)
PLAN = (
    "Split the request into the fewest sub-tasks that answer it completely. Give each a short id, a goal that can be"
    " understood without the conversation (with every number, name and id it needs), the tools it needs, and the ids"
    " of the sub-tasks whose results it needs first. Sub-tasks that do not need each other run at the same time."
)
WORK = (
    "Do what is asked with the tools you have. Look things up instead of guessing. Never repeat a call whose result is"
    " already here. When there is nothing left to look up or to change, say briefly what you found and did."
)
TASK = (
    "You do one part of a larger job. Use the tools you have, do only what the goal says, and end with the result: the"
    " facts, numbers and ids that were found or changed. If the goal cannot be reached, begin your last message with"
    " FAILED: and say why."
)
REPLAN = (
    "Some sub-tasks of a plan have failed. Write sub-tasks that reach the same goals in another way, making use of what"
    " was learned. Use new ids; they may depend on each other and on sub-tasks that are done or still to come. If a"
    " goal cannot be reached at all, write one sub-task that finds out what can be said about it."
)
SYNTHESIS = "Answer the request from what is in the conversation. Say what was done and what was not. Invent nothing."
GO_ON = "Now do your part, as described above."
LAST_TURN = "This is your last turn, and no more tools can be called. Finish with what you have."


def slots(prompt: str) -> list[str]:
    """The keys a prompt wants filled in."""
    return list(dict.fromkeys(_SLOT.findall(prompt)))


def filled(prompt: str, state: Mapping[str, object]) -> str:
    """Fill `{key}` from the state; `{request}` is what the person said last. What is missing reads `(none)`."""

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key == "request" and key not in state:
            return request(messages_of(state))
        return shown(state.get(key))

    return _SLOT.sub(value, prompt)


def shown(value: object) -> str:
    """Write a value of the state as text: sub-tasks and results as lists, other structures as JSON."""
    if value is None or value in ("", [], {}):
        return "(none)"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_item(number, item) for number, item in enumerate(value, 1))
    return json.dumps(value, ensure_ascii=False, default=str)


def _item(number: int, item: object) -> str:
    if isinstance(item, str):
        return f"{number}. {_indented(item)}"
    if isinstance(item, BaseMessage):
        return f"{item.type}: {item.text}"
    if isinstance(item, dict) and {"id", "goal"} <= item.keys():
        needs = f" (after {', '.join(item['depends_on'])})" if item.get("depends_on") else ""
        status = f" — {item['status']}" if item.get("status") else ""
        text = f"\n   {_indented(str(item['text']))}" if item.get("text") else ""
        return f"{number}. [{item['id']}] {item['goal']}{needs}{status}{text}"
    return f"{number}. {json.dumps(item, ensure_ascii=False, default=str)}"


def _indented(text: str) -> str:
    """Set the further lines of a list's entry in, so that a model sees where the entry ends."""
    return text.strip().replace("\n", "\n   ")


def messages_of(state: Mapping[str, object]) -> list[AnyMessage]:
    """The conversation in a state."""
    found = state.get("messages")
    return list(found) if isinstance(found, list) else []


def request(messages: Sequence[BaseMessage]) -> str:
    """What the person said last."""
    return next((str(message.text) for message in reversed(messages) if isinstance(message, HumanMessage)), "")


def to_model(prompt: str, history: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Put a system prompt before a conversation. One that ends with a model's own words is handed on to the next."""
    sent: list[AnyMessage] = [SystemMessage(prompt), *(message for message in history if message.type != "system")]
    if not history or (isinstance(history[-1], AIMessage) and not history[-1].tool_calls):
        sent.append(HumanMessage(GO_ON))
    return sent


def listed_choices(choices: Mapping[str, str]) -> str:
    """List the choices with what they stand for."""
    return "\n".join(f"- {word}: {meaning}" if meaning else f"- {word}" for word, meaning in choices.items())


def listed_tools(tools: Iterable[BaseTool]) -> str:
    """List tools with their arguments and the first line of their description."""
    lines = [f"- {tool.name}({', '.join(tool.args)}): {tool.description.strip().splitlines()[0]}" for tool in tools]
    return "\n".join(lines) or "(no tools)"
