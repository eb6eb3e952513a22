"""The policy as a person writes it: the pydantic schema of `policies/*.yaml`, and nothing more.

`config/policy.py` turns it into `core.policy.Policy`. Every key here has machinery behind it; anything else is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from waywiser.core.classification import DIFFICULTIES, RISKS, TASKS
from waywiser.core.confidence import LEAST
from waywiser.core.models import Ability
from waywiser.core.steps import StepKind

Kind = Literal["triage", "planning", "tool_call", "synthesis", "reflection", "other"]
TaskName = Literal[
    "chat",
    "question",
    "reasoning",
    "maths",
    "code",
    "extraction",
    "classification",
    "summarisation",
    "translation",
    "creative",
    "tool_use",
]
DifficultyName = Literal["simple", "medium", "complex", "reasoning"]
RiskName = Literal["medical", "legal", "financial", "self_harm", "confidential"]
AbilityName = Literal["tools", "json_schema", "vision", "files", "thinking", "logprobs", "web_search", "prefill"]
CheckName = Literal["tool_arguments", "json_schema", "not_empty", "not_refusal"]
OwnCheck = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Rung = Literal["hint", "escalate", "conclude", "stop"]

if {*TASKS, *DIFFICULTIES, *RISKS, *StepKind, *Ability} != {
    name for names in (Kind, TaskName, DifficultyName, RiskName, AbilityName) for name in get_args(names)
}:
    raise AssertionError("the schema and the core disagree about the names")


def _share(value: object) -> object:
    """Read `20%` as 0.2."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            pass
    if isinstance(value, str):
        raise PydanticCustomError("share", "expected a share such as `20%` or 0.2")
    return value


def _listed(value: object) -> object:
    """Let one name stand for a list of one."""
    return [value] if isinstance(value, str) else value


Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str), Field(ge=0, le=1)]
Names = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=list[str] | str), Field(min_length=1)]
Usd = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Logprob = Annotated[float, Field(gt=LEAST, lt=0)]


