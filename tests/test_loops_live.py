"""Loops, live: an agent stuck in each way there is leaves by the hint or a tier up if its model can, else it concludes.

The agent is an ordinary tool loop over the engine. Its model is a rule: it goes round in its circle until something in
the call it gets makes it stop: the hint, a better tier, or being told to answer.
"""

import itertools
import json
from collections.abc import Callable, Iterator

import pytest

from waywiser.config.source import Source
from waywiser.core.calls import Call, Finish, Origin, Outcome, Reply, Tool, Usage
from waywiser.core.messages import Message, Text, ToolCall, assistant, tool_result, user
from waywiser.core.models import Model
from waywiser.errors import LoopDetected
from waywiser.runtime import build, load

POLICY = """
version: 1
name: loops
tiers: {{economy: [simulated/economy], premium: [simulated/premium]}}
steps: {{tool_call: {{tier: economy}}, synthesis: {{tier: economy}}}}
budget: {{session: {{llm_calls: 60}}}}
loops: {{after: 3, ladder: {ladder}}}
"""
TOOLS = tuple(Tool(name) for name in ("look", "find", "read"))
Circle = Callable[[int], tuple[str, str] | str]


def spaced(n: int) -> str:
    """The same arguments, written differently each time."""
    value = {"id": "W1", "page": 1} if n % 2 else {"page": 1.0, "id": "W1"}
    return json.dumps(value, indent=n % 3 or None)


CIRCLES: dict[str, Circle] = {
    "the same call": lambda _: ("look", '{"id":"W1"}'),
    "other white space and key order": lambda n: ("look", spaced(n)),
    "a counter": lambda n: ("look", json.dumps({"id": "W1", "try": n})),
    "the same error": lambda n: ("read", json.dumps({"path": "abcdefghijklmnopqrstuvwxyz"[n % 26]})),
    "a cycle of two": lambda n: (("look", '{"id":"W1"}'), ("find", '{"q":"W1"}'))[n % 2],
    "a cycle of three": lambda n: (("look", '{"id":"W1"}'), ("find", '{"q":"W1"}'), ("look", '{"id":"W2"}'))[n % 3],
    "the same words": lambda _: "Please give me a moment while I look into your order.",
}


class Stuck:
    """A model that goes round in `circle` until `gets_it` says that it may stop."""

    def __init__(self, circle: Circle, gets_it: Callable[[Model, Call], bool]) -> None:
        self._circle, self._gets_it, self._rounds = circle, gets_it, itertools.count()

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        if self._gets_it(model, call) or call.settings.tool_choice == "none":
            return Reply((Text("Done: this is what I know."),), usage=Usage(100, 10))
        step = self._circle(next(self._rounds))
        if isinstance(step, str):
            return Reply((Text(step),), usage=Usage(100, 10))
        return Reply(tool_calls=(ToolCall(f"c{id(step)}", *step),), finish=Finish.TOOL_CALLS, usage=Usage(100, 10))

    def close(self) -> None: ...


def answer_to(name: str, arguments: str) -> tuple[str, bool]:
    if name == "read":
        return "Error: permission denied", True
    return {"look": "order W1: waiting", "find": "nothing found"}[name], False


def run(circle: Circle, gets_it: Callable[[Model, Call], bool], ladder: str) -> tuple[str, list[str], int]:
    """Run the agent for 30 steps at most: its last words, the rungs that were taken, and how many steps it took."""
    loaded = load(Source.parse(POLICY.format(ladder=ladder), "loops.yaml"))
    engine = build(loaded, store=":memory:", upstreams={"simulated": Stuck(circle, gets_it)}).engine  # type: ignore[dict-item]
    history: list[Message] = [user("Where is my order W1?")]
    rungs: list[str] = []
    ids: Iterator[int] = itertools.count()
    for step in range(1, 31):
        call = Call(f"call{step}", tuple(history), TOOLS, origin=Origin("s", kind="tool_call", kind_by="test"))
        done = engine.complete(call)
        rungs += [done.receipt.loop] if done.receipt.loop else []
        if done.reply.text.startswith("Done"):
            return done.reply.text, rungs, step
        made = [ToolCall(f"t{next(ids)}", asked.name, asked.arguments) for asked in done.reply.tool_calls]
        history.append(assistant(done.reply.text, made))
        for asked in made:
            text, is_error = answer_to(asked.name, asked.arguments)
            history.append(tool_result(asked.id, text, name=asked.name, is_error=is_error))
        if not made:
            history.append(user("ok"))
    return "", rungs, 30


def hinted(_: Model, call: Call) -> bool:
    return "no progress is being made" in call.messages[-1].text


def better(model: Model, _: Call) -> bool:
    return model.name == "simulated/premium"


def never(_: Model, __: Call) -> bool:
    return False


@pytest.mark.parametrize("circle", CIRCLES.values(), ids=CIRCLES)
@pytest.mark.parametrize(
    ("gets_it", "expected"),
    [(hinted, ["hint"]), (better, ["hint", "escalate"]), (never, ["hint", "escalate", "conclude"])],
    ids=["a hint is enough", "a better model gets it", "no model gets it"],
)
def test_it_gets_out(circle: Circle, gets_it: Callable[[Model, Call], bool], expected: list[str]) -> None:
    text, rungs, steps = run(circle, gets_it, "[hint, escalate, conclude, stop]")
    assert text == "Done: this is what I know."
    assert rungs == expected
    assert steps <= 14


@pytest.mark.parametrize("circle", CIRCLES.values(), ids=CIRCLES)
def test_it_is_stopped_where_the_policy_says_so(circle: Circle) -> None:
    with pytest.raises(LoopDetected) as caught:
        run(circle, never, "[stop]")
    assert caught.value.receipt is not None
    assert caught.value.receipt.refused == "loop_detected"


def test_work_through_a_list_and_polling_that_brings_news_are_left_alone() -> None:
    loaded = load(Source.parse(POLICY.format(ladder="[stop]"), "loops.yaml"))
    for results in (
        [f"order W{n}: worth {n * 7} dollars" for n in range(12)],
        [f"build {n * 8}% done, {100 - n} files left" for n in range(12)],
    ):
        engine = build(
            loaded,
            store=":memory:",
            upstreams={"simulated": Stuck(lambda n: ("look", json.dumps({"n": n})), never)},  # type: ignore[dict-item]
        ).engine
        history: list[Message] = [user("go through all of them")]
        for step, result in enumerate(results):
            call = Call(f"call{step}", tuple(history), TOOLS, origin=Origin("s", kind="tool_call", kind_by="test"))
            done = engine.complete(call)
            assert done.receipt.loop == ""
            (asked,) = done.reply.tool_calls
            history += [
                assistant("", [ToolCall(f"t{step}", asked.name, asked.arguments)]),
                tool_result(f"t{step}", result, name=asked.name),
            ]
