"""The third driver of `core/flow.py`: it performs the effects of a call from what was recorded, and calls nobody.

A send is answered by the recorded reply, priced for the model that was chosen with a simulated prompt cache; the clock
is the recording's. Everything else (kinds, rules, scores, stickiness, budgets, pressure, loops, reveal, fallback) is
the pipeline's own doing. Replies are not made anew, so `accept` checks pass: quality is not simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from waywiser.core.calls import Call, Chunk, Failure, Finish, Reply, ToolCallDelta, Usage
from waywiser.core.classification import Classification
from waywiser.core.effects import (
    Begin,
    Check,
    Classify,
    Drop,
    Effect,
    Follow,
    Open,
    Pull,
    Pulled,
    Record,
    Reserve,
    Send,
    Sent,
    Settle,
    Situation,
    Sleep,
    StartStream,
    Wait,
)
from waywiser.core.flow import Done, Pipeline
from waywiser.core.health import Health
from waywiser.core.messages import Text
from waywiser.core.models import Model
from waywiser.core.policy import Policy
from waywiser.core.receipt import Attempt
from waywiser.core.scoring import EXPECTED_OUTPUT_TOKENS
from waywiser.core.steps import StepKind
from waywiser.ports import Classifier
from waywiser.replay.measures import Measures
from waywiser.replay.prompt_cache import PromptCache
from waywiser.replay.raced import Race, failed_then, impatient
from waywiser.replay.recording import Recorded
from waywiser.replay.told import told_tokens
from waywiser.stores.memory import MemoryStore

CONCLUSION = Reply((Text("(the session is concluded here; what the model would have said is not known)"),))
JITTER = 0.5
FIRST_CHUNK = 16  # characters: what tells text from a tool call when a step reveals itself


@dataclass(slots=True)
class Course:
    """How one call went: its end (None while under way), the usage of each send, whether it was told to conclude."""

    done: Done | None
    sends: list[tuple[Model, Usage]]
    concluded: bool = False


class Driver:
    """Replays the calls of one session, in order, under one policy."""

    def __init__(self, policy: Policy, classifier: Classifier, measures: Measures) -> None:
        self.policy = policy
        self._classifier = classifier
        self._measures = measures
        self._cache = PromptCache()
        # A store of its own for each session: results do not hang on which sessions were replayed before.
        self._store = MemoryStore()

    def drive(  # noqa: C901, PLR0912, PLR0915 - one branch an effect
        self, recorded: Recorded, call: Call, encoding: str, now_s: float
    ) -> Course:
        """Run one call through the pipeline. `encoding` is that of the recorded usage. Raises `BadInput`."""
        pipeline = Pipeline(call, self.policy, now_s=now_s)
        course = Course(None, [])
        run = pipeline.run()
        stream: Iterator[Chunk | Failure] = iter(())
        told = iter(recorded.receipt.attempts if recorded.receipt is not None else ())
        race = Race(told, lambda asked: self._reply(asked.model, asked.call, recorded, encoding, now_s, course))
        result: object = None
        while True:
            try:
                effect: Effect[object] = run.send(result)
            except StopIteration as stop:
                course.done = stop.value
                return course
            result = None
            if isinstance(effect, Open):
                result = self._situation(effect, recorded, encoding)
            elif isinstance(effect, Classify):
                result = self._classified(effect, recorded)
            elif isinstance(effect, Reserve):
                result = self._store.reserve(effect.claim)
            elif isinstance(effect, Settle):
                result = self._store.settle(effect.settlement)
            elif isinstance(effect, Record):
                self._store.record(effect.receipt)
            elif isinstance(effect, Send):
                outcome: Reply | Failure | None = failed_then(next(told, None), effect.model)
                outcome = outcome or self._reply(effect.model, effect.call, recorded, encoding, now_s, course)
                result = Sent(outcome, now_s, now_s, JITTER)
            elif isinstance(effect, StartStream):
                attempt = next(told, None)
                if (failure := failed_then(attempt, effect.model)) is not None:
                    stream = iter((failure,))
                else:
                    reply = self._reply(effect.model, effect.call, recorded, encoding, now_s, course)
                    stream = _chunks(reply, _dropped(attempt, effect.model))
                result = now_s
            elif isinstance(effect, Pull):
                result = Pulled(next(stream, None), now_s, JITTER)
            elif isinstance(effect, Sleep):
                now_s += effect.seconds
                result = Pulled(None, now_s, JITTER)
            elif isinstance(effect, Check):
                result = ""
            elif isinstance(effect, Begin):
                race.begin(effect)
                result = now_s
            elif isinstance(effect, Wait):
                result = race.wait(effect, now_s, JITTER)
            elif isinstance(effect, Drop):
                result = race.late
            elif isinstance(effect, Follow):
                outcome = race.outcome
                stream = iter((outcome,)) if isinstance(outcome, Failure) else _chunks(outcome, None)
                result = now_s

    def _situation(self, effect: Open, recorded: Recorded, encoding: str) -> Situation:
        opened = self._store.open(effect.call.origin.session, effect.path, effect.now_s, effect.policy)
        tokens = {name: self._measures.prompt_tokens(recorded, name, encoding) for name in effect.encodings}
        if recorded.receipt is not None:
            tokens = told_tokens(recorded.receipt, self.policy, effect, opened.trail, tokens)
        return Situation(opened.trail, opened.standings, tokens, _health(recorded), opened.costs)

    def _classified(self, effect: Classify, recorded: Recorded) -> Classification | None:
        if recorded.receipt is not None:
            return recorded.receipt.classification
        return self._classifier.classify(effect.call.messages, effect.call.tools, effect.rungs, effect.heads)

    def _reply(
        self, model: Model, call: Call, recorded: Recorded, encoding: str, now_s: float, course: Course
    ) -> Reply:
        """Answer as recorded, with what that would have used on `model`."""
        reply = recorded.reply
        asked = self._measures.prompt_tokens(recorded, model.encoding, encoding)
        if call.origin.kind_by.startswith("concluding"):
            course.concluded = True
            reply, said = CONCLUSION, EXPECTED_OUTPUT_TOKENS[StepKind.SYNTHESIS]
        else:
            said = self._measures.answer_tokens(recorded, model.encoding, encoding)
            limit = call.settings.max_output_tokens
            said = said if limit is None else min(said, limit)
        usage = self._cache.usage(model, recorded, asked, said, now_s)
        receipt = recorded.receipt
        if receipt is not None and receipt.model == model.name and recorded.usage is not None:
            usage = recorded.usage
        course.sends.append((model, usage))
        finish = Finish.TOOL_CALLS if reply.tool_calls else Finish.STOP
        return replace(reply, usage=usage, finish=finish, model=model.remote)


def _health(recorded: Recorded) -> Mapping[str, Health]:
    """How the models were doing: as far as a receipt's scores tell, else nothing is held against anyone.

    A latency term is a share of the slowest candidate's, which is all that a score needs.
    """
    if recorded.receipt is None:
        return {}
    known = {}
    for entry in recorded.receipt.considered:
        terms = {term.name: term.value for term in entry.terms}
        if terms:
            known[entry.model] = Health(error_rate=terms.get("health", 0.0), latency_s=terms.get("latency", 0.0))
    return impatient(recorded.receipt, known)


def _dropped(attempt: Attempt | None, model: Model) -> Usage | None:
    """What a stream was charged that was dropped once it had revealed its kind; None where that did not happen."""
    if attempt is None or attempt.model != model.name or attempt.failure != "revealed":
        return None
    return attempt.usage


def _chunks(reply: Reply, begun: Usage | None) -> Iterator[Chunk]:
    """Stream a recorded reply: what kind it is comes first, with the prompt's usage; its end comes last.

    `begun` is what was charged for this stream when it was dropped, where a receipt tells.
    """
    usage = begun or replace(reply.usage, output_tokens=0)
    if reply.tool_calls:
        first = tuple(ToolCallDelta(index, call.id, call.name) for index, call in enumerate(reply.tool_calls))
        yield Chunk(tool_calls=first, usage=usage, model=reply.model)
        rest = tuple(ToolCallDelta(index, arguments=call.arguments) for index, call in enumerate(reply.tool_calls))
        yield Chunk(text=reply.text, tool_calls=rest)
    else:
        shown = 1 if begun is not None else FIRST_CHUNK
        yield Chunk(reply.text[:shown], usage=usage, model=reply.model)
        yield Chunk(reply.text[shown:])
    yield Chunk(finish=reply.finish, usage=reply.usage)
