"""`on_exhausted: ask`: a call that finds the budget empty waits, in a LangGraph interrupt, for a person to add to it.

What the person is shown is a mapping: `why` in words, the `scope` (tenant, session or agent) and what it `lacks`
(`usd`, `tokens`, `llm_calls`, `tool_calls`, `seconds`), its `limit` and how much is `left`, the same in dollars where
it is money (`limit_usd`, `spent_usd`), the session, node and receipt. What they may answer, with `Command(resume=…)`:
a mapping of amounts, such as `{"usd": 0.5, "llm_calls": 10}`; a number alone where dollars are lacking; or `False` for
no: then `BudgetExceeded`. Seconds count from the answer on: the time it took to answer is nobody's fault.

LangGraph runs an interrupted node again from its start and hands it its earlier answers in the order they were asked
for. So an answer is named by its task and its place in that order, and the store counts what has one name once. A node
that interrupts for reasons of its own, after a model call, would see its answers change places: it should ask first.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from langchain_core.runnables import ensure_config
from langgraph.types import interrupt

from waywiser.core.budget import NANOS_PER_USD, Amounts, Scope, Shortfall
from waywiser.core.calls import Call
from waywiser.core.claims import scopes
from waywiser.engine import Engine
from waywiser.errors import BudgetExceeded

SCRATCHPAD, CHECKPOINTER = "__pregel_scratchpad", "__pregel_checkpointer"
"""Where LangGraph 1.x keeps, in a task's config, its interrupts and the checkpointer that can bring it back."""

_NAMES = {
    "nanos": "usd",
    "tokens": "tokens",
    "llm_calls": "llm_calls",
    "tool_calls": "tool_calls",
    "seconds": "seconds",
}
_REMEMBERED = 512
_places: OrderedDict[int, tuple[object, int]] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Grant:
    """A person's answer: what a scope gets more, and the name under which that counts once."""

    scope: Scope
    more: Amounts
    once: str


def granted(engine: Engine, call: Call, error: BudgetExceeded) -> Call:
    """Ask for what a call lacks, add it, and return the call to make again.

    Raises `error` where nobody can be asked or the answer is no, LangGraph's `GraphInterrupt` until there is an answer.
    """
    grant = _asked(engine, call, error)
    engine.store.grant(call.origin.session, grant.scope, grant.more, engine.clock.now(), grant.once)
    return replace(call, id=engine.clock.new_id())


async def agranted(engine: Engine, call: Call, error: BudgetExceeded) -> Call:
    """Like `granted`, for an event loop."""
    grant = _asked(engine, call, error)
    await engine.store.agrant(call.origin.session, grant.scope, grant.more, engine.clock.now(), grant.once)
    return replace(call, id=engine.clock.new_id())


def _asked(engine: Engine, call: Call, error: BudgetExceeded) -> Grant:
    """Interrupt until there is an answer that can be understood. Raises as `granted` does."""
    short, policy = error.short, engine.policy
    task = (ensure_config().get("configurable") or {}) if policy.budget.on_exhausted == "ask" else {}
    scratchpad = task.get(SCRATCHPAD)
    path = scopes(policy.budget, call, engine.clock.now())
    scope = next((scope for scope in path if short is not None and scope.key == short.scope), None)
    if short is None or scope is None or short.what not in _NAMES or scratchpad is None or not task.get(CHECKPOINTER):
        raise error
    problem = ""
    while True:
        place = _next_place(scratchpad)
        answer = interrupt(_question(call, short, error, problem))
        if not answer:
            raise error
        more = read_answer(answer, lacks=_NAMES[short.what])
        if more is not None:
            if short.what == "seconds" and more.seconds:
                more = replace(more, seconds=more.seconds + math.ceil(short.wanted))  # what has passed since, too
            return Grant(scope, more, f"grant/{call.origin.session}/{call.origin.task_id}/{place}")
        problem = f"{answer!r} is no amount: answer with {_example(short)} or the like, or with False"


def read_answer(answer: object, *, lacks: str = "usd") -> Amounts | None:
    """Read what a person answered: a mapping of amounts, or a number of USD where it `lacks` those; else None."""
    told = answer if isinstance(answer, Mapping) else {"usd": answer} if lacks == "usd" else {}
    if not told or set(told) - set(_NAMES.values()):
        return None
    found: dict[str, int] = {}
    for field, name in _NAMES.items():
        value = _number(told.get(name, 0))
        if value is None:
            return None
        found[field] = round(value * NANOS_PER_USD) if name == "usd" else int(value)
    return Amounts(**found) if any(found.values()) else None


def _example(short: Shortfall) -> str:
    return "0.5 (USD)" if short.what == "nanos" else f"{{'{_NAMES[short.what]}': 60}}"


def _number(value: object) -> float | None:
    """Read an amount, also one that was typed; None for what is none or less than none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _question(call: Call, short: Shortfall, error: BudgetExceeded, problem: str) -> dict[str, object]:
    money = short.what == "nanos"
    unit = NANOS_PER_USD if money else 1
    return {
        "waywiser": error.code,
        "why": str(error),
        "scope": short.name,
        "lacks": _NAMES[short.what],
        "limit": short.limit / unit,
        "left": short.left / unit,
        **({"limit_usd": short.limit / unit, "spent_usd": (short.limit - short.left) / unit} if money else {}),
        "session": call.origin.session,
        "agent": call.origin.agent,
        "node": call.origin.node,
        "receipt": error.receipt.id if error.receipt is not None else "",
        **({"problem": problem} if problem else {}),
    }


def _next_place(scratchpad: object) -> int:
    """Count the answers one run of a task has asked for. LangGraph makes a scratchpad for each run."""
    with _lock:
        held, place = _places.pop(id(scratchpad), (scratchpad, 0))
        _places[id(scratchpad)] = (held, place + 1)
        if len(_places) > _REMEMBERED:
            _places.popitem(last=False)
        return place
