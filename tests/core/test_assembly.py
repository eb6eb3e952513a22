from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.assembly import Assembly
from waywiser.core.calls import Chunk, Finish, Reply, ToolCallDelta, Usage
from waywiser.core.messages import Text, Thinking, ToolCall
from waywiser.testing import chunks

texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)
replies = st.builds(
    lambda text, calls, finish: Reply(
        (Text(text),) if text else (),
        tuple(ToolCall(f"t{number}", f"tool{number}", arguments) for number, arguments in enumerate(calls)),
        finish,
        Usage(3, 4),
        "provider-name",
        "id-1",
    ),
    texts,
    st.lists(texts, max_size=3),
    st.sampled_from(Finish),
)


@given(replies, st.integers(1, 9))
def test_what_was_cut_into_chunks_is_whole_again(reply: Reply, size: int) -> None:
    assembly = Assembly()
    for chunk in chunks(reply, size=size):
        assembly.feed(chunk)
    assert assembly.reply() == reply
    assert assembly.finish is reply.finish


def test_interleaved_parallel_calls_are_kept_apart() -> None:
    assembly = Assembly()
    for index, piece in [(0, "{"), (1, "["), (0, "}"), (1, "]")]:
        assembly.feed(Chunk(tool_calls=(ToolCallDelta(index, f"t{index}", f"f{index}", piece),)))
    assert assembly.reply().tool_calls == (ToolCall("t0", "f0", "{}"), ToolCall("t1", "f1", "[]"))
    assert assembly.finish is None
    assert assembly.reply().usage == Usage(estimated=True)


def test_a_signature_closes_the_thinking_it_signs() -> None:
    assembly = Assembly()
    for piece in (
        Thinking("first "),
        Thinking("thought"),
        Thinking("", "sig1"),
        Thinking("second"),
        Thinking("", "sig2"),
    ):
        assembly.feed(Chunk(thinking=piece))
    assembly.feed(Chunk(thinking=Thinking("blob", redacted=True)))
    assert assembly.reply().parts == (
        Thinking("first thought", "sig1"),
        Thinking("second", "sig2"),
        Thinking("blob", redacted=True),
    )
