"""The simulated models: the same call gets the same reply, in the form asked for, whatever the tools and schema."""

from __future__ import annotations

import json
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waywiser.core.calls import Call, Finish, Reply, ResponseFormat, Settings, Tool
from waywiser.core.messages import Message, ToolCall, assistant, system, tool_result, user
from waywiser.core.models import Model
from waywiser.upstream.simulated import MARK, simulate, simulate_stream

ECONOMY, STANDARD, PREMIUM = (
    Model(f"simulated/{name}", api="simulated") for name in ("economy", "standard", "premium")
)
FAMILY = (ECONOMY, STANDARD, PREMIUM)


def count(text: str) -> int:
    return len(text.split())


def tool(name: str, description: str, **fields: str) -> Tool:
    """Make a tool of required string arguments; the value of each is its description."""
    found = {field: {"type": "string", "description": told} for field, told in fields.items()}
    return Tool(name, description, json.dumps({"type": "object", "properties": found, "required": list(fields)}))


BOOKINGS = (
    tool("find_guest", "Find a guest by e-mail address.", email="E-mail address of the guest"),
    tool("list_bookings", "List the bookings of a guest.", guest_id="Guest id such as G-100"),
    tool("get_booking", "Show the details of a booking.", booking_id="Booking id such as BK-2041"),
    tool("cancel_booking", "Cancel a booking.", booking_id="Booking id such as BK-2041"),
    tool("weather_report", "Tell the weather in a city.", city="City"),
)


def ask(
    *messages: Message, model: Model = PREMIUM, tools: tuple[Tool, ...] = (), schema: object = None, **how: object
) -> Reply:
    form = ResponseFormat(json.dumps(schema)) if schema is not None else None
    return simulate(model, Call("1", messages, tools, form, Settings(**how)), count)  # type: ignore[arg-type]


def names(reply: Reply) -> list[str]:
    return [call.name for call in reply.tool_calls]


# --- tools -----------------------------------------------------------------------------------------------------------


def test_ids_are_followed_from_result_to_result_until_the_thing_is_done() -> None:
    history = [user("Please cancel my booking. I am reached at mo@example.org.")]
    results = {
        "find_guest": {"guest_id": "G-7", "email": "mo@example.org"},
        "list_bookings": {"bookings": [{"booking_id": "BK-9", "room": "sea view"}]},
        "get_booking": {"booking_id": "BK-9", "room": "sea view", "nights": 2},
        "cancel_booking": {"booking_id": "BK-9", "status": "cancelled", "refund": "120.00"},
    }
    called = []
    for _ in range(8):
        reply = ask(*history, tools=BOOKINGS)
        history.append(reply.as_message(PREMIUM.name))
        if not reply.tool_calls:
            break
        for call in reply.tool_calls:
            called.append((call.name, json.loads(call.arguments)))
            history.append(tool_result(call.id, json.dumps(results[call.name])))
    assert called == [
        ("find_guest", {"email": "mo@example.org"}),
        ("list_bookings", {"guest_id": "G-7"}),
        ("get_booking", {"booking_id": "BK-9"}),
        ("cancel_booking", {"booking_id": "BK-9"}),
    ]
    assert history[-1].text.startswith(f"{MARK}I have cancelled the booking.")
    assert "120.00" in history[-1].text


@pytest.mark.parametrize(
    "text",
    [
        "Please do not cancel booking BK-2041.",
        "How can one cancel a booking?",
        "Good morning!",
        "I never said to cancel BK-2041.",
    ],
)
def test_nothing_is_changed_that_was_not_asked_for(text: str) -> None:
    for model in FAMILY:
        assert "cancel_booking" not in names(ask(user(text), model=model, tools=BOOKINGS))


def test_a_call_is_not_repeated_once_its_result_is_there() -> None:
    call = ToolCall("1", "get_booking", '{"booking_id":"BK-2041"}')
    history = (
        user("Show me booking BK-2041."),
        assistant("", [call]),
        tool_result("1", '{"booking_id":"BK-2041","nights":3}'),
    )
    assert names(ask(history[0], tools=BOOKINGS)) == ["get_booking"]
    done = ask(*history, tools=BOOKINGS)
    assert done.tool_calls == ()
    assert "nights 3" in done.text


