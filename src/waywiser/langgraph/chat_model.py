"""`RoutedChatModel`: a LangChain chat model whose every call is routed by the policy.

It is a chat model of its own, not a wrapper around one: LangChain sees one run a call, with its real usage, and each
token once. The model that answered is in `response_metadata`, beside receipt, tier, kind and cost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough, ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field

from waywiser.core.calls import Call, Chunk
from waywiser.core.receipt import Receipt
from waywiser.engine import Answer, Engine
from waywiser.errors import BudgetExceeded
from waywiser.langgraph.asking import agranted, granted
from waywiser.langgraph.context import origin_of, placed
from waywiser.langgraph.settings import read_settings
from waywiser.langgraph.tools import bound, core_tools, response_format
from waywiser.langgraph.unheard import hearing, named, unheard
from waywiser.upstream.langchain_config import handed_down
from waywiser.upstream.langchain_messages import MODEL_KEY, chunk_message, reply_message, to_core

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun


class RoutedChatModel(BaseChatModel):
    """A chat model routed by a policy. Made by `Router.chat_model()`.

    `temperature`, `max_tokens` and so on are passed to whichever model is chosen; `model` pins one by name and `tier`
    one of the policy's tiers. Errors are Waywiser's: `BudgetExceeded`, `LoopDetected`, `NoEligibleModel`,
    `UpstreamError`, `BadInput`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: Engine = Field(exclude=True, repr=False)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    model: str = ""
    tier: str = ""
    roles: Mapping[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "waywiser"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"policy": self.engine.policy.name, "model": self.model, "tier": self.tier}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "waywiser"
        params["ls_model_name"] = kwargs.get("model") or self.model or f"policy:{self.engine.policy.name}"
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to whichever model is chosen. Raises `BadInput` for a tool without a usable schema."""
        if tool_choice:
            kwargs["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=bound(tools, strict=strict), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Ask for output of a schema, by `json_schema` (default), by a tool call, or as free JSON (`json_mode`)."""
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if kwargs:
            raise ValueError(f"with_structured_output: unknown arguments {sorted(kwargs)}")
        json_schema = convert_to_json_schema(schema, strict=strict)
        wanted: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            name = str(json_schema.get("title") or "answer")
            wanted = {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema, "strict": strict}}
        model = self.bind(
            response_format=wanted,
            ls_structured_output_format={"kwargs": {"method": method}, "schema": json_schema},
        )
        parser: Runnable[Any, Any] = (
            PydanticOutputParser(pydantic_object=schema)
            if isinstance(schema, type) and is_basemodel_subclass(schema)
            else JsonOutputParser()
        )
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer one history. Where nobody listens in, LangChain's part of a call is left out: see `unheard.py`."""
        config = placed(config)
        heard = CallbackManager.configure(**hearing(self, config))
        messages = unheard(self, input, heard, kwargs)
        if messages is None:
            return super().invoke(input, config, stop=stop, **kwargs)
        call = self._call(messages, stop, kwargs, heard.metadata, heard.tags)
        return named(_message(self._answer(call)), config)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Like `invoke`, for an event loop."""
        config = placed(config)
        heard = AsyncCallbackManager.configure(**hearing(self, config))
        messages = unheard(self, input, heard, kwargs)
        if messages is None:
            return await super().ainvoke(input, config, stop=stop, **kwargs)
        call = self._call(messages, stop, kwargs, heard.metadata, heard.tags)
        return named(_message(await self._aanswer(call)), config)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer one history in pieces. LangChain hands `_stream` no config: it is left where graphs leave theirs."""
        config = placed(config)
        pieces = super().stream(input, config, stop=stop, **kwargs)
        try:
            while True:
                with handed_down(config):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Like `stream`, for an event loop."""
        config = placed(config)
        pieces = super().astream(input, config, stop=stop, **kwargs)
        try:
            while True:
                with handed_down(config):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs, *_whence(run_manager))
        return ChatResult(generations=[ChatGeneration(message=_message(self._answer(call)))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs, *_whence(run_manager))
        return ChatResult(generations=[ChatGeneration(message=_message(await self._aanswer(call)))])

    def _answer(self, call: Call) -> Answer:
        while True:
            try:
                return self.engine.complete(call)
            except BudgetExceeded as error:
                call = granted(self.engine, call, error)

    async def _aanswer(self, call: Call) -> Answer:
        while True:
            try:
                return await self.engine.acomplete(call)
            except BudgetExceeded as error:
                call = await agranted(self.engine, call, error)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call, begun = self._call(messages, stop, kwargs, *_whence(run_manager), stream=True), False
        stream = self.engine.stream(call)
        try:
            while True:
                try:
                    chunk = next(stream)
                except StopIteration as stop_iteration:
                    answer: Answer = stop_iteration.value
                    break
                except BudgetExceeded as error:
                    if begun:
                        raise
                    call = granted(self.engine, call, error)
                    stream = self.engine.stream(call)
                    continue
                begun = True
                if not _tells(chunk):
                    continue
                generated = _generated(chunk)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=generated)
                yield generated
        finally:
            stream.close()
        last = _last(answer)
        if run_manager is not None:
            run_manager.on_llm_new_token("", chunk=last)
        yield last

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answers: list[Answer] = []
        call, begun = self._call(messages, stop, kwargs, *_whence(run_manager), stream=True), False
        stream = self.engine.astream(call, answers)
        try:
            while True:
                try:
                    chunk = await anext(stream)
                except StopAsyncIteration:
                    break
                except BudgetExceeded as error:
                    if begun:
                        raise
                    call = await agranted(self.engine, call, error)
                    stream = self.engine.astream(call, answers)
                    continue
                begun = True
                if not _tells(chunk):
                    continue
                generated = _generated(chunk)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=generated)
                yield generated
        finally:
            await stream.aclose()
        last = _last(answers[0])
        if run_manager is not None:
            await run_manager.on_llm_new_token("", chunk=last)
        yield last

    def _defaults(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens, "seed": self.seed}

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        metadata: Mapping[str, Any],
        tags: Sequence[str],
        *,
        stream: bool = False,
    ) -> Call:
        call_id = self.engine.clock.new_id()
        tools = core_tools(kwargs.get("tools"))
        return Call(
            id=call_id,
            messages=to_core(messages),
            tools=tools,
            response_format=response_format(kwargs.get("response_format")),
            settings=read_settings(kwargs, self._defaults(), self.stop if stop is None else stop, tools),
            origin=origin_of(metadata, frozenset(tags), call_id, self.roles),
            stream=stream,
            model=kwargs.get("model", self.model),
            tier=kwargs.get("tier", self.tier),
        )


def _whence(run_manager: RunManager | None) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Return what LangChain knows about where a call comes from: metadata and tags."""
    config = ensure_config()
    metadata, tags = config.get("metadata") or {}, config.get("tags") or []
    if run_manager is None:
        return metadata, tags
    return {**metadata, **run_manager.metadata}, [*tags, *run_manager.tags]


