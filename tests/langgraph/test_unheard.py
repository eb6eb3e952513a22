"""A call that nobody listens to is the call that somebody listens to, and whoever may listen is heard of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter

from waywiser import BadInput, Router
from waywiser.langgraph.chat_model import RoutedChatModel

POLICY = Path(__file__).resolve().parents[2] / "policies" / "simulated.yaml"
QUESTION = [("system", "You help."), ("human", "Where is my order?")]
WHERE: Any = {"tags": ["kind:synthesis"], "metadata": {"thread_id": "t1", "waywiser_tenant": "acme"}}


class Ears(BaseCallbackHandler):
    def __init__(self) -> None:
        self.ended: list[UUID] = []

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        self.ended.append(run_id)


@pytest.fixture
def router() -> Iterator[Router]:
    with Router.from_policy(POLICY, store=":memory:") as made:
        yield made


@pytest.fixture
def ceremonies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What LangChain itself does with calls."""
    seen: list[str] = []
    for name in ("generate", "agenerate"):
        real = getattr(BaseChatModel, name)

        def spy(self: Any, *args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
            seen.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(BaseChatModel, name, spy)
    return seen


async def ask(model: RoutedChatModel, how: str, given: Any, config: Any = None, **kwargs: Any) -> AIMessage:
    return model.invoke(given, config, **kwargs) if how == "invoke" else await model.ainvoke(given, config, **kwargs)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_the_same_answer_from_the_same_place(router: Router, how: str, ceremonies: list[str]) -> None:
    model, ears = router.chat_model(), Ears()
    unheard = await ask(model, how, QUESTION, WHERE, temperature=0.0)
    assert ceremonies == []
    heard = await ask(model, how, QUESTION, {**WHERE, "callbacks": [ears]}, temperature=0.0)
    assert len(ceremonies) == len(ears.ended) == 1
    assert (heard.content, heard.tool_calls, heard.usage_metadata) == (
        unheard.content,
        unheard.tool_calls,
        unheard.usage_metadata,
    )
    told = [message.response_metadata.pop("waywiser") for message in (heard, unheard)]
    assert heard.response_metadata == unheard.response_metadata
    assert [entry["session"] for entry in told] == ["t1@acme", "t1@acme"]
    assert [entry["kind"] for entry in told] == ["synthesis", "synthesis"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_every_way_to_ask(router: Router, how: str, ceremonies: list[str]) -> None:
    model = router.chat_model()
    prompt = ChatPromptTemplate.from_messages([("human", "{text}")]).invoke({"text": "hello"})
    for given in ("hello", prompt, [HumanMessage("hello")], [{"role": "user", "content": "hello"}]):
        assert (await ask(model, how, given)).content
    assert ceremonies == []
    with pytest.raises(BadInput):
        await ask(model, how, [])
    with pytest.raises(ValueError, match="Invalid input type"):
        await ask(model, how, 7)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_message_is_named_after_its_run(router: Router, how: str) -> None:
    run_id = uuid4()
    model = router.chat_model()
    named = await ask(model, how, QUESTION, {"run_id": run_id})
    assert named.id is not None
    assert str(run_id) in named.id
    heard = await ask(model, how, QUESTION, {"callbacks": [Ears()], "run_id": run_id})
    assert named.id == heard.id
    others = {(await ask(model, how, QUESTION)).id for _ in range(5)}
    assert len(others) == 5


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_usage_is_heard_from_outside(router: Router, how: str) -> None:
    model = router.chat_model()
    with get_usage_metadata_callback() as usage:
        answer = await ask(model, how, QUESTION)
    (counted,) = usage.usage_metadata.values()
    assert counted == answer.usage_metadata


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_whatever_needs_langchain_gets_it(router: Router, how: str, ceremonies: list[str]) -> None:
    ears = Ears()
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    models: list[tuple[dict[str, Any], Any]] = [
        ({"callbacks": [ears]}, QUESTION),
        ({"rate_limiter": InMemoryRateLimiter(requests_per_second=1000)}, QUESTION),
        ({"cache": InMemoryCache()}, QUESTION),
        ({"verbose": True}, QUESTION),
        ({"output_version": "v1"}, QUESTION),
        ({}, [HumanMessage([{"type": "text", "text": "look"}, picture])]),
    ]
    for number, (settings, given) in enumerate(models):
        model = router.chat_model().model_copy(update=settings)
        await ask(model, how, given)
        assert len(ceremonies) == number + 1
    assert len(ears.ended) == 1


async def test_a_cache_for_all_models_is_asked(router: Router) -> None:
    model = router.chat_model()
    set_llm_cache(InMemoryCache())
    try:
        first = model.invoke(QUESTION)
        again = model.invoke(QUESTION)
        assert first.response_metadata["waywiser"]["receipt"] == again.response_metadata["waywiser"]["receipt"]
        uncached = model.model_copy(update={"cache": False}).invoke(QUESTION)
        assert uncached.response_metadata["waywiser"]["receipt"] != first.response_metadata["waywiser"]["receipt"]
    finally:
        set_llm_cache(None)
