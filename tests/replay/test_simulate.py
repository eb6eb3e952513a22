"""What a replay says of one session: costs, switches, stops; and what it makes of what is not recorded."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from waywiser.catalog.catalog import Catalog
from waywiser.config.source import Source
from waywiser.core.calls import Reply, Tool, Usage
from waywiser.core.messages import Text, ToolCall, assistant, system, tool_result, user
from waywiser.core.models import Model, Price, cost_nanos
from waywiser.core.policy import Policy
from waywiser.replay.measures import Measures, model_named
from waywiser.replay.prompt_cache import PromptCache
from waywiser.replay.recording import Recorded, Session
from waywiser.replay.simulate import replay
from waywiser.runtime import LazyClassifier, load

CLASSIFIER = LazyClassifier()
TOOLS = (Tool("find"), Tool("send"))


def policy(*, sections: str = "", tool_call: str = "economy", synthesis: str = "economy") -> Policy:
    text = f"""
version: 1
name: test
tiers:
  economy: [deepseek/deepseek-chat]
  premium: [anthropic/claude-opus-4-7]
steps:
  tool_call: {{tier: {tool_call}}}
  synthesis: {{tier: {synthesis}}}
{sections}"""
    return load(Source.parse(text, "test.yaml")).policy


def session(
    replies: list[str], *, at: list[float] | None = None, usage: bool = True, results: list[str] | None = None
) -> Session:
    """A session in which each reply is a call of a tool, or text where it begins with a capital letter."""
    history = [system("You help."), user("Please find my parcel and send me the papers.")]
    places, made = [], []
    for number, said in enumerate(replies):
        places.append(len(history))
        if said[0].isupper():
            made.append(Reply((Text(said),)))
            history += [assistant(said), user("And now?")]
        else:
            call = ToolCall(f"c{number}", said, "{}" if results else json.dumps({"n": number}))
            made.append(Reply((), (call,)))
            result = results[number] if results else f"result {number}"
            history += [assistant("", [call]), tool_result(call.id, result, name=said)]
    messages = tuple(history)
    calls = tuple(
        Recorded(
            messages,
            place,
            reply,
            "gpt-4.1-mini",
            TOOLS,
            usage=Usage(3000 + 200 * number, 40) if usage else None,
            at_s=None if at is None else at[number],
        )
        for number, (place, reply) in enumerate(zip(places, made, strict=True))
    )
    return Session("s", "f:1", calls, "task", success=True)


def test_a_recording_without_usage_is_estimated_and_no_cost_is_made_up_for_it() -> None:
    result = replay(session(["find", "Done."], usage=False), policy(), CLASSIFIER)
    assert result.estimated == 2
    assert result.recorded_nanos is None
    assert result.cost_nanos > 0
    told = replay(session(["find", "Done."]), policy(), CLASSIFIER)
    assert told.recorded_nanos is not None
    assert told.priced


def test_a_model_that_is_not_known_has_no_recorded_cost() -> None:
    known = session(["find", "Done."])
    calls = tuple(replace(call, model="gpt-4.1-mini?") for call in known.calls)
    result = replay(replace(known, calls=calls), policy(), CLASSIFIER)
    assert result.recorded_nanos is None
    assert result.unknown_model == "gpt-4.1-mini?"


def test_staying_on_the_top_tier_costs_what_the_top_tier_costs() -> None:
    result = replay(
        session(["find", "send", "Done."], at=[0.0, 4.0, 9.0]),
        policy(tool_call="premium", synthesis="premium"),
        CLASSIFIER,
    )
    assert result.cost_nanos == result.top_nanos == result.top_made_nanos
    assert (result.switches, result.cold_nanos, result.stopped) == (0, 0, None)


def test_moving_to_and_fro_pays_for_cold_prefixes() -> None:
    replies = ["find", "Found it.", "send", "Sent it."]
    declared = session(replies, at=[0.0, 4.0, 9.0, 14.0])
    calls = tuple(
        replace(call, origin=replace(call.origin, kind="tool_call" if call.reply.tool_calls else "synthesis"))
        for call in declared.calls
    )
    moving = replay(replace(declared, calls=calls), policy(synthesis="premium"), CLASSIFIER, decisions=True)
    assert [one.tier for one in moving.decisions] == ["economy", "premium", "economy", "premium"]
    assert moving.switches == 3
    assert moving.cold_nanos > 0
    assert {(one.kind, one.tier, one.calls) for one in moving.spent} == {
        ("tool_call", "economy", 2),
        ("synthesis", "premium", 2),
    }
    assert sum(one.nanos for one in moving.spent) == moving.cost_nanos


def test_a_budget_stops_a_session_and_what_it_saves_is_told() -> None:
    replies = ["find", "send"] * 5
    free = replay(session(replies), policy(), CLASSIFIER)
    limited = policy(sections="budget: {session: {llm_calls: 4}, on_exhausted: stop}")
    result = replay(session(replies), limited, CLASSIFIER)
    assert result.stopped is not None
    assert (result.stopped.by, result.stopped.step) == ("budget", 5)
    assert "4 model calls" in result.stopped.reason
    assert (result.calls, result.made) == (10, 4)
    assert result.cost_nanos + result.saved_nanos == free.cost_nanos
    assert result.top_made_nanos < result.top_nanos == free.top_nanos


def test_limits_in_seconds_follow_the_recorded_clock_and_nothing_else() -> None:
    limited = policy(sections="budget: {session: {seconds: 60}, on_exhausted: stop}")
    replies = ["find", "send", "find", "Done."]
    late = replay(session(replies, at=[1000.0, 1010.0, 1100.0, 1110.0]), limited, CLASSIFIER)
    assert late.stopped is not None
    assert late.stopped.step == 3
    untimed = replay(session(replies), limited, CLASSIFIER)
    assert untimed.stopped is None
    assert not untimed.timed


def test_a_loop_stops_a_session() -> None:
    looping = policy(sections="loops: {after: 3, ladder: [hint, stop]}")
    stuck = session(["find"] * 8, results=["nothing found"] * 8)
    result = replay(stuck, looping, CLASSIFIER)
    assert result.stopped is not None
    assert result.stopped.by == "loop"
    assert result.stopped.step == 5  # three fruitless calls, a hint, and the rung after it
    polling = session(["find"] * 8, results=[f"{number * 10}% done" for number in range(8)])
    assert replay(polling, looping, CLASSIFIER).stopped is None


def test_concluding_where_the_agent_concluded_is_no_stop() -> None:
    limited = policy(sections="budget: {session: {llm_calls: 2}, on_exhausted: conclude}")
    assert replay(session(["find", "Done."]), limited, CLASSIFIER).stopped is None
    cut = replay(session(["find", "send", "find", "Done."]), limited, CLASSIFIER)
    assert cut.stopped is not None
    assert cut.stopped.by == "budget"


A_MODEL = Model(
    "lab/one", prices=(Price(1_000_000, 2_000_000, 100_000, 1_000_000),), cache_ttl_s=300.0, cache_min_tokens=1024
)


def test_a_prompt_cache_keeps_a_prefix_for_its_time_and_no_longer() -> None:
    first, second = session(["find", "Done."]).calls
    cache = PromptCache()
    assert cache.usage(A_MODEL, first, 3000, 1, 0.0).cached_tokens == 0
    assert cache.usage(A_MODEL, second, 3200, 1, 299.0).cached_tokens == 3000
    assert cache.usage(A_MODEL, second, 3200, 1, 600.0).cached_tokens == 0
    other = replace(second, messages=(system("Other."), *second.messages[1:]), length=1)
    assert cache.usage(A_MODEL, other, 3200, 1, 601.0).cached_tokens == 0
    without = replace(A_MODEL, name="lab/two", cache_ttl_s=0.0)
    cache.usage(without, first, 3000, 1, 700.0)
    assert cache.usage(without, second, 3200, 1, 701.0).cached_tokens == 0


def test_a_prefix_too_short_is_not_kept() -> None:
    first, second = session(["find", "Done."]).calls
    cache = PromptCache()
    cache.usage(A_MODEL, first, 1000, 1, 0.0)
    assert cache.usage(A_MODEL, second, 1020, 1, 1.0).cached_tokens == 0


def test_anthropic_is_told_what_to_cache_and_charges_for_it() -> None:
    model = Catalog().get("anthropic/claude-opus-4-7")
    first, second = session(["find", "Done."]).calls
    cache = PromptCache()
    assert cache.usage(model, first, 3000, 1, 0.0) == Usage(3000, 1, 0, 3000)
    assert cache.usage(model, second, 3200, 1, 1.0) == Usage(3200, 1, 3000, 200)


def test_gemini_keeps_blocks_that_grow_with_the_prompt() -> None:
    model = Catalog().get("google/gemini-3-flash-preview")
    first, second = session(["find", "Done."]).calls
    cache = PromptCache()
    cache.usage(model, first, 7000, 1, 0.0)
    assert 0.9 * 6144 < cache.usage(model, second, 7100, 1, 1.0).cached_tokens <= 6144
    cache.usage(model, second, 9000, 1, 2.0)
    assert cache.usage(model, second, 9100, 1, 3.0).cached_tokens == 0


def test_tokens_are_scaled_from_what_the_provider_counted() -> None:
    first = session(["find", "Done."]).calls[0]
    measures = Measures()
    assert measures.prompt_tokens(first, "o200k_base", "o200k_base") == 3000
    claude = measures.prompt_tokens(first, "claude_2026", "o200k_base")
    assert claude > 3000
    assert measures.prompt_tokens(replace(first, usage=None), "o200k_base", "o200k_base") < 100


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        ("gpt-4.1-mini", "openai/gpt-4.1-mini"),
        ("gpt-4.1-mini-2025-04-14", "openai/gpt-4.1-mini-2025-04-14"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("openai/gpt-5-nano", "openai/gpt-5-nano"),
        ("gpt-4.1-mini?", None),
        ("my-own-llm", None),
        ("", None),
    ],
)
def test_a_recorded_name_is_understood_or_not_known(recorded: str, found: str | None) -> None:
    model = model_named(recorded, date(2026, 3, 1))
    assert (model.name if model else None) == found


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories" / "tau2_retail_multimodel.jsonl.gz"


@pytest.mark.skipif(not DATA.exists(), reason="the recordings are not here")
def test_recorded_costs_are_reproduced_and_the_policy_is_cheap() -> None:
    from waywiser.replay.reading import Batch, batches, read

    told = simulated = cost = top = 0
    balanced = load(Path(__file__).resolve().parents[2] / "policies" / "support-balanced.yaml").policy
    for number, item in enumerate(batches(DATA)):
        if number % 20 or not isinstance(item, Batch):
            continue
        found = read(item)
        if not isinstance(found, Session):
            continue
        result = replay(found, balanced, CLASSIFIER)
        cost += result.cost_nanos
        top += result.top_nanos
        if result.reproduced is not None:
            told += result.reproduced.recorded_nanos
            simulated += result.reproduced.simulated_nanos
    assert abs(simulated / told - 1) < 0.03
    assert cost / top < 0.45


def test_prices_are_of_the_day_of_the_recording() -> None:
    model = model_named("gpt-4.1-mini", date(2026, 3, 1))
    assert model is not None
    assert cost_nanos(model, Usage(1000, 0)) == 400_000
