"""Fakes and conformance suites for tests of whatever is built on Waywiser.

`ScriptedUpstream` answers what it is told to, `FrozenClock` stands still until it is moved, `Recorder` keeps receipts;
`Rig` is an engine over all three, and `waywiser.testing.pieces` has models, policies and replies for it.
The suites for session stores are in `waywiser.testing.stores` and `waywiser.testing.ledger_machine`, the one for
upstreams is in `waywiser.testing.upstreams`; those need pytest and hypothesis, what is here needs neither.
"""

from waywiser.testing.fakes import FrozenClock, Recorder
from waywiser.testing.pieces import Rig
from waywiser.testing.upstream import ScriptedUpstream, chunks

__all__ = ["FrozenClock", "Recorder", "Rig", "ScriptedUpstream", "chunks"]
