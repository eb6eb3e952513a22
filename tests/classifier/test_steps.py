"""The heads for agent steps: what they see, that they learn an agent's habits, bounds, and weights that are no good."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from waywiser.classifier.glimpses import glimpse, identifiers, shape_of, tool_kind
from waywiser.classifier.habits import Agents, Habits, Moment, squash, unusual, usual
from waywiser.classifier.recordings import Recording, read_messages, read_session_file, read_steps
from waywiser.classifier.step_features import FEATURES, Progress
from waywiser.classifier.steps import COLD, LOOK_BACK, StepHeads, agent_of, on_ladder
from waywiser.classifier.train_steps import adapted, choose, decisions, fit_kinds, fit_work, measure, prior, train_steps
from waywiser.classifier.work_features import FEATURES as WORK_FEATURES
from waywiser.classifier.work_features import Signs, work_features
from waywiser.core.calls import Tool
from waywiser.core.messages import Message, Role, Text, ToolCall, assistant, system, tool_result, user
from waywiser.errors import ConfigError

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "trajectories").is_dir(), reason="the shared recordings are not here")

BASH = Tool("bash", "Run a command")


def call(name: str, arguments: str = "{}", text: str = "") -> Message:
    return assistant(text, [ToolCall("c1", name, arguments)])


def session(seed: int, *, eager: bool) -> tuple[Message, ...]:
    """A made-up desk: eager agents look twice before they speak, others speak after every look."""
    chance = random.Random(seed)
    found = [system("You help people with their parcels.")]
    for turn in range(5):
        number = f"P{chance.randrange(10**6):06d}"
        found.append(user(f"Where is parcel {number}?" if turn % 2 else f"Please look up {number}, thanks"))
        for _ in range(2 if eager else 1):
            found += [call("get_parcel", f'{{"id": "{number}"}}'), tool_result("c1", '{"state": "moving", "id": 1}')]
        found.append(assistant("It is on its way. Anything else?"))
    return tuple(found)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return [
        Recording("made", f"agent {seed % 4}", "parcels", f"task {seed % 20}", True, session(seed, eager=seed % 2 == 0))
        for seed in range(60)
    ]


@pytest.fixture(scope="module")
def arrays(recordings: list[Recording]) -> dict[str, np.ndarray]:
    table = decisions(recordings)
    return {**fit_kinds(table, np.ones(len(table.called), dtype=bool), 0).arrays(), "work": prior()}


@pytest.fixture
def heads(arrays: dict[str, np.ndarray]) -> StepHeads:
    return StepHeads.load(arrays)


def prefixes(messages: tuple[Message, ...]) -> Iterator[tuple[tuple[Message, ...], bool]]:
    for at, message in enumerate(messages):
        if message.role is Role.ASSISTANT:
            yield messages[:at], bool(message.tool_calls)


def test_identifiers_are_not_words_dates_or_short_numbers() -> None:
    assert identifiers("order #W9348897 of omar_rossi_1241 on 2024-05-15, 3 items, hello") == {
        "w9348897",
        "omar_rossi_1241",
    }


def test_identifiers_of_one_kind_have_one_shape() -> None:
    assert shape_of("w9348897") == shape_of("w12") == "a9"
    assert shape_of("omar_rossi_1241") == shape_of("mei_kovacs_8") != shape_of("w12")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("get_user_details", "read"),
        ("searchFlights", "find"),
        ("cancel_pending_order", "write"),
        ("goto_node", "steer"),
        ("transfer_to_human_agents", "leave"),
        ("calculate", "think"),
        ("zzz", "other"),
        ("", "other"),
    ],
)
def test_what_a_tool_does_is_told_by_its_name(name: str, kind: str) -> None:
    assert tool_kind(name) == kind


def test_features_have_names_one_each() -> None:
    progress = Progress()
    assert len(progress.features()) == len(FEATURES) == len(set(FEATURES))
    for message in session(1, eager=True):
        progress.add(glimpse(message))
        assert len(progress.features()) == len(FEATURES)
        assert np.isfinite(progress.features()).all()


def test_a_greeting_and_a_persons_own_tools_are_none_of_the_agents_steps() -> None:
    plain, odd = Progress(), Progress()
    for message in (user("Hi"), call("get_x"), tool_result("c1", "ok")):
        plain.add(glimpse(message))
    for message in (
        assistant("Hello, how can I help?"),
        user("Hi"),
        tool_result("u1", "his own"),
        call("get_x"),
        tool_result("c1", "ok"),
    ):
        odd.add(glimpse(message))
    assert plain.features() == odd.features()


def test_agreement_to_a_proposal_is_seen() -> None:
    progress = Progress()
    for message in (user("Cancel W12345"), assistant("Shall I proceed and cancel W12345?"), user("Yes, please")):
        progress.add(glimpse(message))
    seen = dict(zip(FEATURES, progress.features(), strict=True))
    assert seen["agreed"] == 1
    assert seen["refused"] == 0
    assert seen["agreed_open_ids"] == 1


def moment(*where: str, unusual: float = 0.0) -> Moment:
    turn, tool = where
    return Moment(0.0, ("", turn, tool), np.array([unusual]))


def test_habits_move_towards_what_was_done_and_stay_in_their_situation() -> None:
    habits = Habits()
    before = habits.chance(moment("turn", "tool a"))
    for _ in range(6):
        habits.learn(moment("turn", "tool a"), called=True)
    here, elsewhere = habits.chance(moment("turn", "tool a")), habits.chance(moment("result", "tool b"))
    assert here > 0.8 > 0.7 > elsewhere > before


def test_habits_are_bounded() -> None:
    habits = Habits()
    for number in range(10_000):
        habits.learn(moment("turn", f"tool {number}"), called=True)
    assert len(habits._shifts) <= 70


def test_over_many_sessions_an_agent_is_told_by_what_is_unusual_about_a_step() -> None:
    """The same situation, calls where a feature is high and answers where it is low: no habit could tell."""
    agents = Agents()
    for session in range(600):
        habits = agents.habits(b"a")
        high = bool(session % 2)
        step = moment("turn", "tool a", unusual=2.0 if high else -2.0)
        agents.learn(b"a", session, step, habits.learn(step, called=high))
    known = agents.habits(b"a")
    assert known.chance(moment("turn", "tool a", unusual=2.0)) > 0.8
    assert known.chance(moment("turn", "tool a", unusual=-2.0)) < 0.2


def test_the_agent_at_hand_is_learned_while_its_session_runs(heads: StepHeads) -> None:
    """The same situation, two agents: what they did before tells them apart."""
    steps = {}
    for eager in (True, False):
        messages = session(1001, eager=eager)
        after_first_look = [
            at for at, m in enumerate(messages) if m.role is Role.TOOL and messages[at - 2].role is Role.USER
        ]
        steps[eager] = heads.call_chance(messages[: after_first_look[-1] + 1])[0]
    assert steps[True] > 0.8
    assert steps[False] < 0.2


def test_sessions_not_trained_on_are_foretold(heads: StepHeads) -> None:
    right = [
        (heads.kind(prefix, (BASH,))[0].label == "tool_call") == called
        for seed in range(500, 510)
        for prefix, called in prefixes(session(seed, eager=seed % 2 == 0))
    ]
    assert np.mean(right) > 0.85


def test_step_by_step_and_all_at_once_agree(arrays: dict[str, np.ndarray]) -> None:
    messages = session(7, eager=True)
    walked = StepHeads.load(arrays)
    step_by_step = [walked.call_chance(prefix)[0] for prefix, _ in prefixes(messages)]
    afresh = [StepHeads.load(arrays).call_chance(prefix)[0] for prefix, _ in prefixes(messages)]
    assert step_by_step == pytest.approx(afresh, abs=1e-9)


def test_a_repeated_question_and_a_branch_get_the_same_answer_as_a_first_one(arrays: dict[str, np.ndarray]) -> None:
    walked, messages = StepHeads.load(arrays), session(8, eager=False)
    assert walked.kind(messages[:6], ()) == walked.kind(messages[:6], ())
    walked.kind(messages, ())
    other = (*messages[:6], user("No, another one: P777777"))
    assert walked.call_chance(other)[0] == pytest.approx(StepHeads.load(arrays).call_chance(other)[0])


def desk(name: str, seed: int, *, looks: int) -> tuple[Message, ...]:
    """One turn at a desk of this name: so many looks, then an answer that ends the session."""
    number = f"P{seed:06d}"
    look = (call("get_parcel", f'{{"id": "{number}"}}'), tool_result("c1", '{"state": "moving", "id": 1}'))
    return (system(f"You help at desk {name}."), user(f"Where is parcel {number}?"), *look * looks, assistant("Here."))


def remembering(arrays: dict[str, np.ndarray]) -> StepHeads:
    heads = StepHeads.load(arrays)
    heads.remember_agents()
    return heads


def walk(heads: StepHeads, messages: tuple[Message, ...]) -> list[float]:
    return [heads.call_chance(prefix)[0] for prefix, _ in prefixes(messages)]


def test_what_an_agent_did_in_earlier_sessions_counts_in_the_next(arrays: dict[str, np.ndarray]) -> None:
    heads, strangers = remembering(arrays), StepHeads.load(arrays)
    for seed in range(60):
        walk(heads, desk("A", seed, looks=4))
        walk(heads, desk("B", seed, looks=1))
    stranger = walk(strangers, desk("D", 999, looks=2))
    eager, brief = walk(heads, desk("A", 999, looks=2)), walk(heads, desk("B", 999, looks=2))
    assert eager[2] > stranger[2] + 0.2
    assert brief[1] < stranger[1] - 0.2, "answers were learned though nothing is asked after them"
    assert walk(heads, desk("C", 999, looks=2)) == walk(strangers, desk("C", 999, looks=2))
    assert "the agent is known from earlier sessions" in heads.kind(desk("A", 1000, looks=1)[:2], ())[1]
    assert "the agent is known from earlier sessions" not in heads.kind(desk("E", 1000, looks=1)[:2], ())[1]


def test_agents_known_or_not_a_session_hangs_on_itself_and_where_it_began(arrays: dict[str, np.ndarray]) -> None:
    heads = remembering(arrays)
    begun = desk("A", 1, looks=3)
    first = heads.call_chance(begun[:4])[0]
    for seed in range(100, 160):
        walk(heads, desk("A", seed, looks=5))
    assert heads.call_chance(begun[:4])[0] == first
    assert heads.call_chance(begun[:6])[0] == pytest.approx(walk(StepHeads.load(arrays), begun)[2])


def test_a_history_that_is_read_at_once_teaches_nothing_of_its_agent(arrays: dict[str, np.ndarray]) -> None:
    heads = remembering(arrays)
    for _ in range(5):
        for seed in range(20):
            heads.call_chance(desk("A", seed, looks=6)[:-1])
    assert walk(heads, desk("A", 999, looks=2)) == walk(StepHeads.load(arrays), desk("A", 999, looks=2))


def test_what_is_known_of_agents_is_bounded() -> None:
    agents = Agents(limit=8)
    for number in range(50):
        for session in range(200):
            agents.expect(bytes([number]), session, moment("turn", f"tool {session}"), 0.5)
    assert len(agents._agents) == 8
    known, forgotten = agents.habits(bytes([49]))._known, agents.habits(bytes([0]))._known
    assert known is not None
    assert len(known.shifts) <= 70
    assert forgotten is None


def test_an_agent_is_known_by_its_tools_else_by_its_system_prompt() -> None:
    other, hello = Tool("other", ""), [system("You are A."), user("Hi")]
    assert agent_of(hello, (BASH, other)) == agent_of([user("Hi")], (other, BASH)) != agent_of(hello, (BASH,))
    assert agent_of(hello, ()) == agent_of([hello[0], user("Bye")], ()) != agent_of([user("Hi")], ())
    assert agent_of([], ()) == b""


def test_what_the_card_says_of_known_agents_is_what_a_live_call_gets(
    recordings: list[Recording], arrays: dict[str, np.ndarray]
) -> None:
    table = decisions(recordings)
    everything = np.ones(len(table.called), dtype=bool)
    heads = remembering(arrays)
    expected = heads._calls.logits(table.features)
    unlike = unusual(table.features, usual(table.features), expected)
    told = adapted(table, everything, expected, unlike, seed=3)
    for place in np.random.default_rng(3).permutation(len(recordings)).tolist():
        assert walk(heads, recordings[place].messages) == pytest.approx(told[table.session == place].tolist())


def test_finer_kinds_share_the_probability(heads: StepHeads) -> None:
    messages = session(3, eager=True)
    chances = heads.fine(messages[:2])
    assert sum(chances.values()) == pytest.approx(1)
    assert chances["read"] > chances["write"]


def test_threads_take_turns(heads: StepHeads) -> None:
    expected = [heads.call_chance(session(seed, eager=True)[:6])[0] for seed in range(8)]
    seen: dict[int, list[float]] = {}

    def ask(seed: int) -> None:
        seen[seed] = [heads.call_chance(session(seed, eager=True)[: 4 + 2 * (n % 2)])[0] for n in range(20)]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen[seed][1] for seed in range(8)] == pytest.approx(expected)


def long_session(messages: int) -> list[Message]:
    found: list[Message] = [user("Please look at all my parcels")]
    for number in range(messages // 2):
        found += [
            call("get_parcel", f'{{"id": "P{number:06d}"}}'),
            tool_result("c1", f'{{"id": "P{number:06d}", "x": 1}}'),
        ]
    return found


def test_a_new_step_in_a_long_session_costs_its_new_part(heads: StepHeads) -> None:
    messages = long_session(440)
    heads.kind(messages[:401], ())
    took = []
    for at in range(401, 441, 2):
        begin = time.perf_counter()
        heads.kind(messages[: at + 2], ())
        heads.sufficiency(messages[: at + 2], (), 3)
        took.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    StepHeads(heads_trees(heads), heads._usual, prior()).kind(messages, ())
    cold = time.perf_counter() - begin
    assert np.median(took) < cold / 3
    assert np.median(took) < 0.006  # 1.5 ms on an idle machine; the bound leaves room for a busy one


def heads_trees(heads: StepHeads) -> tuple:
    return heads._calls, heads._writes, heads._asks


def test_what_is_remembered_is_bounded(heads: StepHeads) -> None:
    for number in range(1200):
        heads.kind([user(f"Hello number {number}")], ())
    assert len(heads._tracks) <= 1024
    assert COLD > LOOK_BACK


ODD: list[Callable[[], list[Message]]] = [
    list,
    lambda: [user("")],
    lambda: [user("a" * 5_000_000)],
    lambda: [user("cat " * 400_000)],
    lambda: [user("\ud800\udfff" * 4000), assistant("\udc00")],
    lambda: [user("مرحبا بالعالم שלום 你好 " * 3000)],
    lambda: [tool_result("nobody", "orphan"), user("x")],
    lambda: [call("get", "{not json"), tool_result("c1", "QUJD" * 100_000)],
    lambda: [assistant("", [ToolCall("", "", "")]), tool_result("", "")],
    lambda: [Message(Role.ASSISTANT, (Text(""),)), Message(Role.USER)],
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_input_is_answered_in_bounded_time(heads: StepHeads, odd: Callable[[], list[Message]]) -> None:
    messages = odd()
    for message in messages:
        _ = message.digest  # hashing five megabytes is not what is measured
    begin = time.perf_counter()
    judged, why = heads.kind(messages, ())
    enough, _ = heads.sufficiency(messages, (), 3)
    assert time.perf_counter() - begin < 0.5
    assert 0.5 <= judged.confidence <= 1
    assert why
    assert list(enough) == sorted(enough)


@pytest.mark.parametrize("rungs", [0, 1, 2, 3, 4, 5, 9])
def test_a_ladder_of_any_length_never_falls(rungs: int) -> None:
    for knots in ([-3.0, -1.0, 0.5], [2.0, -1.0, 9.0], [0.0, 0.0, 0.0]):
        found = on_ladder(knots, rungs)
        assert len(found) == rungs
        assert list(found) == sorted(found)
        assert all(0 < chance < 1 for chance in found)
        if rungs > 1:
            assert found[0] == pytest.approx(squash(knots[0]))
            assert found[-1] >= 0.99 - 1e-9


def repair(*more: Message) -> list[Message]:
    task = "Fix this bug in the repository: `parse()` raises. Traceback: parser.py line 3, def parse(x): import re"
    return [system("You use a bash shell."), user(task), call("bash", '{"command": "sed -i s/a/b/ parser.py"}'), *more]


def test_repairing_code_needs_more_than_answering_from_a_text(heads: StepHeads) -> None:
    code, _ = heads.sufficiency(repair(tool_result("c1", "ok")), (BASH,), 4)
    meeting = [system("Summarise the meeting."), user("Transcript: " + "we spoke of colours. " * 400)]
    text, why = heads.sufficiency(meeting, (), 4)
    assert code[0] < 0.3 < 0.7 < text[0]
    assert why == ("no tools in play",)


def test_handing_in_a_reviewed_change_needs_less_than_making_it(heads: StepHeads) -> None:
    diff = "diff --git a/parser.py b/parser.py\n--- a/parser.py\n+++ b/parser.py\n@@ -1 +1 @@\n-a\n+b\n"
    done = repair(tool_result("c1", ""), call("bash", '{"command": "cat patch.txt"}'), tool_result("c1", diff))
    under_way, _ = heads.sufficiency(repair(tool_result("c1", "ok")), (BASH,), 4)
    handing_in, why = heads.sufficiency(done, (BASH,), 4)
    assert handing_in[2] > under_way[2] + 0.2
    assert "reviewed" in why[0]


def work(*more: Message) -> dict[str, float]:
    return dict(zip(WORK_FEATURES, work_features(repair(*more), (BASH,), Signs()), strict=True))


DIFF = "diff --git a/parser.py b/parser.py\n--- a/parser.py\n+++ b/parser.py\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("command", "handing_in"),
    [("cat patch.txt", True), ("sed -n 1,80p fix.diff", True), ("git diff", False), ("git diff > patch.txt", False)],
)
def test_a_change_to_be_judged_is_not_yet_one_to_hand_in(command: str, handing_in: bool) -> None:
    shown = (tool_result("c1", ""), call("bash", f'{{"command": "{command}"}}'), tool_result("c1", DIFF))
    assert work(*shown)["handing_in"] == handing_in


@pytest.mark.parametrize(
    ("command", "edited"),
    [("perl -0pi -e s/a/b/ x.py", True), ("sed -i s/a/b/ x.py", True), ("sed -n 1,9p x.py", False)],
)
def test_files_are_changed_in_place_by_more_than_one_tool(command: str, edited: bool) -> None:
    messages = [user("Fix it"), call("bash", f'{{"command": "{command}"}}')]
    features = work_features(messages, (BASH,), Signs())
    assert features[WORK_FEATURES.index("edited")] == edited


def test_a_listing_that_speaks_of_errors_is_no_failure() -> None:
    assert not work(tool_result("c1", "<returncode>0</returncode>\nraise ValueError('not found')"))["failed"]
    assert work(tool_result("c1", "<returncode>1</returncode>\nsed: cannot read"))["failed"]


def test_an_error_is_named(heads: StepHeads) -> None:
    _, why = heads.sufficiency(repair(tool_result("c1", "Traceback (most recent call last):\nKeyError")), (BASH,), 4)
    assert "the newest result is an error" in why


def test_a_single_prompt_is_told_by_its_difficulty(heads: StepHeads) -> None:
    enough, why = heads.sufficiency([user("Hi")], (), 4, (0.7, 0.2, 0.06, 0.04))
    assert enough[:3] == pytest.approx((0.7, 0.9, 0.96))
    assert why == ("a single prompt, simple",)
    with_tools, _ = heads.sufficiency([user("Hi")], (BASH,), 4, (0.7, 0.2, 0.06, 0.04))
    assert with_tools != enough


def test_without_verified_steps_the_prior_stands() -> None:
    assert (fit_work([]) == prior()).all()


def test_the_cheapest_that_reaches_what_is_asked() -> None:
    assert choose(np.array([[0.9, 0.95, 0.99], [0.1, 0.75, 0.8], [0.1, 0.2, 0.3]]), 0.7).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("usual", np.zeros((2, len(FEATURES)), dtype=np.float32)),
        ("usual", np.ones((2, 3), dtype=np.float32)),
        ("work", np.zeros((2, 2))),
        ("work", np.full((3, len(WORK_FEATURES) + 1), np.nan)),
        ("calls_left", np.array([10**6], dtype=np.int32)),
        ("calls_feature", np.array(["x"])),
        ("writes_value", np.zeros(3, dtype=np.float32)),
        ("asks_depth", np.array([10**6], dtype=np.int32)),
        ("asks_roots", np.array([-1], dtype=np.int32)),
    ],
)
def test_foreign_weights_are_refused(arrays: dict[str, np.ndarray], name: str, bad: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        StepHeads.load({**arrays, name: bad})
    with pytest.raises(ConfigError):
        StepHeads.load({key: value for key, value in arrays.items() if key != name})


def test_training_needs_sessions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train_steps(tmp_path, 0)


def test_training_is_the_same_to_the_bit(recordings: list[Recording], arrays: dict[str, np.ndarray]) -> None:
    table = decisions(recordings)
    again = fit_kinds(table, np.ones(len(table.called), dtype=bool), 0).arrays()
    assert all(again[name].tobytes() == arrays[name].tobytes() for name in again)


def test_recorded_messages_are_read_whatever_their_form() -> None:
    raw = [
        {"role": "developer", "content": "be kind"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
        },
        {"role": "user", "content": None, "tool_calls": [{"id": "u", "function": {"name": "mine", "arguments": "{}"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        "nonsense",
    ]
    found = list(read_messages(raw))
    assert [message.role for message in found] == [Role.SYSTEM, Role.USER, Role.USER, Role.ASSISTANT]
    assert found[1].text == "ab"
    assert not found[2].tool_calls
    assert found[3].tool_calls[0].arguments == '{"x": 1}'
    assert list(read_messages(None)) == []


@needs_data
def test_airline_steps_are_foretold_from_retail_sessions() -> None:
    """A sixth of the retail sessions, so that it is quick: the whole is in benchmarks/step_kinds.py."""
    retail = read_session_file(DATA / "trajectories" / "tau2_retail_multimodel.jsonl.gz")[::6]
    airline = read_session_file(DATA / "trajectories" / "tau_bench_gpt4o_airline.jsonl.gz")
    table = decisions([*retail, *airline])
    inside = table.domain == "retail"
    kinds = fit_kinds(table, inside, 0)
    expected = kinds.calls.logits(table.features)
    figure = measure("", table, ~inside, expected, unusual(table.features, kinds.usual, expected), 0)
    assert figure.accuracy > 0.66
    assert figure.calibration_error < 0.08
    assert figure.calibration_error_known < 0.05


@needs_data
def test_verified_steps_are_told_apart_by_the_work_they_are() -> None:
    seen = Signs()
    steps = read_steps(DATA / "steps")
    coding = [work_features(step.messages, (), seen)[WORK_FEATURES.index("coding")] for step in steps]
    assert [bool(found) for found in coding] == [step.source == "swebench" for step in steps]
