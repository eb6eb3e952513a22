"""A new policy against the one in force, session by session: what it costs more or less, and whom it stops."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from waywiser.replay.result import SessionResult
from waywiser.replay.totals import NANOS, drawn, ratio

NAMED = 20


@dataclass(slots=True)
class Comparison:
    """Paired costs of two policies. `max_increase` is by how much (a share) the new one may cost more."""

    max_increase: float = 0.0
    new: array[float] = field(default_factory=lambda: array("d"))
    old: array[float] = field(default_factory=lambda: array("d"))
    newly_stopped: int = 0
    newly_stopped_successes: int = 0
    named: list[str] = field(default_factory=list)
    no_longer_stopped: int = 0
    dearest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, new: SessionResult, old: SessionResult) -> None:
        """Take one session in."""
        self.new.append(new.cost_nanos / NANOS)
        self.old.append(old.cost_nanos / NANOS)
        self.no_longer_stopped += new.stopped is None and old.stopped is not None
        if new.stopped is not None and old.stopped is None:
            self.newly_stopped += 1
            if new.success:
                self.newly_stopped_successes += 1
                if len(self.named) < NAMED:
                    self.named.append(new.id)
        self.dearest.append(((new.cost_nanos - old.cost_nanos) / NANOS, new.id))
        if len(self.dearest) > 4 * NAMED:
            self.dearest = sorted(self.dearest, reverse=True)[:NAMED]

    @property
    def increase(self) -> float:
        """By what share the new policy costs more than the old one (negative: less)."""
        return (ratio(sum(self.new), sum(self.old)) or 1.0) - 1.0

    def against(self) -> list[str]:
        """Say what speaks against the new policy; nothing when it holds."""
        said = []
        if self.increase > self.max_increase:
            said.append(f"it costs {self.increase:+.1%}, {self.max_increase:.1%} at most was allowed")
        if self.newly_stopped_successes:
            said.append(f"it stops {self.newly_stopped_successes} successful sessions that the other lets go on")
        return said

    def as_json(self) -> dict[str, object]:
        """Write the comparison as `--json` prints it. Money in USD."""
        new, old = np.array(self.new), np.array(self.old)
        return {
            "cost_usd": float(new.sum()),
            "against_cost_usd": float(old.sum()),
            "increase": self.increase,
            "increase_95": self.increase_95(),
            "sessions_cheaper": int((new < old).sum()),
            "sessions_dearer": int((new > old).sum()),
            "sessions_equal": int((new == old).sum()),
            "newly_stopped": self.newly_stopped,
            "newly_stopped_successful": self.newly_stopped_successes,
            "newly_stopped_successful_ids": self.named,
            "no_longer_stopped": self.no_longer_stopped,
            "dearest": [
                {"id": name, "more_usd": more} for more, name in sorted(self.dearest, reverse=True)[:NAMED] if more > 0
            ],
            "holds": not self.against(),
            "why_not": self.against(),
        }

    def increase_95(self) -> list[float] | None:
        """Return the 95% bootstrap interval of the increase, sessions drawn in pairs."""
        if len(self.new) < 2 or not sum(self.old):
            return None
        sums = drawn(np.stack([np.array(self.new), np.array(self.old)]))
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = np.nanquantile(sums[0] / sums[1] - 1, (0.025, 0.975)).tolist()
        return [low, high]
