"""Exact counting: the packaged ranks are tiktoken's, each message is counted once, odd and huge texts are bounded."""

import random
import socket
import threading
import time
from itertools import pairwise

import pytest
import tiktoken_ext.openai_public as published
from hypothesis import given, settings
from hypothesis import strategies as st

from waywiser import ports
from waywiser.catalog import encodings, tokens
from waywiser.catalog.tokens import Memo, TokenCounter, TokenEstimator, memos
from waywiser.core.calls import Tool
from waywiser.core.messages import File, Image, Message, Role, Text, Thinking, ToolCall, assistant, tool_result, user

COUNTER = TokenCounter()
PORTS: tuple[ports.TokenCounter, ...] = (COUNTER, TokenEstimator())  # checked by mypy


@pytest.mark.parametrize("ranks", ["o200k_base", "cl100k_base"])
def test_patterns_and_specials_are_those_of_tiktoken(ranks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "load_tiktoken_bpe", lambda *_args, **_kwargs: {})
    theirs = getattr(published, ranks)()
    ours = encodings._RANKS[ranks]
    assert ours.pattern == theirs["pat_str"]
    assert dict(ours.special) == theirs["special_tokens"]


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [("hello world", 2, 2), ("", 0, 0), ("2 + 2 = 4", 7, 7), ("お誕生日おめでとう", 8, 9)],
)
def test_known_counts(text: str, o200k: int, cl100k: int) -> None:
    # Counts that OpenAI publishes for these texts.
    assert COUNTER.text(text, "o200k_base") == o200k
    assert COUNTER.text(text, "cl100k_base") == cl100k


def test_counts_without_network_or_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("counting went to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    encodings._build.cache_clear()
    assert TokenCounter().text("offline, out of the box", "cl100k_base") > 3


def test_damaged_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encodings._build.cache_clear()
    monkeypatch.setattr(encodings.lzma, "decompress", lambda _data: b"aGk= 0\n")
    with pytest.raises(ValueError, match="damaged"):
        COUNTER.text("hello", "cl100k_base")


def test_unknown_encoding_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="o200k_base"):
        COUNTER.text("hello", "p50k")


