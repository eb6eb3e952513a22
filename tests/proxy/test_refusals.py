"""What a client is told when the policy says no: the status, the shape, what is left and when it comes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

if TYPE_CHECKING:
    from conftest import Proxy

POLICY = """
version: 1
name: tight
tiers: {economy: [simulated/economy], premium: [simulated/premium]}
steps: {synthesis: {tier: economy}, tool_call: {tier: economy}, other: {tier: economy}}
rules:
  - {when: {label: {residency: mars}}, regions: [mars]}
budget: {session: {llm_calls: 2}, tenant: {llm_calls_per_day: 5}, on_exhausted: stop}
loops: {after: 2, ladder: [stop]}
"""


@pytest.fixture(scope="module")
def tight(start: Callable[..., Proxy], tmp_path_factory: pytest.TempPathFactory) -> Proxy:
    path = tmp_path_factory.mktemp("tight") / "tight.yaml"
    path.write_text(POLICY)
    return start(str(path))


def test_an_empty_budget(tight: Proxy) -> None:
    headers = {"x-waywiser-session": "spender"}
    assert tight.chat(headers=headers).status_code == 200
    assert tight.chat("Something else", headers=headers).status_code == 200
    for stream in (False, True):
        answer = tight.chat("More", headers=headers, stream=stream)
        assert answer.status_code == 402
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("budget_exceeded", "insufficient_quota")
        assert error["waywiser"] == {"scope": "session", "lacks": "llm_calls", "limit": 2, "left": 0}
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-waywiser-receipt"]
    assert tight.post(
        "/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}, **headers
    ).json()["error"]["type"] == ("billing_error")


def test_a_day_that_is_spent_comes_back(tight: Proxy) -> None:
    for number in range(5):
        headers = {"x-waywiser-session": f"day-{number}", "x-waywiser-tenant": "daily"}
        assert tight.chat(headers=headers).status_code == 200
    answer = tight.chat(headers={"x-waywiser-session": "day-6", "x-waywiser-tenant": "daily"})
    assert answer.status_code == 402
    back = datetime.fromisoformat(answer.json()["error"]["waywiser"]["comes_back_at"])
    now = datetime.now(UTC)
    assert back > now
    assert abs((back - now).total_seconds() - int(answer.headers["retry-after"])) < 5


def test_the_status_can_be_429(start: Callable[..., Proxy], tmp_path: Path) -> None:
    (tmp_path / "tight.yaml").write_text(POLICY)
    proxy = start(str(tmp_path / "tight.yaml"), budget_status=429)
    client = openai.OpenAI(base_url=proxy.base_url, api_key="x", default_headers={"x-waywiser-session": "s"})
    ask = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    client.chat.completions.create(**ask)
    client.chat.completions.create(**ask)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ask)
    assert caught.value.code == "budget_exceeded"
    # The SDK asks twice more for a 429, unless it is told not to.
    assert len(proxy.service.store.receipts("s")) == 3


def test_a_loop_is_a_conflict(start: Callable[..., Proxy], tmp_path: Path) -> None:
    (tmp_path / "loops.yaml").write_text(POLICY.replace("llm_calls: 2", "llm_calls: 99"))
    proxy = start(str(tmp_path / "loops.yaml"))
    client = openai.OpenAI(base_url=proxy.base_url, api_key="x", default_headers={"x-waywiser-session": "circles"})
    messages: list[dict[str, object]] = [{"role": "user", "content": "Find my order"}]

    def go_round() -> None:
        for number in range(9):
            client.chat.completions.create(model="auto", messages=messages)
            call = {"id": f"c{number}", "type": "function", "function": {"name": "find", "arguments": "{}"}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "nothing found"})

    with pytest.raises(openai.ConflictError) as caught:
        go_round()
    assert caught.value.code == "loop_detected"


def test_nothing_eligible(tight: Proxy) -> None:
    answer = tight.chat(headers={"x-waywiser-labels": "residency=mars", "x-waywiser-session": "martian"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_eligible_model"


def test_other_addresses_and_methods(tight: Proxy) -> None:
    import httpx

    assert httpx.get(f"{tight.base_url}/chat/completions").status_code == 405
    assert httpx.post(f"{tight.base_url}/models").status_code == 405
    assert httpx.get(f"{tight.base_url}/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{tight.origin}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{tight.origin}/readyz").json() == {"status": "ready"}
    text = httpx.get(f"{tight.origin}/metrics").text
    assert 'surface="chat",status="402"' in text
    assert 'errors_total{code="budget_exceeded"}' in text
    for address in ("127.0.0.1", "localhost", "[::1]"):
        assert httpx.get(f"{tight.base_url}/models", headers={"origin": f"http://{address}:3000"}).status_code == 200
    for page in ("https://example.org", "http://127.0.0.1.example.org", "null"):
        assert httpx.get(f"{tight.base_url}/models", headers={"origin": page}).status_code == 403


def test_a_tool_that_must_be_called_has_to_be_offered(tight: Proxy) -> None:
    headers = {"x-waywiser-session": "chooser"}
    messages = [{"role": "user", "content": "?"}]
    schema = {"type": "object", "properties": {}}
    asked = {
        "/v1/chat/completions": {
            "messages": messages,
            "tool_choice": {"type": "function", "function": {"name": "gone"}},
            "tools": [{"type": "function", "function": {"name": "there", "parameters": schema}}],
        },
        "/v1/messages": {
            "max_tokens": 9,
            "messages": messages,
            "tool_choice": {"type": "tool", "name": "gone"},
            "tools": [{"name": "there", "input_schema": schema}],
        },
        "/v1/responses": {
            "input": "?",
            "tool_choice": {"type": "function", "name": "gone"},
            "tools": [{"type": "function", "name": "there", "parameters": schema}],
        },
    }
    for path, body in asked.items():
        answer = tight.post(path, {"model": "auto", **body}, **headers)
        assert answer.status_code == 400, path
        assert "tool_choice: no tool 'gone' is offered" in answer.json()["error"]["message"]
        tool = body["tools"][0]
        (tool.get("function", tool))["input_schema" if "input_schema" in tool else "parameters"] = {"properties": [1]}
        answer = tight.post(path, {"model": "auto", **body}, **headers)
        assert answer.status_code == 400, path
        assert "properties: expected an object" in answer.json()["error"]["message"]
