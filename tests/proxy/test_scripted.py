"""Answers that simulated models do not give, in all three dialects: parallel tools, cut answers, thoughts, caches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import anthropic
import openai
import pytest

from waywiser.core.calls import Finish, Reply, Usage
from waywiser.core.messages import Text, Thinking, ToolCall
from waywiser.testing import ScriptedUpstream

if TYPE_CHECKING:
    from conftest import Proxy

ASK = [{"role": "user", "content": "Compare Oslo and Rome"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CALLS = (ToolCall("call_a", "weather", '{"city":"Oslo"}'), ToolCall("call_b", "weather", '{"city":"Rome"}'))
USAGE = Usage(100, 20, cached_tokens=60, reasoning_tokens=5)
PARALLEL = Reply((Text("Let me look."),), CALLS, Finish.TOOL_CALLS, USAGE)
CUT = Reply((Thinking("hm"), Text("It is ver")), finish=Finish.LENGTH, usage=USAGE)


@pytest.fixture(scope="module")
def scripted(start: Callable[..., Proxy]) -> Proxy:
    return start()


@pytest.fixture
def will(scripted: Proxy) -> Callable[[Reply], ScriptedUpstream]:
    def say(reply: Reply) -> ScriptedUpstream:
        upstream = ScriptedUpstream({f"simulated/{tier}": [reply] for tier in ("economy", "standard", "premium")})
        scripted.service.engines["simulated"]._upstreams["simulated"] = upstream
        return upstream

    return say


@pytest.fixture
def client(scripted: Proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=scripted.base_url, api_key="x", max_retries=0)


@pytest.fixture
def claude(scripted: Proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=scripted.origin, api_key="x", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tools(client: openai.OpenAI, will: Callable[[Reply], ScriptedUpstream], stream: bool) -> None:
    will(PARALLEL)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    asked = {"model": "auto", "messages": ASK, "tools": tools, "parallel_tool_calls": True}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    found = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert found == [(call.id, call.name, call.arguments) for call in CALLS]


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tools_in_responses(
    client: openai.OpenAI, will: Callable[[Reply], ScriptedUpstream], stream: bool
) -> None:
    upstream = will(PARALLEL)
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    if stream:
        with client.responses.stream(model="auto", input=ASK, tools=tools) as events:
            answer = events.get_final_response()
    else:
        answer = client.responses.create(model="auto", input=ASK, tools=tools)
    assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
    assert [(item.call_id, item.arguments) for item in answer.output[1:]] == [(c.id, c.arguments) for c in CALLS]
    assert (answer.usage.input_tokens_details.cached_tokens, answer.usage.total_tokens) == (60, 120)
    # The answer goes back as it came, with the tools' results.
    results = [{"type": "function_call_output", "call_id": call.id, "output": "sunny"} for call in CALLS]
    upstream = will(Reply((Text("Both sunny."),)))
    items = [item.model_dump(exclude_none=True) for item in answer.output]
    assert client.responses.create(model="auto", input=[*ASK, *items, *results]).output_text == "Both sunny."
    history = upstream.asked[0][1].messages
    assert [message.role.value for message in history] == ["user", "assistant", "tool", "tool"]
    assert [call.id for call in history[1].tool_calls] == ["call_a", "call_b"]


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tools_in_messages(
    claude: anthropic.Anthropic, will: Callable[[Reply], ScriptedUpstream], stream: bool
) -> None:
    will(PARALLEL)
    asked = {"model": "auto", "max_tokens": 99, "messages": ASK, "tools": [{"name": "weather", "input_schema": SCHEMA}]}
    if stream:
        with claude.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    assert [block.type for block in answer.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in answer.content[1:]] == [json.loads(call.arguments) for call in CALLS]
    assert answer.usage.output_tokens == 20
    if not stream:
        assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (40, 60)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_cut_at_its_length(
    client: openai.OpenAI, claude: anthropic.Anthropic, will: Callable[[Reply], ScriptedUpstream], stream: bool
) -> None:
    will(CUT)
    if stream:
        with client.chat.completions.stream(model="auto", messages=ASK) as events:
            kinds = [event.chunk.choices[0].finish_reason for event in events if event.type == "chunk"]
        assert kinds[-1] == "length"
    else:
        choice = client.chat.completions.create(model="auto", messages=ASK).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("length", "It is ver")
        assert choice.message.reasoning_content == "hm"
    will(CUT)
    if stream:
        with client.responses.stream(model="auto", input=ASK) as events:
            answer = [event for event in events if event.type == "response.incomplete"][-1].response
    else:
        answer = client.responses.create(model="auto", input=ASK)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    will(CUT)
    if stream:
        with claude.messages.stream(model="auto", max_tokens=9, messages=ASK) as events:
            message = events.get_final_message()
    else:
        message = claude.messages.create(model="auto", max_tokens=9, messages=ASK)
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["thinking", "text"]


def test_only_what_a_provider_must_know_is_sent(
    client: openai.OpenAI, will: Callable[[Reply], ScriptedUpstream]
) -> None:
    upstream = will(Reply((Text("Yes."),)))
    client.chat.completions.create(
        model="auto", messages=ASK, user="u-17", metadata={"session_id": "s", "case": "9"}, prompt_cache_key="k",
        safety_identifier="id", reasoning_effort="low", frequency_penalty=0.5, seed=7,
    )  # fmt: skip
    ((_, call),) = upstream.asked
    assert call.settings.extra == {"reasoning_effort": "low", "frequency_penalty": 0.5}
    assert call.settings.seed == 7
    assert dict(call.origin.labels) == {"user": "u-17", "case": "9", "safety_identifier": "id"}
