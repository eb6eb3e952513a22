"""Ending a session well: the call that asks for a last answer, and the answer of last resort that costs nothing."""

from __future__ import annotations

from dataclasses import replace

from waywiser.core.calls import Call, Reply
from waywiser.core.messages import Message, Role, Text, user
from waywiser.core.steps import StepKind

NOTICE_MODEL = "waywiser/notice"
"""The model name of an answer that no model wrote."""

_ASK = (
    "[note from the router] This session has to end here: {why}. Do not call any tool. "
    "Answer the person now with what is known so far, and say plainly what is still open."
)


def conclude(call: Call, why: str) -> Call:
    """Turn a call into one that asks for a last answer: tools stay in the prompt, but may not be called.

    They stay because a history that contains tool calls must come with their definitions for some providers, and
    because a changed prefix would be a cold one.
    """
    return replace(
        noted(call, _ASK.format(why=why)),
        settings=replace(call.settings, tool_choice="none" if call.tools else ""),
        response_format=None,
        origin=replace(call.origin, kind=StepKind.SYNTHESIS, kind_by=f"concluding: {why}"),
    )


def noted(call: Call, text: str) -> Call:
    """Add a note to the end of the outbound history, as a turn of the user so that every dialect takes it."""
    last = call.messages[-1] if call.messages else None
    if last is not None and last.role is Role.USER:
        joined = replace(last, parts=(*last.parts, Text("\n\n" + text)))
        return replace(call, messages=(*call.messages[:-1], joined))
    return replace(call, messages=(*call.messages, user(text)))


def notice(call: Call, why: str) -> Reply:
    """Answer without any model: say that the session ends, why, and what the newest results were.

    The last tool result is quoted so that the person is not left with nothing.
    """
    text = f"I have to stop here: {why}. Please start a new conversation or ask for more budget to go on."
    last = next((message for message in reversed(call.messages) if _tells(message)), None)
    if last is not None:
        text += f"\n\nThe last thing I found: {last.text.strip()[:500]}"
    return Reply((Text(text),), model=NOTICE_MODEL, notes=("local_notice",))


def _tells(message: Message) -> bool:
    return message.role is Role.TOOL and not message.is_error and bool(message.text.strip())
