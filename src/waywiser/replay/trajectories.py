"""Recorded agent sessions, one a line: `{"messages": […], "model"?, "tools"?, "task_id"?, "success"?, "meta"?}`.

`messages` are in the OpenAI dialect; every assistant turn that had something to answer was a model call. `meta.steps`
may tell of each assistant turn its `prompt_tokens`, `completion_tokens`, `cost` (USD) and `ts` (ISO 8601, when it
ended). A first assistant turn that answers nothing is a scripted greeting: no call was made for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from waywiser.core.calls import Reply, Tool, Usage
from waywiser.core.messages import Message, Role
from waywiser.errors import BadInput
from waywiser.replay.recording import Problem, Recorded, Session
from waywiser.upstream.openai_inbound import read_messages, read_tools

SPOILED = "agent_error"
"""How a session ended whose agent broke down: what it cost says nothing of the work."""


def is_trajectory(line: Mapping[str, Any]) -> bool:
    """Tell a recorded session from the other formats: whole, with its outcome or with the agent's own turns."""
    messages = line.get("messages")
    if not isinstance(messages, list) or not line.keys().isdisjoint(("response", "choices", "completion", "run_type")):
        return False
    return "meta" in line or "reward" in line or any(_speaks(turn) for turn in messages)


def _speaks(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "assistant"


def read_trajectory(line: Mapping[str, Any], place: str, tools: tuple[Tool, ...] = ()) -> Session | Problem:
    """Read one recorded session. `tools` are offered where the line names none. Raises `BadInput`."""
    told = line.get("meta")
    meta: Mapping[str, Any] = told if isinstance(told, dict) else {}
    if meta.get("termination") == SPOILED:
        return Problem(place, f"the session ended in {SPOILED}", dropped=True)
    messages = read_messages(mended(line["messages"]))
    offered = read_tools(line.get("tools")) or tools or tools_used(messages)
    steps = _steps(meta, messages)
    model = line.get("model")
    calls = []
    spoken = False
    number = -1
    for index, message in enumerate(messages):
        if message.role is not Role.ASSISTANT:
            spoken = spoken or message.role is not Role.SYSTEM
            continue
        number += 1
        if not spoken:
            continue
        step = steps[number] if steps else {}
        calls.append(
            Recorded(
                messages,
                index,
                Reply(message.parts, message.tool_calls),
                model if isinstance(model, str) else "",
                offered,
                usage=_usage(step),
                cost_nanos=_nanos(step.get("cost")),
                at_s=instant(step.get("ts")),
            )
        )
    if not calls:
        raise BadInput("no assistant turn answers anything")
    success = line.get("success")
    names = (meta.get("simulation_id"), line.get("session"), line.get("session_id"), line.get("id"))
    return Session(
        next((str(name) for name in names if name not in (None, "")), place),
        place,
        tuple(calls),
        "" if line.get("task_id") is None else str(line["task_id"]),
        success if isinstance(success, bool) else None,
        _nanos(meta.get("agent_cost")),
    )


def mended(raw: Any) -> Any:
    """Take out what the agent's model never saw or what only a recorder writes.

    A simulated user may call tools of its own: those calls and their results are no part of the agent's history. A turn
    that said nothing is given empty content instead of null.
    """
    if not isinstance(raw, list):
        return raw
    turns = [turn for turn in raw if isinstance(turn, dict) and "role" in turn]
    if len(turns) != len(raw):
        return raw
    foreign = {
        call.get("id")
        for turn in turns
        if turn["role"] != "assistant"
        for call in turn.get("tool_calls") or ()
        if isinstance(call, dict)
    }
    kept = []
    for turn in turns:
        if turn["role"] == "tool" and turn.get("tool_call_id") in foreign:
            continue
        if turn["role"] == "user" and turn.get("tool_calls") and not turn.get("content"):
            continue
        kept.append({**turn, "content": ""} if turn.get("content") is None else turn)
    return kept


def tools_used(messages: Sequence[Message]) -> tuple[Tool, ...]:
    """Offer every tool that the session called: a recording that leaves its tools out still had them."""
    return tuple(Tool(name) for name in sorted({call.name for turn in messages for call in turn.tool_calls}))


def instant(raw: object) -> float | None:
    """Read a time: seconds since the epoch, or ISO 8601. None for anything else."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, str) or not raw:
        return None
    try:
        told = datetime.fromisoformat(raw)
    except ValueError:
        return None
    # A time without a zone is read as UTC: the same on every machine, and only differences matter.
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def count(raw: object) -> int | None:
    """Read a number of tokens; None for anything else."""
    return int(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) and raw >= 0 else None


def _steps(meta: Mapping[str, Any], messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    steps = meta.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return []
    spoken = sum(message.role is Role.ASSISTANT for message in messages)
    if len(steps) != spoken:
        raise BadInput(f"meta.steps: {len(steps)} steps for {spoken} assistant turns")
    return steps


def _usage(told: Mapping[str, Any]) -> Usage | None:
    prompt, completion = count(told.get("prompt_tokens")), count(told.get("completion_tokens"))
    if not prompt or completion is None:
        return None
    return Usage(prompt, completion)


def _nanos(usd: object) -> int | None:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < 1e9:
        return None
    return round(usd * 1e9)
