"""One request to a model and everything it can come to: `Call` in; `Reply` or `Failure` out, with its `Usage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

from waywiser.core.messages import Message, Part, Role, Text, Thinking, ToolCall, digest

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True)
class Tool:
    """A function the model may ask for. `parameters` is its JSON schema as JSON text. Not slotted: keeps its digest."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool | None = None

    @cached_property
    def digest(self) -> bytes:
        """16 bytes over name, description and schema."""
        return digest((self.name, self.description, self.parameters, str(self.strict)))


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """Structured output asked of the model: `schema` is a JSON schema as JSON text; empty means any JSON object."""

    schema: str = ""
    name: str = "answer"
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to sample. None means the provider's default; `extra` is passed on untouched, by name.

    `tool_choice` is `auto`, `none`, `required` or the name of a tool, prefixed by `tool:`. `logprobs` is set when the
    caller asked for the log-probability of each token, to how many alternatives of it; `confidence` when the policy
    wants them, for itself.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tool_choice: str = ""
    parallel_tool_calls: bool | None = None
    logprobs: int | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)
    confidence: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from: what the surface knows about its place in an agent.

    `agent` names the subgraphs around the node, from the outside in (`outer/inner`); `node_role` is what the compiled
    graph says of the node (`entry`, `tool_loop`, `final`, `fan_out`, …); `kind` is set when somebody declared it and
    `kind_by` says who; `task_id` is LangGraph's, the same again when the runtime repeats a task; `state` digests the
    graph's state.
    """

    session: str = ""
    tenant: str = ""
    agent: str = ""
    node: str = ""
    node_role: str = ""
    tags: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    kind_by: str = ""
    task_id: str = ""
    state: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, before a model is chosen. `model` pins one by name; `tier` one of the policy's tiers."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    response_format: ResponseFormat | None = None
    settings: Settings = field(default_factory=Settings)
    origin: Origin = field(default_factory=Origin)
    stream: bool = False
    model: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, in tokens. `input_tokens` includes the cached and the cache-writing ones.

    `output_tokens` includes `reasoning_tokens`. `estimated` is true when the provider did not say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        """Sum two usages, field by field."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )


class Finish(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `model` is the provider's own name for who answered; `id` the provider's response id.

    `logprobs` holds the log-probability of each output token where it was asked for and given.
    `notes` tells what the upstream had to do to make this model answer (`tools_as_schema`, …).
    """

    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish = Finish.STOP
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    id: str = ""
    logprobs: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All plain text of the answer."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    def as_message(self, model: str) -> Message:
        """Turn the answer into the assistant turn of a history, stamped with the model that wrote it."""
        return Message(Role.ASSISTANT, self.parts, self.tool_calls, model=model)


class FailureKind(StrEnum):
    """One taxonomy for every upstream."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CONTEXT_TOO_LONG = "context_too_long"
    REFUSED = "refused"
    MALFORMED = "malformed"
    CUT_SHORT = "cut_short"
    UNAUTHORISED = "unauthorised"
    INVALID_REQUEST = "invalid_request"
    NOT_ACCEPTED = "not_accepted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not come to an answer. A value, never raised inside the engine.

    `usage` is what the provider had charged by then (also for a reply that failed an `accept` check).
    `partial` is what had been streamed before a `cut_short`. `message` never contains a secret. `sent` is false when
    no request was made, because the model's circuit is open or no connection came about: nothing is counted for it.
    """

    kind: FailureKind
    message: str
    status: int = 0
    retry_after_s: float | None = None
    usage: Usage = field(default_factory=Usage)
    partial: Reply | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the tool call at `index`; `arguments` is appended to what came before."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer, as it arrived. An empty chunk keeps the connection alive."""

    text: str = ""
    thinking: Thinking | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    logprobs: tuple[float, ...] = ()
    model: str = ""
    id: str = ""

    @property
    def says_something(self) -> bool:
        """Whether the model's answer goes on in it."""
        return bool(self.text or self.tool_calls or self.thinking)


Outcome: TypeAlias = Reply | Failure