def test_a_failed_call_is_told_and_not_repeated() -> None:
    call = ToolCall("1", "get_booking", '{"booking_id":"BK-2041"}')
    failed = tool_result("1", "Booking BK-2041 was not found.", is_error=True)
    reply = ask(user("Show me booking BK-2041."), assistant("", [call]), failed, tools=BOOKINGS)
    assert reply.tool_calls == ()
    assert "could not get booking: Booking BK-2041 was not found." in reply.text


def test_what_nobody_said_is_asked_for() -> None:
    reply = ask(user("Please cancel my booking."), tools=BOOKINGS)
    assert reply.tool_calls == ()
    assert "e-mail address" in reply.text


def test_calls_end_after_six_whatever_the_tools_return() -> None:
    many = tuple(tool(f"get_part_{n}", f"Show part {n} of the machine.", part_id="Such as X-100") for n in range(30))
    history = [user(" ".join(f"Show me part {n} with the id X-{n}00." for n in range(30)))]
    for _ in range(40):
        reply = ask(*history, tools=many)
        history.append(reply.as_message(PREMIUM.name))
        if not reply.tool_calls:
            break
        history.extend(tool_result(call.id, json.dumps({"id": f"Y-{len(history)}00"})) for call in reply.tool_calls)
    assert not reply.tool_calls
    assert 1 <= sum(len(message.tool_calls) for message in history) <= 6


def test_tool_choice_is_obeyed() -> None:
    said = user("Please show booking BK-2041.")
    assert names(ask(said, tools=BOOKINGS, tool_choice="none")) == []
    assert names(ask(said, tools=BOOKINGS, tool_choice="auto")) == ["get_booking"]
    for model in FAMILY:
        forced = ask(user("Hello!"), model=model, tools=BOOKINGS, tool_choice="required")
        assert len(forced.tool_calls) == 1
        named = ask(said, model=model, tools=BOOKINGS, tool_choice="tool:weather_report")
        assert names(named) == ["weather_report"]
    assert json.loads(ask(said, tools=BOOKINGS, tool_choice="tool:weather_report").tool_calls[0].arguments)["city"]


def test_only_premium_asks_for_several_tools_at_once_and_only_if_it_may() -> None:
    said = user("Show me booking BK-2041. And please show me booking BK-3000.")
    assert names(ask(said, tools=BOOKINGS)) == ["get_booking", "get_booking"]
    assert len(names(ask(said, tools=BOOKINGS, parallel_tool_calls=False))) == 1
    assert len(names(ask(said, model=STANDARD, tools=BOOKINGS))) == 1


def test_a_supervisor_hands_over_to_the_agent_whose_work_it_is_and_then_tells_its_answer() -> None:
    agents = (
        Tool("transfer_to_order_agent", "Ask the order agent: it tracks parcels and cancels orders."),
        Tool("transfer_to_policy_agent", "Ask the policy agent: it knows the rules on returns and warranty."),
    )
    said = user("Is a broken zip covered by the warranty?")
    reply = ask(said, tools=agents)
    assert names(reply) == ["transfer_to_policy_agent"]
    assert names(ask(user("Where is my parcel?"), tools=agents)) == ["transfer_to_order_agent"]
    over = tool_result(reply.tool_calls[0].id, "Successfully transferred to policy_agent")
    told = assistant(f"{MARK}The warranty covers a broken zip for 36 months.")
    final = ask(said, reply.as_message("m"), over, told, tools=agents)
    assert final.tool_calls == ()
    assert "covers a broken zip for 36 months" in final.text
    assert final.text.count(MARK) == 1