def _metadata(receipt: Receipt, remote: str) -> dict[str, Any]:
    return {
        "model_name": receipt.model if receipt.simulated else remote or receipt.model,  # simulated: say so everywhere
        "model_provider": receipt.model.partition("/")[0],
        MODEL_KEY: receipt.model,
        "waywiser": {
            "receipt": receipt.id,
            "session": receipt.session,
            "model": receipt.model,
            "tier": receipt.tier,
            "kind": receipt.kind,
            "cost_usd": receipt.cost_nanos / 1e9,
            "simulated": receipt.simulated,
        },
    }


def _message(answer: Answer) -> AIMessage:
    return reply_message(answer.reply, _metadata(answer.receipt, answer.reply.model))


def _tells(chunk: Chunk) -> bool:
    """Whether a chunk has something for the reader. Others only say how the stream ends, and our last one says that."""
    return bool(chunk.text or chunk.tool_calls or chunk.thinking)


def _generated(chunk: Chunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=chunk_message(chunk))


def _last(answer: Answer) -> ChatGenerationChunk:
    """The chunk that ends a stream: no text, but usage, finish and where it came from."""
    metadata = {
        "finish_reason": answer.reply.finish.value,
        **_metadata(answer.receipt, answer.reply.model),
    }
    return ChatGenerationChunk(message=chunk_message(Chunk(usage=answer.reply.usage), metadata, last=True))