def test_scaled_encodings_round_up_and_exceed_their_base() -> None:
    text = "The invoice of 2024-11-05 was paid twice. " * 20
    base = COUNTER.text(text, "o200k_base")
    assert COUNTER.text(text, "claude") == -(-base * 125 // 100)
    assert all(COUNTER.text("a", name) >= 1 for name in encodings.TOKENIZERS)


class Counted(TokenCounter):
    """Counts how often a text is really counted."""

    _memos = memos(64)
    calls = 0

    def _raw(self, text: str, ranks: str) -> int:
        type(self).calls += 1
        return len(text)


def test_a_message_counted_once_is_not_counted_again() -> None:
    counter = Counted()
    history = [user("where is my order"), assistant("one moment"), tool_result("c1", "shipped")]
    first = counter.messages(history, "o200k_base")
    seen = Counted.calls
    again = [user("where is my order"), assistant("one moment"), tool_result("c1", "shipped")]
    assert counter.messages(again, "o200k_base") == first
    assert Counted.calls == seen
    assert counter.messages([*again, user("thanks")], "o200k_base") > first
    assert Counted.calls == seen + 1


def test_a_history_that_was_dropped_from_the_memo_is_counted_again() -> None:
    counter = Counted()
    history = tuple(user("x" * number) for number in range(1, 200))
    whole = counter.messages(history, "o200k_base")
    assert counter.messages(list(history), "o200k_base") == whole == Counted().messages(history, "o200k_base")
    assert counter.messages(history[:1], "o200k_base") == 1 + tokens.TURN_TOKENS + tokens.PRIMING_TOKENS
    assert counter.messages(history, "claude") == -(-whole * 125 // 100)


def test_a_history_costs_its_turns_and_the_priming() -> None:
    history = [user("one"), user("two")]
    total = sum(COUNTER.message(message, "o200k_base") for message in history)
    assert COUNTER.messages(history, "o200k_base") == total + tokens.PRIMING_TOKENS
    assert COUNTER.messages([], "o200k_base") == tokens.PRIMING_TOKENS


def test_everything_a_model_sees_is_counted() -> None:
    plain = COUNTER.message(user("look"), "o200k_base")

    def more(*parts: object, **fields: object) -> int:
        message = Message(Role.USER, (Text("look"), *parts), **fields)  # type: ignore[arg-type]
        return COUNTER.message(message, "o200k_base") - plain

    assert more(Image("https://example.org/a.png")) == tokens.IMAGE_TOKENS
    assert more(Image("https://example.org/a.png", "low")) == tokens.LOW_DETAIL_TOKENS
    assert more(File("application/pdf", "data:application/pdf;base64," + "A" * 120_000)) == 3 * tokens.FILE_TOKENS
    assert more(Thinking("let me see what that could be")) > 4
    assert more(tool_calls=(ToolCall("c", "find_order", '{"id": "#W1"}'),)) > tokens.TOOL_CALL_TOKENS
    assert more(name="anna") > 1


def test_tools() -> None:
    small = Tool("ping")
    large = Tool("find_order", "Find an order by its id.", '{"type":"object","properties":{"id":{"type":"string"}}}')
    assert COUNTER.tools((), "o200k_base") == 0
    assert COUNTER.tools((large,), "o200k_base") > COUNTER.tools((small,), "o200k_base")
    assert COUNTER.tools((small, large), "o200k_base") > COUNTER.tools((large,), "o200k_base")


def test_memo_is_bounded_and_keeps_what_is_used() -> None:
    memo = Memo(100)
    memo.put(b"hot", 7)
    for number in range(1000):
        memo.put(str(number).encode(), number)
        if number % 50 == 0:
            assert memo.get(b"hot") == 7
    assert len(memo) <= 200
    assert memo.get(b"0") is None


def test_memo_under_threads() -> None:
    memo = Memo(50)
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(5000):
            number = rng.randrange(300)
            found = memo.get(str(number).encode())
            if found is None:
                memo.put(str(number).encode(), number)
            elif found != number:
                wrong.append((number, found))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(memo) <= 100


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(
                [" word", "\nnext", "  ", "\n\n", "don't", "Ünï", "你好", "123456", "...", " ", "https://a.b/c"]
            ),
        ),
        min_size=5,
        max_size=60,
    ),
    st.sampled_from(["o200k_base", "cl100k_base"]),
)
def test_cutting_at_safe_places_keeps_the_count(parts: list[str], ranks: str) -> None:
    text = "".join(parts).encode("utf-8", "replace").decode()
    built = encodings.encoding(ranks)
    whole = len(built.encode_ordinary(text))
    cut = encodings.pieces(text, limit=40)
    assert "".join(cut) == text
    assert all(len(piece) <= 40 for piece in cut)
    hard = sum(1 for before, after in pairwise(cut) if not encodings._SAFE_CUT.match(before + after, len(before)))
    counted = sum(len(built.encode_ordinary(piece)) for piece in cut)
    if hard == 0:
        assert counted == whole
    else:
        assert abs(counted - whole) <= 3 * hard


@pytest.mark.parametrize("unit", ["a", " ", "\n", "=", "é", "😀", "aB", "lorem ipsum "])
def test_two_megabytes_take_bounded_time(unit: str) -> None:
    text = unit * (2_000_000 // len(unit.encode()))
    COUNTER.text("warm", "o200k_base")
    TokenEstimator().text("warm", "o200k_base")
    start = time.process_time()
    assert COUNTER.text(text, "o200k_base") > 100
    assert time.process_time() - start < 3
    start = time.process_time()
    assert TokenEstimator().text(text, "o200k_base") > 100
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("counter", [TokenCounter(), TokenEstimator()])
def test_odd_text(counter: TokenCounter | TokenEstimator) -> None:
    for text in ("\ud800 lone surrogate", "\x00\x01", "<|endoftext|>", "﷽", "\u200d\u200d"):
        assert counter.text(text, "o200k_base") >= 1
