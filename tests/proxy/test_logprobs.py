"""Log-probabilities through the proxy: a client gets those it asked for, and none of those the policy asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from waywiser.core.calls import Chunk, Finish, Usage
from waywiser.testing import ScriptedUpstream

if TYPE_CHECKING:
    from conftest import Proxy

POLICY = """
version: 1
name: judging
tiers: {economy: [simulated/economy], premium: [simulated/premium]}
steps: {synthesis: {tier: economy, accept: [{min_logprob: -0.8}]}, planning: {tier: economy}}
budget: {session: {usd: 1000}}
fallback: {cut_unsure: {below: -1.5, over: 5}, cut_stream: resume}
"""
SURE = [Chunk("It"), Chunk(" is", logprobs=(-0.5,)), Chunk(" so.", logprobs=(-0.25, -0.25))]
UNSURE = [Chunk(f"w{number} ", logprobs=(-3.0,)) for number in range(9)]
END = Chunk(finish=Finish.STOP, usage=Usage(20, 9))
ASK = [{"role": "user", "content": "Is it?"}]


@pytest.fixture(scope="module")
def judging(start: Callable[..., Proxy], tmp_path_factory: pytest.TempPathFactory) -> Proxy:
    path = tmp_path_factory.mktemp("policies") / "judging.yaml"
    Path(path).write_text(POLICY)
    return start(str(path))


@pytest.fixture
def client(judging: Proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=judging.base_url, api_key="x", max_retries=0)


def script(proxy: Proxy, **streams: list[Chunk]) -> ScriptedUpstream:
    upstream = ScriptedUpstream({f"simulated/{tier}": [[*pieces, END]] for tier, pieces in streams.items()})
    proxy.service.engines["judging"]._upstreams["simulated"] = upstream
    return upstream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_client_gets_what_it_asked_for(judging: Proxy, client: openai.OpenAI, stream: bool, wanted: bool) -> None:
    upstream = script(judging, economy=SURE)
    asked = {"model": "auto", "messages": ASK} | ({"logprobs": True} if wanted else {})
    if stream:
        events = [event.choices[0] for event in client.chat.completions.create(stream=True, **asked)]
        text = "".join(event.delta.content or "" for event in events)
    else:
        events = client.chat.completions.create(**asked).choices
        text = events[0].message.content
    told = [token.logprob for event in events if event.logprobs for token in event.logprobs.content]
    assert text == "It is so."
    assert told == ([-0.5, -0.25, -0.25] if wanted else [])
    settings = upstream.asked[0][1].settings
    assert (settings.logprobs, settings.confidence) == (0 if wanted else None, True)


def test_the_other_dialects_show_nothing_of_it(judging: Proxy) -> None:
    for path, body in (("/v1/responses", {"input": "Is it?"}), ("/v1/messages", {"messages": ASK, "max_tokens": 99})):
        for stream in (False, True):
            script(judging, economy=SURE)
            answer = judging.post(path, {"model": "auto", "stream": stream, **body})
            assert "so." in answer.text
            assert "-0.25" not in answer.text


def test_an_unsure_answer_is_replaced_or_goes_on_elsewhere(judging: Proxy, client: openai.OpenAI) -> None:
    script(judging, economy=UNSURE, premium=SURE)
    assert client.chat.completions.create(model="auto", messages=ASK).choices[0].message.content == "It is so."
    script(judging, economy=UNSURE, premium=SURE)
    events = list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == "w0 w1 w2 w3 It is so."
    assert events[-1].choices[0].finish_reason == "stop"
    assert judging.open_holds == 0
