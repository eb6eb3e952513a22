"""The estimate's error on texts of sources it was not fitted on, and its speed against exact counting."""

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from waywiser.catalog import encodings, estimate
from waywiser.catalog.tokens import TokenCounter, TokenEstimator


def _fit() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fit_token_estimate", Path(__file__).with_name("fit_token_estimate.py")
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIT = _fit()
needs_data = pytest.mark.skipif(not FIT.DATA.is_dir(), reason="../shared/data is not here")


@needs_data
@pytest.mark.parametrize("ranks", ["o200k_base", "cl100k_base"])
def test_error_on_sources_never_fitted_on(ranks: str) -> None:
    samples = {source: FIT.texts(source, 400) for source in FIT.HELD_OUT}
    samples["75 languages"] = FIT.texts(FIT.LANGUAGES, 1500, half=1)
    for source, texts in samples.items():
        exact = np.array([encodings.count(text, ranks) for text in texts], float)
        guess = np.array([estimate.tokens(text, ranks) for text in texts], float)
        # What a call is routed on is a whole prompt: texts in a row, until they make 500 tokens.
        prompt = (np.cumsum(exact) // 500).astype(int)
        ratio = np.bincount(prompt, guess)[np.unique(prompt)] / np.bincount(prompt, exact)[np.unique(prompt)]
        low, middle, high = np.quantile(ratio, (0.05, 0.5, 0.95))
        print(
            f"{ranks} {source}: {len(ratio)} prompts, 5% below {low:.2f}, half below {middle:.2f}, 5% above {high:.2f}"
        )
        assert low > 0.92, source
        assert 0.95 < middle < 1.2, source
        assert high < 1.25, source


def test_noise_is_not_taken_for_words() -> None:
    for text in FIT.noise()[:40]:
        exact = encodings.count(text, "o200k_base")
        assert 0.6 < estimate.tokens(text, "o200k_base") / exact < 1.8


def test_faster_than_counting() -> None:
    text = (
        "Your order #W2378156 contains a mechanical keyboard; it was delivered to 123 Elm Street on 2024-05-14. " * 80
    )
    counter, estimator = TokenCounter(), TokenEstimator()

    def best(count: object) -> float:
        times = []
        for _ in range(30):
            start = time.perf_counter()
            count(text, "o200k_base")  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        return min(times[5:])

    assert best(estimator.text) < 0.5 * best(counter.text)


def test_classes_cover_every_byte_of_text() -> None:
    table = estimate.byte_classes()
    unclassed = {byte for byte in range(256) if table[byte] == 0}
    assert unclassed <= {*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF5, 0x100)}
    assert max(table) == estimate.CLASSES - 1


def test_empty_and_tiny() -> None:
    assert estimate.tokens("", "o200k_base") == 0
    assert estimate.tokens("a", "o200k_base") == 1
