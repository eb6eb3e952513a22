"""Conversations that move between dialects, on the wire: every request passes a strict validator of its dialect, and
what it does not hold of the conversation has been named. The validators are written from the providers' references."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waywiser.core.calls import Call, Settings, Tool
from waywiser.core.messages import File, Image, Message, Opaque, Role, Text, Thinking, ToolCall
from waywiser.core.models import Ability, Model
from waywiser.core.portability import Forbidden, Lossless, Repairable, portable, ported, surveyed
from waywiser.upstream import anthropic_inbound, openai_inbound
from waywiser.upstream.anthropic_wire import AnthropicCodec
from waywiser.upstream.openai_wire import OpenAICodec

PDF = "data:application/pdf;base64,JVBERi0xLjQK"
MODELS = {
    "openai": Model("openai/o", base_url="https://api.openai.com/v1"),
    "anthropic": Model("anthropic/a", "anthropic", base_url="https://api.anthropic.com/v1"),
    "prefilled": Model(
        "anthropic/p", "anthropic", base_url="https://api.anthropic.com/v1", abilities=frozenset({Ability.PREFILL})
    ),
    "google": Model("google/g", base_url="https://generativelanguage.googleapis.com/v1beta/openai"),
    "mistral": Model("mistral/m", base_url="https://api.mistral.ai/v1"),
}
RULES = {"prefilled": "anthropic"}
NAMES = [model.name for model in MODELS.values()]

# What the providers' references say


def need(holds: object, why: str) -> None:
    if not holds:
        raise AssertionError(why)


def valid_chat(body: dict[str, Any], *, call_id: str = r".{1,40}") -> None:
    """Chat completions: roles, content parts by role, ids, results right after their calls."""
    waiting: set[str] = set()
    need(body["messages"], "no messages")
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        need(role in ("system", "user", "assistant", "tool"), f"role {role}")
        need(
            set(message) <= {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"},
            "a stray key",
        )
        if role == "tool":
            need(message["tool_call_id"] in waiting, "a result without its call")
            waiting.discard(message["tool_call_id"])
            need(isinstance(content, str), "a result that is not text")
            continue
        need(not waiting, "a call without its result")
        calls = message.get("tool_calls") or []
        need(content or calls or role == "system", f"a blank {role} turn")
        if isinstance(content, list):
            kinds = {"text", "image_url", "input_audio", "file"} if role == "user" else {"text"}
            need({part["type"] for part in content} <= kinds, f"parts of a {role} turn: {content}")
        if "name" in message:
            need(re.fullmatch(r"[^\s<|\\/>]{1,64}", message["name"]), "name")
        ids = [call["id"] for call in calls]
        need(len(set(ids)) == len(ids), "an id twice in one turn")
        for call in calls:
            need(re.fullmatch(call_id, call["id"], re.DOTALL), f"id {call['id']!r}")
            need(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call["function"]["name"]), "name of a call")
        waiting = set(ids)
    need(not waiting, "a call without its result")


def conversation(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    opening = True
    for message in body["messages"]:
        opening = opening and message["role"] == "system"
        need(opening or message["role"] != "system", "a system turn in the middle")
        if not opening:
            yield message["role"], message


def only_readable(body: dict[str, Any]) -> None:
    for message in body["messages"]:
        need("name" not in message and "reasoning_content" not in message, "a key of another dialect")
        for call in message.get("tool_calls") or []:
            need(isinstance(json.loads(call["function"]["arguments"]), dict), "arguments that are no object")


def valid_mistral(body: dict[str, Any]) -> None:
    valid_chat(body, call_id=r"[a-zA-Z0-9]{9}")
    only_readable(body)
    roles = [role for role, _ in conversation(body)]
    need(roles and roles[-1] in ("user", "tool"), f"ends with {roles[-1:]}")
    need(("tool", "user") not in pairwise(roles), "user after tool")
    need('"type": "file"' not in json.dumps(body), "a file")


def valid_google(body: dict[str, Any]) -> None:
    for message in body["messages"]:
        for call in message.get("tool_calls") or []:
            extra = call.pop("extra_content", None)
            need(extra is None or extra["google"]["thought_signature"], "an empty signature")
            need(extra or call is not message["tool_calls"][0], "the first call is not signed")
    valid_chat(body, call_id=r".{1,64}")
    only_readable(body)
    roles = [role for role, _ in conversation(body)]
    need(roles and roles[0] == "user" and roles[-1] in ("user", "tool"), f"turns {roles}")
    need(("assistant", "assistant") not in pairwise(roles), "the assistant twice in a row")
    need("image/gif" not in json.dumps(body) and '"type": "file"' not in json.dumps(body), "a gif or a file")


def valid_anthropic(body: dict[str, Any], *, prefill: bool = False) -> None:
    kinds = {
        "user": {"text", "image", "document", "tool_result"},
        "assistant": {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"},
    }
    turns = body["messages"]
    need(turns and turns[0]["role"] == "user", "the first turn is not the user's")
    need(turns[-1]["role"] == "user" or prefill, "the last turn is the assistant's")
    waiting: list[str] = []
    used: list[str] = []
    for turn in turns:
        blocks = turn["content"]
        need(blocks, "an empty turn")
        need({block["type"] for block in blocks} <= kinds[turn["role"]], f"blocks of {turn['role']}: {blocks}")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        need([block["type"] for block in blocks[: len(results)]] == ["tool_result"] * len(results), "a result late")
        need(Counter(results) == Counter(waiting), "calls and results do not match")
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        used += waiting
        for block in blocks:
            need(block["type"] != "text" or block["text"].strip(), "a blank text")
    need(not waiting, "a call without its result")
    need(len(set(used)) == len(used), "tool_use ids are not unique")
    need(all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in used), f"ids {used}")
    need(not used or body.get("tools"), "a history with calls comes without tools")
    if turns[-1]["role"] == "assistant":
        last = turns[-1]["content"][-1]
        need(last["type"] != "text" or last["text"] == last["text"].rstrip(), "trailing blanks")
        need(all("thinking" not in block["type"] for block in turns[-1]["content"]), "thinking in a prefill")
    need(json.dumps(body).count("cache_control") <= 4, "more than four cache marks")
    if body.get("thinking") and any(block["type"] == "tool_result" for block in turns[-1]["content"]):
        need("thinking" in turns[-2]["content"][0]["type"], "no thinking before the calls under way")


VALIDATORS = {
    "openai": valid_chat,
    "google": valid_google,
    "mistral": valid_mistral,
    "anthropic": valid_anthropic,
    "prefilled": lambda body: valid_anthropic(body, prefill=True),
}

# Any conversation

ids = st.one_of(
    st.sampled_from(["", "call_0", "a.b:c", "toolu_01", "x" * 50, "Ab3dE6gH9", "functions.look_up:0"]),
    st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=9, max_size=30),
)


class Tokens:
    """Words that occur nowhere else, so that each piece of a conversation can be found again."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count:03d}q"


