"""What `check` prints as the most a run can send and cost is never exceeded: random workflows, adversarial models.

WAYWISER_EXAMPLES says how many workflows are tried.
"""

from __future__ import annotations

import os
import random
import threading
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.errors import GraphRecursionError, InvalidUpdateError
from tests.workflow.conftest import Fake, look_up
from tests.workflow.test_shape import a_workflow, adversary

from waywiser import BudgetExceeded, LoopDetected, Router, UpstreamError
from waywiser.cli.check_graph import most_of_a_run
from waywiser.config.source import Source
from waywiser.core.bounds import worst_case
from waywiser.errors import PlanRefused
from waywiser.langgraph.shape import shape_of
from waywiser.runtime import build, load
from waywiser.workflow import build_graph

EXAMPLES = int(os.environ.get("WAYWISER_EXAMPLES", "15"))
POLICY = """
version: 1
name: worst
tiers: {economy: [mine/small], premium: [mine/large]}
models:
  mine/small:
    {api: langchain, context: 4000, max_output: 100, price: {input: 1, output: 2}, abilities: [tools, json_schema]}
  mine/large:
    {api: langchain, context: 4000, max_output: 100, price: {input: 5, output: 9}, abilities: [tools, json_schema]}
steps: {triage: {tier: economy}, planning: {tier: premium}, tool_call: {tier: economy, accept: [tool_arguments]}}
budget: {session: LIMITS, estimate: strict, on_exhausted: END}
fallback: {attempts: 2}
"""


def _flaky(chance: random.Random, lost: list[int]) -> Any:
    """An adversary whose provider can't be reached now and then, so that calls are sent again. Those cost nothing."""
    adversarial = adversary(chance)

    def answer(asked: Any) -> AIMessage | str | dict[str, Any]:
        if chance.random() < 0.1:
            lost.append(1)
            raise ConnectionError("away")
        said: AIMessage | str | dict[str, Any] = adversarial(asked)
        return said

    return answer


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.sampled_from(["{}", "{usd: 0.02}", "{llm_calls: 7}"]),
    st.sampled_from(["stop", "conclude"]),
)
@example(1, "{usd: 0.02}", "conclude")
def test_no_run_costs_more_than_check_prints(seed: int, limits: str, end: str) -> None:
    chance = random.Random(seed)
    made = a_workflow(chance)
    if made is None:
        return
    spec, source = made
    note(spec.model_dump_json())
    lost: list[int] = []
    model = Fake(answer=_flaky(chance, lost), asked=[], lock=threading.Lock())
    policy = load(Source.parse(POLICY.replace("LIMITS", limits).replace("END", end)))
    runtime = build(policy, store=":memory:", models={"mine/small": model, "mine/large": model})
    with Router(runtime) as router:
        graph = build_graph(spec, source, router.chat_model(), [look_up])
        sends, nanos, _ = most_of_a_run(policy.policy, worst_case(shape_of(graph)))
        assert sends is not None
        assert nanos is not None
        with (
            router.session("s") as session,
            suppress(GraphRecursionError, InvalidUpdateError, PlanRefused, BudgetExceeded, LoopDetected, UpstreamError),
        ):
            graph.invoke({"messages": [("user", "go")], "items": ["a", "b"], "topic": "yes"})
        assert len(model.asked) - len(lost) <= sends
        assert limits == "{llm_calls: 7}" or len(model.asked) <= sends
        assert sum(receipt.cost_nanos for receipt in session.receipts()) <= nanos
