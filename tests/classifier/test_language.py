"""Languages: a restricted set, scripts that need no model, and the courage to be unsure."""

from __future__ import annotations

import random
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from waywiser.classifier.heads import load, save
from waywiser.classifier.language import LANGUAGES, UNSURE, Languages, _every_language
from waywiser.classifier.language_model import MODEL, LanguageModel
from waywiser.errors import ConfigError


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


SENTENCES = (
    ("The quick brown fox jumps over the lazy dog near the river.", "en"),
    ("Der Zug nach Hamburg fährt heute leider zehn Minuten später.", "de"),
    ("Le chat dort sur le canapé depuis ce matin.", "fr"),
    ("El tren sale mañana por la mañana desde la estación central.", "es"),
    ("O menino foi à praia com os seus irmãos no verão.", "pt"),
    ("Поезд отправляется завтра утром с центрального вокзала.", "ru"),
    ("Потяг вирушає завтра вранці з центрального вокзалу, чи не так?", "uk"),
    ("火车明天早上从中央车站出发。", "zh"),
    ("電車は明日の朝に中央駅を出発します。", "ja"),
    ("기차는 내일 아침 중앙역에서 출발합니다.", "ko"),
    ("ट्रेन कल सुबह केंद्रीय स्टेशन से निकलेगी।", "hi"),
    ("يغادر القطار غدا صباحا من المحطة المركزية.", "ar"),
    ("写一个 Python 脚本，监控 directory 中的文件变化", "zh"),
)


@pytest.mark.parametrize(("text", "language"), SENTENCES)
def test_sentences(languages: Languages, text: str, language: str) -> None:
    found = languages.of(text)
    assert found.label == language
    assert 0.15 <= found.confidence <= 1


@pytest.mark.parametrize(
    "text", ["", "1234 + 5678", "!?", "x", "ok", "\ud800\ud800", "😀😀", "what is это такое ما هو"]
)
def test_too_little_to_tell_is_unsure(languages: Languages, text: str) -> None:
    assert languages.of(text).label == UNSURE


def test_only_the_set_is_chosen_from() -> None:
    assert Languages(["en", "de"]).of("Le chat dort sur le canapé depuis ce matin.").label in ("en", "de", UNSURE)
    assert Languages(["fr"]).of("whatever it may be").label == "fr"


def test_a_script_of_one_language_needs_no_model() -> None:
    fresh = Languages()
    assert fresh.of("기차는 내일 아침 출발합니다").label == "ko"
    assert "_model" not in vars(fresh)


def test_the_shipped_model_says_what_py3langid_says() -> None:
    texts = [text for text, _ in SENTENCES]
    texts += [text.upper() for text in texts] + [f"{one} {two}" for one in texts for two in texts[::3]]
    texts += ["", "a", "0", " \n", "\0", "İstanbul'da e\u0301te\u0301", "zzzz qqqq", "💶 5 €"]
    chance = random.Random(4)
    texts += ["".join(chr(chance.randint(32, 0xD7FF)) for _ in range(chance.randint(1, 240))) for _ in range(200)]
    for languages in (LANGUAGES, ("en", "de"), ("uk", "ru", "pl", "sv")):
        ours, theirs = LanguageModel.load(languages).classify, _every_language(languages)
        assert [ours(text) for text in texts] == [theirs(text) for text in texts]


def test_the_shipped_model_is_the_one_of_py3langid(tmp_path: Path) -> None:
    if version("py3langid") != "0.4.0":
        pytest.skip("another model is installed than the one that was converted")
    script = spec_from_file_location("convert_languages", Path(__file__).with_name("convert_languages.py"))
    assert script is not None
    assert script.loader is not None
    convert = module_from_spec(script)
    script.loader.exec_module(convert)
    save(tmp_path / "languages.npz", convert.converted(LANGUAGES))
    stored, made = load(MODEL), load(tmp_path / "languages.npz")
    assert stored.keys() == made.keys()
    assert all(np.array_equal(stored[name], made[name]) for name in stored)


def test_languages_beyond_the_usual_ones_are_told_apart() -> None:
    languages = Languages(["en", "el", "ro", "hu"])
    assert languages.of("Trenul pleacă mâine dimineață din gara centrală.").label == "ro"
    assert languages.of("A vonat holnap reggel indul a központi pályaudvarról.").label == "hu"


def test_unknown_or_no_languages_are_errors() -> None:
    with pytest.raises(ConfigError):
        Languages([])
    with pytest.raises(ConfigError, match="klingon"):
        Languages(["en", "klingon"])