@st.composite
def conversations(draw: Any) -> Call:  # noqa: C901 - one branch a kind of turn
    token = Tokens()

    def extra(role: Role) -> Iterable[Any]:
        for kind in draw(st.lists(st.sampled_from(["text", "blank", "mark", "image", "file", "opaque"]), max_size=2)):
            match kind:
                case "text":
                    yield Text(token("tx"))
                case "mark":
                    yield Text(token("tx"), cache=True)
                case "blank":
                    yield Text(draw(st.sampled_from(["", "  ", "\n"])))
                case "image":
                    url = draw(
                        st.sampled_from(
                            ["https://x.org/{}.png", "data:image/png;base64,{}", "data:image/gif;base64,{}"]
                        )
                    )
                    yield Image(url.format(token("im")), draw(st.sampled_from(["", "low"])))
                case "file" if role is Role.USER:
                    yield draw(
                        st.sampled_from(
                            [File("application/pdf", PDF, "", token("fn")), File("application/pdf", file_id="file-1")]
                        )
                    )
                case "opaque" if role is not Role.USER:
                    block = "server_tool_use" if role is Role.ASSISTANT else "search_result"
                    yield Opaque("anthropic", json.dumps({"type": block, "id": token("op"), "input": {}}))

    messages: list[Message] = (
        [Message(Role.SYSTEM, (Text(token("tx"), cache=draw(st.booleans())),))] if draw(st.booleans()) else []
    )
    for kind in draw(
        st.lists(st.sampled_from(["user", "assistant", "tools", "system", "blank"]), min_size=1, max_size=7)
    ):
        author = draw(st.sampled_from([*NAMES, ""]))
        thoughts: list[Any] = []
        if kind in ("assistant", "tools"):
            made = st.sampled_from(["", "plain", "signed", "redacted"])
            match draw(made):
                case "plain":
                    thoughts = [Thinking(token("th"))]
                case "signed":
                    thoughts = [Thinking(token("th"), token("sg"))]
                case "redacted":
                    thoughts = [Thinking("", token("sg"), redacted=True)]
        if kind == "user":
            name = draw(st.sampled_from(["", "ann", "a b"]))
            messages.append(Message(Role.USER, (Text(token("tx")), *extra(Role.USER)), name=name))
        elif kind == "blank":
            messages.append(Message(draw(st.sampled_from([Role.USER, Role.ASSISTANT])), (Text(" "),)))
        elif kind == "system":
            messages.append(Message(Role.SYSTEM, (Text(token("tx")),)))
        elif kind == "assistant":
            messages.append(
                Message(
                    Role.ASSISTANT,
                    (*thoughts, Text(token("tx") + draw(st.sampled_from(["", " "]))), *extra(Role.ASSISTANT)),
                    model=author,
                )
            )
        else:
            arguments = st.sampled_from(['{{"a":"{}"}}', '{{"a": "{}"', '"{}"'])
            calls = [
                ToolCall(call_id, draw(st.sampled_from(["look_up", "old tool"])), draw(arguments).format(token("ar")))
                for call_id in draw(st.lists(ids, min_size=1, max_size=3, unique=True))
            ]
            said = (Text(token("tx")),) if draw(st.booleans()) else ()
            messages.append(Message(Role.ASSISTANT, (*thoughts, *said), tuple(calls), model=author))
            messages.extend(
                Message(
                    Role.TOOL,
                    (Text(token("re")), *extra(Role.TOOL)),
                    tool_call_id=call.id,
                    tool_name=call.name,
                    is_error=draw(st.booleans()),
                )
                for call in draw(st.permutations(calls))
            )
    tools = (Tool("look_up"),) if draw(st.booleans()) else ()
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}} if draw(st.booleans()) else {}
    return Call("c", tuple(messages), tools, settings=Settings(extra=thinking))


