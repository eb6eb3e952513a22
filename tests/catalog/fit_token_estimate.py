"""Fit the weights of `waywiser.catalog.estimate` again: `python tests/catalog/fit_token_estimate.py [OUT.npz]`.

Reads `../shared/data`. The sources in HELD_OUT, and half of the sentences of the language set, are never fitted on;
`test_estimate.py` measures on them. Takes about two minutes of one core. Needs scikit-learn's scipy (extra `train`).
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np

from waywiser.catalog import encodings, estimate

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LANGUAGES = "language/lingua_lid"
FITTED = (
    "prompts/mgsm",
    "prompts/llmrouter_queries",
    "prompts/self_instruct",
    LANGUAGES,
    "steps/twinrouterbench",
    "trajectories/tau2_retail_multimodel",
    "trajectories/tau_bench_llama_small",
)
HELD_OUT = (
    "prompts/arena_hard",
    "prompts/dolly15k",
    "prompts/uncommonroute",
    "prompts/medquad_sample",
    "trajectories/tau_bench_gpt4o_airline",
    "trajectories/agentdojo_gpt4omini",
)
LABELS = {"source", "license", "id", "tool_call_id", "lang", "kind", "model", "meta"}


def strings(value: object) -> Iterator[str]:
    """Every text of 20 characters or more in a row, ids and labels left out."""
    if isinstance(value, str):
        if len(value) >= 20:
            yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in LABELS:
                yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def texts(source: str, limit: int, *, half: int | None = None) -> list[str]:
    """Up to `limit` distinct texts of a source, cut at 8000 characters; of half 0 or half 1 of it, if asked."""
    with gzip.open(DATA / f"{source}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if half is not None:
        rows = [row for row in rows if crc32(str(row["text"]).encode()) % 2 == half]
    rng = random.Random(source)
    rng.shuffle(rows)
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(text[:8000] for text in strings(row)))
        if len(found) > 3 * limit:
            break
    picked = list(found)
    rng.shuffle(picked)
    return picked[:limit]


def noise() -> list[str]:
    """Strings without words, as ids and payloads have them: hex, base64, digits, runs of one character."""
    rng = random.Random(7)
    out: list[str] = []
    for _ in range(150):
        raw = rng.randbytes(rng.randrange(30, 1500))
        out += [raw.hex(), base64.b64encode(raw).decode(), " ".join(str(byte * 7919) for byte in raw[:200])]
        out.append("-".join(raw[i : i + 4].hex() for i in range(0, min(len(raw), 200), 4)))
    out += [character * size for character in "abcdefghijklmnopqrstuvwxyz =-*_.#0Z\n" for size in (80, 400)]
    return out


def main(out: Path) -> None:
    from scipy.optimize import nnls

    samples = noise()
    for source in FITTED:
        samples += texts(source, 6000, half=0 if source == LANGUAGES else None)
    size = estimate.CLASSES**2
    stored = {}
    for ranks in ("o200k_base", "cl100k_base"):
        counted = np.array([encodings.count(text, ranks) for text in samples], float)
        # The relative error counts; below 30 tokens it would only teach rounding.
        weight = 1 / np.sqrt(counted * np.maximum(counted, 30))
        gram, right = np.zeros((size, size)), np.zeros(size)
        for start in range(0, len(samples), 2000):
            block = slice(start, start + 2000)
            rows = [
                np.bincount(estimate.pairs(text.encode()).astype(np.int64), minlength=size) for text in samples[block]
            ]
            matrix = np.array(rows, np.float32) * weight[block, None].astype(np.float32)
            gram += (matrix.T @ matrix).astype(float)
            right += matrix.T @ (counted * weight)[block]
        # A pair that never occurs keeps the prior of 0.3 tokens.
        gram += 0.3 * np.eye(size)
        right += 0.3 * 0.3
        lower = np.linalg.cholesky(gram)
        stored[ranks], _ = nnls(lower.T, np.linalg.solve(lower, right), maxiter=20 * size)
    np.savez_compressed(out, **{name: weights.astype(np.float16) for name, weights in stored.items()})


if __name__ == "__main__":
    default = Path(__file__).parents[2] / "src/waywiser/catalog/ranks/token_estimate.npz"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
