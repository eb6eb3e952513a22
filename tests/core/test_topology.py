"""Roles, cycles and bounds of a graph, from its shape alone."""

import random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from waywiser.core.bounds import worst_case
from waywiser.core.shape import END, START, EdgeShape, GraphShape, NodeShape
from waywiser.core.topology import cycles, roles


def edges(text: str) -> tuple[EdgeShape, ...]:
    """Read `a>b` (sure), `a?b` (one of the conditional ways of a), `a*b` (copies), `a*3b`, `a?b@2` (two rounds)."""
    made = []
    for whole in text.split():
        word, _, rounds = whole.partition("@")
        mark = next(char for char in word if char in ">?*")
        source, target = word.split(mark)
        copies = 0 if mark != "*" else int(target[0]) if target[0].isdigit() else None
        names = {"S": START, "E": END}
        made.append(
            EdgeShape(
                names.get(source, source),
                names.get(target.lstrip("0123456789"), target.lstrip("0123456789")),
                conditional=mark != ">",
                choice="next" if mark == "?" else "",
                copies=copies,
                rounds=int(rounds) if rounds else None,
            )
        )
    return tuple(made)


def react(turns: int | None = None) -> GraphShape:
    nodes = (NodeShape("agent", calls=1, visits=turns), NodeShape("tools", runs_tools=True))
    return GraphShape("react", nodes, edges("S>agent agent?tools agent?E tools>agent"))


DESK = GraphShape(
    "desk",
    (
        NodeShape("triage", calls=1),
        NodeShape("plan", calls=1),
        NodeShape("work", inner=react(8)),
        NodeShape("answer", calls=1),
        NodeShape("chat", calls=1),
    ),
    edges("S>triage triage?plan triage?chat plan>work work>answer answer>E chat>E"),
)


def test_roles_of_a_desk() -> None:
    assert dict(roles(DESK)) == {
        ("triage",): ("entry",),
        ("plan",): (),
        ("work",): (),
        ("work", "agent"): ("tool_loop",),
        ("work", "tools"): ("tools",),
        ("answer",): ("final",),
        ("chat",): ("final",),
    }
    assert roles(react())[("agent",)] == ("tool_loop", "final", "entry")
    assert ("lost",) not in roles(GraphShape("", (NodeShape("a"), NodeShape("lost")), edges("S>a a>E lost>E")))


def test_fan_out_join_and_a_cycle_without_tools() -> None:
    nodes = tuple(NodeShape(name, calls=1) for name in "abcdj")
    found = roles(GraphShape("", nodes, edges("S>a a>b a>c b>j c>j j?a j?E a*d d>j")))
    assert found[("a",)] == ("cycle", "fan_out", "entry")
    assert found[("j",)] == ("cycle", "final", "join")


def test_cycles_and_what_bounds_them() -> None:
    (limited,) = cycles(DESK)
    assert str(limited) == "cycle work/agent, work/tools: work/agent runs at most 8 times"
    assert (limited.bound_by, limited.has_tools, limited.only_default) == ("limits", True, False)
    (loose,) = cycles(react())
    assert str(loose) == "cycle agent, tools: only the recursion limit of 10007 supersteps ends it, LangGraph's default"
    assert loose.only_default
    (set_by_run,) = cycles(react(), 25)
    assert str(set_by_run) == "cycle agent, tools: only the recursion limit of 25 supersteps ends it"
    assert not set_by_run.only_default


@pytest.mark.parametrize(
    ("shape", "recursion", "calls"),
    [
        (DESK, None, 11),  # triage, plan, eight turns, answer; never the chat as well
        (react(), None, 5004),  # every other of 10 007 supersteps, beginning with the first
        (react(), 25, 13),
        (react(6), 25, 6),
        (react(60), 25, 13),
        (GraphShape("", (NodeShape("a", calls=1),), edges("S>a a>E")), 25, 1),
        (GraphShape("", (NodeShape("a", calls=1), NodeShape("b", calls=1)), edges("S>a a*b b>E")), 25, None),
        (GraphShape("", (NodeShape("a", calls=1), NodeShape("b", calls=2)), edges("S>a a*3b b>E")), 25, 7),
        (GraphShape("", (NodeShape("a"), NodeShape("b", runs_tools=True)), edges("S>a a*b b>E")), 25, 0),
        (GraphShape("", (NodeShape("a", calls=None),), edges("S>a a>E")), 25, None),
        # a supervisor of two: each of its four turns hands over to one of them, not to both
        (
            GraphShape(
                "",
                (NodeShape("boss", calls=1, visits=4), NodeShape("x", calls=5), NodeShape("y", calls=3)),
                edges("S>boss boss?x boss?y boss?E x>boss y>boss"),
            ),
            None,
            24,
        ),
        # the same without a limit: ten supersteps are five turns
        (
            GraphShape(
                "",
                (NodeShape("boss", calls=1), NodeShape("x", calls=5), NodeShape("y", calls=3)),
                edges("S>boss boss?x boss?y boss?E x>boss y>boss"),
            ),
            10,
            30,
        ),
        # the same, handing over in the first four rounds only, and then ending
        (
            GraphShape(
                "",
                (NodeShape("boss", calls=1), NodeShape("x", calls=5), NodeShape("y", calls=3)),
                edges("S>boss boss?x@4 boss?y@4 boss?E x>boss y>boss"),
            ),
            None,
            25,
        ),
        # a judge who may be asked twice, and one who may send an answer back once
        (
            GraphShape(
                "", (NodeShape("answer", calls=1), NodeShape("judge", calls=1, visits=2)),
                edges("S>answer answer>judge judge?answer judge?E"),
            ),
            None,
            5,
        ),
        (
            GraphShape(
                "", (NodeShape("answer", calls=1), NodeShape("judge", calls=1)),
                edges("S>answer answer>judge judge?answer@1 judge?E"),
            ),
            None,
            4,
        ),
    ],
)  # fmt: skip
def test_the_worst_case_is_known(shape: GraphShape, recursion: int | None, calls: int | None) -> None:
    assert worst_case(shape, recursion).calls == calls


