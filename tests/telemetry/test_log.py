"""The log: one event a step, readable or JSON, and nothing in it that a log must not hold."""

import io
import json

import pytest

from waywiser import Router, UpstreamError
from waywiser.telemetry.log import LogSink

SECRET_PROMPT = "my card is 4111 1111 1111 1111"


def test_one_json_event_a_step_without_prompt_or_answer() -> None:
    out = io.StringIO()
    with (
        Router.from_policy("policies/simulated.yaml", store=":memory:", sinks=[LogSink(out)]) as router,
        router.session("s", tenant="acme"),
    ):
        answer = router.chat_model().invoke(SECRET_PROMPT).text
        router.chat_model().invoke("and again")
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["step"] for event in events] == [1, 2]
    first = events[0]
    assert (first["event"], first["level"], first["tenant"], first["simulated"]) == ("step", "info", "acme", True)
    assert first["cost_usd"] > 0
    assert first["receipt"]
    assert "4111" not in out.getvalue()
    assert answer not in out.getvalue()


def test_a_terminal_gets_readable_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Router.from_policy("policies/simulated.yaml", store=":memory:", sinks=[LogSink(out)]) as router:
        router.chat_model().invoke("hello")
    (line,) = out.getvalue().splitlines()
    assert not line.startswith("{")
    assert "simulated/standard" in line


def test_nothing_is_written_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    with Router.from_policy("policies/simulated.yaml", store=":memory:") as router:
        router.chat_model().invoke("hello")
    assert capfd.readouterr() == ("", "")


def test_a_refusal_is_a_warning_and_keys_stay_out(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    policy = Path(str(tmp_path)) / "p.yaml"
    policy.write_text(
        "version: 1\nname: p\ntiers: {only: [local/x]}\n"
        "models: {local/x: {base_url: 'http://127.0.0.1:9/v1', context: 8000, price: {input: 1, output: 1},"
        " api_key: '${MINE}'}}\nfallback: {attempts: 1}\n"
    )
    monkeypatch.setenv("MINE", "sk-very-secret")
    out = io.StringIO()
    with (
        Router.from_policy(policy, store=":memory:", sinks=[LogSink(out)]) as router,
        pytest.raises(UpstreamError) as caught,
    ):
        router.chat_model().invoke("hello")
    event = json.loads(out.getvalue())
    assert (event["level"], event["refused"]) == ("warning", "connection")
    assert event["attempts"][0]["failure"] == "connection"
    for text in (out.getvalue(), str(caught.value), repr(caught.value.receipt)):
        assert "sk-very-secret" not in text
