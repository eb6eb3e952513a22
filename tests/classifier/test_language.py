"""Languages: a restricted set, scripts that need no model, and the courage to be unsure."""

from __future__ import annotations

import pytest

from waywiser.classifier.language import UNSURE, Languages
from waywiser.errors import ConfigError


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


@pytest.mark.parametrize(
    ("text", "language"),
    [
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
    ],
)
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


def test_unknown_or_no_languages_are_errors() -> None:
    with pytest.raises(ConfigError):
        Languages([])
    with pytest.raises(ConfigError, match="klingon"):
        Languages(["en", "klingon"]).of("some text in English")
