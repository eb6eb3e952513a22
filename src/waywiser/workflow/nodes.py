"""The bodies of the nodes that ask a model once or a few times: triage, reflect, plan and synthesis."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import BaseTool

from waywiser.errors import PlanRefused
from waywiser.workflow import prompts
from waywiser.workflow.asking import Ask, Body, State, Structured, Update, structured, text_of
from waywiser.workflow.planning import as_state, checked, plan_schema, sent_back
from waywiser.workflow.spec import PlanNode, ReflectNode, SynthesisNode, TriageNode, kind_of
from waywiser.workflow.state import piece

if TYPE_CHECKING:
    from waywiser.core.calls import JSON


def choosing(node: TriageNode | ReflectNode, model: BaseChatModel) -> Body:
    """Triage and reflection: choose a word; a reflection also says why."""
    reflects = isinstance(node, ReflectNode)
    asked = Structured(model, _choice_schema(node.choices, why=reflects))
    kind = kind_of(node)

    def body(state: State) -> Generator[Ask, object, Update]:
        prompt = prompts.filled(node.prompt or (prompts.REFLECT if reflects else prompts.TRIAGE), state)
        prompt = f"{prompt}\n\nThe choices:\n{prompts.listed_choices(node.choices)}"
        found, message = structured((yield asked.ask(prompts.to_model(prompt, prompts.messages_of(state)), kind)))
        choice = _chosen(found.get("choice"), str(message.text), node.choices) or _otherwise(node)
        if not reflects:
            return {node.writes: choice}
        return {node.writes: choice, f"{node.writes}_why": str(found.get("why") or message.text)}

    return body


def planning(node: PlanNode, model: BaseChatModel, tools: Sequence[BaseTool]) -> Body:
    """Ask for a plan until it has no flaws, or the attempts are used up."""
    names = [tool.name for tool in tools]
    asked = Structured(model, plan_schema(names))
    kind = kind_of(node)

    def body(state: State) -> Generator[Ask, object, Update]:
        prompt = prompts.filled(node.prompt or prompts.PLAN, state)
        limit = f"At most {node.max_tasks} sub-tasks."
        prompt = f"{prompt}\n\n{limit}\n\nThe tools:\n{prompts.listed_tools(tools)}"
        sent = prompts.to_model(prompt, prompts.messages_of(state))
        for _ in range(node.attempts):
            found, message = structured((yield asked.ask(sent, kind)))
            plan, flaws = checked(found, names, node.max_tasks)
            if not flaws:
                return {node.writes: as_state(plan), f"{node.writes}_flaws": []}
            sent = [*sent, *sent_back(message, plan, flaws)]
        if node.if_flawed == "stop":
            raise PlanRefused(flaws)
        return {node.writes: [], f"{node.writes}_flaws": [flaw.message for flaw in flaws]}

    return body


def synthesis(node: SynthesisNode, model: BaseChatModel) -> Body:
    """Write text, into the conversation or into a key of its own."""
    kind = kind_of(node)

    def body(state: State) -> Generator[Ask, object, Update]:
        prompt = prompts.filled(node.prompt or prompts.SYNTHESIS, state)
        # Without a conversation the prompt is all there is to answer, so it's what the person says.
        alone: list[AnyMessage] = [HumanMessage(prompt)]
        sent = prompts.to_model(prompt, prompts.messages_of(state)) if node.history else alone
        answer = yield Ask(model, sent, kind)
        if node.writes == "messages":
            return {"messages": [answer if isinstance(answer, AIMessage) else AIMessage(text_of(answer))]}
        text = text_of(answer)
        return {node.writes: piece(state, text) if node.for_each else text}

    return body


def _otherwise(node: TriageNode | ReflectNode) -> str:
    return node.otherwise or list(node.choices)[-1]


def _chosen(value: object, text: str, choices: Mapping[str, str]) -> str:
    """The choice a model made: as asked, or the only choice that its words name. Empty when it made none."""
    by_lower = {choice.lower(): choice for choice in choices}
    if isinstance(value, str) and value.strip().lower() in by_lower:
        return by_lower[value.strip().lower()]
    said = value if isinstance(value, str) and value else text
    named = {
        choice for lower, choice in by_lower.items() if re.search(rf"(?<!\w){re.escape(lower)}(?!\w)", said.lower())
    }
    return named.pop() if len(named) == 1 else ""


def _choice_schema(choices: Mapping[str, str], *, why: bool) -> Mapping[str, JSON]:
    fields: dict[str, JSON] = {"choice": {"type": "string", "enum": [*choices]}}
    if why:
        fields["why"] = {"type": "string", "description": "What decided it, in one or two sentences."}
    return {
        "title": "verdict" if why else "choice",
        "description": "The choice that fits best.",
        "type": "object",
        "properties": fields,
        "required": [*fields],
        "additionalProperties": False,
    }
