"""Work that blocks is waited for no longer than agreed, and what never comes back is bounded."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from waywiser.core.calls import Call, Chunk, Failure, FailureKind
from waywiser.core.messages import user
from waywiser.core.models import Model
from waywiser.core.policy import FallbackRule
from waywiser.engine import Engine
from waywiser.errors import UpstreamError
from waywiser.stores.memory import MemoryStore
from waywiser.testing.fakes import FrozenClock
from waywiser.testing.pieces import TIERS, CharacterCounter, a_call, a_policy
from waywiser.upstream.errands import MOST_STUCK, Crowded, Errands, Overdue
from waywiser.upstream.langchain_model import LangChainUpstream

MODEL = Model("own/model", api="langchain")
CALL = Call("1", (user("hi"),), stream=True)


class Silent(BaseChatModel):
    """Says a word and goes silent, for as long as nobody lets it go."""

    word: str = "The"
    letting_go: Any

    @property
    def _llm_type(self) -> str:
        return "silent"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        self.letting_go.wait(60)
        raise AssertionError("nobody waits for this")

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(self.word))
        self.letting_go.wait(60)


@pytest.fixture
def letting_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def soon(happened: Any) -> bool:
    return any(happened() or time.sleep(0.01) for _ in range(300))


def threads() -> int:
    return sum(thread.name == "waywiser-errand" for thread in threading.enumerate())


def test_work_is_handed_over_with_what_it_raises_and_in_the_callers_context() -> None:
    where: ContextVar[str] = ContextVar("where", default="nowhere")
    where.set("here")
    errand = Errands().begin()
    assert errand.do(where.get, 5) == "here"
    with pytest.raises(KeyError, match="missing"):
        errand.do(lambda: {}["missing"], 5)
    assert errand.do(lambda: threading.current_thread().daemon, 5), "a thread that hangs must not hold the process"
    errand.end()


def test_what_is_overdue_is_left_behind_and_counted_until_it_comes_back(letting_go: threading.Event) -> None:
    errands = Errands(most=2)
    closed: list[str] = []
    for _ in range(2):
        errand = errands.begin()
        with pytest.raises(Overdue):
            errand.do(letting_go.wait, 0.01)
        errand.end(lambda: closed.append("closed"))
    assert (errands.stuck, closed) == (2, [])
    with pytest.raises(Crowded, match="2 earlier calls"):
        errands.begin()
    letting_go.set()
    assert soon(lambda: errands.stuck == 0 and len(closed) == 2), "it does the last thing when it comes back"
    errands.begin().end()


@pytest.mark.parametrize("how", ["overdue", "cancelled"])
def test_what_goes_wrong_later_is_nobodys_trouble(how: str, letting_go: threading.Event) -> None:
    """asyncio would report an error that is never asked for, long after the call."""
    reported: list[str] = []

    def work() -> None:
        letting_go.wait()
        raise ValueError("too late")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(str(context["message"])))
        errands = Errands()
        errand = errands.begin()
        task = asyncio.ensure_future(errand.ado(work, 0.01 if how == "overdue" else 5))
        await asyncio.sleep(0)
        if how == "cancelled":
            task.cancel()
        with pytest.raises((Overdue, asyncio.CancelledError)):
            await task
        errand.end()
        del task
        letting_go.set()
        while errands.stuck:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(run())
    assert reported == []


def test_a_model_that_hangs_costs_a_bounded_number_of_threads(letting_go: threading.Event) -> None:
    upstream = LangChainUpstream({MODEL.name: Silent(letting_go=letting_go)})
    assert soon(lambda: threads() == 0), "those of other tests"
    failures = [upstream.send(MODEL, CALL, 0.001) for _ in range(MOST_STUCK)]
    assert {failure.kind for failure in failures if isinstance(failure, Failure)} == {FailureKind.TIMEOUT}
    for _ in range(5):
        refused = upstream.send(MODEL, CALL, 0.001)
        (streamed,) = upstream.stream(MODEL, CALL, 0.001)
        assert refused == streamed
        assert isinstance(refused, Failure)
        assert (refused.kind, refused.sent) == (FailureKind.OVERLOADED, False)
        assert "a timeout of its own" in refused.message
    assert threads() == MOST_STUCK
    letting_go.set()
    assert soon(lambda: threads() == 0)
    *_, last = upstream.stream(MODEL, CALL, 5)
    assert isinstance(last, Chunk), last


def test_a_silence_is_charged_for_what_was_said(letting_go: threading.Event) -> None:
    word = "The wheel measures the road as you go."
    upstream = LangChainUpstream({"a/small": Silent(word=word, letting_go=letting_go)})
    tier = replace(TIERS[0], models=(replace(TIERS[0].models[0], api="langchain"),))
    policy = a_policy(tiers=(tier,), steps={}, fallback=FallbackRule(attempts=1, timeout_s=0.05))
    store = MemoryStore()
    engine = Engine(
        policy, store=store, upstreams={"langchain": upstream}, counter=CharacterCounter(), clock=FrozenClock()
    )
    shown: list[str] = []
    with pytest.raises(UpstreamError) as caught:
        shown.extend(chunk.text for chunk in engine.stream(a_call(stream=True)))
    assert (caught.value.code, shown) == ("timeout", [word])
    (spend,) = store.spends()
    said_nanos = -(-len(word) // 4) * 2 * 1000
    assert spend.used.nanos > said_nanos, "the prompt and the words, at two micro-dollars each"
    assert spend.used.llm_calls == 1
    engine.close()


def test_an_event_loop_ends_though_a_model_hangs() -> None:
    """LangChain has a thread of the loop's own wait for a model that blocks; the end of the loop would wait for it."""
    code = (
        "import asyncio, threading\n"
        "from langchain_core.language_models import FakeListChatModel\n"
        "from waywiser.core.calls import Call\n"
        "from waywiser.core.messages import user\n"
        "from waywiser.core.models import Model\n"
        "from waywiser.upstream.langchain_model import LangChainUpstream\n"
        "class Hangs(FakeListChatModel):\n"
        "    def _call(self, *args, **kwargs):\n"
        "        threading.Event().wait()\n"
        "upstream = LangChainUpstream({'m': Hangs(responses=['never'])})\n"
        "print(asyncio.run(upstream.asend(Model('m'), Call('1', (user('hi'),)), 0.05)).kind)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "timeout\n"


def test_a_process_ends_though_a_model_hangs() -> None:
    code = (
        "import threading; from waywiser.upstream.errands import Errands, Overdue\n"
        "errand = Errands().begin()\n"
        "try: errand.do(threading.Event().wait, 0.01)\n"
        "except Overdue: errand.end()\n"
        "print('ended')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "ended\n"
