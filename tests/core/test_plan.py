"""What is wrong with a plan is found, all of it, and what is right runs in layers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waywiser.core.plan import Flaw, Plan, SubTask, check_plan, layers, ready

TOOLS = ("get_order", "cancel_order")


def plan(**needs: str) -> Plan:
    """Make a plan of tasks named by keyword; the value lists what each depends on."""
    return Plan(tuple(SubTask(name, f"do {name}", (), tuple(need.split())) for name, need in needs.items()))


def codes(made: Plan, **limits: int) -> list[str]:
    return [flaw.code for flaw in check_plan(made, TOOLS, **limits)]


def test_a_sound_plan_has_no_flaws_and_its_layers() -> None:
    made = plan(look="", read="", compare="look read", tell="compare", thank="")
    assert check_plan(made, TOOLS) == ()
    assert [[task.id for task in layer] for layer in layers(made)] == [["look", "read", "thank"], ["compare"], ["tell"]]
    assert [task.id for task in ready(made, {"look", "read"})] == ["compare", "thank"]
    assert [task.id for task in ready(made, {"look", "read"}, {"thank"})] == ["compare"]


def test_a_cycle_is_named_and_what_waits_for_it_too() -> None:
    found = check_plan(plan(a="c", b="a", c="b", d="c", e=""), TOOLS)
    assert found == (
        Flaw("cycle", "tasks wait for each other: a → b → c → a", ("a", "b", "c")),
        Flaw("unreachable", "task `d` can never start: what it needs is never done", ("d",)),
    )
    with pytest.raises(ValueError, match="a cycle"):
        layers(plan(a="b", b="a"))


def test_unknown_names_are_found_with_what_was_meant() -> None:
    made = Plan(
        (
            SubTask("a", "x", ("get_ordr", "fly")),
            SubTask("b", "x", (), ("aa",)),
            SubTask("c", "x", (), ("b",)),
            SubTask("c", "", (), ("c",)),
            SubTask(" ", "x"),
        )
    )
    messages = [str(flaw) for flaw in check_plan(made, TOOLS)]
    assert messages == [
        "task `c` has no goal",
        "task number 5 has no id",
        "2 tasks have the id `c`",
        "there is no tool `get_ordr`, which task `a` wants (did you mean `get_order`?)",
        "there is no tool `fly`, which task `a` wants; the tools are `cancel_order`, `get_order`",
        "task `b` depends on `aa`, which is not in the plan (did you mean `a`?)",
        "task `c` depends on itself",
    ]
    assert codes(Plan()) == ["empty"]
    with pytest.raises(ValueError, match="unknown tasks"):
        layers(plan(a="nobody"))


def test_size() -> None:
    chain = Plan(tuple(SubTask(f"t{i}", "x", (), (f"t{i - 1}",) if i else ()) for i in range(200)))
    assert check_plan(chain, TOOLS) == ()
    assert len(layers(chain)) == 200
    huge = Plan(
        tuple(SubTask(f"t{i}", "x", (), tuple(f"t{j}" for j in range(max(0, i - 50), i))) for i in range(10_000))
    )
    started = time.process_time()
    assert [str(flaw) for flaw in check_plan(huge, TOOLS)] == ["the plan has 10000 tasks, more than the 200 allowed"]
    assert time.process_time() - started < 0.05
    round_trip = Plan(tuple(SubTask(f"t{i}", "x", (), (f"t{(i + 1) % 9}",)) for i in range(9)))
    assert str(check_plan(round_trip, TOOLS)[0]) == "tasks wait for each other: t0 → t8 → t7 → t6 → t5 → … → t0"


NAMES = st.sampled_from("abcdef")
TASKS = st.builds(
    SubTask, NAMES, st.sampled_from(["go", ""]), st.lists(st.sampled_from([*TOOLS, "fly"]), max_size=2).map(tuple),
    st.lists(NAMES, max_size=3).map(tuple),
)  # fmt: skip


@given(st.lists(TASKS, min_size=1, max_size=8).map(lambda tasks: Plan(tuple(tasks))))
def test_a_plan_without_flaws_runs_to_its_end_and_only_such_a_plan_does(made: Plan) -> None:
    flaws = check_plan(made, TOOLS)
    done: set[str] = set()
    while batch := ready(made, done):
        done |= {task.id for task in batch}
    stuck = {task.id for task in made.tasks} - done
    blocking = {"cycle", "self_dependency", "unknown_task", "unreachable"}
    if "duplicate_id" not in {flaw.code for flaw in flaws}:
        assert stuck == {task for flaw in flaws if flaw.code in blocking for task in flaw.tasks}
    if not flaws:
        assert [task.id for layer in layers(made) for task in layer if task.id not in done] == []
