"""Logs of OpenAI chat completions, one call a line: `{"request": {…}, "response": {…}}`, or both in one object.

Calls that name a session (`session`, `thread_id`, …, also in `metadata`) belong to it. For the others the history
tells: a request that begins with an earlier request and its answer continues that session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from waywiser.core.calls import Origin, Reply, Tool, Usage
from waywiser.errors import BadInput
from waywiser.replay.recording import Problem, Recorded, Session
from waywiser.replay.spool import Spool
from waywiser.replay.trajectories import count, instant, mended, tools_used
from waywiser.upstream.openai_inbound import read_call, read_messages

SESSION_KEYS = ("session", "session_id", "thread_id", "conversation_id", "conversation", "trace_id")
_REQUESTS = ("request", "input", "body", "kwargs")
_RESPONSES = ("response", "output", "completion", "response_obj")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a logged chat completion from the other formats."""
    return "messages" in _request(record) and "run_type" not in record


def session_of(record: Mapping[str, Any], spool: Spool) -> str | None:
    """Name the session a call belongs to. Raises `BadInput` for a call that came to no answer."""
    request, answer = _request(record), _answer(record)
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise BadInput("messages: expected an array")
    session = _named(record, request)
    state = blake2b(digest_size=16)
    begun = []
    for turn in messages:
        state.update(_digestible(turn))
        if isinstance(turn, dict) and turn.get("role") == "assistant":
            begun.append(state.digest())
    if not session:
        session = spool.linked(begun) or spool.fresh()
    state.update(_digestible(answer))
    spool.link(state.digest(), session)
    return session


def read_session(records: Sequence[tuple[str, Mapping[str, Any]]], tools: tuple[Tool, ...]) -> Session | Problem:
    """Read the calls of one session. Raises `BadInput` with the place of a line that is broken."""
    calls = []
    success: bool | None = None
    task = ""
    for place, record in records:
        try:
            calls.append(_call(record, tools))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
        told = record.get("success")
        success = told if isinstance(told, bool) else success
        task = str(record["task_id"]) if record.get("task_id") is not None else task
    calls.sort(key=lambda call: call.at_s or 0.0)  # stable: calls without a time stay as they came
    request = _request(records[0][1])
    return Session(_named(records[0][1], request) or records[0][0], records[0][0], tuple(calls), task, success)


def _call(record: Mapping[str, Any], tools: tuple[Tool, ...]) -> Recorded:
    request, response = _request(record), _response(record)
    asked = read_call({**_plain(request), "messages": mended(request["messages"]), "stream": False}, "", Origin())
    # The answer is read as a turn behind the history, where its tool calls have their place.
    answer = read_messages([*mended(request["messages"]), {**_answer(record), "role": "assistant"}])[-1]
    model = response.get("model") or request.get("model") or record.get("model")
    at_s = next(
        (
            at
            for at in (instant(record.get(key)) for key in ("ended_at", "timestamp", "ts", "time", "created_at"))
            if at is not None
        ),
        instant(response.get("created")),
    )
    usage = response.get("usage") if isinstance(response.get("usage"), dict) else record.get("usage")
    return Recorded(
        asked.messages,
        len(asked.messages),
        Reply(answer.parts, answer.tool_calls),
        model if isinstance(model, str) else "",
        asked.tools or tools or tools_used((*asked.messages, answer)),
        asked.response_format,
        asked.settings,
        Origin(node=record["node"] if isinstance(record.get("node"), str) else ""),
        usage=read_usage(usage),
        cost_nanos=_cost(record, usage),
        at_s=at_s,
    )


def read_usage(raw: object) -> Usage | None:
    """Read a usage in the words of chat completions (or of the Responses endpoint); None where there is none."""
    if not isinstance(raw, dict):
        return None
    asked = count(raw.get("prompt_tokens", raw.get("input_tokens")))
    said = count(raw.get("completion_tokens", raw.get("output_tokens")))
    if not asked or said is None:
        return None
    details = raw.get("prompt_tokens_details") or raw.get("input_tokens_details") or {}
    thought = raw.get("completion_tokens_details") or raw.get("output_tokens_details") or {}
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    reasoning = count(thought.get("reasoning_tokens")) if isinstance(thought, dict) else 0
    return Usage(asked, said, min(cached or 0, asked), reasoning_tokens=min(reasoning or 0, said))


def dollars(raw: object) -> int | None:
    """Read USD, a number or its text, as nano-dollars."""
    try:
        value = float(raw) if isinstance(raw, int | float | str) and not isinstance(raw, bool) else None
    except ValueError:
        return None
    return round(value * 1e9) if value is not None and 0 <= value < 1e9 else None


def _cost(record: Mapping[str, Any], usage: object) -> int | None:
    for holder in (record, usage if isinstance(usage, dict) else {}):
        for key in ("cost_usd", "cost", "response_cost", "total_cost"):
            if (nanos := dollars(holder.get(key))) is not None:
                return nanos
    return None


def _plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what another recorder may have put beside the request, and what asks for several answers."""
    kept = ("model", "tools", "tool_choice", "response_format", "max_tokens", "max_completion_tokens", "temperature")
    return {key: request[key] for key in kept if request.get(key) is not None}


def _request(record: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _REQUESTS:
        inner = record.get(key)
        if isinstance(inner, dict):
            nested = inner.get("body")
            return nested if isinstance(nested, dict) else inner
    return record


def _response(record: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _RESPONSES:
        inner = record.get(key)
        if isinstance(inner, dict):
            nested = inner.get("body")
            return nested if isinstance(nested, dict) else inner
    return record


def _answer(record: Mapping[str, Any]) -> dict[str, Any]:
    choices = _response(record).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        raise BadInput("the call came to no answer")
    return message


def _named(record: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    holders = [record, record.get("metadata"), request.get("metadata")]
    for holder in holders:
        for key in SESSION_KEYS:
            if isinstance(holder, dict) and isinstance(holder.get(key), str | int) and holder[key] != "":
                return str(holder[key])
    return ""


def _digestible(turn: object) -> bytes:
    """Write what makes a turn the same in an answer and in the history that quotes it."""
    if not isinstance(turn, dict):
        return b"?"
    calls = [(call.get("id"), call.get("function")) for call in turn.get("tool_calls") or () if isinstance(call, dict)]
    return orjson.dumps([turn.get("role", "assistant"), turn.get("content") or "", calls, turn.get("tool_call_id")])
