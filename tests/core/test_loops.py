"""Loops: what is fruitless, what is progress, and the ladder of what is done about it."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.calls import Reply
from waywiser.core.loops import (
    LADDER,
    Loop,
    LoopKind,
    carried,
    find_loop,
    hint_text,
    holds,
    next_rung,
    said,
    seen,
)
from waywiser.core.messages import Image, Message, Role, Text, ToolCall, assistant, system, tool_result, user
from waywiser.core.policy import LoopControl
from waywiser.core.progress import WINDOW, Seen
from waywiser.core.trail import TRAIL_STEPS, LoopState, StepRecord, Trail

RULE = LoopControl(after=3)


class Agent:
    """A session fed step by step, as the pipeline would: look, then answer, then whatever the world says."""

    def __init__(self, rule: LoopControl = RULE, first: str = "Please find my order.") -> None:
        self.rule = rule
        self.trail = Trail()
        self.history: list[Message] = [system("You help."), user(first)]
        self.coming = Seen(0)
        self.ids = 0

    def look(self, *, agent: str = "", node: str = "", state: bytes = b"") -> Loop | None:
        self.coming = seen(self.history, self.trail, self.rule, agent=agent, node=node, state=state)
        return find_loop(self.trail, self.coming, self.rule)

    def record(self, reply: Reply) -> None:
        saw, spoke = self.coming, said(reply)
        step = StepRecord(self.trail.count + 1, 0.0, "", "", "", saw.node, saw.agent, saw.human, saw.results)
        step = replace(step, text=spoke.text, text_simhash=spoke.text_simhash, calls=spoke.calls, state=saw.state)
        step = replace(step, length=saw.length, place=saw.place, spoke=saw.spoke, heard=saw.heard, since=saw.since)
        self.trail = self.trail.appended(step)

    def act(self, *calls: tuple[str, object, str], text: str = "", **where: str) -> Loop | None:
        """One step that makes calls (tool, arguments, result); the loop found before it."""
        loop = self.look(**where)
        made = []
        for tool, arguments, _ in calls:
            self.ids += 1
            written = arguments if isinstance(arguments, str) else json.dumps(arguments)
            made.append(ToolCall(f"c{self.ids}", tool, written))
        self.record(Reply((Text(text),) if text else (), tuple(made)))
        self.history.append(assistant(text, made))
        for call, (_, _, result) in zip(made, calls, strict=True):
            self.history.append(tool_result(call.id, result, name=call.name))
        return loop

    def say(self, text: str, answer: str = "", **where: str) -> Loop | None:
        """One step that says text; then a person says `answer`, if anything."""
        loop = self.look(**where)
        self.record(Reply((Text(text),)))
        self.history.append(assistant(text))
        if answer:
            self.history.append(user(answer))
        return loop


def first_flag(steps: Sequence[Loop | None]) -> int | None:
    return next((index for index, loop in enumerate(steps) if loop is not None), None)


# --- what is a loop ---------------------------------------------------------------------------------------------------


def test_the_same_call_with_the_same_result_is_found_when_the_third_came() -> None:
    agent = Agent()
    flags = [agent.act(("lookup", {"id": 7}, "status: open")) for _ in range(5)]
    assert first_flag(flags) == 3
    assert flags[3] is not None
    assert (flags[3].kind, flags[3].repeats, flags[3].period) == (LoopKind.CALL, 3, 1)
    assert flags[4] is not None
    assert flags[4].anchor == flags[3].anchor


@pytest.mark.parametrize("after", [2, 3, 4, 6])
def test_after_is_the_number_of_occurrences(after: int) -> None:
    agent = Agent(LoopControl(after=after))
    flags = [agent.act(("lookup", {"id": 7}, "status: open")) for _ in range(9)]
    assert first_flag(flags) == after


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_cycle_of_calls_is_found_in_its_third_round(period: int) -> None:
    agent = Agent()
    flags = [agent.act((f"tool{index % period}", {}, f"result {index % period}")) for index in range(5 * period)]
    found = first_flag(flags)
    assert found == 3 * period
    loop = flags[found + 1]
    assert loop is not None
    assert (loop.kind, loop.period) == (LoopKind.CYCLE, period)
    assert set(loop.tools) == {f"tool{index}" for index in range(period)}
    assert len({flag.anchor for flag in flags if flag is not None}) == 1


def test_an_irregular_round_of_known_calls_is_a_loop_too() -> None:
    agent = Agent()
    flags = [agent.act((tool, {}, f"what {tool} says")) for tool in "ababbaabbabaab"]
    assert first_flag(flags) is not None


def test_the_same_error_to_different_arguments() -> None:
    agent = Agent()
    names = ["alpha", "beta", "gamma", "delta", "epsilon"]
    flags = [agent.act(("find_user", {"name": name}, "Error: user not found")) for name in names]
    assert first_flag(flags) == 3
    assert flags[3] is not None
    assert flags[3].kind is LoopKind.ERROR


def test_an_error_a_surface_marks_is_one_whatever_it_says() -> None:
    agent = Agent()
    flags = []
    for name in ("alpha", "beta", "gamma", "delta"):
        flags.append(agent.act(("find_user", {"name": name}, "nobody")))
        agent.history[-1] = replace(agent.history[-1], is_error=True)
    assert first_flag([*flags, agent.look()]) == 3


@pytest.mark.parametrize(
    "result", ["Error: exit code 1", "<returncode>1</returncode>\n<output>\n</output>", "Exit code 1"]
)
def test_commands_that_fail_without_a_word_did_not_fail_for_the_same_reason(result: str) -> None:
    agent = Agent()
    for word in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta"):
        assert agent.act(("shell", {"command": f"grep {word}"}, result)) is None
        agent.history[-1] = replace(agent.history[-1], is_error=True)


@pytest.mark.parametrize("result", ["Error: timeout", '{"error": "not found"}', "Error 503", "ValueError: bad seat"])
def test_a_short_error_is_one_nevertheless(result: str) -> None:
    agent = Agent()
    names = ["alpha", "beta", "gamma", "delta", "epsilon"]
    assert first_flag([agent.act(("find_user", {"name": name}, result)) for name in names]) == 3


WRITTEN: dict[str, Callable[[int], str]] = {
    "white space": lambda n: '{"q": ' + " " * n + '"shoes", "size": 9}',
    "white space inside": lambda n: '{"q": "red' + " " * (n + 1) + 'shoes"}',
    "key order": lambda n: '{"a": 1, "b": 2}' if n % 2 else '{"b": 2, "a": 1}',
    "number form": lambda n: '{"n": ' + ("2", "2.0", "2e0", '"2"', "2.00", '"2.0"')[n % 6] + "}",
    "a counter": lambda n: json.dumps({"q": "shoes", "attempt": n}),
    "a counter in a text": lambda n: json.dumps({"q": f"shoes (try {n})"}),
    "a random number": lambda n: json.dumps({"q": "shoes", "nonce": n * 7919 % 1000}),
    "a fresh uuid": lambda n: json.dumps({"q": "shoes", "id": f"550e8400-e29b-41d4-a716-44665544{n:04}"}),
    "the time": lambda n: json.dumps({"q": "shoes", "at": f"2026-01-01T10:{n:02}:00Z"}),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_an_agent_that_varies_its_arguments_is_still_caught(how: str) -> None:
    agent = Agent()
    flags = [agent.act(("search", WRITTEN[how](n), "nothing found here")) for n in range(8)]
    found = first_flag(flags)
    assert found is not None
    assert found <= 6


def test_an_error_that_echoes_the_arguments_is_the_same_error() -> None:
    agent = Agent()
    words = ("alpha", "beta", "gamma", "delta")
    assert first_flag([agent.act(("find", {"name": w}, f"Error: no user {w}")) for w in words]) == 3
    numbers = Agent()
    assert first_flag([numbers.act(("find", {"id": n}, f"Error: no order {n}")) for n in range(5)]) == 3


def test_results_that_differ_by_clock_or_request_id_are_the_same() -> None:
    agent = Agent()
    flags = [
        agent.act(("status", {}, f'{{"state": "stuck", "request_id": "r{n}", "at": "2026-01-01T10:0{n}:11Z"}}'))
        for n in range(5)
    ]
    assert first_flag(flags) == 3


def test_the_same_words_with_no_one_else_speaking() -> None:
    agent = Agent()
    flags = [agent.say("I am working on it, one moment.") for _ in range(5)]
    assert first_flag(flags) == 3
    assert flags[3] is not None
    assert flags[3].kind is LoopKind.TEXT


def test_nearly_the_same_words() -> None:
    words = "I have now looked at the order and the refund rules and I will come back to you with the result very"
    agent = Agent()
    flags = [agent.say(f"{words} {end}") for end in ("soon", "shortly", "soon!", "quickly", "soon")]
    assert first_flag(flags) == 3


def test_the_same_answer_to_a_scaffold_that_always_says_the_same() -> None:
    agent = Agent()
    flags = [agent.say("The task is done.", "Please call a tool to go on.") for _ in range(6)]
    assert first_flag(flags) == 3


def test_an_agent_whose_tools_answer_as_the_user() -> None:
    agent = Agent()
    flags = [agent.say("Action: ls /tmp", "Observation: no such directory") for _ in range(6)]
    assert first_flag(flags) == 3


def test_a_reminder_sent_with_every_result_does_not_hide_a_loop() -> None:
    agent = Agent()
    flags = []
    for left in range(9, 2, -1):
        flags.append(agent.act(("lookup", {"id": 7}, "status: open")))
        agent.history.append(user(f"You have {left} steps left."))
    assert first_flag(flags) is not None


def test_thinking_aloud_between_does_not_hide_a_loop() -> None:
    agent = Agent()
    flags = []
    for thought in ("perhaps", "so", "then again", "well", "now", "once more", "and", "but"):
        flags.append(agent.act(("book", {"seat": 4}, "Error: paid 833, not 1203")))
        flags.append(agent.act(("think", {"thought": thought}, "")))
    assert first_flag(flags) is not None


@pytest.mark.parametrize("state", [b"state", b""])
def test_nodes_that_take_turns_over_unchanged_state(state: bytes) -> None:
    agent = Agent()
    flags = []
    for turn in range(10):
        node = ("draft", "judge")[turn % 2]
        agent.history = [system(node), user(f"The work of {node}.")]
        flags.append(agent.look(node=node, state=state))
        agent.record(Reply((Text(f"words of {turn}"),)))
    found = first_flag(flags)
    assert found is not None
    assert flags[found].kind is LoopKind.NODES  # type: ignore[union-attr]
    assert "`draft`" in flags[found].what  # type: ignore[union-attr]


def test_a_loop_longer_than_the_window_keeps_its_anchor() -> None:
    agent = Agent()
    flags = [agent.act((f"tool{n % 3}", {}, f"result {n % 3}")) for n in range(2 * WINDOW)]
    assert len({flag.anchor for flag in flags if flag is not None}) == 1
    assert all(flag is not None for flag in flags[9:])


def test_a_sub_agent_loops_while_another_works() -> None:
    agent = Agent()
    stuck, working = list(agent.history), list(agent.history)
    flags = []
    for turn in range(5):
        agent.history = stuck
        flags.append(agent.act(("lookup", {"id": 7}, "status: open"), agent="stuck"))
        agent.history = working
        assert agent.act(("read", {"page": turn}, f"page {turn}"), agent="working") is None
    assert first_flag(flags) == 3


# --- what is progress -------------------------------------------------------------------------------------------------


def test_polling_that_brings_something_new() -> None:
    agent = Agent()
    assert not any(agent.act(("status", {"job": 4}, f"{n * 10}% done")) for n in range(10))


def test_pagination() -> None:
    agent = Agent()
    assert not any(agent.act(("list", {"page": n}, f"items {n}0 to {n}9")) for n in range(20))
    assert not any(agent.act(("list", {"page": n}, f"this is page {n}")) for n in range(20))


def test_reading_the_same_again_between_other_work() -> None:
    agent = Agent()
    for n in range(10):
        assert agent.act(("get_order", {"id": "W1"}, "pending")) is None
        assert agent.act(("get_item", {"id": f"i{n}"}, f"item number {n}")) is None


def test_a_write_of_different_things_with_the_same_receipt() -> None:
    agent = Agent()
    for name in ("ann", "bob", "cem", "dee", "eve", "fay", "gil", "hal"):
        assert agent.act(("send", {"to": name}, "sent")) is None


def test_a_few_writes_that_differ_by_number() -> None:
    agent = Agent()
    assert not any(agent.act(("delete", {"id": n}, "deleted")) for n in range(5))


def test_any_number_of_writes_to_things_that_were_listed() -> None:
    agent = Agent()
    agent.act(("list", {}, json.dumps([f"mail_{n}" for n in range(100, 140)])))
    assert not any(agent.act(("delete", {"id": f"mail_{n}"}, "deleted")) for n in range(100, 140))
    unlisted = Agent()
    assert any(unlisted.act(("delete", {"id": f"mail_{n}"}, "deleted")) for n in range(100, 140))


def test_a_listed_thing_does_not_excuse_a_counter_beside_it() -> None:
    agent = Agent()
    agent.act(("list", {}, "orders: W6247578"))
    flags = [agent.act(("track", {"order": "W6247578", "attempt": 100 + n}, "no news")) for n in range(8)]
    assert first_flag(flags) == 6


def test_navigation_named_in_the_policy() -> None:
    steps = [("goto_node", {"node": "START"}, "you are at START")] * 8
    named = Agent(replace(RULE, navigation=frozenset({"goto_node"})))
    assert not any(named.act(step) for step in steps)
    unnamed = Agent()
    assert any(unnamed.act(step) for step in steps)


def test_calls_of_one_turn_count_once() -> None:
    agent = Agent()
    assert agent.act(*[("lookup", {"id": 7}, "open")] * 6) is None
    assert agent.look() is None


def test_a_person_resets() -> None:
    agent = Agent()
    for _ in range(3):
        agent.act(("lookup", {"id": 7}, "status: open"))
    assert agent.look() is not None
    agent.say("It is still open.", "Try again please.")
    flags = [agent.act(("lookup", {"id": 7}, "status: open")) for _ in range(4)]
    assert first_flag(flags) == 3
    agent.say("It is still open.", "Try again please.")  # the very same words: still a person
    assert agent.look() is None


def test_a_form_read_out_to_a_person_who_says_yes() -> None:
    agent = Agent()
    for item in ("name", "street", "town", "phone", "mail", "payment"):
        assert agent.say(f"I noted your {item}. Shall I go on with the rest?", "yes") is None


def test_the_same_words_to_different_people_is_service() -> None:
    agent = Agent()
    assert not any(agent.say("Too low! Guess again.", str(guess)) for guess in range(10))


def test_replays_of_one_moment_count_once() -> None:
    agent = Agent()
    agent.act(("lookup", {"id": 7}, "status: open"))
    for _ in range(6):
        assert agent.look() is None
        agent.record(Reply((Text("The same answer."),)))


def test_requests_that_stand_alone_are_no_loop() -> None:
    agent = Agent()
    for turn in range(12):
        agent.history = [user(("ping", "pong")[turn % 2])]
        assert agent.look() is None
        agent.record(Reply((Text("hello"),)))


def test_handing_work_to_another_speaker_is_progress_when_it_says_something_new() -> None:
    agent = Agent()
    for word in ("one", "two", "three", "four", "five"):
        assert agent.act(("transfer_to_writer", {}, "Successfully transferred")) is None
        agent.history.append(Message(Role.ASSISTANT, (Text(f"Chapter {word} is written."),), name="writer"))


def test_branches_beside_each_other_that_make_the_same_call() -> None:
    agent = Agent()
    branches = [[*agent.history, user(f"Do part {part}.")] for part in range(5)]
    for turn in range(2):
        for branch in branches:
            agent.history = branch
            assert agent.act(("get_rules", {}, "the rules"), text=f"turn {turn}") is None
    flags = []
    for turn in range(4):
        agent.history = branches[2]
        flags.append(agent.act(("get_rules", {}, "the rules")))
        agent.history = branches[3]
        assert agent.act(("read", {"page": turn}, f"page {turn}")) is None
    assert first_flag(flags) == 1  # the third in this branch


def test_a_picture_that_changes_is_a_new_result() -> None:
    agent = Agent()
    for n in range(6):
        assert agent.act(("screenshot", {}, "")) is None
        agent.history[-1] = replace(agent.history[-1], parts=(Image(f"data:image/png;base64,{n}"),))


def test_a_history_that_is_trimmed_to_its_newest_turns_still_shows_a_loop() -> None:
    agent = Agent()
    flags = []
    for _ in range(6):
        flags.append(agent.act(("lookup", {"id": 7}, "status: open")))
        agent.history = agent.history[-2:]
    assert first_flag(flags) == 3


def test_ids_that_are_used_again() -> None:
    agent = Agent()
    flags = []
    for _ in range(6):
        agent.ids = 0
        flags.append(agent.act(("lookup", {"id": 7}, "status: open")))
    assert first_flag(flags) == 3


# --- the ladder -------------------------------------------------------------------------------------------------------


def climb(agent: Agent, state: LoopState, ladder: tuple[str, ...]) -> tuple[str, LoopState]:
    loop = agent.look()
    state = carried(state, agent.coming)
    return next_rung(loop, state, ladder) if loop is not None else ("", state)


@pytest.mark.parametrize("ladder", [LADDER, ("hint", "stop"), ("conclude",), ("escalate", "conclude"), ()])
def test_each_rung_is_used_once_per_loop_in_order(ladder: tuple[str, ...]) -> None:
    agent, state, rungs = Agent(), LoopState(), []
    for turn in range(12):
        rung, state = climb(agent, state, ladder)
        rungs.append(rung)
        agent.act((f"tool{turn % 2}", {}, "the same"))
    used = [rung for rung in rungs if rung]
    assert tuple(used[: len(ladder)]) == ladder
    assert set(used[len(ladder) :]) <= {"stop"}
    if "stop" in ladder:
        assert rungs[-1] == "stop"  # what was stopped stays stopped


def test_progress_begins_a_new_ladder_and_frees_the_pinned_tier() -> None:
    agent, state = Agent(), LoopState()
    for _ in range(3):
        agent.act(("lookup", {}, "open"))
    rung, state = climb(agent, state, LADDER)
    assert rung == "hint"
    agent.act(("lookup", {}, "open"))
    rung, state = climb(agent, state, LADDER)
    assert rung == "escalate"
    state = replace(state, floor="premium")
    assert holds(state, agent.coming)
    agent.act(("other", {}, "something new"))
    assert climb(agent, state, LADDER) == ("", LoopState())
    for _ in range(2):
        agent.act(("other", {}, "something new"))
    agent.look()
    rung, state = climb(agent, LoopState(), LADDER)
    assert rung == "hint"


def test_a_known_but_different_call_is_not_progress() -> None:
    agent, state = Agent(), LoopState()
    agent.act(("other", {}, "known"))
    for _ in range(3):
        agent.act(("lookup", {}, "open"))
    _, state = climb(agent, state, LADDER)
    agent.act(("other", {}, "known"))
    assert climb(agent, state, LADDER) == ("", state)
    agent.act(("lookup", {}, "open"))
    assert climb(agent, state, LADDER)[0] == "escalate"


def test_a_person_frees_a_session_that_was_stopped() -> None:
    agent, state = Agent(), LoopState()
    for _ in range(3):
        agent.act(("lookup", {}, "open"))
    rung, state = climb(agent, state, ("stop",))
    assert rung == "stop"
    assert climb(agent, state, ("stop",))[0] == "stop"
    agent.history.append(user("Leave it. What is your name?"))
    assert climb(agent, state, ("stop",)) == ("", LoopState())


def test_a_branch_beside_leaves_the_ladder_alone() -> None:
    agent, state, rungs = Agent(), LoopState(), []
    stuck, working = [*agent.history, user("Do part one.")], [*agent.history, user("Do part two.")]
    for turn in range(7):
        agent.history = stuck
        rung, state = climb(agent, state, LADDER)
        rungs.append(rung)
        agent.act(("lookup", {}, "open"))
        agent.history = working
        assert climb(agent, state, LADDER) == ("", state)
        agent.act(("read", {"page": turn}, f"page {turn}"))
    assert rungs == ["", "", "", *LADDER]


def test_another_agents_step_leaves_the_ladder_alone() -> None:
    agent = Agent()
    for _ in range(3):
        agent.act(("lookup", {}, "open"), agent="a")
    loop = agent.look(agent="a")
    assert loop is not None
    _, state = next_rung(loop, LoopState(), LADDER)
    agent.look(agent="b")
    assert carried(state, agent.coming) == state
    assert not holds(state, agent.coming)


def test_the_hint_names_what_was_repeated_and_nothing_of_the_prompt() -> None:
    agent = Agent(first="my secret is 4711")
    for _ in range(3):
        agent.act(("lookup", {"password": "hunter2"}, "no such account"))
    loop = agent.look()
    assert loop is not None
    text = hint_text(loop)
    assert "`lookup`" in text
    assert "3 times" in text
    assert not any(word in text + loop.what for word in ("hunter2", "4711", "no such account"))


# --- cost and robustness ----------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_history_is_not_read_again() -> None:
    agent = Agent()
    for n in range(500):
        agent.act(("read", {"page": n}, f"page {n}"))
    assert len(agent.trail.steps) == TRAIL_STEPS
    agent.look()
    read: list[int] = []

    class Watched(list[Message]):
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            read.append(1 if isinstance(index, int) else len(range(*index.indices(len(self)))))
            return super().__getitem__(index)

    seen(Watched(agent.history), agent.trail, RULE)
    assert sum(read) < 12


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.text(max_size=6), JSONISH | st.text(max_size=20), st.text(max_size=30)), max_size=6))
def test_any_arguments_and_results_are_taken(calls: list[tuple[str, object, str]]) -> None:
    agent = Agent()
    for call in calls:
        agent.act(call)
    agent.look()


def test_broken_histories_are_taken() -> None:
    assert seen([], Trail(), RULE).since == 0
    stray = [tool_result("nobody", "a result without a call"), tool_result("", "another")]
    assert [action.tool for action in seen(stray, Trail(), RULE).results] == ["", ""]
    assert seen([assistant("", [ToolCall("1", "t", "[" * 100_000)]), tool_result("1", "x")], Trail(), RULE).results
    assert seen([assistant("", [ToolCall("1", "t", "9" * 5000)]), tool_result("1", "x")], Trail(), RULE).results


# --- recorded sessions ------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / ".." / "shared" / "data" / "trajectories"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded sessions are not here")
def test_recorded_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_from_file_location("loop_benchmark", ROOT / "benchmarks" / "loops.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "loop_benchmark", benchmark)
    spec.loader.exec_module(benchmark)
    good = good_flagged = looping = caught = 0
    repetitions = []
    for session in benchmark.load(RECORDED, ""):
        fired, real = benchmark.ours(session, RULE), benchmark.truth(session)
        good += session.success
        good_flagged += session.success and fired is not None
        looping += real.loops
        if real.loops and fired is not None:
            caught += 1
            repetitions.append(sum(at < fired.index for at in real.repetitions))
    assert good > 500
    assert good_flagged <= 0.005 * good
    assert looping > 10
    assert caught >= 0.95 * looping
    assert statistics.median(repetitions) <= 3