def request(call: Call, model: Model) -> dict[str, Any]:
    codec = AnthropicCodec() if model.api == "anthropic" else OpenAICodec()
    body = json.loads(codec.request(model, call, "", stream=False).body)
    assert isinstance(body, dict)
    return body


def pairs(body: dict[str, Any]) -> dict[str, str]:
    """The token of each call's arguments, and that of the result it is given."""
    calls: dict[str, str] = {}
    found: dict[str, str] = {}
    for turn in body["messages"]:
        blocks = turn["content"] if isinstance(turn.get("content"), list) else []
        for call in [*(turn.get("tool_calls") or []), *(block for block in blocks if block.get("type") == "tool_use")]:
            calls[call["id"]] = re.search(r"ar\d{3}q", json.dumps(call))[0]  # type: ignore[index]  # it is there
        results = (
            [turn] if turn["role"] == "tool" else [block for block in blocks if block.get("type") == "tool_result"]
        )
        for result in results:
            told = re.search(r"re\d{3}q", json.dumps(result))
            assert told is not None
            found[calls[result.get("tool_call_id") or result["tool_use_id"]]] = told[0]
    return found


def canonical_pairs(call: Call) -> dict[str, str]:
    found: dict[str, str] = {}
    asked: dict[str, str] = {}
    for message in call.messages:
        if message.tool_calls:
            asked = {made.id: re.search(r"ar\d{3}q", made.arguments)[0] for made in message.tool_calls}  # type: ignore[index]  # as above
        elif message.role is Role.TOOL:
            told = re.search(r"re\d{3}q", message.text)
            assert told is not None
            found[asked[message.tool_call_id]] = told[0]
    return found


