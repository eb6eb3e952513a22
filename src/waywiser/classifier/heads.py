"""Linear heads over hashed text, their calibration, and the file they are kept in.

A head is a column or a group of columns of one matrix: `softmax` heads choose one of their labels, `sigmoid` heads say
yes or no for each label by itself. Weights are kept as 8-bit integers with one scale a column (a quarter of the size,
and no figure moves by more than noise). Files are NumPy's `.npz` and never hold a pickle: what does not read as plain
arrays of known names is a `ConfigError`.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier.concepts import Concepts
from waywiser.classifier.text import BUCKETS, SHAPE, Floats, Ints, PromptView
from waywiser.errors import ConfigError, Place, Problem

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]

FORMAT = 1
_LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class LinearHeads:
    """Scores of many labels at once: `features @ weights + shape @ shape_weights + …`, a logit a column.

    Shapes: `weights` (BUCKETS, columns) int8, `scale` (columns,), `shape_weights` (len(SHAPE), columns),
    `concept_weights` (concepts, columns), `bias` (columns,). `slope` and `offset` (columns,) calibrate: a probability
    is squash(slope * logit + offset).
    """

    columns: tuple[str, ...]
    concepts: Concepts
    weights: npt.NDArray[np.int8]
    scale: Floats
    shape_weights: Floats
    concept_weights: Floats
    bias: Floats
    slope: Floats
    offset: Floats

    def logits(self, view: PromptView) -> tuple[Floats, Ints]:
        """Return one calibrated logit a column, and the indices of the words of the text that concepts know."""
        buckets, values = view.features
        raw = (values @ self.weights.take(buckets, axis=0).astype(np.float32)) * self.scale
        spoken, words = self.concepts.spoken(view)
        raw += view.shape @ self.shape_weights + spoken @ self.concept_weights + self.bias
        return raw * self.slope + self.offset, words

    def telling(self, view: PromptView, words: Ints, columns: Sequence[int]) -> list[int]:
        """Return for each of some columns which of `words` speaks most for it, -1 where none does.

        `words` are those that concepts know: any other may be what a prompt should not be remembered by.
        """
        if not words.size:
            return [-1] * len(columns)
        said = self.weights.take(view.word_buckets[words], axis=0)
        found = []
        for column in columns:
            best = int(said[:, column].argmax())
            found.append(int(words[best]) if said[best, column] > 0 else -1)
        return found

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays to store, their names beginning with `prefix`."""
        return {
            f"{prefix}columns": np.array(self.columns),
            f"{prefix}concept_names": np.array(self.concepts.names),
            f"{prefix}concept_keys": self.concepts.keys,
            f"{prefix}concept_masks": self.concepts.masks,
            f"{prefix}weights": self.weights,
            **{f"{prefix}{name}": getattr(self, name) for name in _FLOAT_FIELDS},
        }

    @classmethod
    def load(cls, arrays: Arrays, prefix: str) -> LinearHeads:
        """Rebuild heads from stored arrays; `ConfigError` when one is missing, misshapen or of another type."""
        try:
            columns, names = _names(arrays, f"{prefix}columns"), _names(arrays, f"{prefix}concept_names")
            keys, masks = (arrays[f"{prefix}concept_{what}"] for what in ("keys", "masks"))
            weights = arrays[f"{prefix}weights"]
            floats = {name: arrays[f"{prefix}{name}"] for name in _FLOAT_FIELDS}
        except KeyError as missing:
            raise _broken(f"the array {missing} is missing") from None
        wanted: dict[str, tuple[int, ...]] = {name: (len(columns),) for name in _FLOAT_FIELDS}
        wanted["shape_weights"] = (len(SHAPE), len(columns))
        wanted["concept_weights"] = (len(names), len(columns))
        if keys.dtype != np.uint64 or masks.dtype != np.uint64 or keys.shape != masks.shape or not keys.size:
            raise _broken(f"`{prefix}concept_keys` is not a table of 64-bit keys")
        if weights.shape != (BUCKETS, len(columns)) or weights.dtype != np.int8:
            raise _broken(f"`{prefix}weights` has shape {weights.shape} and type {weights.dtype}")
        for name, array in floats.items():
            if array.shape != wanted[name] or array.dtype != np.float32 or not np.isfinite(array).all():
                raise _broken(f"`{prefix}{name}` is not {wanted[name]} finite 32-bit numbers")
        return cls(
            columns,
            Concepts(names, keys.astype(np.uint64, copy=False), masks.astype(np.uint64, copy=False)),
            weights.astype(np.int8, copy=False),
            **{name: array.astype(np.float32, copy=False) for name, array in floats.items()},
        )


_FLOAT_FIELDS = ("scale", "shape_weights", "concept_weights", "bias", "slope", "offset")


def quantise(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round a (buckets, columns) matrix to 8 bits a weight; return it with the scale of each column."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


def softmax(logits: Floats) -> Floats:
    """Turn logits into probabilities that sum to 1."""
    raised = np.exp(logits - logits.max())
    chances: Floats = raised / raised.sum()
    return chances


def sigmoid(logits: Floats) -> Floats:
    """Turn each logit into a probability by itself."""
    chances: Floats = (1 / (1 + np.exp(-np.minimum(np.maximum(logits, -40), 40)))).astype(np.float32)
    return chances


def save(path: Path, arrays: Arrays) -> None:
    """Write arrays as `.npz`, the same bytes for the same arrays: sorted names, no time stamps, no pickles."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted({*arrays, "format"}):
            array = np.array(FORMAT) if name == "format" else np.ascontiguousarray(arrays[name])
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read arrays written by `save`. Anything else raises `ConfigError` with the file's name and what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:
                raise _broken(f"it unpacks to more than {_LARGEST // 2**20} MB", path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise _broken("there is no such file", path) from None
    except _UNREADABLE as error:
        raise _broken(f"it cannot be read ({type(error).__name__}: {error})", path) from None
    told = arrays.get("format")
    if not isinstance(told, np.ndarray) or told.shape != () or told.dtype.kind not in "iu" or int(told) != FORMAT:
        raise _broken(f"it is not a weights file of format {FORMAT}", path)
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise _broken(f"`{strange[0]}` is not an array", path)
    return arrays


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,  # an array that is said to be larger than any memory
    RuntimeError,  # encrypted, or packed in a way of its own
    SyntaxError,
    tokenize.TokenError,  # what NumPy meets in the header of an array
    zipfile.BadZipFile,
    zlib.error,
)


def _names(arrays: Arrays, name: str) -> tuple[str, ...]:
    """Read a row of names."""
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind != "U":
        raise _broken(f"`{name}` is not a row of names")
    return tuple(array.tolist())


def _broken(what: str, path: Path | None = None) -> ConfigError:
    """Build the error for weights that cannot be used."""
    place = Place(str(path) if path else "classifier weights")
    return ConfigError(Problem(place, what, "reinstall the package, or train the weights again with `waywiser train`"))
