"""Weights files: the same bytes for the same arrays, and a clear error for anything that is not one."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from waywiser.classifier.classifier import WEIGHTS
from waywiser.classifier.heads import LinearHeads, load, quantise, save, sigmoid, softmax
from waywiser.classifier.prompts import PromptHeads
from waywiser.errors import ConfigError


def shipped() -> dict[str, np.ndarray]:
    return load(WEIGHTS / "prompts.npz")


def test_the_same_arrays_make_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    arrays = {"b": np.arange(5, dtype=np.float32), "a": np.array(["x", "y"])}
    save(tmp_path / "one.npz", arrays)
    save(tmp_path / "two.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert load(tmp_path / "one.npz")["b"].tolist() == [0, 1, 2, 3, 4]


def _pickled(path: Path) -> None:
    np.savez(path, format=np.array(1), bad=np.array([{"a": 1}], dtype=object))


def _told(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def _packed(path: Path, array: bytes) -> None:
    """Write a file of the right format, with one array in it as it is given."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("format.npy", _told(np.array(1)))
        archive.writestr("a.npy", array)


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not weights at all"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"weights": [1, 2]})),
    "pickled arrays": _pickled,
    "another format": lambda path: np.savez(path, format=np.array(99), a=np.zeros(2)),
    "no format": lambda path: np.savez(path, a=np.zeros(2)),
    "cut short": lambda path: path.write_bytes((WEIGHTS / "prompts.npz").read_bytes()[:100_000]),
    "flipped bits": lambda path: path.write_bytes(
        bytes(byte ^ (at % 997 == 500) for at, byte in enumerate((WEIGHTS / "prompts.npz").read_bytes()))
    ),
    "a folder": lambda path: path.mkdir(),
    "a format that is no number": lambda path: np.savez(path, format=np.array("one")),
    "a format that is not finite": lambda path: np.savez(path, format=np.array(np.nan)),
    "a format of two parts": lambda path: np.savez(path, format=np.zeros((), dtype=[("a", "i4"), ("b", "i4")])),
    "a format that is a date": lambda path: np.savez(path, format=np.array("2020-01-01", dtype="M8[D]")),
    "an array that is none": lambda path: _packed(path, b"no magic here"),
    "a header that does not end": lambda path: _packed(path, _told(np.zeros(9)).replace(b"}", b"(")),
    "a header of another language": lambda path: _packed(path, _told(np.zeros(9)).replace(b"'shape'", b"-- 42 \xff")),
    "an array larger than memory": lambda path: _packed(
        path, _told(np.zeros(9)).replace(b"(9,), }" + b" " * 14, b"(9" + b"0" * 14 + b",), }")
    ),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_what_is_not_a_weights_file_is_an_error_that_names_it(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    make(path)
    with pytest.raises(ConfigError, match=r"weights\.npz"):
        load(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "nowhere.npz")


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    save(tmp_path / "bomb.npz", {"zeros": np.zeros(80 * 2**20, dtype=np.int8)})
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    with pytest.raises(ConfigError, match="unpacks"):
        load(tmp_path / "bomb.npz")


def test_arrays_that_do_not_fit_are_refused() -> None:
    arrays = shipped()
    for name in [name for name in arrays if name.startswith("prompt_")]:
        with pytest.raises(ConfigError):
            LinearHeads.load({key: array for key, array in arrays.items() if key != name}, "prompt_")
    for name in (
        "prompt_weights",
        "prompt_bias",
        "prompt_shape_weights",
        "prompt_concept_weights",
        "prompt_concept_keys",
    ):
        with pytest.raises(ConfigError):
            LinearHeads.load({**arrays, name: arrays[name][:-1]}, "prompt_")
    with pytest.raises(ConfigError):
        LinearHeads.load({**arrays, "prompt_bias": np.full_like(arrays["prompt_bias"], np.nan)}, "prompt_")
    for name in ("prompt_columns", "prompt_concept_names"):
        for strange in (np.array("one"), np.array([1, 2]), np.array([["a"]])):
            with pytest.raises(ConfigError, match="row of names"):
                LinearHeads.load({**arrays, name: strange}, "prompt_")
    renamed = np.array([f"x{number}" for number in range(arrays["prompt_concept_names"].size)])
    with pytest.raises(ConfigError, match="no words for changing, confidential"):
        PromptHeads.load({**arrays, "prompt_concept_names": renamed})
    with pytest.raises(ConfigError, match="other labels"):
        PromptHeads.load({**arrays, "prompt_columns": np.array([f"x{n}" for n in range(arrays["prompt_bias"].size)])})


def test_rounding_to_eight_bits_loses_less_than_half_a_step() -> None:
    weights = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    weights[:, 2] = 0
    rounded, scale = quantise(weights)
    assert np.abs(rounded * scale - weights).max() <= scale[:2].max() / 2 + 1e-6


def test_probabilities_survive_extreme_logits() -> None:
    assert softmax(np.array([1e4, 0, -1e4], dtype=np.float32)).tolist() == [1, 0, 0]
    assert sigmoid(np.array([1e4, 0, -1e4], dtype=np.float32)).tolist() == pytest.approx([1, 0.5, 0])