LOSSES = {"th": "thinking_dropped", "sg": "thinking_dropped", "op": "opaque_dropped"}


def nothing_lost(call: Call, body: dict[str, Any], names: tuple[str, ...], google: bool) -> None:
    wire = json.dumps(body)
    for kind in ("tx", "re", "ar", "im", "fn"):
        pieces = re.findall(rf"{kind}\d{{3}}q", repr(call.messages))
        for piece in dict.fromkeys(pieces):
            assert wire.count(piece) == 1, f"{piece} is there {wire.count(piece)} times"
    in_order = re.findall(r"(?:tx|re)\d{3}q", wire)
    assert in_order == sorted(in_order, key=lambda piece: int(piece[2:5])), "out of order"
    assert pairs(body) == canonical_pairs(call), "results went to other calls"
    for kind, name in LOSSES.items():
        for piece in re.findall(rf"{kind}\d{{3}}q", repr(call.messages)):
            # Gemini's own thoughts go back by their signature, not by their words.
            assert piece in wire or name in names or (google and kind == "th"), f"{piece} was lost without a word"
    if any(message.name for message in call.messages) and "name_dropped" not in names:
        assert all(f'"name": "{message.name}"' in wire for message in call.messages if message.name)
    if any(message.is_error for message in call.messages):
        assert "is_error" in wire or "Error: " in wire or "error" in wire.lower()
    marked = sum(isinstance(part, Text) and part.cache for message in call.messages for part in message.parts)
    if marked and not {"cache_marks_dropped", "cache_marks_limited"} & set(names):
        assert "cache_control" in wire


def move(call: Call, target: str) -> dict[str, Any] | None:
    """Move a call to a model, check everything, and give the request; None when the move is forbidden."""
    model = MODELS[target]
    answer = portable(call, model, surveyed(call))
    before = repr(call)
    copy, names = ported(call, model)
    assert repr(call) == before
    if isinstance(answer, Forbidden):
        assert answer.why
        return None
    assert answer == (Repairable(names) if names else Lossless())
    assert ported(call, model) == (copy, names)
    if not names:
        assert copy is call
    body = request(copy, model)
    nothing_lost(call, body, names, target == "google")
    VALIDATORS[target](body)
    return body


def read(body: dict[str, Any], target: str) -> Call:
    inbound = anthropic_inbound if MODELS[target].api == "anthropic" else openai_inbound
    return replace(inbound.read_call(body, "c"), model="")


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(conversations(), st.permutations(list(MODELS)))
def test_any_conversation_moves_and_comes_back(call: Call, path: list[str]) -> None:
    first, second = path[:2]
    there = move(call, first)
    if there is None:
        return
    back = move(read(there, first), second)
    if back is not None:
        move(read(back, second), first)
    move(call, second)
    move(call, first)


@pytest.mark.parametrize("target", MODELS)
def test_a_plain_agents_history_needs_no_repair(target: str) -> None:
    call_id = "Ab3dE6gH9"
    call = Call(
        "c",
        (
            Message(Role.SYSTEM, (Text("Help."),)),
            Message(Role.USER, (Text("Where is it?"),)),
            Message(Role.ASSISTANT, (), (ToolCall(call_id, "look_up", '{"id":"W1"}'),), model="openai/o"),
            Message(Role.TOOL, (Text("shipped"),), tool_call_id=call_id, tool_name="look_up"),
        ),
        (Tool("look_up"),),
    )
    assert portable(call, MODELS[target], surveyed(call)) == Lossless()
    VALIDATORS[target](request(call, MODELS[target]))
