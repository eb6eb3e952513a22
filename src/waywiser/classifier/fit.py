"""Fitting linear heads: features in bulk, near-duplicates kept together, one-against-rest margins, calibration.

Training only: scikit-learn is imported here and nowhere on the way of a call. Everything is deterministic: the same
rows and the same seed give the same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from waywiser.classifier.corpus import Example
from waywiser.classifier.lexicon import concepts
from waywiser.classifier.text import BUCKETS, SHAPE, PromptView

Doubles: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]
Sparse: TypeAlias = Any  # scipy ships no types

SHAPE_WEIGHT = 0.5
CONCEPT_WEIGHT = 0.5
FOLDS = 3


@dataclass(frozen=True)
class Bulk:
    """Features of many texts: `matrix` (rows, BUCKETS + shape + concepts) sparse; `groups` names near-duplicates."""

    matrix: Sparse
    groups: Indices

    def folds(self, seed: int, count: int = FOLDS) -> Indices:
        """Return the fold of each row; near-duplicates share one."""
        chance = np.random.default_rng(seed)
        drawn: Indices = chance.integers(0, count, int(self.groups.max()) + 1)[self.groups]
        return drawn


def bulk(rows: Sequence[Example], *, tied: bool = True) -> Bulk:
    """Compute the features of many rows. With `tied` false the concepts are left out (to measure what they bring)."""
    from scipy import sparse  # type: ignore[import-untyped]  # noqa: PLC0415 - training only

    views = [PromptView(row.text) for row in rows]
    indices = np.concatenate([view.features[0] for view in views]).astype(np.int32)
    values = np.concatenate([view.features[1] for view in views])
    ends = np.cumsum([0, *(view.features[0].size for view in views)])
    hashed = sparse.csr_matrix((values, indices, ends), shape=(len(rows), BUCKETS))
    parts = [hashed, sparse.csr_matrix(np.array([view.shape for view in views]) * SHAPE_WEIGHT)]
    if tied:
        known = concepts()
        parts.append(sparse.csr_matrix(np.array([known.strength(view) for view in views]) * CONCEPT_WEIGHT))
    return Bulk(sparse.hstack(parts).tocsr(), _groups([view.grams for view in views], [row.template for row in rows]))


def _groups(grams: Sequence[Indices], templates: Sequence[str]) -> Indices:
    """Number the rows so that near-duplicates share a number: the same minima of hashed 3- and 4-grams in any band.

    Rows of one template share a number whatever their words.
    Four bands of five minima: rows that share 90% of their n-grams meet with probability 0.97, half of them 0.12. Fewer
    minima chain short commands into one group that is most of the set.
    """
    chance = np.random.default_rng(7)
    factors = chance.integers(1, 2**31, 20) * 2 + 1
    minima = np.array(
        [[int((row * factor % 2147483647).min(initial=-1 % 2**31)) for factor in factors] for row in grams]
    )
    parent = list(range(len(grams)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for band in range(0, 20, 5):
        first: dict[tuple[int, ...], int] = {}
        for row, found in enumerate(minima[:, band : band + 5].tolist()):
            other = first.setdefault(tuple(found), row)
            parent[root(row)] = root(other)
    named: dict[str, int] = {}
    for row, template in enumerate(templates):
        if template:
            parent[root(row)] = root(named.setdefault(template, row))
    return np.unique([root(row) for row in range(len(grams))], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Margins:
    """One-against-rest weights over the columns of `Bulk.matrix`, a column a label."""

    weights: Doubles
    bias: Doubles

    def __call__(self, matrix: Sparse) -> Doubles:
        """Return the margin of each label for each row."""
        margins: Doubles = matrix @ self.weights + self.bias
        return margins

    def parted(self) -> tuple[Doubles, Doubles, Doubles]:
        """Return the weights of buckets, of shape and of concepts, each for its feature as it is on the hot path."""
        shape = BUCKETS + len(SHAPE)
        return self.weights[:BUCKETS], self.weights[BUCKETS:shape] * SHAPE_WEIGHT, self.weights[shape:] * CONCEPT_WEIGHT


def fit(
    matrix: Sparse, truth: npt.NDArray[np.bool_], strength: float, seed: int, weights: Doubles | None = None
) -> Margins:
    """Fit one linear support-vector machine a column of `truth` (rows, labels); a row may weigh less than 1."""
    from sklearn.svm import LinearSVC  # type: ignore[import-untyped]  # noqa: PLC0415 - training only

    columns, biases = [], []
    for label in range(truth.shape[1]):
        if truth[:, label].all() or not truth[:, label].any():  # nothing to tell apart
            columns.append(np.zeros(matrix.shape[1]))
            biases.append(1.0 if truth[:, label].all() else -1.0)
            continue
        machine = LinearSVC(C=strength, dual=True, random_state=seed, max_iter=2000)
        machine.fit(matrix, truth[:, label], sample_weight=weights)
        columns.append(machine.coef_[0])
        biases.append(machine.intercept_[0])
    return Margins(np.array(columns).T, np.array(biases))


def crossed(
    matrix: Sparse,
    truth: npt.NDArray[np.bool_],
    folds: Indices,
    strength: float,
    seed: int,
    weights: Doubles | None = None,
) -> Doubles:
    """Return margins of each row from a fit that never saw its fold."""
    margins = np.zeros(truth.shape)
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        fitted = fit(matrix[inside], truth[inside], strength, seed, None if weights is None else weights[inside])
        margins[~inside] = fitted(matrix[~inside])
    return margins


def calibrate_softmax(margins: Doubles, truth: Indices) -> tuple[Doubles, Doubles]:
    """Return (slope, offset) a label that make softmax(slope * margin + offset) a probability (maximum likelihood)."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # noqa: PLC0415 - training only

    count = margins.shape[1]
    rows = np.arange(truth.size)

    def loss(point: Doubles) -> tuple[float, Doubles]:
        logits = margins * point[:count] + point[count:]
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(axis=1, keepdims=True)
        error = chances.copy()
        error[rows, truth] -= 1
        slope = point[:count] - 3
        value = (
            -np.log(chances[rows, truth] + 1e-12).mean() + 1e-3 * slope @ slope + 1e-3 * point[count:] @ point[count:]
        )
        gradient = np.concatenate(((error * margins).mean(axis=0), error.mean(axis=0)))
        gradient += 2e-3 * np.concatenate((slope, point[count:]))
        return float(value), gradient

    found = minimize(loss, np.concatenate((np.full(count, 3.0), np.zeros(count))), jac=True, method="L-BFGS-B").x
    return found[:count], found[count:]


def calibrate_sigmoid(margins: Doubles, truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return (slope, offset) that make sigmoid(slope * margin + offset) a probability (Platt's method).

    Both answers weigh the same: how many rows of each were written says nothing about how often they are asked.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    fitted = LogisticRegression(C=10.0, class_weight="balanced").fit(margins[:, None], truth)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def calibration_error(confidence: Doubles, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error over equal bins of confidence."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[places == place].mean() - right[places == place].mean())) * float((places == place).mean())
        for place in range(bins)
        if (places == place).any()
    ]
    return float(sum(gaps))
