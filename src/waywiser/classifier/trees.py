"""Boosted trees as flat arrays: trained elsewhere, walked here by NumPy, all trees of a row at once.

A leaf is its own child, so every walk takes the same number of steps and needs no branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from waywiser.classifier.heads import Arrays
from waywiser.errors import ConfigError, Place, Problem

_DEEPEST: Final = 64


@dataclass(frozen=True)
class Forest:
    """Trees whose leaves add up to a logit.

    Per node: `feature` compared with `threshold` (not above goes `left`, else `right`; indices of nodes), `value` of a
    leaf. `roots` are the first nodes of the trees, `bias` (1,) is what every row begins with, `depth` (1,) the longest
    way to a leaf.
    """

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    roots: npt.NDArray[np.int32]
    bias: npt.NDArray[np.float32]
    depth: npt.NDArray[np.int32]

    def logits(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return a logit for each row of a (rows, features) array."""
        return np.array([self._logit(row) for row in rows], dtype=np.float64)

    def _logit(self, row: npt.NDArray[np.float32]) -> float:
        """Compare at every node at once, then walk: a few plain array operations, whatever the trees' number."""
        follow = np.where(row.take(self.feature) <= self.threshold, self.left, self.right)
        at = self.roots
        for _ in range(int(self.depth[0])):
            at = follow.take(at)
        return float(self.value.take(at).sum(dtype=np.float64) + self.bias[0])

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays to store, their names beginning with `prefix`."""
        return {f"{prefix}{name}": getattr(self, name) for name in _FIELDS}

    @classmethod
    def load(cls, arrays: Arrays, prefix: str, features: int) -> Forest:
        """Rebuild a forest over `features` columns; `ConfigError` when an array is missing or cannot be walked."""
        found: dict[str, npt.NDArray[np.generic]] = {}
        for name, kind in _FIELDS.items():
            array = arrays.get(f"{prefix}{name}")
            if array is None or array.ndim != 1 or array.dtype != kind or not array.size:
                raise broken(f"`{prefix}{name}` is missing or not a row of {np.dtype(kind).name}")
            found[name] = array
        nodes = found["feature"].size
        for name, limit in (("feature", features), ("left", nodes), ("right", nodes), ("roots", nodes)):
            indices = found[name].astype(np.int64)
            if indices.min() < 0 or indices.max() >= limit:
                raise broken(f"`{prefix}{name}` points outside")
        if any(found[name].size != nodes for name in ("threshold", "left", "right", "value")):
            raise broken(f"`{prefix}` has nodes of unequal count")
        numbers = np.concatenate((found["value"].astype(np.float64), found["bias"].astype(np.float64)))
        if not np.isfinite(numbers).all() or not 0 < int(found["depth"].astype(np.int64)[0]) <= _DEEPEST:
            raise broken(f"`{prefix}` holds values that are not finite, or is too deep")
        return cls(**found)  # type: ignore[arg-type]  # the types were compared above


_FIELDS: Final = {
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "value": np.float32,
    "roots": np.int32,
    "bias": np.float32,
    "depth": np.int32,
}


def broken(what: str) -> ConfigError:
    """Build the error for weights of the step heads that cannot be used."""
    hint = "reinstall the package, or train the weights again with `waywiser train`"
    return ConfigError(Problem(Place("classifier weights"), what, hint))
