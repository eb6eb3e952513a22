"""The official OpenAI SDK against the proxy, over real sockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import openai
import pytest
from pydantic import BaseModel

if TYPE_CHECKING:
    from conftest import Proxy

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "description": "Look up an order by its number.",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
        },
    }
]
ASK = [{"role": "user", "content": "Where is my order W0001234?"}]


@pytest.fixture
def client(proxy: Proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=proxy.base_url, api_key="unused", max_retries=0)


@pytest.fixture
def faults(faulty: Proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=faulty.base_url, api_key="unused", max_retries=0)


def test_a_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Hello"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model == raw.headers["x-waywiser-model"] == "simulated/standard"
    assert raw.headers["x-waywiser-tier"] == "standard"
    assert raw.headers["x-waywiser-kind"] == "synthesis"
    assert float(raw.headers["x-waywiser-cost-usd"]) > 0
    assert float(raw.headers["x-waywiser-budget-left-usd"]) < 0.3
    assert raw.headers["x-waywiser-fallback"] == "0"


def test_a_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    asked = {"model": "auto", "messages": [{"role": "user", "content": "Tell me about the weather"}]}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[0].choices[0].delta.role == "assistant"


def test_no_usage_unless_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_read(client: openai.OpenAI, stream: bool) -> None:
    messages: list[dict[str, object]] = [*ASK]
    if stream:
        with client.chat.completions.stream(model="auto", messages=messages, tools=TOOLS) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model="auto", messages=messages, tools=TOOLS).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "get_order"
    assert json.loads(call.function.arguments)["order_id"]
    messages += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"status": "shipped"})},
    ]
    answer = client.chat.completions.create(model="auto", messages=messages)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


class Ticket(BaseModel):
    category: str
    urgent: bool


def test_structured_output(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="auto", messages=[{"role": "user", "content": "My parcel is lost!"}], response_format=Ticket
    )
    assert isinstance(parsed.choices[0].message.parsed, Ticket)


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(client: openai.OpenAI, proxy: Proxy, stream: bool) -> None:
    asked = {"model": "auto", "messages": [{"role": "user", "content": "Three of a kind"}], "n": 3}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        ends = {chunk.choices[0].index: chunk.choices[0].finish_reason for chunk in chunks if chunk.choices}
        assert ends == {0: "stop", 1: "stop", 2: "stop"}
        usage = chunks[-1].usage
    else:
        answer = client.chat.completions.create(**asked)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        usage = answer.usage
    one = client.chat.completions.create(**asked | {"n": 1}).usage
    assert usage.prompt_tokens == 3 * one.prompt_tokens
    assert proxy.open_holds == 0


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="auto", instructions="Be brief.", input="Hello")
    assert answer.status == "completed"
    assert answer.output_text
    assert answer.usage.output_tokens > 0


def test_responses_stream_and_tools(client: openai.OpenAI) -> None:
    tools = [{"type": "function", **TOOLS[0]["function"], "strict": False}]
    with client.responses.stream(model="auto", input="Where is my order W0001234?", tools=tools) as events:
        kinds = [event.type for event in events]
        answer = events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    call = next(item for item in answer.output if item.type == "function_call")
    assert call.name == "get_order"
    answer = client.responses.create(
        model="auto",
        input=[
            {"role": "user", "content": "Where is my order W0001234?"},
            *(item.model_dump(exclude_none=True) for item in answer.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": '{"status": "shipped"}'},
        ],
    )
    assert answer.output_text


def test_responses_text_streams(client: openai.OpenAI) -> None:
    with client.responses.stream(model="auto", input="Hello") as events:
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events.get_final_response().output_text == said != ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"extra_body": {"max_tokenss": 3}}, "max_tokenss"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "?"}]}, "messages[0].tool_call_id"),
        ({"extra_headers": {"x-waywiser-kind": "dreaming"}}, "x-waywiser-kind"),
        ({"store": True}, "store"),
        ({"stream_options": {"include_everything": True}}, "stream_options.include_everything"),
    ],
)
def test_bad_requests_name_the_place(client: openai.OpenAI, fields: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "auto", "messages": ASK} | fields)
    assert caught.value.param == param


def test_names_of_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "auto"
    assert {"tier:premium", "policy:simulated", "simulated/economy"} <= set(names)
    for name in names:
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, messages=ASK).choices
    pinned = client.chat.completions.create(model="simulated/premium", messages=ASK)
    assert pinned.model == "simulated/premium"
    assert client.chat.completions.create(model="tier:economy", messages=ASK).model == "simulated/economy"
    with pytest.raises(openai.NotFoundError, match="nothing-like-it"):
        client.chat.completions.create(model="nothing-like-it", messages=ASK)


@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("local/rate-limited", openai.RateLimitError, "rate_limit_exceeded"),
        ("local/broken", openai.InternalServerError, None),
        ("local/silent", openai.InternalServerError, "timeout"),
        ("local/locked", openai.InternalServerError, "unauthorised"),
        ("local/too-long", openai.BadRequestError, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_providers(
    faults: openai.OpenAI, faulty: Proxy, model: str, error: type[openai.APIStatusError], code: str | None, stream: bool
) -> None:
    faulty.service.engines["faulty"].health._known.clear()
    with pytest.raises(error) as caught:
        faults.chat.completions.create(model=model, messages=ASK, stream=stream)
    assert code is None or caught.value.code == code
    assert caught.value.response.headers["x-waywiser-receipt"]
    if error is openai.RateLimitError:
        assert caught.value.response.headers["retry-after"]
    assert faulty.open_holds == 0


def test_a_cut_stream_is_an_error(faults: openai.OpenAI, faulty: Proxy) -> None:
    said = []
    with pytest.raises(openai.APIError):  # noqa: PT012 - it is raised while the stream is read
        for chunk in faults.chat.completions.create(model="local/cut", messages=ASK, stream=True):
            said.append(chunk.choices[0].delta.content)
            assert chunk.choices[0].finish_reason is None
    assert "".join(filter(None, said))
    assert faulty.open_holds == 0


def test_a_client_that_goes_away_stops_the_provider(faults: openai.OpenAI, faulty: Proxy) -> None:
    session = {"x-waywiser-session": "goes-away"}
    with faults.chat.completions.create(
        model="local/endless", messages=ASK, stream=True, extra_headers=session
    ) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
    faulty.wait_for(lambda: faulty.service.metrics.in_flight == 0)
    assert faulty.open_holds == 0
    (receipt,) = faulty.service.store.receipts("goes-away")
    assert receipt.refused == "cancelled"
    assert 0 < receipt.usage.output_tokens < 20_000


async def test_a_cancelled_call_is_settled(faulty: Proxy) -> None:
    async with openai.AsyncOpenAI(base_url=faulty.base_url, api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.1).chat.completions.create(
                model="local/slow", messages=ASK, extra_headers={"x-waywiser-session": "impatient"}
            )
    faulty.wait_for(lambda: faulty.service.metrics.in_flight == 0)
    assert faulty.open_holds == 0
    (receipt,) = faulty.service.store.receipts("impatient")
    assert receipt.refused == "cancelled"


@pytest.mark.parametrize("model", ["local/slow", "local/silent"])
def test_a_silent_stream_gives_signs_of_life(faulty: Proxy, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr("waywiser.proxy.pulse.PULSE_S", 0.1)
    answer = faulty.chat(model=model, stream=True)
    assert answer.status_code == 200
    assert answer.text.startswith(": waiting\n\n: waiting\n\n")
    if model == "local/slow":
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert faulty.events_of(answer.text)[-1]["error"]["code"] == "timeout"
        assert "[DONE]" not in answer.text
    faulty.service.engines["faulty"].health._known.clear()
