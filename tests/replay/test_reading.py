"""Every format gives the same session; what is broken is named, left out, and never a wrong total."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recordings as made

from waywiser.errors import BadInput
from waywiser.replay.reading import batches, read
from waywiser.replay.recording import Problem, Session


def sessions(path: Path) -> list[Session | Problem]:
    return [item if isinstance(item, Problem) else read(item) for item in batches(path)]


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


FORMATS: dict[str, Callable[[], list[Any]]] = {
    "trajectory": lambda: [made.trajectory()],
    "chat": made.chats,
    "chat, session told by its history": lambda: made.chats(None),
    "langsmith": made.langsmith,
    "langsmith, one array": lambda: [made.langsmith()],
    "otel": lambda: [made.spans()],
    "otel, one span a line": lambda: made.spans()["resourceSpans"][0]["scopeSpans"][0]["spans"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_session(tmp_path: Path, name: str) -> None:
    (found,) = sessions(written(tmp_path / "in.jsonl", FORMATS[name]()))
    assert isinstance(found, Session)
    if "told by" not in name:
        assert found.id == "t1"
    first, second = found.calls
    assert [turn.text for turn in first.prompt] == [made.SYSTEM["content"], made.ASK["content"]]
    assert [turn.role for turn in second.prompt] == ["system", "user", "assistant", "tool"]
    assert second.prompt[2].tool_calls == first.reply.tool_calls
    assert first.reply.tool_calls[0].name == "find_order"
    assert json.loads(first.reply.tool_calls[0].arguments) == {"order": "W7"}
    assert second.reply.text == made.ANSWER["content"]
    assert [tool.name for tool in second.tools] == ["find_order"]
    assert [(call.usage.input_tokens, call.usage.output_tokens) for call in found.calls if call.usage] == [*made.USAGES]
    assert first.at_s is not None
    assert second.at_s is not None
    assert second.at_s - first.at_s == pytest.approx(4)


def test_a_pretty_printed_document_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "spans.json"
    path.write_text(json.dumps(made.spans(), indent=2))
    (found,) = sessions(path)
    assert isinstance(found, Session)
    assert len(found.calls) == 2


def test_gzip_is_told_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "no_suffix"
    path.write_bytes(gzip.compress(json.dumps(made.trajectory()).encode()))
    (found,) = sessions(path)
    assert isinstance(found, Session)


def test_interleaved_sessions_are_grouped_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    a, b = made.chats("a"), made.chats("b")
    found = sessions(written(tmp_path / "in.jsonl", [b[0], a[0], a[1], made.trajectory("whole"), b[1]]))
    assert [item.id for item in found if isinstance(item, Session)] == ["b", "a", "whole"]
    assert [len(item.calls) for item in found if isinstance(item, Session)] == [2, 2, 2]


def test_what_is_broken_is_named_with_its_place(tmp_path: Path) -> None:
    orphan = made.trajectory("orphan", messages=[made.SYSTEM, made.ASK, made.RESULT, made.ANSWER], meta={})
    short = made.trajectory("short")
    short["meta"]["steps"].pop()
    lines = [
        "{not json",
        made.trajectory("good"),
        [],
        {"what": "is this"},
        "17",
        orphan,
        short,
        {"request": {"messages": [made.ASK]}, "response": {"error": {"message": "overloaded"}}},
        {"messages": "text", "response": {"choices": [{"message": made.ANSWER}]}},
        made.trajectory("spoiled", messages=[], meta={"termination": "agent_error"}),
    ]
    found = sessions(written(tmp_path / "in.jsonl", lines))
    assert [item.id for item in found if isinstance(item, Session)] == ["good"]
    problems = {item.place: item for item in found if isinstance(item, Problem)}
    assert set(problems) == {f"in.jsonl:{number}" for number in (1, 4, 5, 6, 7, 8, 9, 10)}
    assert problems["in.jsonl:10"].dropped
    assert "not JSON" in problems["in.jsonl:1"].why
    assert "no earlier tool call" in problems["in.jsonl:6"].why
    assert "1 steps for 2" in problems["in.jsonl:7"].why


def test_a_file_that_was_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(made.trajectory(f"t{n}")) + "\n" for n in range(400)).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found = sessions(path)
    assert any(isinstance(item, Session) for item in found)
    last = found[-1]
    assert isinstance(last, Problem)
    assert "breaks off" in last.why


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        sessions(tmp_path / "nothing.jsonl")


def test_the_calls_of_a_simulated_user_are_not_the_agents(tmp_path: Path) -> None:
    own = {**made.CALL, "role": "user", "tool_calls": [{**made.CALL["tool_calls"][0], "id": "theirs"}]}
    turns = [*made.MESSAGES, own, {**made.RESULT, "tool_call_id": "theirs"}, {"role": "user", "content": "Thanks!"}]
    (found,) = sessions(written(tmp_path / "in.jsonl", [made.trajectory(messages=turns)]))
    assert isinstance(found, Session)
    assert len(found.calls[0].messages) == len(made.MESSAGES) + 1


def test_a_scripted_greeting_is_no_call(tmp_path: Path) -> None:
    greeting = {"role": "assistant", "content": "Hello!"}
    line = made.trajectory(messages=[greeting, *made.MESSAGES[1:]])
    line["meta"]["steps"].insert(0, {"cost": 0.0, "prompt_tokens": None, "completion_tokens": None})
    (found,) = sessions(written(tmp_path / "in.jsonl", [line]))
    assert isinstance(found, Session)
    assert [call.cost_nanos for call in found.calls] == [1_000_000, 2_000_000]


def test_equal_calls_without_a_name_are_sessions_of_their_own(tmp_path: Path) -> None:
    once = made.chats(None)[0]
    found = sessions(written(tmp_path / "in.jsonl", [once, once]))
    assert [len(item.calls) for item in found if isinstance(item, Session)] == [1, 1]


def test_the_same_session_name_of_two_tenants_is_two_sessions(tmp_path: Path) -> None:
    told = {"kind_by": "", "top_tier_nanos": 0, "considered": [], "session": "s"}
    rest = {"id": "1", "agent": "", "node": "", "step": 1, "at_s": 1.0, "policy": "p", "kind": "other"}
    rest |= {"kind_confidence": 1.0, "tier": "", "model": ""}
    lines = [{**told, **rest, "tenant": name} for name in ("a", "b")]
    found = sessions(written(tmp_path / "in.jsonl", lines))
    assert [len(item.calls) for item in found if isinstance(item, Session)] == [1, 1]
