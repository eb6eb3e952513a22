"""Makes `weights/languages.npz` of the model that py3langid brings. Run it when that model changes:

python tests/classifier/convert_languages.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from py3langid.langid import MODEL_DIR, MODEL_FILE
from py3langid.modelio import load_model

from waywiser.classifier.heads import save
from waywiser.classifier.language import LANGUAGES
from waywiser.classifier.language_model import MODEL


def converted(languages: Sequence[str]) -> dict[str, np.ndarray]:
    """Return py3langid's model for some languages as the arrays that `LanguageModel` reads."""
    table, prior, labels, moves, rows, features = load_model(MODEL_DIR / MODEL_FILE)
    columns = [labels.index(language) for language in sorted(languages)]
    targets = np.array(moves, dtype=np.int64).reshape(-1, 256)
    row_of, ends = np.array(rows, dtype=np.int64), np.array(features, dtype=np.int64)
    order, byte, children = _levels(targets, row_of)
    told = ends[order]
    kept = told[told >= 0]
    # Sequences are numbered as they come in the new order: neighbours then have like rows, which pack better.
    seen, at = np.unique(kept, return_index=True)
    old = seen[np.argsort(at)]
    new = np.full(len(table), -1)
    new[old] = np.arange(len(old))
    return {
        "labels": np.array([labels[column] for column in columns]),
        "prior": np.asarray(prior)[columns],
        "table": np.ascontiguousarray(np.asarray(table)[old][:, columns]),
        "byte": byte,
        "children": children,
        "features": np.where(told >= 0, new[told], -1).astype(np.int32),
    }


def _levels(targets: np.ndarray, row_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the states level by level from the root: the old number, the byte that leads there, how many children."""
    found = np.zeros(len(row_of), dtype=bool)
    found[0] = True
    order, bytes_, children = [np.array([0])], [np.array([0])], []
    while order[-1].size:
        level = order[-1]
        onward = targets[row_of[level]]
        parent, byte = np.nonzero(~found[onward])
        below = onward[parent, byte]
        found[below] = True
        order.append(below)
        bytes_.append(byte)
        children.append(np.bincount(parent, minlength=level.size))
    return np.concatenate(order), np.concatenate(bytes_).astype(np.uint8), np.concatenate(children).astype(np.uint8)


if __name__ == "__main__":
    save(MODEL, converted(LANGUAGES))
    print(f"{Path(MODEL).name}: {MODEL.stat().st_size / 1e6:.2f} MB")
