"""How far a session has come and what its newest messages show: numbers that mean the same in every domain.

`Progress` folds a history message by message; `features()` is what the coming step looks like from there. Nothing in
it names a domain or an agent. Text features were tried and left out: words of the last user message lift accuracy on
the domain they were learned from and cost ten points on the next one.
"""

from __future__ import annotations

from math import log1p
from typing import Final

from waywiser.classifier.glimpses import TOOL_KINDS, Glimpse, shape_of
from waywiser.core.messages import Role

_RECENT_IDS: Final = 512
"""How many identifiers a session remembers; a longer session forgets them all and starts anew."""


class Progress:
    """What has happened in a session so far. Grows by `add`, holds a bounded amount, is not thread-safe.

    A scripted greeting (assistant text before any user turn) is skipped, and so is the result of a tool the *user*
    called: neither is the agent's doing.
    """

    def __init__(self) -> None:
        self.last = ""  # "user", "call", "said", "result", or "" before the first turn
        self.turns = self.steps = self.writes = self.reads = self.texts = self.steered = self.prompt_turns = 0
        self.runs: list[int] = []
        self.used: set[str] = set()
        self.shown: set[str] = set()
        self.asked_for: set[str] = set()
        self.shapes: dict[str, int] = {}
        self.user: Glimpse | None = None
        self.said: Glimpse | None = None
        self.said_before: Glimpse | None = None
        self.call: Glimpse | None = None
        self.result: Glimpse | None = None
        self.same_name = 0
        self._begin_turn()

    def _begin_turn(self) -> None:
        """Start counting anew: a person spoke."""
        self.run = self.run_writes = self.run_reads = self.run_thinks = self.run_errors = self.results = 0
        self.same_name = 0

    def add(self, seen: Glimpse) -> None:
        """Take in the next message."""
        if seen.role is Role.USER:
            self._add_user(seen)
        elif seen.role is Role.ASSISTANT:
            if seen.names:
                self._add_call(seen)
            elif self.turns:
                self.texts += 1
                self.said = seen
                self.last = "said"
        elif seen.role is Role.TOOL and self.last in {"call", "result"}:
            self.results += 1
            self.result = seen
            self.shown |= seen.ids
            self.run_errors += seen.error
            self.last = "result"

    def _add_user(self, seen: Glimpse) -> None:
        if self.run:
            self.runs = [*self.runs[-15:], self.run]
        if max(len(self.used), len(self.shown), len(self.asked_for)) > _RECENT_IDS:
            self.used, self.shown, self.asked_for, self.shapes = set(), set(), set(), {}
        self._begin_turn()
        self.turns += 1
        self.said_before = self.said
        self.user = seen
        self.asked_for |= seen.ids
        self.last = "user"

    def _add_call(self, seen: Glimpse) -> None:
        self.prompt_turns += self.last == "user"
        self.steps += 1
        self.run += 1
        self.used |= seen.used
        for one in seen.used:
            shape = shape_of(one)
            self.shapes[shape] = self.shapes.get(shape, 0) + 1
        same = self.call is not None and self.call.names[-1] == seen.names[-1]
        self.same_name = self.same_name + 1 if same else 1
        for kind in seen.kinds:
            self.run_writes += kind == "write"
            self.run_reads += kind in {"read", "find"}
            self.run_thinks += kind == "think"
            self.steered += kind == "steer"
        self.writes += seen.kinds.count("write")
        self.reads += seen.kinds.count("read") + seen.kinds.count("find")
        self.call = seen
        self.results = 0
        self.result = None
        if seen.chars:
            self.said = seen
        self.last = "call"

    @property
    def after_result(self) -> bool:
        """Whether the newest message is what a tool answered."""
        return self.last == "result"

    def habit(self) -> str:
        """Name the situation the agent is in (the tool just used, or a turn), to learn what it does there."""
        return self.call.names[-1] if self.after_result and self.call is not None else "turn"

    def features(self) -> list[float]:
        """Return the numbers of `FEATURES`, in that order."""
        return [*self._pace(), *self._last_call(), *self._last_result(), *self._dialogue()]

    def _pace(self) -> list[float]:
        mean_run = (sum(self.runs) + 1) / (len(self.runs) + 1)
        return [
            self.after_result,
            log1p(self.run),
            self.run == 1,
            log1p(self.run_writes),
            log1p(self.run_reads),
            log1p(self.run_errors),
            log1p(self.run_thinks),
            log1p(self.results),
            log1p(self.turns),
            self.turns <= 1,
            log1p(self.steps),
            log1p(self.writes),
            log1p(self.reads),
            log1p(self.texts),
            self.steps == 0,
            (self.prompt_turns + 1) / (self.turns + 1 + (self.last != "user")),
            mean_run,
            log1p(max(self.runs, default=0)),
            self.run - mean_run,
            log1p(self.same_name),
            self.steered / (self.steps + 1),
        ]

    def _last_call(self) -> list[float]:
        call = self.call if self.after_result else None
        kind = call.kinds[-1] if call is not None else ""
        return [*(kind == name for name in TOOL_KINDS), call is not None and call.chars > 0]

    def _last_result(self) -> list[float]:
        waiting = self.shown - self.used
        asked_for = self.asked_for - self.used
        asked = [
            log1p(len(asked_for)),
            log1p(sum(shape_of(one) in self.shapes for one in asked_for)),
            log1p(sum(shape_of(one) in self.shapes for one in waiting)) if self.run else 0.0,
        ]
        result, call = self.result, self.call
        if result is None or call is None or not self.after_result:
            return [*asked, *([0.0] * 12)]
        fresh = [shape_of(one) for one in result.ids - self.used]
        mine = {shape_of(one) for one in call.used}
        wanted = self.user.content if self.user is not None else frozenset[str]()
        return [
            *asked,
            result.error,
            result.empty,
            result.structured,
            result.listed,
            log1p(result.chars),
            log1p(result.entries),
            log1p(len(result.ids)),
            log1p(len(fresh)),
            log1p(sum(shape in self.shapes for shape in fresh)),
            log1p(max((fresh.count(shape) for shape in set(fresh)), default=0)),
            log1p(sum(shape_of(one) in mine for one in waiting)),
            len(wanted & result.content) / (len(wanted) + 3),
        ]

    def _dialogue(self) -> list[float]:
        user, said = self.user, self.said_before
        if user is None:
            return [0.0] * 34
        agreed = said is not None and said.confirms and user.agrees and not user.objects
        mine = (said.ids if said is not None else frozenset[str]()) | user.ids
        return [
            log1p(len(user.ids - self.used)),
            log1p(len(user.ids & self.used)),
            log1p(len(user.ids & self.shown)),
            log1p(len(user.ids - self.shown - self.used)),
            log1p(len(user.ids)),
            log1p(user.words),
            user.words < 12,
            user.asks,
            user.agrees,
            user.objects,
            user.thanks,
            user.wonders,
            user.email,
            user.digits,
            user.unsure,
            user.whole,
            user.looks,
            user.acts,
            user.wants,
            user.protests,
            user.chooses,
            said is None,
            *(self._said(said)),
            agreed,
            said is not None and said.confirms and user.objects,
            said is not None and said.wants_info and bool(user.ids or user.email or user.digits),
            float(len(mine - self.used)) if agreed else 0.0,
        ]

    @staticmethod
    def _said(said: Glimpse | None) -> list[float]:
        if said is None:
            return [0.0] * 8
        return [
            said.asks,
            said.confirms,
            said.wants_info,
            said.waiting,
            said.done,
            log1p(said.words),
            log1p(said.bullets),
            log1p(len(said.ids)),
        ]


_NAMES = """
after_result run run_is_one run_writes run_reads run_errors run_thinks results turns first_turn steps writes
reads texts no_tool_yet eagerness mean_run longest_run over_run same_tool steered
called_read called_find called_write called_think called_steer called_leave called_other called_and_said
ids_asked_for ids_asked_for_alike ids_waiting_alike
result_error result_empty result_structured result_list result_chars result_entries result_ids
result_fresh_ids result_fresh_alike result_group ids_waiting_same result_overlap
user_open_ids user_used_ids user_shown_ids user_new_ids user_ids user_words user_short user_asks
user_agrees user_objects user_thanks user_wonders user_email user_digits user_unsure user_whole
user_looks user_acts user_wants user_protests user_chooses nothing_said
said_asks said_confirms said_wants_info said_waiting said_done said_words said_bullets said_ids
agreed refused told agreed_open_ids
"""
FEATURES: Final = tuple(_NAMES.split())
"""The names of the numbers `Progress.features` returns."""
