"""What steps have cost, as one worker knows it: what it read from the store plus what it has learned since.

Writing a sketch at every step would make one hot row of a whole policy. So a worker learns in its own memory and
trades with the store now and then: it gives what it learned since the last time and takes what all have learned. What a
killed worker had not given yet is lost, which costs an estimate a few values of two hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from waywiser.core.quantiles import History

TRADE_EVERY_S = 2.0
POLICIES_KEPT = 64
HISTORIES_KEPT = 2048

Histories: TypeAlias = dict[tuple[str, str], History]


@dataclass(slots=True)
class _Learned:
    """One policy: what was learned and not given yet, and that on top of what the store last told."""

    new: Histories = field(default_factory=dict)
    both: Histories = field(default_factory=dict)
    read_s: float = float("-inf")


class Costs:
    """Histories by policy, then by (kind, model). Bounded. Not safe for threads: the store's lock guards it.

    Where nobody else learns (`shared` is false) nothing is set aside for giving.
    """

    def __init__(self, shared: bool = True) -> None:
        self._shared = shared
        self._policies: dict[str, _Learned] = {}
        self._given_s = float("-inf")

    def known(self, policy: str) -> Mapping[tuple[str, str], History]:
        """Return what is known about a policy now; the mapping does not change afterwards."""
        learned = self._policies.get(policy)
        return {} if learned is None else dict(learned.both)

    def learn(self, policy: str, kind: str, model: str, nanos: int, output_tokens: int) -> None:
        """Take in one step."""
        learned = self._of(policy)
        key = (kind, model)
        if key not in learned.both and len(learned.both) >= HISTORIES_KEPT:
            return
        if self._shared:
            learned.new[key] = learned.new.get(key, History()).added(nanos, output_tokens)
        learned.both[key] = learned.both.get(key, History()).added(nanos, output_tokens)

    def due(self, policy: str, now_s: float) -> bool:
        """Whether it is time to read a policy from the store again (also when the clock went back)."""
        learned = self._policies.get(policy)
        return learned is None or not 0 <= now_s - learned.read_s < TRADE_EVERY_S

    def read(self, policy: str, told: Histories, now_s: float) -> None:
        """Take what the store told about a policy; what was learned here and not given yet comes on top."""
        learned = self._of(policy)
        learned.both = {**told}
        for key, history in learned.new.items():
            learned.both[key] = learned.both.get(key, History()).merged(history)
        learned.read_s = now_s

    def stale(self, policy: str) -> None:
        """Note that what the store told about a policy is no longer what it would tell."""
        self._of(policy).read_s = float("-inf")

    def take(self, now_s: float) -> dict[str, Histories]:
        """Return what was learned since the last time, for giving it to the store, if it is time to; else nothing."""
        if 0 <= now_s - self._given_s < TRADE_EVERY_S:
            return {}
        self._given_s = now_s
        news = {policy: learned.new for policy, learned in self._policies.items() if learned.new}
        for policy in news:
            self._policies[policy].new = {}
        return news

    def put_back(self, news: Mapping[str, Histories]) -> None:
        """Keep what could not be given for the next time."""
        for policy, histories in news.items():
            new = self._of(policy).new
            for key, history in histories.items():
                new[key] = history.merged(new.get(key, History()))
        self._given_s = float("-inf")

    def _of(self, policy: str) -> _Learned:
        learned = self._policies.pop(policy, None) or _Learned()
        self._policies[policy] = learned  # the newest last, so that the first is the one to drop
        if len(self._policies) > POLICIES_KEPT:
            del self._policies[next(iter(self._policies))]
        return learned
