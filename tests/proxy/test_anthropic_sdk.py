"""The official Anthropic SDK against the proxy, over real sockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anthropic
import pytest

if TYPE_CHECKING:
    from conftest import Proxy

TOOLS = [
    {
        "name": "get_order",
        "description": "Look up an order by its number.",
        "input_schema": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    }
]
ASK = [{"role": "user", "content": "Where is my order W0001234?"}]


@pytest.fixture
def client(proxy: Proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=proxy.origin, api_key="unused", max_retries=0)


@pytest.fixture
def faults(faulty: Proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=faulty.origin, api_key="unused", max_retries=0)


def test_a_message(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(
        model="auto", max_tokens=200, system="Be brief.", messages=[{"role": "user", "content": "Hello"}]
    )
    answer = raw.parse()
    assert answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens > 0
    assert raw.headers["x-waywiser-model"] == answer.model == "simulated/standard"


def test_a_stream_says_the_same_as_the_whole(client: anthropic.Anthropic) -> None:
    asked = {"model": "auto", "max_tokens": 200, "messages": [{"role": "user", "content": "Tell me of the sea"}]}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_read(client: anthropic.Anthropic, stream: bool) -> None:
    asked = {"model": "auto", "max_tokens": 500, "tools": TOOLS, "messages": ASK}
    if stream:
        with client.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "get_order"
    assert call.input["order_id"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps({"status": "shipped"})}
    history = [
        *ASK,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": [result]},
    ]
    final = client.messages.create(model="auto", max_tokens=500, messages=history)
    assert final.content[0].text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ],
)
def test_bad_requests_name_the_place(client: anthropic.Anthropic, fields: dict[str, object], said: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{"model": "auto", "max_tokens": 10, "messages": ASK} | fields)
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert said in caught.value.body["error"]["message"]


def test_other_errors(client: anthropic.Anthropic, faults: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", max_tokens=10, messages=ASK)
    with pytest.raises(anthropic.RateLimitError):
        faults.messages.create(model="local/rate-limited", max_tokens=10, messages=ASK)
    with pytest.raises(anthropic.InternalServerError):
        faults.messages.create(model="local/broken", max_tokens=10, messages=ASK)


def test_a_cut_stream_is_an_error(faults: anthropic.Anthropic, faulty: Proxy) -> None:
    kinds = []
    with (
        pytest.raises(anthropic.APIStatusError),
        faults.messages.stream(model="local/cut", max_tokens=10, messages=ASK) as stream,
    ):
        kinds.extend(event.type for event in stream)
    assert "message_stop" not in kinds
    assert faulty.open_holds == 0


def test_models(client: anthropic.Anthropic) -> None:
    assert "auto" in [model.id for model in client.models.list()]
