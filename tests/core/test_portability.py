"""What becomes of each feature of a conversation on each move, and the table of it in the documentation.

python tests/core/test_portability.py        prints the table, for docs/portability.md
"""

from __future__ import annotations

import timeit
from dataclasses import replace
from pathlib import Path

import pytest

from waywiser.core.calls import Call, Settings, Tool
from waywiser.core.dialects import DIALECTS, dialect_of
from waywiser.core.messages import (
    File,
    Image,
    Message,
    Opaque,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    assistant,
    system,
    tool_result,
    user,
)
from waywiser.core.models import Ability, Model
from waywiser.core.portability import Forbidden, Lossless, Repairable, portable, ported, surveyed
from waywiser.core.porting import Repair, new_id

DOCS = Path(__file__).resolve().parents[2] / "docs" / "portability.md"
MODELS = {
    "openai": Model("openai/o"),
    "anthropic": Model("anthropic/a", "anthropic"),
    "google": Model("google/g"),
    "mistral": Model("mistral/m"),
}
PDF = "data:application/pdf;base64,JVBERi0="
LOOK_UP = (Tool("look_up"),)


def a_call(*messages: Message, tools: tuple[Tool, ...] = LOOK_UP, thinking: bool = False) -> Call:
    extra = {"thinking": {"type": "enabled"}} if thinking else {}
    return Call("c", messages, tools, settings=Settings(extra=extra))


def shown(*parts: Part, role: Role = Role.USER) -> tuple[Message, ...]:
    turn = Message(role, (Text("look"), *parts))
    return (turn,) if role is Role.USER else (user("hi"), turn, user("go on"))


def used(
    call_id: str = "Ab3dE6gH9", *, result: tuple[Part, ...] = (Text("shipped"),), failed: bool = False, **made: str
) -> tuple[Message, ...]:
    call = ToolCall(call_id, made.get("name", "look_up"), made.get("arguments", '{"id":"W1"}'))
    turn = Message(Role.ASSISTANT, (), (call,))
    return (user("hi"), turn, Message(Role.TOOL, result, tool_call_id=call_id, is_error=failed))


def thought(thinking: Thinking, model: str) -> tuple[Message, ...]:
    return (user("hi"), Message(Role.ASSISTANT, (thinking, Text("hello")), model=model), user("and?"))


def own(thinking: Thinking, calls: bool = False) -> dict[str, Call]:
    made = {}
    for name, model in MODELS.items():
        turns = thought(thinking, model.name)
        if calls:
            asked = replace(turns[1], tool_calls=(ToolCall("Ab3dE6gH9", "look_up", "{}"),))
            turns = (turns[0], asked, tool_result("Ab3dE6gH9", "shipped"))
        made[name] = a_call(*turns)
    return made


FEATURES: dict[str, Call | dict[str, Call]] = {
    "text, tool calls and results": a_call(system("s"), *used()),
    "thinking of another model": a_call(*thought(Thinking("hm", "sig"), "x/y")),
    "the model's own thinking, signed": own(Thinking("hm", "sig")),
    "the same beside a tool call": own(Thinking("hm", "sig"), calls=True),
    "the model's own thinking, unsigned": own(Thinking("hm")),
    "thinking asked for in the middle of another model's tool calls": a_call(*used(), thinking=True),
    "a tool call's id `call_…` or `toolu_…`": a_call(*used("call_abcdefghijklmnopqrstuvwx")),
    "an id with other signs, or an empty one": a_call(*used("functions.look_up:0")),
    "an id of more than 40 signs": a_call(*used("a" * 50)),
    "the same id in two turns": a_call(*used(), assistant("so"), *used()),
    "arguments that are no JSON object": a_call(*used(arguments='{"id": ')),
    "a past tool's name with other signs": a_call(*used(name="shop.look_up")),
    "an offered tool's name with other signs": a_call(user("hi"), tools=(Tool("shop.look_up"),)),
    "tool calls in the history, no tools offered": a_call(*used(), tools=()),
    "tool calls that nobody has run": a_call(*used()[:2]),
    "a tool result marked as an error": a_call(*used(failed=True)),
    "a block of a provider's own tools (Anthropic)": a_call(*shown(Opaque("anthropic", "{}"), role=Role.ASSISTANT)),
    "a block only OpenAI knows": a_call(*shown(Opaque("openai", "{}"))),
    "a PNG, JPEG or WebP image": a_call(*shown(Image("data:image/png;base64,iVBO"))),
    "a GIF image": a_call(*shown(Image("data:image/gif;base64,R0lG"))),
    "an image by https URL": a_call(*shown(Image("https://x.org/a.png"))),
    "an image by http URL": a_call(*shown(Image("http://x.org/a.png"))),
    "an image's `detail`": a_call(*shown(Image("https://x.org/a.png", "low"))),
    "an image in a tool result": a_call(*used(result=(Text("see"), Image("https://x.org/a.png")))),
    "an image in an assistant's turn": a_call(*shown(Image("https://x.org/a.png"), role=Role.ASSISTANT)),
    "a PDF, by content": a_call(*shown(File("application/pdf", PDF))),
    "a PDF, by https URL": a_call(*shown(File("application/pdf", "https://x.org/a.pdf"))),
    "audio (WAV, MP3)": a_call(*shown(File("audio/wav", "data:audio/wav;base64,UklG"))),
    "a file's id at OpenAI": a_call(*shown(File("application/pdf", file_id="file-1"))),
    "a file's id at Anthropic": a_call(*shown(File("application/pdf", file_id="file_1"))),
    "up to four cache marks": a_call(Message(Role.SYSTEM, (Text("s", cache=True),)), user("hi")),
    "more than four cache marks": a_call(*(Message(Role.USER, (Text(str(n), cache=True),)) for n in range(5))),
    "a speaker's name": a_call(Message(Role.USER, (Text("hi"),), name="ann")),
    "a system turn in the middle": a_call(user("hi"), assistant("hello"), system("be brief"), user("so?")),
    "the assistant's turn first": a_call(assistant("Welcome!"), user("hi")),
    "the assistant's turn last, no prefill": a_call(user("hi"), assistant("hello")),
    "two assistant's turns in a row": a_call(user("hi"), assistant("a"), assistant("b"), user("so?")),
    "two user's turns in a row": a_call(user("hi"), user("you")),
    "a user's turn after a tool result": a_call(*used(), user("and?")),
    "a blank user's turn": a_call(user(" ")),
    "a blank assistant's turn": a_call(user("hi"), assistant(), user("so?")),
}


