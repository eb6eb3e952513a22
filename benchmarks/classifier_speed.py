"""What classifying costs: one thread, medians, and the time to load.

    python benchmarks/classifier_speed.py [--runs 300] [--json]

Every prompt differs from the ones before it, so nothing is remembered; the step of a 400-message history is new while
the 399 messages before it were seen. py3langid's own model is read before the clock starts; what that costs is shown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from waywiser.classifier.classifier import LocalClassifier
from waywiser.core.messages import Message, ToolCall, assistant, system, tool_result, user

SENTENCE = (
    "Please explain how the garbage collector of this language works, what generations are and why it can stop a "
    "program; give an example with three objects that refer to each other and say which are freed first."
)  # about 42 tokens
ODD = {
    "empty": "",
    "5 MB of one character": "x" * 5_000_000,
    "lone surrogates": "\ud800\udfff what is this \ud83d" * 40,
    "right to left and mixed scripts": "ما هو هذا what 这是 что это קוד " * 40,
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=" * 400,
}
_LOAD = (
    "import time, numpy, waywiser.classifier.classifier as c; b = time.perf_counter(); c.LocalClassifier(); "
    "print(time.perf_counter() - b)"
)


def milliseconds(classifier: LocalClassifier, histories: list[tuple[Message, ...]]) -> float:
    took = []
    for history in histories:
        begin = time.perf_counter()
        classifier.classify(history, (), 3)
        took.append(time.perf_counter() - begin)
    return median(took) * 1000


def session(length: int) -> list[Message]:
    """An agent's session of `length` messages: a call and its result, over and over."""
    messages = [system("You repair code."), user("Fix the failing test in the parser module.")]
    while len(messages) < length:
        number = len(messages)
        call = ToolCall(f"c{number}", "read_file", json.dumps({"path": f"src/part_{number}.py"}))
        messages += [
            assistant("", [call]),
            tool_result(f"c{number}", f"def part_{number}():\n    return {number}\n" * 20),
        ]
    return messages[:length]


def measure(runs: int) -> dict[str, float]:
    classifier = LocalClassifier()
    begin = time.perf_counter()
    classifier.classify((user("Guten Tag, wie geht es dir?"),), (), 3)
    found = {"first call, with py3langid's model (ms)": (time.perf_counter() - begin) * 1000}
    short = [(user(f"{SENTENCE} Number {number} is one."),) for number in range(runs)]
    long = [(user(f"{number}. " + f"{SENTENCE}\n" * 23),) for number in range(runs)]
    found["50 tokens (ms)"] = milliseconds(classifier, short)
    found["1,000 tokens (ms)"] = milliseconds(classifier, long)
    found["seen before (ms)"] = milliseconds(classifier, [short[0]] * runs)
    base = session(399)
    classifier.classify(tuple(base), (), 3)
    grown = []
    for number in range(min(runs, 100)):
        base.append(
            tool_result(f"n{number}", f"Traceback: line {number}, ValueError: bad part {number}", is_error=True)
        )
        begin = time.perf_counter()
        classifier.classify(tuple(base), (), 3)
        grown.append(time.perf_counter() - begin)
    found["a new step of a 400-message history (ms)"] = median(grown) * 1000
    for name, text in ODD.items():
        found[f"{name} (ms)"] = milliseconds(classifier, [(user(text),)])
    command = [sys.executable, "-c", _LOAD]
    loads = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    found["load (ms)"] = median(loads) * 1000
    folder = Path(sys.modules[LocalClassifier.__module__].__file__ or "").parent / "weights"
    found["weights (MB)"] = sum(path.stat().st_size for path in folder.glob("*.npz")) / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.runs)
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {figure:.3f}" for name, figure in found.items()))


if __name__ == "__main__":
    main()