def test_the_worst_case_of_each_node() -> None:
    found = worst_case(DESK)
    assert found.nodes[("work", "agent")] == 8
    assert found.nodes[("chat",)] == 1
    assert found.unknown == ()
    nobody_knows = GraphShape("", (NodeShape("a", calls=None), NodeShape("b", calls=1)), edges("S>a a>b b>E"))
    assert worst_case(nobody_knows).unknown == (("a",),)


def run(shape: GraphShape, recursion: int, chance: random.Random) -> int:
    """Run a shape as the runtime would, every choice by chance, and count the calls."""
    visits: dict[str, int] = {}
    calls, due, copies = 0, {edge.target for edge in shape.edges if edge.source == START}, list[str]()
    for _ in range(recursion):
        now = [*(due - {END}), *copies]
        due, copies = set(), []
        for name in now:
            node = shape.by_name[name]
            visits[name] = visits.get(name, 0) + 1
            if node.visits is not None and visits[name] > node.visits:
                continue
            calls += node.calls or 0
            calls += run(node.inner, recursion, chance) if node.inner else 0
            after = [edge for edge in shape.edges if edge.source == name]
            after = [edge for edge in after if edge.rounds is None or visits[name] <= edge.rounds]
            choices = [edge for edge in after if edge.choice]
            taken = [edge for edge in after if not edge.choice and (not edge.conditional or chance.random() < 0.9)]
            taken += [chance.choice(choices)] if choices else []
            for edge in taken:
                if edge.copies:
                    copies += [edge.target] * chance.randint(0, edge.copies) if edge.target != END else []
                elif edge.copies == 0:
                    due.add(edge.target)
    return calls


def random_shape(chance: random.Random, depth: int = 1) -> GraphShape:
    names = "abcde"[: chance.randint(1, 5)]
    nodes = tuple(
        NodeShape(
            name,
            calls=chance.randint(0, 2),
            visits=chance.choice([None, None, 1, 2, 3]),
            inner=random_shape(chance, depth - 1) if depth and chance.random() < 0.25 else None,
        )
        for name in names
    )
    ways = [
        chance.choice(names)
        + chance.choice([">", ">", "?", "?", "*2"])
        + chance.choice([*names, "E"])
        + chance.choice(["", "", "@1", "@2"])
        for _ in range(chance.randint(0, 9))
    ]
    starts = [f"S>{name}" for name in chance.sample(names, min(len(names), chance.randint(1, 2)))]
    return GraphShape("", nodes, edges(" ".join(dict.fromkeys([*starts, *ways]))))


@settings(max_examples=1000)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_no_run_exceeds_the_worst_case(seed: int, recursion: int) -> None:
    chance = random.Random(seed)
    shape = random_shape(chance)
    note(repr(shape))
    bound = worst_case(shape, recursion).calls
    assert bound is not None  # copies are at most two here, and supersteps seven
    for _ in range(3):
        assert run(shape, recursion, chance) <= bound


def test_copies_run_together_and_what_follows_them_runs_once() -> None:
    names = ("find", "read", "answer", "judge")
    nodes = tuple(NodeShape(name, calls=int(name != "find")) for name in names)
    ways = edges("S>find find*4read read>answer answer>judge judge?answer@1 judge?E")
    found = worst_case(GraphShape("", nodes, ways))
    assert found.calls == 8
    assert {path[0]: calls for path, calls in found.nodes.items()} == {"find": 0, "read": 4, "answer": 2, "judge": 2}
