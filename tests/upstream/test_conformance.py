"""Every upstream of ours against the public suite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from waywiser.catalog.tokens import TokenEstimator
from waywiser.core.models import Ability, Model
from waywiser.testing.upstreams import ODD, SHORT_S, Act, StagedUpstream, UpstreamConformance
from waywiser.upstream.client import HttpUpstream
from waywiser.upstream.langchain_model import LangChainUpstream
from waywiser.upstream.simulated_upstream import SimulatedUpstream

OVER_HTTP = {
    Act.ANSWER: "good",
    Act.TOOL_CALL: "tools:1",
    Act.DRIP: "fault:drip-slow",
    Act.OVERLOADED: "fault:529",
    Act.RATE_LIMITED: "fault:429",
    Act.UNAUTHORISED: "fault:401",
    Act.CONTEXT_TOO_LONG: "fault:context",
    Act.MALFORMED: "fault:malformed-json",
    Act.UNKNOWN: "fault:odd",
    Act.SILENT: "fault:timeout-headers",
    Act.STALLED: "fault:stall-midstream",
    Act.CUT: "fault:cut",
}


class OverHttp(UpstreamConformance):
    api: str

    @pytest.fixture
    def upstream(self, loopback) -> Iterator[StagedUpstream]:
        made = HttpUpstream(lambda model: "")
        models = {act: loopback.model(remote, self.api) for act, remote in OVER_HTTP.items()}
        yield StagedUpstream(made, models, lambda: loopback.stats().get("abandoned", 0))
        made.close()


class TestOpenAI(OverHttp):
    api = "openai"


class TestAnthropic(OverHttp):
    api = "anthropic"


class TestSimulated(UpstreamConformance):
    @pytest.fixture
    def upstream(self) -> StagedUpstream:
        model = Model("simulated/premium", api="simulated", abilities=frozenset({Ability.TOOLS}))
        made = SimulatedUpstream(partial(TokenEstimator().text, encoding="o200k_base"))
        return StagedUpstream(made, {Act.ANSWER: model, Act.TOOL_CALL: model})


class StatusError(Exception):
    """An error as the providers' own packages raise it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status


ERRORS: dict[Act, Exception] = {
    Act.OVERLOADED: StatusError(529, "Overloaded"),
    Act.RATE_LIMITED: StatusError(429, "Rate limit reached for requests"),
    Act.UNAUTHORISED: StatusError(401, "Incorrect API key provided"),
    Act.CONTEXT_TOO_LONG: StatusError(400, "This model's maximum context length is 8192 tokens"),
    Act.UNKNOWN: ArithmeticError(ODD),
}
WORDS = ("The", " wheel", " measures", " the", " road")
USAGE = UsageMetadata(input_tokens=20, output_tokens=8, total_tokens=28)


class Blocking(BaseChatModel):
    """A LangChain model that does what it is told, knows nothing of event loops, and counts the streams it dropped."""

    act: Act
    _dropped: int = PrivateAttr(0)
    _released: threading.Event = PrivateAttr(default_factory=threading.Event)

    @property
    def _llm_type(self) -> str:
        return "acting"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _whole(self) -> ChatResult:
        if self.act is Act.CUT:
            raise ConnectionResetError("connection reset by peer")
        if self.act in ERRORS:
            raise ERRORS[self.act]
        calls = [{"name": "look_up", "args": {"id": "W1"}, "id": "c1"}] if self.act is Act.TOOL_CALL else []
        text = "" if calls else "".join(WORDS)
        message = AIMessage(text, tool_calls=calls, usage_metadata=USAGE, response_metadata={"finish_reason": "stop"})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _pieces(self) -> Iterator[ChatGenerationChunk | None]:
        """What is streamed; None where the model goes silent."""
        if self.act in ERRORS:
            raise ERRORS[self.act]
        if self.act is Act.TOOL_CALL:
            for name, arguments in (("look_up", ""), (None, '{"id"'), (None, ':"W1"}')):
                delta = {"name": name, "args": arguments, "id": "c1" if name else None, "index": 0}
                yield said("", tool_call_chunks=[{**delta, "type": "tool_call_chunk"}])
        elif self.act is not Act.SILENT:
            for word in WORDS[:2] if self.act in (Act.CUT, Act.STALLED) else WORDS:
                yield said(word)
                if self.act is Act.DRIP:
                    yield None
        if self.act is Act.CUT:
            raise ConnectionResetError("connection reset by peer")
        if self.act in (Act.SILENT, Act.STALLED):
            yield None
        yield said("", usage_metadata=USAGE)

    @property
    def _silence_s(self) -> float:
        return SHORT_S / 3 if self.act is Act.DRIP else 30

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        if self.act in (Act.SILENT, Act.STALLED):
            self._released.wait(30)
        return self._whole()

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._counted():
            for piece in self._pieces():
                if piece is None:
                    self._released.wait(self._silence_s)
                else:
                    yield piece

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            self._dropped += 1
            raise


class Acting(Blocking):
    """The same with a way of its own on event loops."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self._counted():
            if self.act in (Act.SILENT, Act.STALLED):
                await asyncio.sleep(30)
            return self._whole()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with self._counted():
            for piece in self._pieces():
                if piece is None:
                    await asyncio.sleep(self._silence_s)
                else:
                    yield piece


def said(text: str, **fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(text, **fields))


class OfLangChain(UpstreamConformance):
    made: type[Blocking]

    @pytest.fixture
    def upstream(self) -> Iterator[StagedUpstream]:
        models = {act: self.made(act=act) for act in Act if act is not Act.MALFORMED}
        upstream = LangChainUpstream({act.value: model for act, model in models.items()})
        staged = {act: Model(act.value, api="langchain") for act in models}
        yield StagedUpstream(upstream, staged, lambda: sum(model._dropped for model in models.values()))
        for model in models.values():
            model._released.set()


class TestLangChain(OfLangChain):
    made = Acting


class TestLangChainThatBlocks(OfLangChain):
    """A model that knows nothing of event loops is waited for no longer on one."""

    made = Blocking

    def test_a_cancelled_task_stops_the_provider(self, upstream: StagedUpstream) -> None:  # type: ignore[override]
        pytest.skip("a model that blocks can't be stopped; that its thread is left behind is tested with the errands")
