"""What a settlement does to a trail and teaches about costs; and the trails this process has read lately."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from waywiser.core.session import Settlement
from waywiser.core.trail import Trail

TRAILS_KEPT = 512


def grown(trail: Trail, settlement: Settlement) -> Trail:
    """Return the trail after a settlement: one step more, or only a new warm prefix or state of loop control."""
    if settlement.step is not None:
        return trail.appended(settlement.step, settlement.warm, settlement.loop)
    warm = trail.warm
    if settlement.warm is not None:
        model = settlement.warm.model
        warm = (*(entry for entry in warm if entry.model != model), settlement.warm)
    return replace(trail, warm=warm, loop=trail.loop if settlement.loop is None else settlement.loop)


def changes_trail(settlement: Settlement) -> bool:
    """Whether a settlement changes the session's trail at all."""
    return settlement.step is not None or settlement.warm is not None or settlement.loop is not None


def lesson(settlement: Settlement) -> tuple[int, int] | None:
    """Return what a settlement teaches about costs: nano-dollars and tokens of output.

    None for one that made no step: what failed attempts cost says nothing about the next good one.
    """
    if settlement.step is None or not settlement.policy or not settlement.model:
        return None
    return settlement.used.nanos, settlement.step.output_tokens


@dataclass(frozen=True, slots=True)
class Seen:
    """A trail as it was at one version. `birth` tells a session from a later one of the same name."""

    birth: int
    version: int
    trail: Trail


class Trails:
    """The newest `TRAILS_KEPT` trails this process has seen, so that a long one is not decoded anew at every step.

    Not safe for threads: the store's lock guards it.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def get(self, session: str) -> Seen | None:
        """Return what was last seen of a session."""
        seen = self._seen.get(session)
        if seen is not None:
            self._seen.move_to_end(session)
        return seen

    def put(self, session: str, seen: Seen) -> None:
        """Remember a session's trail and drop the one not asked for longest."""
        self._seen[session] = seen
        self._seen.move_to_end(session)
        if len(self._seen) > TRAILS_KEPT:
            self._seen.popitem(last=False)

    def drop(self, session: str) -> None:
        """Forget a session that the store has forgotten."""
        self._seen.pop(session, None)
