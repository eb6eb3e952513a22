"""The shipped heads on plain prompts of many languages, and what the classifier remembers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from waywiser.classifier.classifier import REMEMBERED, WEIGHTS, LocalClassifier
from waywiser.classifier.prompts import asked
from waywiser.core.calls import Tool
from waywiser.core.classification import HEADS, UNASKED, Classification, Head
from waywiser.core.messages import Message, Role, ToolCall, assistant, system, tool_result, user
from waywiser.errors import ConfigError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def classifier() -> LocalClassifier:
    return LocalClassifier()


def judged(classifier: LocalClassifier, text: str) -> Classification:
    return classifier.classify((user(text),), (), 3)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Hi there, how are you doing?", "chat"),
        ("Which river flows through Novosibirsk?", "question"),
        ("Prove by induction that every tree with n nodes has n - 1 edges.", "reasoning"),
        ("A train covers 240 km in 3 hours. Anna has 12 apples and eats 5. How many kilometres per hour?", "maths"),
        ("Write a Python function that removes duplicates from a list.", "code"),
        ("def add(a, b):\n    return a - b\n\nWhy does this return the wrong result?", "code"),
        ("Extract all e-mail addresses from this text", "extraction"),
        ("Classify each of these animals as mammal or bird: dog, eagle, whale, sparrow", "classification"),
        ("Translate 'good evening' into Portuguese", "translation"),
        ("Write a short poem about the sea in winter", "creative"),
        ("book me a table for two at seven tonight", "tool_use"),
        ("写一个 Python 函数，删除列表中的重复元素", "code"),
        ("our nightly export drops rows since the upgrade, where do i start looking?", "code"),
        ("how do i add a second disk to a docker container", "code"),
        ("Explain how a hash table works", "question"),
        ("wie sagt man „bis bald“ auf Polnisch", "translation"),
        ("TL;DR of the theory of plate tectonics", "summarisation"),
        ("Schreibe eine Python-Funktion, die zwei Wörterbücher vergleicht", "code"),
        ("Докажи, что корень из трёх иррационален", "reasoning"),
        ("Traduis « bonne nuit » en allemand", "translation"),
    ],
)
def test_the_task_of_plain_prompts(classifier: LocalClassifier, text: str, task: str) -> None:
    assert judged(classifier, text).task.label == task


@pytest.mark.parametrize(
    ("text", "difficulty"),
    [
        ("What is a mutex?", "simple"),
        ("Was ist ein Mutex?", "simple"),
        ("什么是互斥锁？", "simple"),
        ("Explain the difference between a process and a thread", "medium"),
        ("Explica la diferencia entre un proceso y un hilo", "medium"),
        (
            "Design a multi-region payment platform with ledgers, retries, fraud checks, audit trails and failover",
            "complex",
        ),
        (
            "複数リージョンの決済プラットフォームを設計してください。台帳、不正検知、監査、フェイルオーバーを含めてください。",
            "complex",
        ),
        ("Prove that the halting problem is undecidable. Show every step.", "reasoning"),
        ("Демонстрация не нужна: докажи теорему Кантора о мощности множества всех подмножеств.", "reasoning"),
    ],
)
def test_the_difficulty_of_plain_prompts(classifier: LocalClassifier, text: str, difficulty: str) -> None:
    found = judged(classifier, text).difficulty
    assert found.label == difficulty
    assert 0 < found.confidence <= 1


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("Can I take ibuprofen together with my blood pressure medication?", "medical"),
        ("¿Qué dosis de paracetamol puede tomar un niño con fiebre?", "medical"),
        ("My landlord wants to evict me without notice, can I sue him in court?", "legal"),
        ("Should I move my retirement savings from bonds into stocks?", "financial"),
        ("I can't go on any more, I want to kill myself", "self_harm"),
        ("我不想活了，想自杀", "self_harm"),
        ("This memo is strictly confidential, do not share it: summarize the merger plan", "confidential"),
        ("Use this key: AKIAIOSFODNN7ABCDEFG", "confidential"),
    ],
)
def test_risks_are_found_and_named(classifier: LocalClassifier, text: str, risk: str) -> None:
    found = judged(classifier, text)
    assert risk in [judged.label for judged in found.risk]
    assert any(risk in reason or "secret" in reason for reason in found.why)


@pytest.mark.parametrize(
    "text",
    [
        "How do I reverse a linked list in Go?",
        "Tell me a joke about penguins",
        "Wie backe ich ein Sauerteigbrot?",
        "光合作用是怎么进行的？",
        "turn on the lights in the kitchen",
    ],
)
def test_no_risk_where_there_is_none(classifier: LocalClassifier, text: str) -> None:
    assert judged(classifier, text).risk == ()


@pytest.mark.parametrize(
    "word", ["hypothesis", "transformer", "commission", "confidence", "operation", "results", "pants", "arts", "son"]
)
def test_a_word_out_of_context_is_no_risk(classifier: LocalClassifier, word: str) -> None:
    found = judged(classifier, word)
    assert found.risk == ()
    assert found.time_sensitive < 0.5


def test_people_in_need_are_found_and_those_who_share_their_words_seldom(classifier: LocalClassifier) -> None:
    with (BENCHMARKS / "data" / "self_harm.jsonl").open(encoding="utf-8") as lines:
        table = [json.loads(line) for line in lines]
    found = [
        ["self_harm" in [risk.label for risk in judged(classifier, row["text"]).risk], row["self_harm"]]
        for row in table
    ]
    need = [said for said, truth in found if truth]
    near = [said for said, truth in found if not truth]
    assert sum(need) / len(need) >= 0.9
    assert sum(near) / len(near) <= 0.25


def test_time_sensitivity_on_the_written_questions(classifier: LocalClassifier) -> None:
    with (BENCHMARKS / "data" / "time_sensitive.jsonl").open(encoding="utf-8") as lines:
        table = [json.loads(line) for line in lines]
    assert len(table) == 400
    said = [judged(classifier, row["text"]).time_sensitive > 0.5 for row in table]
    both = sum(one and row["time_sensitive"] for one, row in zip(said, table, strict=True))
    assert (
        2 * both / (sum(said) + sum(row["time_sensitive"] for row in table)) >= 0.82
    )  # the benchmark prints the figure; here only that it has not been broken


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Translate to German: good morning, my friends", "translation “translate”"),
        ("Schreibe eine Python-Funktion, die Primzahlen zählt.", "code “(python|funktion)”"),
        ("Prove that the square root of two is irrational.", "reasoning “prove”"),
        ("My doctor prescribed ibuprofen for my kidney pain", "medical “doctor”"),
        ("What is the latest version of numpy?", "time “latest”"),
        ("my key is sk-abcdefghijklmnopqrstuv", "looks like a secret key"),
    ],
)
def test_why_names_the_word_that_mattered(classifier: LocalClassifier, text: str, reason: str) -> None:
    assert any(re.fullmatch(reason, said) for said in judged(classifier, text).why)


def test_why_names_no_word_that_is_not_in_the_lists(classifier: LocalClassifier) -> None:
    for secret in ("Xq7mK2vLp9", "swordfishhunter", "Brzęczyszczykiewicz", "4111111111111111"):
        found = judged(classifier, f"{secret} {secret} {secret}: {secret}")
        assert not any(secret.lower()[:8] in reason.lower() or "0000" in reason for reason in found.why)


def test_why_tells_only_of_the_heads_that_were_asked(classifier: LocalClassifier) -> None:
    history = (user("Translate the doctor's latest prescription into German"),)

    def why(*heads: Head) -> tuple[str, ...]:
        return classifier.classify(history, (), 3, frozenset(heads)).why

    assert why(Head.LANGUAGE) == ()
    assert why(Head.RISK) == ("medical “doctor”",)
    assert why(Head.TASK) == ("translation “translate”",)
    decided, spoke = why(Head.SUFFICIENCY)
    assert decided == f"a single prompt, {spoke.split()[0]}"


def test_the_newest_request_is_what_is_classified(classifier: LocalClassifier) -> None:
    history = (
        system("You are a helpful bank clerk."),
        user("Prove that there are infinitely many primes."),
        assistant("Done."),
        user("Now translate 'thank you very much' into French, please."),
        assistant("", [ToolCall("c1", "dictionary", "{}")]),
        tool_result("c1", "merci"),
    )
    assert classifier.classify(history, (), 3).task.label == "translation"


def test_a_mere_yes_is_read_with_what_it_answers() -> None:
    turns = (user("Translate the contract into German"), assistant("Shall I?"), user("yes"))
    assert [turn.text for turn in asked(turns)] == ["Translate the contract into German", "yes"]
    assert asked(()) == ()
    lone = assistant("hello")
    assert asked((lone,)) == (lone,)


def test_a_ladder_of_any_length_never_falls(classifier: LocalClassifier) -> None:
    for rungs in (1, 2, 3, 5, 9):
        found = classifier.classify((user("Design a distributed database and prove its consistency"),), (), rungs)
        assert len(found.sufficiency) == rungs
        assert list(found.sufficiency) == sorted(found.sufficiency)


def test_what_was_seen_is_remembered_and_forgotten_in_bounds(classifier: LocalClassifier) -> None:
    fresh = LocalClassifier()
    first = judged(fresh, "What is a heap?")
    memory = fresh._judgements._known
    for number in range(REMEMBERED + 10):
        memory[(b"%d" % number,)] = memory[next(iter(memory))]
    assert judged(fresh, "What is a stack?").task.label == "question"
    assert len(memory) <= REMEMBERED + 11
    assert judged(fresh, "What is a heap?") == first


@pytest.mark.parametrize("head", tuple(Head))
def test_a_head_asked_alone_says_what_it_says_in_company(classifier: LocalClassifier, head: Head) -> None:
    history = (user("Ist dieser Vertrag gültig? Mein Anwalt sagt nein, was gilt heute?"),)
    alone = LocalClassifier().classify(history, (), 3, frozenset((head,)))
    company = classifier.classify(history, (), 3)
    assert alone.heads == (head,)
    assert getattr(alone, head) == getattr(company, head)
    for other in HEADS - {head}:
        assert getattr(alone, other) in (UNASKED, (), 0.0)


ODD = (
    "",
    " ",
    "x" * 5_000_000,
    " " * 5_000_000,
    "漢" * 1_000_000,
    "\ud800\udfff" * 50,
    "שלום мир 你好 " * 500,
    "QUJD" * 50_000,
    "\x00" * 100,
    "a@1." * 100_000,
    "[" * 500_000,
    "\n- 1) " * 100_000,
    "e" + "\u0301" * 100_000,
    "\u202e\u200f" * 1000 + "abc",
)


@pytest.mark.parametrize("text", ODD)
def test_odd_input_gets_an_answer_in_bounded_time(classifier: LocalClassifier, text: str) -> None:
    judged(classifier, "warm")
    begin = time.perf_counter()
    found = judged(classifier, text)
    assert time.perf_counter() - begin < 2
    assert found.task.confidence > 0


@pytest.mark.parametrize("text", ODD)
def test_odd_steps_of_an_agent_get_an_answer_in_bounded_time(classifier: LocalClassifier, text: str) -> None:
    judged(classifier, "warm")
    tools = tuple(Tool(name, text[:5000], text[:5000]) for name in ("get_order", "", text[:60]))
    call = ToolCall("c1", text[:60] or "t", text[:1_000_000])
    histories = (
        (user("Fix it"), assistant("", [call]), tool_result("c1", text)),
        (user("Fix it"), assistant("", [call]), tool_result("c1", text, is_error=True), assistant(text), user("yes")),
        (system(text), user(text)),
    )
    for history in histories:
        begin = time.perf_counter()
        found = classifier.classify(history, tools, 4)
        assert time.perf_counter() - begin < 2
        assert found.kind.label in {"tool_call", "synthesis"}
        assert len(found.sufficiency) == 4
        assert list(found.sufficiency) == sorted(found.sufficiency)
        assert all(0 <= chance <= 1 for chance in found.sufficiency)


def test_a_history_of_ten_thousand_turns_is_answered_and_its_next_step_costs_a_step(
    classifier: LocalClassifier,
) -> None:
    turns = [user("Look at every file")]
    for number in range(5000):
        turns += [assistant("", [ToolCall(f"c{number}", "read", "{}")]), tool_result(f"c{number}", f"file {number}")]
    begin = time.perf_counter()
    classifier.classify(tuple(turns), (), 3)
    assert time.perf_counter() - begin < 3
    begin = time.perf_counter()
    classifier.classify((*turns, user("Go on")), (), 3)
    assert time.perf_counter() - begin < 0.5


def test_odd_histories_get_an_answer(classifier: LocalClassifier) -> None:
    for history in ((), (system("only a system prompt"),), (Message(Role.TOOL),), (Message(Role.USER),)):
        assert classifier.classify(history, (), 3).task.label


def test_weights_that_are_missing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.npz"):
        LocalClassifier(tmp_path)


def test_the_weights_are_small_and_have_a_card() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.npz")) < 5_000_000
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(head in card for head in ("## Task", "## Difficulty", "## Risk", "## Time-sensitive", "cost-weighted"))


def test_who_does_not_ask_for_the_language_does_not_wait_for_its_model() -> None:
    fresh = LocalClassifier()
    fresh.warm_up(HEADS - {Head.LANGUAGE})
    assert "_model" not in vars(fresh._languages)
    fresh.warm_up()
    assert "_model" in vars(fresh._languages)
