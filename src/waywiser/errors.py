"""Every error a user of Waywiser can meet, each with a stable `code`.

WaywiserError
├── ConfigError                 a policy, a graph or an argument is wrong; knows file, line, column and a hint
├── BadInput                    a request that no model could take: no messages, an orphan tool result, … (a ValueError)
├── RoutingRefused              Waywiser said no; carries the receipt (a RuntimeError: LangGraph does not retry it)
│   ├── BudgetExceeded          a limit of the budget is reached
│   ├── LoopDetected            the session repeats itself without progress
│   └── NoEligibleModel         rules, abilities and health leave no candidate
├── PlanRefused                 no plan of a workflow was without flaws; carries them (a RuntimeError, as above)
├── UpstreamError               every attempt failed; carries the last failure and the receipt
└── StoreError                  the session store could not be read or written
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from waywiser.core.budget import Shortfall
    from waywiser.core.calls import Failure
    from waywiser.core.plan import Flaw
    from waywiser.core.receipt import Receipt


class WaywiserError(Exception):
    """The root of the tree. `code` is stable across releases; the message is for people."""

    code: str = "waywiser_error"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something is wrong. Lines and columns count from 1; 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Write `file:line:column`, as editors and terminals understand it."""
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: its place, what it is, and what was probably meant."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Write the problem on one line, the hint behind a dash."""
        text = f"{self.place}: {self.message}"
        return f"{text} — {self.hint}" if self.hint else text


class ConfigError(WaywiserError):
    """A configuration is wrong. `problems` holds all that was found, in the order of the file."""

    code = "config_error"

    def __init__(self, problems: Problem | list[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem(Place("argument"), problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadInput(WaywiserError, ValueError):  # noqa: N818 - "Error" would say nothing more
    """A request that no model could take. The message names the place, such as `messages[3].tool_call_id`."""

    code = "bad_input"


class RoutingRefused(WaywiserError, RuntimeError):  # noqa: N818 - the name says whose decision it was
    """Waywiser declined to make the call. `receipt` says why."""

    code = "refused"

    def __init__(self, message: str, receipt: Receipt | None = None) -> None:
        self.receipt = receipt
        super().__init__(message)


class BudgetExceeded(RoutingRefused):
    """A limit of the budget is reached. The receipt says which; `short` has the scope, what it lacks and how much."""

    code = "budget_exceeded"

    def __init__(self, message: str, receipt: Receipt | None = None, short: Shortfall | None = None) -> None:
        self.short = short
        super().__init__(message, receipt)


class LoopDetected(RoutingRefused):
    """The session repeats itself without progress, and the policy says to stop it."""

    code = "loop_detected"


class NoEligibleModel(RoutingRefused):
    """Rules, abilities, portability and health leave no candidate. The receipt lists what excluded each."""

    code = "no_eligible_model"


class PlanRefused(WaywiserError, RuntimeError):  # noqa: N818 - the name says what happened
    """No plan without flaws was made, after as many attempts as the workflow allows. `flaws` says what was wrong."""

    code = "plan_refused"

    def __init__(self, flaws: Sequence[Flaw]) -> None:
        self.flaws = tuple(flaws)
        super().__init__("; ".join(flaw.message for flaw in flaws))


class UpstreamError(WaywiserError):
    """Every attempt failed. `failure` is the last one; `code` is its kind."""

    code = "upstream_error"

    def __init__(self, failure: Failure, receipt: Receipt | None = None) -> None:
        self.failure = failure
        self.receipt = receipt
        self.code = failure.kind.value
        super().__init__(f"{failure.kind.value}: {failure.message}")


class StoreError(WaywiserError):
    """The session store could not be read or written."""

    code = "store_error"