def fate(feature: str, dialect: str) -> str:
    given = FEATURES[feature]
    call = given[dialect] if isinstance(given, dict) else given
    match portable(call, MODELS[dialect], surveyed(call)):
        case Lossless():
            return "kept"
        case Repairable(transforms):
            return ", ".join(f"`{name}`" for name in transforms)
        case Forbidden():
            return "forbidden"


def table() -> str:
    rows = ["| what the conversation holds | " + " | ".join(MODELS) + " |", "|---" * (len(MODELS) + 1) + "|"]
    rows += [
        f"| {feature} | " + " | ".join(fate(feature, dialect) for dialect in MODELS) + " |" for feature in FEATURES
    ]
    return "\n".join(rows)


def test_the_documentation_tells_what_is_done() -> None:
    text = DOCS.read_text("utf-8")
    assert table() in text, "print the table anew with `python tests/core/test_portability.py`"
    for repair in Repair:
        assert f"| `{repair}` |" in text, f"the documentation does not explain {repair}"


def test_every_feature_is_told_of_a_dialect_as_it_is_done() -> None:
    for feature, given in FEATURES.items():
        for name, model in MODELS.items():
            call = given[name] if isinstance(given, dict) else given
            answer = portable(call, model, surveyed(call))
            if not isinstance(answer, Forbidden):
                copy, names = ported(call, model)
                assert answer == (Repairable(names) if names else Lossless()), feature
                # What has been repaired needs no more repair, but for what every copy needs.
                again = set(ported(copy, model)[1])
                assert again <= {"blank_turn_filled"}, (feature, name, again)


def test_a_dialect_is_known_by_host_and_by_provider() -> None:
    proxied = replace(MODELS["openai"], name="x/y", base_url="https://api.mistral.ai/v1")
    assert dialect_of(proxied) is DIALECTS["mistral"]
    assert dialect_of(Model("groq/llama")) is DIALECTS["openai"]
    assert dialect_of(replace(MODELS["mistral"], api="langchain")) is DIALECTS["mistral"]
    assert dialect_of(Model("x/y", "simulated")) is None
    assert ported(a_call(*used("?" * 90)), Model("x/y", "simulated"))[1] == ()


@pytest.mark.parametrize("name", DIALECTS)
def test_an_id_is_mapped_alike_in_every_step_of_a_session(name: str) -> None:
    call = a_call(*used("call:1"), assistant("so"), *used("call:1"), assistant("so"), *used("call:2"))
    first = ported(a_call(*call.messages[:3]), MODELS[name])[0]
    whole = ported(call, MODELS[name])[0]
    assert whole.messages[:3] == first.messages
    made = [asked.id for message in whole.messages for asked in message.tool_calls]
    assert len(set(made)) == 3
    results = [message.tool_call_id for message in whole.messages if message.role is Role.TOOL]
    assert results == made
    assert new_id(("", 9), "a", 0) == new_id(("", 9), "a", 0) != new_id(("", 9), "a", 1)


def test_a_model_that_can_continue_keeps_the_last_turn() -> None:
    able = replace(MODELS["anthropic"], abilities=frozenset({Ability.PREFILL}))
    copy, names = ported(a_call(user("hi"), assistant("The answer is ")), able)
    assert names == ("prefill_trimmed",)
    assert copy.messages[-1] == assistant("The answer is")


def test_of_too_many_marks_the_first_and_the_newest_stay() -> None:
    call = a_call(*(Message(Role.USER, (Text(str(number), cache=True),)) for number in range(7)))
    copy, _ = ported(call, MODELS["anthropic"])
    marked = [part.text for message in copy.messages for part in message.parts if isinstance(part, Text) and part.cache]
    assert marked == ["0", "4", "5", "6"]


def test_the_common_case_costs_next_to_nothing() -> None:
    turns: list[Message] = [system("s")]
    for number in range(6):
        turns += used(f"call_{number:024d}")
    call = a_call(*turns)
    bits = surveyed(call)
    for model in (MODELS["openai"], MODELS["anthropic"], MODELS["google"]):
        assert portable(call, model, bits) == Lossless()
    took = min(timeit.repeat(lambda: portable(call, MODELS["openai"], surveyed(call)), number=200, repeat=20)) / 200
    yardstick = min(timeit.repeat(lambda: sum(range(1000)), number=200, repeat=20)) / 200
    assert took < 3 * yardstick, "what a message holds is computed again"


if __name__ == "__main__":
    print(table())
