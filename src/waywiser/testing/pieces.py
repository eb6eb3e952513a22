"""Models, policies, replies and whole engines for tests, in one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from waywiser.acceptance import Acceptance, UserCheck
from waywiser.core.calls import Call, Failure, FailureKind, Finish, Origin, Reply, Tool, Usage
from waywiser.core.messages import Message, Text, ToolCall, user
from waywiser.core.models import Ability, Model, Price
from waywiser.core.policy import BudgetRule, FallbackRule, LoopControl, Policy, Rule, StepRule, Tier
from waywiser.core.receipt import Receipt
from waywiser.core.steps import StepKind
from waywiser.engine import Engine
from waywiser.ports import Classifier
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import FrozenClock, Recorder
from waywiser.testing.upstream import Scripted, ScriptedUpstream

ABILITIES = frozenset({Ability.TOOLS, Ability.JSON_SCHEMA})
LOOK_UP = Tool(
    "look_up", "Look an order up", '{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}'
)

STEPS: Mapping[StepKind, StepRule] = {
    StepKind.TRIAGE: StepRule(tier="economy"),
    StepKind.PLANNING: StepRule(tier="premium"),
    StepKind.TOOL_CALL: StepRule(tier="economy", accept=("tool_arguments",), escalate="premium"),
    StepKind.SYNTHESIS: StepRule(tier="standard"),
    StepKind.REFLECTION: StepRule(tier="standard"),
    StepKind.OTHER: StepRule(tier="standard"),
}


def a_model(name: str, micros_in: int = 1, micros_out: int = 2, *, context_tokens: int = 8192) -> Model:
    """Return a model that costs so many micro-dollars per token, answered by the scripted upstream."""
    price = Price(micros_in * 1_000_000, micros_out * 1_000_000, micros_in * 100_000, micros_in * 1_000_000)
    return Model(
        name,
        api="scripted",
        context_tokens=context_tokens,
        max_output_tokens=64,
        abilities=ABILITIES,
        prices=(price,),
        quality=min(0.2 * micros_in, 1.0),
        cache_ttl_s=300.0,
    )


TIERS = (
    Tier("economy", (a_model("a/small", 1, 2), a_model("b/small", 1, 3))),
    Tier("standard", (a_model("a/middle", 2, 4), a_model("b/middle", 2, 6))),
    Tier("premium", (a_model("a/large", 4, 8), a_model("c/large", 4, 12))),
)


def a_policy(
    *,
    tiers: Sequence[Tier] = TIERS,
    steps: Mapping[StepKind, StepRule] = STEPS,
    rules: Sequence[Rule] = (),
    budget: BudgetRule | None = None,
    fallback: FallbackRule | None = None,
    loops: LoopControl | None = None,
    reveal_below: float = 0.0,
) -> Policy:
    """Return a policy over three tiers of two models each, unless told otherwise."""
    return Policy(
        "test",
        tuple(tiers),
        steps=steps,
        rules=tuple(rules),
        budget=budget or BudgetRule(),
        loops=loops,
        fallback=fallback or FallbackRule(),
        reveal_below=reveal_below,
    )


def a_call(
    *messages: Message,
    call_id: str = "c1",
    kind: str = "synthesis",
    session: str = "s1",
    tools: Iterable[Tool] = (),
    stream: bool = False,
) -> Call:
    """Return a call whose kind is declared (empty: left to its shape), of one turn unless told otherwise."""
    origin = Origin(session=session, kind=kind, kind_by="the test" if kind else "")
    return Call(call_id, messages or (user("Where is my order?"),), tuple(tools), origin=origin, stream=stream)


def said(text: str, *, tokens: tuple[int, int] = (20, 10), finish: Finish = Finish.STOP) -> Reply:
    """Return a reply of text."""
    return Reply((Text(text),), finish=finish, usage=Usage(*tokens))


def asked(name: str = "look_up", arguments: str = '{"id":"W1"}', *, tokens: tuple[int, int] = (20, 10)) -> Reply:
    """Return a reply that asks for a tool."""
    return Reply((), (ToolCall("t1", name, arguments),), Finish.TOOL_CALLS, Usage(*tokens))


def failed(kind: FailureKind | str, *, retry_after_s: float | None = None) -> Failure:
    """Return a failure of a kind."""
    return Failure(FailureKind(kind), f"scripted {kind}", retry_after_s=retry_after_s)


class CharacterCounter:
    """Counts a token for every four characters, and four for every turn."""

    def messages(self, messages: Sequence[Message], encoding: str) -> int:  # noqa: ARG002 - every encoding is alike here
        """Count the tokens of a history."""
        return sum(4 + len(message.text) // 4 for message in messages)

    def tools(self, tools: Sequence[Tool], encoding: str) -> int:  # noqa: ARG002 - as above
        """Count the tokens of tool definitions."""
        return sum(len(tool.parameters) // 4 for tool in tools)


@dataclass
class Rig:
    """An engine over scripts, with everything around it that a test wants to look at."""

    policy: Policy
    scripts: Mapping[str, Iterable[Scripted]]
    takes_s: float = 0.0
    classifier: Classifier | None = None
    checks: Mapping[str, UserCheck] = field(default_factory=dict)
    clock: FrozenClock = field(default_factory=FrozenClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.upstream = ScriptedUpstream(self.scripts, clock=self.clock, takes_s=self.takes_s)
        self.engine = Engine(
            self.policy,
            store=self.store,
            upstreams={"scripted": self.upstream},
            counter=CharacterCounter(),
            clock=self.clock,
            classifier=self.classifier,
            checker=Acceptance(self.checks),
            sinks=[self.recorder],
        )

    @property
    def asked(self) -> list[str]:
        """The models that were asked, in order."""
        return [name for name, _ in self.upstream.asked]

    @property
    def receipt(self) -> Receipt:
        """The newest receipt, as the sinks were told."""
        return self.recorder.receipts[-1]

    def holds(self) -> int:
        """How many holds are open."""
        return len(self.store.holds(self.clock.now()))

    def spent(self) -> tuple[int, int]:
        """Nano-dollars and model calls charged so far, over all sessions."""
        rows = [row.used for row in self.store.spends()]
        return sum(used.nanos for used in rows), sum(used.llm_calls for used in rows)

    def next_call(self, call: Call) -> Call:
        """The same call again under a new id."""
        return replace(call, id=self.clock.new_id())
