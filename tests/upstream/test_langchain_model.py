"""A LangChain stream that ends without a word of why: whole for a model that never says, cut for one that does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Finish
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.upstream.langchain_model import LangChainUpstream

CALL = Call("1", (user("hi"),), stream=True)


class Ending(BaseChatModel):
    """Says three words and, if it is told to, why it stopped; or asks for a tool."""

    how: str = "stop"

    @property
    def _llm_type(self) -> str:
        return "ending"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise AssertionError("only streamed here")

    def _pieces(self) -> Iterator[ChatGenerationChunk]:
        for word in ("The", " wheel", " measures"):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        if self.how == "tool":
            delta = {"name": "f", "args": "{}", "id": "c1", "index": 0, "type": "tool_call_chunk"}
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[delta]))
        elif self.how:
            yield ChatGenerationChunk(message=AIMessageChunk("", response_metadata={"finish_reason": self.how}))

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self._pieces()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self._pieces():
            yield piece


class Whole(BaseChatModel):
    """A model without streams."""

    @property
    def _llm_type(self) -> str:
        return "whole"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        calls = [ToolCall(name="f", args={"a": 1}, id="c1")]
        usage = UsageMetadata(input_tokens=5, output_tokens=3, total_tokens=8)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("hi", tool_calls=calls, usage_metadata=usage))])


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_model_without_streams_answers_in_one_piece(how: str) -> None:
    upstream, model = LangChainUpstream({"whole": Whole()}), Model("whole", api="langchain")
    assembly = Assembly()
    items = (
        list(upstream.stream(model, CALL, 5))
        if how == "stream"
        else [i async for i in upstream.astream(model, CALL, 5)]
    )
    for item in items:
        assert isinstance(item, Chunk), item
        assembly.feed(item)
    reply = assembly.reply()
    assert (reply.text, reply.usage.output_tokens) == ("hi", 3)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", '{"a":1}')]


async def last(upstream: LangChainUpstream, model: Model, how: str) -> Chunk | Failure:
    if how == "stream":
        return list(upstream.stream(model, CALL, 5))[-1]
    return [item async for item in upstream.astream(model, CALL, 5)][-1]


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_text_that_ends_without_its_reason_is_cut(how: str) -> None:
    says, silent = Ending(), Ending(how="")
    upstream = LangChainUpstream({"says": says, "silent": silent})
    for _ in range(2):
        end = await last(upstream, Model("silent", api="langchain"), how)
        assert isinstance(end, Chunk), "a model that never says why can't be held to it"
        assert end.finish is Finish.STOP
    model = Model("says", api="langchain")
    for reason, finish in (("stop", Finish.STOP), ("length", Finish.LENGTH), ("tool", Finish.TOOL_CALLS)):
        says.how = reason
        end = await last(upstream, model, how)
        assert isinstance(end, Chunk), reason
        assert end.finish is finish
    says.how = ""
    end = await last(upstream, model, how)
    assert isinstance(end, Failure)
    assert end.kind is FailureKind.CUT_SHORT
    assert end.usage.estimated
    assert end.partial is not None
    assert end.partial.text == "The wheel measures"
