"""What is counted and what is enforced: eleven scenarios, by Waywiser and by what others use, on one fake provider.

    python benchmarks/budget_scenarios.py [--json]

The provider counts what it was really asked. Each cell says `made/counted`: calls the provider answered before the
budget stopped the run, and calls the budget says there were. `-` means that the tool has no such limit. Others are run
as their documentation has it, and left out where they are not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware, ModelRetryMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver

from waywiser import Router
from waywiser.errors import BudgetExceeded
from waywiser.stores.memory import MemoryStore

TOKENS_IN, TOKENS_OUT = 150, 50
MOST_CALLS = 40
POLICY = """
version: 1
name: scenarios
tiers: {{only: [fake/model]}}
models:
  fake/model:
    {{base_url: "http://127.0.0.1:9", context: 1000000, max_output: 50, abilities: [tools],
      price: {{input: 1, output: 4}}}}
steps:
  other: {{tier: only, max_output_tokens: 50}}
budget:
  session: {{{limit}}}
  estimate: strict
  on_exhausted: stop
loops: {{after: 20, ladder: [stop]}}
fallback: {{attempts: 3}}
"""


class Overloaded(Exception):  # noqa: N818 - an answer, if a bad one
    """What a provider says that was reached and did not answer."""

    status_code = 529


@dataclass
class Provider:
    """The truth: how often it was asked, and what it was asked to do."""

    asked: int = 0
    answered: int = 0
    fail_first: int = 0
    delay_s: float = 0.0
    parallel: int = 1
    tool: str = "work"
    tokens: list[int] = field(default_factory=list)

    def answer(self, messages: list[BaseMessage]) -> AIMessage:
        self.asked += 1
        time.sleep(self.delay_s)
        if self.asked <= self.fail_first:
            raise Overloaded("the provider has too much to do")
        self.answered += 1
        tokens = TOKENS_IN + sum(len(str(message.content)) for message in messages) // 4
        self.tokens.append(tokens)
        usage = {"input_tokens": tokens, "output_tokens": TOKENS_OUT, "total_tokens": tokens + TOKENS_OUT}
        if self.asked >= MOST_CALLS:
            return AIMessage("enough", usage_metadata=usage)
        calls = [
            {"name": self.tool, "args": {"item": f"{self.asked}-{at}"}, "id": f"call_{self.asked}_{at}"}
            for at in range(self.parallel)
        ]
        return AIMessage("", tool_calls=calls, usage_metadata=usage)


class FakeModel(BaseChatModel):
    """The provider as a LangChain chat model."""

    provider: Any

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Any, **kwargs: Any) -> FakeModel:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.provider.answer(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        message = self.provider.answer(messages)
        chunks = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": at}
            for at, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(message.content, tool_call_chunks=chunks, usage_metadata=message.usage_metadata)
        )


@dataclass(frozen=True)
class Scenario:
    """A budget, a way to run an agent, and what a perfect budget would let the provider answer."""

    name: str
    limit: str
    ideal: str
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    provider: Callable[[], Provider] = Provider
    depth: int = 0
    stream: bool = False
    turns: int = 1
    explode: bool = False
    raise_to: str = ""


SCENARIOS = (
    Scenario("simple loop", "llm_calls: 5", "5/5", calls=5),
    Scenario("exhaustion", "llm_calls: 5", "5/5, the second turn refused", calls=5, turns=2),
    Scenario("delegation", "llm_calls: 5", "5/5 over both agents", calls=5, depth=1),
    Scenario("parallel tools", "llm_calls: 5", "5/5", calls=5, provider=lambda: Provider(parallel=3)),
    Scenario("retry", "llm_calls: 5", "5 asked, 2 of them failed", calls=5, provider=lambda: Provider(fail_first=2)),
    Scenario("token budget", "tokens: 900", "no call beyond 900 tokens", tokens=900),
    Scenario("streaming", "llm_calls: 5", "5/5", calls=5, stream=True),
    Scenario("tool-output explosion", "tokens: 20000", "1: the huge prompt is not sent", tokens=20_000, explode=True),
    Scenario("nested delegation", "llm_calls: 5", "5/5 over three agents", calls=5, depth=2),
    Scenario("timeout", "seconds: 2", "about 5", seconds=2, provider=lambda: Provider(delay_s=0.4)),
    Scenario("limit raised in mid-run", "llm_calls: 3", "3, then 3 more", calls=3, turns=2, raise_to="llm_calls: 6"),
)


def tools_for(scenario: Scenario, inner: Callable[[str], str] | None) -> list[BaseTool]:
    @tool
    def work(item: str) -> str:
        """Work on an item."""
        if inner is not None:
            return inner(item)
        return f"{item} is done " + ("x" * 400_000 if scenario.explode else "")

    return [work]


def talk(agent: Any, scenario: Scenario, config: dict[str, Any], text: str) -> None:
    question = {"messages": [("user", text)]}
    if scenario.stream:
        for _ in agent.stream(question, config, stream_mode="messages"):
            pass
    else:
        agent.invoke(question, config)


def by_waywiser(scenario: Scenario) -> str:
    provider = scenario.provider()
    store = MemoryStore()
    stopped = ""
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(scenario.turns):
            limit = scenario.raise_to if turn and scenario.raise_to else scenario.limit
            path = Path(folder) / f"policy{turn}.yaml"
            path.write_text(POLICY.format(limit=limit))
            router = Router.from_policy(path, store=store, models={"fake/model": FakeModel(provider=provider)})

            def agent_of(depth: int, router: Router = router) -> Any:
                inner = None
                if depth:
                    below = agent_of(depth - 1)

                    def inner(item: str) -> str:
                        return str(below.invoke({"messages": [("user", item)]})["messages"][-1].content)

                return create_agent(router.chat_model(), tools_for(scenario, inner))

            with router.session("run"):
                try:
                    talk(agent_of(scenario.depth), scenario, {"recursion_limit": 200}, f"turn {turn}")
                except BudgetExceeded:
                    stopped = "stopped"
    counted = sum(row.used.llm_calls for row in store.spends())
    return _cell(scenario, provider, counted, sum(row.used.tokens for row in store.spends()), stopped)


def by_langchain(scenario: Scenario) -> str:
    if scenario.calls is None:
        return "-"
    provider, saver = scenario.provider(), InMemorySaver()
    stopped, counted = "", 0
    for turn in range(scenario.turns):
        calls = 6 if turn and scenario.raise_to else scenario.calls

        def agent_of(depth: int, calls: int = calls) -> Any:
            inner = None
            if depth:
                below = agent_of(depth - 1)

                def inner(item: str) -> str:
                    return str(below.invoke({"messages": [("user", item)]})["messages"][-1].content)

            limits = ModelCallLimitMiddleware(thread_limit=calls)
            middleware = [limits, ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False)]
            model = FakeModel(provider=provider)
            keep = saver if depth == scenario.depth else None
            return create_agent(model, tools_for(scenario, inner), middleware=middleware, checkpointer=keep)

        config = {"configurable": {"thread_id": "run"}, "recursion_limit": 200}
        agent = agent_of(scenario.depth)
        try:
            talk(agent, scenario, config, f"turn {turn}")
            stopped = "stopped" if provider.asked < MOST_CALLS else ""
        except Exception as error:  # noqa: BLE001 - whatever it says is the result
            stopped = type(error).__name__
        counted = agent.get_state(config).values.get("thread_model_call_count", 0)
    return _cell(scenario, provider, counted, 0, stopped)


def by_pydantic_ai(scenario: Scenario) -> str:
    try:
        from pydantic_ai import Agent, UsageLimitExceeded, UsageLimits
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import DeltaToolCall, FunctionModel
        from pydantic_ai.usage import RequestUsage, RunUsage
    except ImportError:
        return "not installed"
    if scenario.seconds is not None:
        return "-"
    provider = scenario.provider()
    usage = RunUsage()
    stopped = ""

    def said(messages: list[Any]) -> AIMessage:
        return provider.answer(
            [AIMessage(str(part.content)) for m in messages for part in m.parts if hasattr(part, "content")]
        )

    def answer(messages: list[Any], info: Any) -> Any:
        message = said(messages)
        if not message.tool_calls:
            return ModelResponse(parts=[TextPart("enough")])
        parts = [ToolCallPart(call["name"], call["args"], call["id"]) for call in message.tool_calls]
        return ModelResponse(
            parts=parts, usage=RequestUsage(input_tokens=provider.tokens[-1], output_tokens=TOKENS_OUT)
        )

    async def stream(messages: list[Any], info: Any) -> Any:
        for at, call in enumerate(said(messages).tool_calls):
            yield {at: DeltaToolCall(call["name"], json.dumps(call["args"]), tool_call_id=call["id"])}

    def agent_of(depth: int, limits: Any) -> Any:
        agent = Agent(FunctionModel(answer, stream_function=stream), retries=3)
        below = agent_of(depth - 1, limits) if depth else None

        @agent.tool_plain
        async def work(item: str) -> str:
            if below is not None:
                return str((await below.run(item, usage=usage, usage_limits=limits)).output)
            return f"{item} is done " + ("x" * 400_000 if scenario.explode else "")

        return agent

    for turn in range(scenario.turns):
        calls = 6 if turn and scenario.raise_to else scenario.calls
        limits = UsageLimits(request_limit=calls, total_tokens_limit=scenario.tokens)
        agent = agent_of(scenario.depth, limits)
        try:
            if scenario.stream:
                with agent.run_stream_sync(f"turn {turn}", usage=usage, usage_limits=limits) as result:
                    result.get_output()
            else:
                agent.run_sync(f"turn {turn}", usage=usage, usage_limits=limits)
        except UsageLimitExceeded:
            stopped = "stopped"
        except Exception as error:  # noqa: BLE001 - whatever it says is the result
            stopped = type(error).__name__
    return _cell(scenario, provider, usage.requests, usage.total_tokens, stopped)


def by_litellm(scenario: Scenario) -> str:
    """LiteLLM's own budget without its proxy: `BudgetManager`, asked before and told after each call, as documented."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its prices, without the network
    try:
        import litellm
    except ImportError:
        return "not installed"
    if scenario.calls is None or scenario.depth or scenario.raise_to:
        # It knows money only, and of no sub-agent; a limit in calls is put as what so many calls cost.
        return "-"
    provider = scenario.provider()
    model = "gpt-4o-mini"
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)  # it keeps its books in a file of the current folder
        try:
            manager = litellm.BudgetManager(project_name="scenarios")
            cost: float = litellm.completion_cost(
                model=model, prompt="word " * TOKENS_IN, completion="word " * TOKENS_OUT
            )
            manager.create_budget(total_budget=cost * scenario.calls, user="run")
            counted, stopped = 0, ""
            for _ in range(MOST_CALLS):
                if manager.get_current_cost(user="run") >= manager.get_total_budget("run"):
                    stopped = "stopped"
                    break
                try:
                    provider.answer([])
                except Overloaded:
                    continue
                manager.update_cost(
                    model=model, user="run", input_text="word " * TOKENS_IN, output_text="word " * TOKENS_OUT
                )
                counted += 1
        finally:
            os.chdir(before)
    return _cell(scenario, provider, counted, 0, stopped)


def _cell(scenario: Scenario, provider: Provider, counted: int, tokens: int, stopped: str) -> str:
    made = f"{provider.asked}/{counted}"
    if scenario.tokens is not None:
        real = sum(provider.tokens) + TOKENS_OUT * provider.answered
        made += f" calls, {real}/{tokens} tokens"
    return f"{made} {stopped}".strip() if stopped else f"{made} not stopped"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    columns = {
        "waywiser": by_waywiser,
        "ModelCallLimit": by_langchain,
        "UsageLimits": by_pydantic_ai,
        "BudgetManager": by_litellm,
    }
    table = {
        scenario.name: {"limit": scenario.limit, "ideal": scenario.ideal}
        | {name: run(scenario) for name, run in columns.items()}
        for scenario in SCENARIOS
    }
    if options.json:
        print(json.dumps(table))
        return
    for name, row in table.items():
        print(f"{name} ({row.pop('limit')}; ideal {row.pop('ideal')})")
        for who, cell in row.items():
            print(f"    {who:16s} {cell}")


if __name__ == "__main__":
    main()