def test_slips_are_economys_and_a_retry_gets_over_them() -> None:
    slips = dict.fromkeys(FAMILY, 0)
    for number in range(400):
        said = user(f"Please show me booking BK-{2000 + number}.")
        for model in FAMILY:
            reply = ask(said, model=model, tools=BOOKINGS)
            slips[model] += json.loads(reply.tool_calls[0].arguments) == {}
    assert 20 <= slips[ECONOMY] <= 90  # one in eight, drawn from the words
    assert slips[STANDARD] <= 20
    assert slips[PREMIUM] == 0


@pytest.mark.parametrize(
    "parameters", ["", "{", "[]", '{"type": 7}', '{"properties": {"a": true}, "required": ["a", 3]}']
)
def test_a_tool_with_a_broken_schema_breaks_nothing(parameters: str) -> None:
    broken = Tool("show_booking", "Show a booking", parameters)
    for choice in ("", "required", "tool:show_booking"):
        reply = ask(user("Show booking BK-1000"), tools=(broken,), tool_choice=choice)
        assert all(isinstance(json.loads(call.arguments), dict) for call in reply.tool_calls)


# --- structured output -----------------------------------------------------------------------------------------------

TRIAGE = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["order_status", "cancellation", "return_or_exchange", "other"]},
        "urgent": {"type": "boolean"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["category", "urgent", "confidence"],
    "additionalProperties": False,
}
PLAN = {
    "type": "object",
    "properties": {"tasks": {"type": "array", "items": {"$ref": "#/$defs/Task"}, "minItems": 1}},
    "required": ["tasks"],
    "$defs": {
        "Task": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "goal": {"type": "string"},
                "tools": {"type": "array", "items": {"type": "string"}},
                "depends_on": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["id", "goal", "tools", "depends_on"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Please cancel my order #W1234567.", "cancellation"),
        ("Where is my parcel?", "order_status"),
        ("I want to send the boots back.", "return_or_exchange"),
        ("Swap the jacket for a larger one, please.", "return_or_exchange"),
        ("Good morning to you!", "other"),
    ],
)
def test_a_label_is_chosen_by_what_the_request_says(text: str, category: str) -> None:
    answer = json.loads(ask(system("Sort the message."), user(text), schema=TRIAGE).text)
    jsonschema.validate(answer, TRIAGE)
    assert answer["category"] == category


def test_economy_mislabels_some_and_premium_none() -> None:
    wrong = dict.fromkeys(FAMILY, 0)
    for number in range(120):
        for model in FAMILY:
            answer = json.loads(
                ask(user(f"Please cancel order #W{number + 1000000}."), model=model, schema=TRIAGE).text
            )
            wrong[model] += answer["category"] != "cancellation"
    assert 8 <= wrong[ECONOMY] <= 40
    assert wrong[STANDARD] < wrong[ECONOMY]
    assert wrong[PREMIUM] == 0


@pytest.mark.parametrize("listed", [True, False], ids=["tools listed in the prompt", "tools offered"])
def test_a_plan_is_a_graph_of_known_tools_with_the_independent_ones_apart(listed: bool) -> None:
    said = user("Please cancel my booking BK-2041. I am mo@example.org.")
    text = "Plan. The tools:\n" + "\n".join(f"- {each.name}: {each.description}" for each in BOOKINGS)
    tools = () if listed else BOOKINGS
    reply = ask(*((system(text), said) if listed else (said,)), tools=tools, schema=PLAN, tool_choice="none")
    plan = json.loads(reply.text)
    jsonschema.validate(plan, PLAN)
    tasks = {task["id"]: task for task in plan["tasks"]}
    assert len(tasks) == len(plan["tasks"])
    used = [name for task in plan["tasks"] for name in task["tools"]]
    assert used[-1] == "cancel_booking"
    assert "get_booking" in used
    assert set(used) <= {each.name for each in BOOKINGS}
    order = list(tasks)
    assert all(order.index(need) < order.index(task["id"]) for task in plan["tasks"] for need in task["depends_on"])
    assert plan["tasks"][-1]["depends_on"]


def test_structured_output_in_the_guise_of_a_tool_is_filled_too() -> None:
    reply = ask(
        user("Where is my parcel?"), tools=(Tool("Triage", "The label", json.dumps(TRIAGE)),), tool_choice="tool:Triage"
    )
    answer = json.loads(reply.tool_calls[0].arguments)
    jsonschema.validate(answer, TRIAGE)
    assert answer["category"] == "order_status"


def test_any_object_will_do_where_no_schema_is_given() -> None:
    assert isinstance(json.loads(ask(user("Tell me a story."), schema={}).text), dict)
    call = Call("1", (user("hi"),), response_format=ResponseFormat())
    assert isinstance(json.loads(simulate(ECONOMY, call, count).text), dict)


def test_a_recursive_schema_ends() -> None:
    tree = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "left": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                },
                "required": ["name", "left", "children"],
            }
        },
    }
    jsonschema.validate(json.loads(ask(user("Draw a tree."), schema=tree).text), tree)


