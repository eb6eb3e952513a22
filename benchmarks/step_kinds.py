"""How well is the coming step of an agent told: tool call or text, and finer? Only rows that were not trained on count.

    python benchmarks/step_kinds.py                       train on retail, try on airline; other tasks; sources left out
    python benchmarks/step_kinds.py --shipped FILE...     try the weights of the package on recorded sessions of yours

Every figure goes through the code of a live call: session by session, the agent's habits learned as it goes. "Known" is
with what the agent did in the sessions before, in an order drawn by lot; otherwise every session is of a stranger.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from waywiser.classifier.glimpses import glimpse
from waywiser.classifier.heads import load
from waywiser.classifier.recordings import read_session_file, read_sessions
from waywiser.classifier.steps import StepHeads
from waywiser.classifier.train_steps import (
    Decisions,
    decisions,
    fit_kinds,
    kind_figures,
    prior,
)
from waywiser.core.messages import Role

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
FINE = ("read", "write", "answer", "question")


def finer(table: Decisions, inside: np.ndarray, outside: np.ndarray, recordings: list) -> dict[str, object]:
    """Tell read and write calls, answers and questions apart, through `StepHeads.fine`."""
    kinds = fit_kinds(table, inside, 0)
    arrays = {**kinds.arrays(), "work": prior()}
    return both(arrays, [recordings[at] for at in sorted(set(table.session[outside].tolist()))])


def both(arrays: dict, recordings: list) -> dict[str, object]:
    """Go through the sessions twice: every agent a stranger, and what an agent did before remembered."""
    heads = StepHeads.load(arrays)
    strange = through_heads(heads, recordings)
    heads = StepHeads.load(arrays)
    heads.remember_agents()
    known = through_heads(heads, recordings)
    return {**strange, **{f"known_{name}": known[name] for name in ("accuracy", "ece", "fine_accuracy")}}


def through_heads(heads: StepHeads, recordings: list) -> dict[str, object]:
    """Ask the heads before every step of these sessions, as a live call would; their order is drawn by lot."""
    confusion = np.zeros((4, 4), dtype=int)
    times: list[float] = []
    told, was = [], []
    for place in np.random.default_rng(0).permutation(len(recordings)).tolist():
        recording = recordings[place]
        turns = 0
        for at, message in enumerate(recording.messages):
            turns += message.role is Role.USER
            if message.role is not Role.ASSISTANT or not turns:
                continue
            prefix = recording.messages[:at]
            begin = time.perf_counter()
            heads.kind(prefix, ())
            times.append((time.perf_counter() - begin) * 1e3)
            chances = heads.fine(prefix)
            look = glimpse(message)
            truth = (
                ("write" if "write" in look.kinds else "read") if look.names else "question" if look.asks else "answer"
            )
            confusion[FINE.index(truth), FINE.index(max(chances, key=chances.__getitem__))] += 1
            told.append(chances["read"] + chances["write"])
            was.append(bool(look.names))
    chance, truth = np.array(told), np.array(was)
    sure = np.maximum(chance, 1 - chance)
    right = (chance >= 0.5) == truth
    bins = np.minimum((sure * 10).astype(int), 9)
    ece = sum(abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist()))
    return {
        "rows": len(truth),
        "accuracy": round(float(right.mean()), 4),
        "ece": round(float(ece), 4),
        "commoner": round(float(max(truth.mean(), 1 - truth.mean())), 4),
        "fine_accuracy": round(float(np.trace(confusion) / confusion.sum()), 4),
        "fine_labels": FINE,
        "fine_confusion": confusion.tolist(),
        "p50_ms": round(float(np.median(times)), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="retail to airline only")
    parser.add_argument("--shipped", type=Path, nargs="+", metavar="FILE", help="recorded sessions, gzip JSON lines")
    asked = parser.parse_args()
    report: dict[str, object]
    if asked.shipped:
        arrays = load(Path(str(files("waywiser.classifier") / "weights" / "steps.npz")))
        report = {path.name: both(arrays, read_session_file(path)) for path in asked.shipped}
    else:
        if not (asked.data / "trajectories").is_dir():
            print(f"no recorded sessions below {asked.data}", file=sys.stderr)
            return 2
        recordings = read_sessions(asked.data / "trajectories")
        table = decisions(recordings)
        airline = table.source == "tau_bench_gpt4o_airline"
        retail = table.domain == "retail"
        report = {"retail to airline, gpt-4o": finer(table, retail, airline, recordings)}
        every = table.domain == "airline"
        report["retail to airline, every agent"] = finer(table, retail, every, recordings)
        if not asked.quick:
            for one in kind_figures(table, 0):
                report[one.trial] = {
                    "rows": one.rows,
                    "accuracy": round(one.accuracy, 4),
                    "ece": round(one.calibration_error, 4),
                    "known_accuracy": round(one.accuracy_known, 4),
                    "known_ece": round(one.calibration_error_known, 4),
                    "commoner": round(one.base, 4),
                    "confusion": one.confusion,
                }
    if asked.json:
        print(json.dumps(report, indent=1))
    else:
        for name, found in report.items():
            print(name)
            for key, value in found.items():  # type: ignore[union-attr]
                print(f"  {key:16} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