class Strict(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceSpec(Strict):
    """Prices in USD per million tokens. A cached token costs what an input token costs unless said otherwise."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached: Annotated[float, Field(ge=0)] | None = None
    cache_write: Annotated[float, Field(ge=0)] | None = None


class ModelSpec(Strict):
    """What the catalogue does not know of a model, or what is to replace what it knows."""

    api: Literal["openai", "anthropic", "langchain"] | None = Field(default=None, description="The wire format.")
    remote: str | None = Field(default=None, description="The name the provider knows the model by.")
    base_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    api_key: SecretStr | None = Field(default=None, description="A secret: write ${NAME} for an environment variable.")
    headers: dict[str, str] | None = None
    context: Annotated[int, Field(gt=0)] | None = Field(default=None, description="The context window, in tokens.")
    max_output: Annotated[int, Field(gt=0)] | None = None
    price: PriceSpec | None = None
    abilities: list[AbilityName] | None = None
    regions: list[str] | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    cache_ttl_s: Annotated[float, Field(ge=0)] | None = None


class MinLogprobSpec(Strict):
    """A check of confidence, where the provider tells it."""

    min_logprob: Logprob = Field(
        description="The least mean log-probability of an answer's tokens: -0.1 is sure of itself, -1.5 is guessing."
    )


class StepSpec(Strict):
    """What holds for one kind of step."""

    tier: str = Field(default="auto", description="A tier, or `auto`: the cheapest one that is enough.")
    sufficiency: Share = Field(default=0.8, description="For `auto`: how probably the tier must be enough.")
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    accept: list[CheckName | OwnCheck | MinLogprobSpec] = Field(
        default_factory=list,
        description="Checks a reply must pass before it is used: built-in ones, or `module:function` of your own.",
    )
    escalate: str | None = Field(
        default=None, description="The tier a reply that fails its checks goes to; else one up."
    )
    hedge: bool = Field(
        default=False,
        description="Ask a second model when the first is slower than it is in 19 calls of 20. Both are paid for.",
    )


class LanguageSpec(Strict):
    """Every language but these."""

    not_: Names = Field(alias="not")


class WhenSpec(Strict):
    """When a rule applies: all that is said must hold. Names may be globs."""

    kind: Names | None = None
    node: Names | None = None
    agent: Names | None = None
    session: Names | None = None
    tenant: Names | None = None
    tag: Names | None = None
    label: dict[str, str] | None = None
    task: Annotated[list[TaskName], BeforeValidator(_listed)] | None = None
    difficulty: Annotated[list[DifficultyName], BeforeValidator(_listed)] | None = None
    risk: Annotated[list[RiskName], BeforeValidator(_listed)] | None = None
    language: LanguageSpec | Names | None = None
    time_sensitive: bool | None = None
    input_tokens_above: Count | None = None


class RuleSpec(Strict):
    """One rule: when it holds, a floor is raised, a ceiling lowered, a tier set, something required or excluded."""

    when: WhenSpec
    tier: str | None = None
    floor: str | None = None
    ceiling: str | None = None
    models: Names | None = Field(default=None, description="Only these models, by name or glob.")
    exclude: Names | None = Field(default=None, description="None of these models, by name or glob.")
    require: Annotated[list[AbilityName], BeforeValidator(_listed)] | None = None
    regions: Names | None = None


class WeightsSpec(Strict):
    """What a point of each term is worth in the score."""

    quality: Annotated[float, Field(ge=0)] = 1.0
    cost: Annotated[float, Field(ge=0)] = 0.6
    latency: Annotated[float, Field(ge=0)] = 0.2
    health: Annotated[float, Field(ge=0)] = 0.5


class LimitsSpec(Strict):
    """Limits of a session or an agent. What is not named is not limited."""

    usd: Usd | None = None
    tokens: Count | None = None
    llm_calls: Count | None = None
    tool_calls: Count | None = None
    seconds: Seconds | None = None


class TenantSpec(Strict):
    """Limits of a tenant for each day (UTC)."""

    usd_per_day: Usd | None = None
    tokens_per_day: Count | None = None
    llm_calls_per_day: Count | None = None


class PressureSpec(Strict):
    """From the share `at` of any limit, no higher than the tier `ceiling`."""

    at: Share
    ceiling: str


class BudgetSpec(Strict):
    """What a run may cost, and what happens when it has cost that."""

    session: LimitsSpec = LimitsSpec()
    agent: LimitsSpec = LimitsSpec()
    tenant: TenantSpec = TenantSpec()
    keep: dict[Kind, Share] = Field(
        default_factory=dict, description="Shares of the session's money for one kind, and one of its model calls."
    )
    estimate: Literal["strict", "expected"] = "expected"
    pressure: list[PressureSpec] = Field(default_factory=list)
    on_exhausted: Literal["conclude", "ask", "stop"] = Field(
        default="conclude",
        description="Answer with what there is, ask a person for more (in LangGraph; elsewhere as stop), or stop.",
    )
    lease_s: Seconds = Field(default=300.0, description="After how long an unsettled hold comes back.")


class LoopsSpec(Strict):
    """When repetition without progress counts as a loop, and what is done about it, rung by rung."""

    after: Annotated[int, Field(ge=2, le=20)] = Field(default=3, description="Fruitless repetitions that make a loop.")
    ladder: list[Rung] = Field(
        default=["hint", "escalate", "conclude", "stop"],
        min_length=1,
        description="What is done, each once for a loop: hint, escalate, conclude, stop.",
    )
    navigation: list[str] = Field(default_factory=list, description="Tools that only move about: repeats are normal.")


class UnsureSpec(Strict):
    """When a streamed answer is stopped because its model is guessing."""

    below: Logprob = Field(description="The mean log-probability under which it is stopped: -1.5 is guessing.")
    over: Annotated[int, Field(ge=5, le=1000)] = Field(default=40, description="Over how many of its newest tokens.")


class FallbackSpec(Strict):
    """How long and how often one call is tried."""

    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    timeout_s: Seconds = Field(default=60.0, description="How long a model may be silent.")
    deadline_s: Seconds = 120.0
    cut_stream: Literal["resume", "fail"] = Field(
        default="fail",
        description="An answer cut while it is read: resume on another model from the text so far, or fail.",
    )
    cut_repetition: bool = Field(default=True, description="Stop a streamed answer that repeats itself.")
    cut_unsure: UnsureSpec | None = Field(
        default=None, description="Stop a streamed answer whose model is guessing, where its provider tells."
    )


class SwitchingSpec(Strict):
    """What a move to another model must save after its cold prefix is paid."""

    min_saving: Share = 0.15


class RevealSpec(Strict):
    """Let a step of unsure kind show what it is on the cheaper tier."""

    below: Share = Field(default=0.7, description="The confidence under which a step reveals itself.")


class ClassifierSpec(Strict):
    """The local classifier: whose weights it has, and which languages it tells apart."""

    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A folder that `waywiser train` wrote, relative to this file; else the weights in the package.",
    )
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = Field(
        default=None, min_length=1, description="ISO 639 codes to choose from; else 24 languages."
    )


class PolicySpec(Strict):
    """A policy: which tier each step goes to, under which rules, within which budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Waywiser policy")

    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=80)]
    tiers: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        min_length=1, description="The ladder, cheapest first: each tier and its models."
    )
    models: dict[str, ModelSpec] = Field(default_factory=dict)
    steps: dict[Kind, StepSpec] = Field(default_factory=dict)
    nodes: dict[str, Kind] = Field(default_factory=dict, description="The kind of a node's steps, by name or glob.")
    rules: list[RuleSpec] = Field(default_factory=list)
    weights: WeightsSpec = WeightsSpec()
    budget: BudgetSpec = BudgetSpec()
    loops: LoopsSpec | None = None
    fallback: FallbackSpec = FallbackSpec()
    switching: SwitchingSpec = SwitchingSpec()
    reveal: RevealSpec | None = None
    classifier: ClassifierSpec = ClassifierSpec()
