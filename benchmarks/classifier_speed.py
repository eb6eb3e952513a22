"""What classifying costs: one thread, processor time (median and best), and the time to load.

    python benchmarks/classifier_speed.py [--runs 300] [--json]

Every prompt differs from the ones before it, so nothing is remembered; the step of a 400-message history is new while
the 399 messages before it were seen. The languages' model is read before the clock starts; what that costs is shown.
Processor time, not time on the clock: it is what is left when other programs of the machine are left out. A policy asks
only the heads it needs; what each group of heads costs for the first turn of an agent with 14 tools is shown apart.
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
from waywiser.core.calls import Tool
from waywiser.core.classification import HEADS, Head
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
GROUPS = {
    "step kind": frozenset({Head.KIND}),
    "step kind and sufficiency": frozenset({Head.KIND, Head.SUFFICIENCY}),
    "all heads": HEADS,
}
_LOAD = (
    "import time, numpy, waywiser.classifier.classifier as c; b = time.process_time(); c.LocalClassifier(); "
    "print(time.process_time() - b)"
)


Spread = dict[str, float]


def milliseconds(
    classifier: LocalClassifier,
    histories: list[tuple[Message, ...]],
    tools: tuple[Tool, ...] = (),
    heads: frozenset[Head] = HEADS,
) -> Spread:
    took = []
    for history in histories:
        begin = time.process_time_ns()
        classifier.classify(history, tools, 3, heads)
        took.append(time.process_time_ns() - begin)
    return spread(took)


def spread(took_ns: list[int]) -> Spread:
    return {"median": median(took_ns) / 1e6, "best": min(took_ns) / 1e6}


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


def measure(runs: int) -> dict[str, float | Spread]:
    classifier = LocalClassifier()
    begin = time.perf_counter()
    classifier.classify((user("Guten Tag, wie geht es dir?"),), (), 3)
    found: dict[str, float | Spread] = {
        "first call, which reads the languages' model (ms)": (time.perf_counter() - begin) * 1000
    }
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
        begin = time.process_time_ns()
        classifier.classify(tuple(base), (), 3)
        grown.append(time.process_time_ns() - begin)
    found["a new step of a 400-message history (ms)"] = spread(grown)
    tools = tuple(Tool(f"look_up_{number}", f"Looks up part {number} of an order") for number in range(14))
    for name, heads in GROUPS.items():
        # Other words for each group, or what one remembers would serve the next.
        turns = [(user(f"{name} {number}. " + f"{SENTENCE}\n" * 47),) for number in range(runs)]
        found[f"2,000 tokens and 14 tools, {name} (ms)"] = milliseconds(classifier, turns, tools, heads)
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
    if options.json:
        print(json.dumps(found))
        return
    for name, figure in found.items():
        print(
            f"{name}: {figure:.3f}"
            if isinstance(figure, float)
            else f"{name}: {figure['median']:.3f} ({figure['best']:.3f} at best)"
        )


if __name__ == "__main__":
    main()