WORDS = st.sampled_from(
    ["id", "name", "score", "steps", "reason", "order_id", "done", "tool", "count", "due_date", "answer", "zip"]
)
BOUNDS = st.integers(-5, 5)


def scalars() -> st.SearchStrategy[dict[str, object]]:
    return st.one_of(
        st.builds(
            lambda low, extra: {"type": "string", "minLength": low, "maxLength": low + extra},
            st.integers(0, 40),
            st.integers(0, 9),
        ),
        st.builds(
            lambda low, extra: {"type": "integer", "minimum": low, "maximum": low + extra}, BOUNDS, st.integers(0, 9)
        ),
        st.builds(
            lambda low, extra: {"type": "number", "exclusiveMinimum": low, "maximum": low + extra},
            BOUNDS,
            st.integers(1, 9),
        ),
        st.builds(lambda n: {"type": "integer", "multipleOf": n, "minimum": 1}, st.integers(1, 7)),
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.just({"type": ["string", "null"]}),
        st.builds(lambda value: {"const": value}, st.one_of(st.integers(), st.text(max_size=5))),
        st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=8), min_size=1, max_size=4)),
        st.sampled_from(
            [
                {"type": "string", "format": "date"},
                {"type": "string", "pattern": "^[a-z]+$"},
                {"type": "string", "pattern": r"^\d{4}$"},
            ]
        ),
    )


