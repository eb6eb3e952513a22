"""The featurizer: the same numbers for the same text, everywhere and for ever, at a bounded cost."""

from __future__ import annotations

import subprocess
import sys
import time
from hashlib import blake2b

import numpy as np
import pytest

from waywiser.classifier.characters import capitals, characters, marks, written
from waywiser.classifier.concepts import Concepts
from waywiser.classifier.text import (
    BUCKETS,
    EDGE,
    HEAD,
    SHAPE,
    TAIL,
    WORD_BUCKETS,
    PromptView,
    term_keys,
    window,
    word_at,
)

ODD = {
    "empty": "",
    "spaces": " \n\t ",
    "one character": "x",
    "five megabytes of one character": "x" * 5_000_000,
    "lone surrogates": "\ud800 why \udfff\ud83d",
    "right to left": "ما هو الذكاء الاصطناعي؟ " * 50,
    "mixed scripts": "what это 这是 이것 यह ما 😀 " * 300,
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=" * 2000,
    "marks on marks": "a" + "\u0301" * 10_000,
    "lengthens in lower case": "İ" * 5000,
    "lengthens in NFKC": "ﷺ" * 5000,
    "control characters": "".join(map(chr, range(32))) * 50,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_any_text_has_features_of_the_right_shape_in_bounded_time(text: str) -> None:
    begin = time.perf_counter()
    view = PromptView(text)
    buckets, values = view.features
    assert time.perf_counter() - begin < 0.5
    assert buckets.size == values.size < 4 * (HEAD + TAIL) * 3
    assert ((buckets >= 0) & (buckets < BUCKETS)).all()
    assert np.isfinite(values).all()
    assert view.shape.shape == (len(SHAPE),)
    assert np.isfinite(view.shape).all()


def test_features_do_not_depend_on_the_process() -> None:
    text = "Übersetze das, 请翻译 this!"
    code = f"from waywiser.classifier.text import PromptView as P; print(P({text!r}).features[0].sum())"
    sums = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert sums == {f"{PromptView(text).features[0].sum()}\n"}


def test_each_family_has_length_one_whatever_the_length_of_the_text() -> None:
    for text in ("compare two ways of sorting a list", "compare two ways of sorting a list of many words " * 30):
        buckets, values = PromptView(text).features
        assert float((values[buckets >= WORD_BUCKETS] ** 2).sum()) == pytest.approx(1, rel=1e-3)


def test_digits_and_case_do_not_matter_to_words_but_order_does_to_pairs() -> None:
    assert (PromptView("Pay 123 EUR").words == PromptView("pay 987 eur").words).all()
    assert set(PromptView("dog bites man").words) != set(PromptView("man bites dog").words)


def test_only_the_window_is_read() -> None:
    begin, end = "b" * HEAD, "e" * TAIL
    assert window(begin + "middle" * 1000 + end) == window(begin + "other" * 3000 + end)
    assert window("short") == "short"


def test_a_long_text_says_again_what_stands_at_its_edges() -> None:
    assert PromptView("translate this").edge.size == 0
    passage = "the river rose and fell " * 40
    first, last = PromptView(f"Summarize it. {passage}"), PromptView(f"{passage} Summarize it.")
    assert len(passage) > 2 * EDGE
    assert set(first.edge) & set(last.edge) - set(PromptView(passage).edge)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("fever", "I have a Fever!"),
        ("stock price", "the stock price fell"),
        ("want to die", "i just want to die"),
        ("contra*", "der Contrapunkt"),
        ("docto*", "doctor"),
        ("发烧", "我发烧了"),
        ("ワクチン", "ワクチンを打つ"),
        ("병", "병이 났다"),
    ],
)
def test_a_term_is_found_where_it_stands_and_nowhere_else(term: str, text: str) -> None:
    concepts = Concepts.of({"other": ["elsewhere"], "it": [term]})
    assert concepts.strength(PromptView(text)).tolist() == [0.0, 1.0]
    assert not concepts.strength(PromptView("Nothing of the kind, 没有, 없다.")).any()
    assert term_keys(term) == term_keys(term)


def test_more_terms_of_a_concept_count_ever_less_and_repeats_nothing() -> None:
    concepts = Concepts.of({"it": ["red", "green", "blue"], "also": ["blue"]})
    strengths = [
        float(concepts.strength(PromptView(text))[0]) for text in ("red red red", "red green", "red green blue")
    ]
    assert strengths == [1.0, 1.5, 1.75]
    assert concepts.strength(PromptView("blue")).tolist() == [1.0, 1.0]


def test_the_word_that_mattered_can_be_named() -> None:
    view = PromptView("Is this Contract valid?")
    index = Concepts.of({"legal": ["contra*"]}).word_of(view, "legal")
    assert word_at(view, index) == "contract"
    assert Concepts.of({"legal": ["lawsuit"]}).word_of(view, "legal") == -1


PINNED = (
    "",
    "hi",
    "What is the capital of France?",
    "Straße, İstanbul, ﬁne, ½ and ﷺ: 2024-11-05 at 12:30",
    "写一个 Python 脚本，监控 directory 中的文件变化",
    "ما هو هذا what 这是 что это קוד ٣٤٥",
    "ไฟล์นี้อยู่ที่ไหน 파일은 어디에 있습니까",
    "\ud800 half a pair \udfff 👨‍👩‍👧",
    "def f(x):\n    return x ** 2\n" * 40,
    "a long text about many things, told at length. " * 200,
)


def test_features_are_those_that_weights_were_trained_on() -> None:
    """Another digest here means that every weights file there is has become worthless."""
    state = blake2b(digest_size=8)
    for text in PINNED:
        buckets, values = PromptView(text).features
        state.update(buckets.astype("<i8").tobytes())
        state.update(values.astype("<f4").tobytes())
    assert state.hexdigest() == "f158cf4b4dae4f9e"


@pytest.mark.parametrize("text", PINNED[1:8], ids=range(7))
def test_ascii_is_read_as_any_other_text_is(text: str) -> None:
    plain = "".join(letter for letter in text if letter.isascii())
    codes, classes = characters(plain)
    with_more, classes_with_more = characters(f"{plain}é")
    assert codes.tolist() == with_more[:-1].tolist()
    assert classes.tolist() == classes_with_more[:-1].tolist()
    assert written(codes) == written(with_more[:-1])
    assert capitals(plain) == sum(map(str.isupper, plain))
    assert marks(text, b"(){}") == sum(map(text.count, "(){}"))
