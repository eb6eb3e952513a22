"""Ways on from a node: a function of the state, with what is known of it for whoever draws or bounds the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from langgraph.types import Send

State = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Way:
    """A conditional edge. `exclusive`: it takes one target at a time; `copies` how many a `Send` may start of a target.

    `rounds` says for a target in how many runs of the source, counted from the first, it can be taken.
    """

    choose: Callable[[State], Sequence[str | Send]]
    exclusive: bool = True
    copies: Mapping[str, int] = field(default_factory=dict)
    rounds: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, state: State) -> Sequence[str | Send]:
        """Choose where to go on."""
        return self.choose(state)