def arrays(inner: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    return st.builds(
        lambda items, low, extra: {"type": "array", "items": items, "minItems": low, "maxItems": low + extra},
        inner, st.integers(0, 3), st.integers(0, 3),
    )  # fmt: skip


def objects(inner: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    def build(fields: dict[str, object], keep: int) -> dict[str, object]:
        return {"type": "object", "properties": fields, "required": list(fields)[:keep], "additionalProperties": False}

    return st.builds(build, st.dictionaries(WORDS, inner, min_size=1, max_size=4), st.integers(0, 4))


SCHEMAS = st.recursive(
    scalars(),
    lambda inner: st.one_of(
        arrays(inner), objects(inner), st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    SCHEMAS,
    st.sampled_from(FAMILY),
    st.sampled_from(["Where is order #W1234567? a@b.co 97201, 2026-01-31", "", "12 or 3.5"]),
)
def test_every_schema_is_filled_validly(schema: dict[str, object], model: Model, text: str) -> None:
    reply = ask(user(text), model=model, schema=schema)
    jsonschema.validate(json.loads(reply.text), schema)


# --- text, usage, streams --------------------------------------------------------------------------------------------


def test_an_answer_is_drawn_from_the_prompt_and_better_models_say_more() -> None:
    page = (
        "Facts:\nThe museum opens at nine in the morning on weekdays. The museum shop sells posters. "
        "Tickets of the museum cost twelve dollars. Bread is made of flour and water."
    )
    said = (user("When does the museum open and what do tickets cost?"), user(page))
    texts = {model.name: ask(*said, model=model).text for model in FAMILY}
    assert all(text.startswith(MARK) for text in texts.values())
    assert "nine in the morning" in texts["simulated/premium"]
    assert "twelve dollars" in texts["simulated/premium"]
    assert "flour" not in texts["simulated/premium"]
    assert len(texts["simulated/economy"]) < len(texts["simulated/premium"])


def test_secrets_of_results_are_not_told() -> None:
    call = ToolCall("1", "get_booking", '{"booking_id":"BK-2041"}')
    result = tool_result("1", '{"booking_id":"BK-2041","verification":"K-secret","token":"T-secret","nights":3}')
    assert "secret" not in ask(user("Show me booking BK-2041."), assistant("", [call]), result, tools=BOOKINGS).text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=4), st.sampled_from(FAMILY), st.sampled_from(["", "tools", "schema"]))
def test_the_same_call_gets_the_same_reply_and_a_stream_says_the_same(texts: list[str], model: Model, how: str) -> None:
    call = Call(
        "1",
        tuple(user(f"{text} cancel BK-2041") for text in texts),
        BOOKINGS if how == "tools" else (),
        ResponseFormat(json.dumps(TRIAGE)) if how == "schema" else None,
    )
    reply = simulate(model, call, count)
    assert simulate(model, call, count) == reply
    chunks = list(simulate_stream(model, call, count))
    assert "".join(chunk.text for chunk in chunks) == reply.text
    pieces = [piece for chunk in chunks for piece in chunk.tool_calls]
    for index, asked in enumerate(reply.tool_calls):
        mine = [piece for piece in pieces if piece.index == index]
        assert ("".join(p.id for p in mine), "".join(p.name for p in mine)) == (asked.id, asked.name)
        assert "".join(p.arguments for p in mine) == asked.arguments
    assert [chunk.finish for chunk in chunks if chunk.finish] == [reply.finish]
    assert chunks[-1].usage == reply.usage
    written = [reply.text, *(asked.arguments for asked in reply.tool_calls)]
    assert all(text.encode().decode() == text for text in written)  # whatever came in, what goes out can be sent


def test_usage_counts_messages_tools_and_schema_and_what_was_written() -> None:
    bare = ask(user("one two three"))
    assert bare.usage.input_tokens == 4 + 3
    assert bare.usage.output_tokens == count(bare.text)
    assert ask(user("one two three"), tools=BOOKINGS).usage.input_tokens > bare.usage.input_tokens
    assert ask(user("one two three"), schema=TRIAGE).usage.input_tokens > bare.usage.input_tokens
    assert not bare.usage.estimated


def test_the_output_limit_cuts_and_says_so_and_stop_words_stop() -> None:
    said = user("Please cancel my booking and tell me about the weather in my city and my house.")
    whole = ask(said, tools=BOOKINGS, tool_choice="none")
    cut = ask(said, tools=BOOKINGS, tool_choice="none", max_output_tokens=4)
    assert whole.finish is Finish.STOP
    assert cut.finish is Finish.LENGTH
    assert count(cut.text) <= 4
    assert whole.text.startswith(cut.text)
    word = whole.text.split()[-2]
    assert word not in ask(said, tools=BOOKINGS, tool_choice="none", stop=(word,)).text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2_000_000,
        "1 A " * 500_000,
        "cancel booking " * 130_000,
        "a_" * 1_000_000,
        "1." * 1_000_000,
        '{"a":' * 400_000,
        "\ud800 BK-2041",
    ],
    ids=["brackets", "addresses", "requests", "one word", "numbers", "half a document", "a lone surrogate"],
)
def test_two_megabytes_are_read_in_time(text: str) -> None:
    call = ToolCall("1", "get_booking", "{}")
    begun = time.process_time()
    ask(user(text), tools=BOOKINGS)
    ask(user("where is it"), assistant("", [call]), tool_result("1", text), tools=BOOKINGS)
    ask(user(text), schema=TRIAGE)
    assert time.process_time() - begun < 8


def test_no_messages_at_all_is_answered() -> None:
    for model in FAMILY:
        assert ask(model=model).text.startswith(MARK)
        assert ask(model=model, tools=BOOKINGS, tool_choice="required").tool_calls
