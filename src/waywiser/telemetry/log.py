"""A sink that writes one structlog event a step: the decision, its attempts and what was settled.

Readable lines in a terminal, JSON lines elsewhere. An event holds what a receipt holds: no prompt, no answer, no
secret. The logger is our own, so that an application's structlog configuration is neither needed nor changed.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog

from waywiser.core.receipt import Receipt


class LogSink:
    """Writes to `stream` (standard error by default)."""

    def __init__(self, stream: TextIO | None = None, *, json: bool | None = None) -> None:
        out = stream or sys.stderr
        as_json = not out.isatty() if json is None else json
        renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                renderer,
            ],
        )

    def emit(self, receipt: Receipt) -> None:
        """Write the event of one finished call."""
        log = self._log.warning if receipt.refused else self._log.info
        log("step", **event(receipt))


def event(receipt: Receipt) -> dict[str, Any]:
    """What the log says of a receipt. Money in USD, times in milliseconds."""
    return {
        "receipt": receipt.id,
        "session": receipt.session,
        **({"tenant": receipt.tenant} if receipt.tenant else {}),
        **({"node": receipt.node} if receipt.node else {}),
        "step": receipt.step,
        "kind": receipt.kind,
        "kind_by": receipt.kind_by,
        "tier": receipt.tier,
        "model": receipt.model,
        "input_tokens": receipt.usage.input_tokens,
        "cached_tokens": receipt.usage.cached_tokens,
        "output_tokens": receipt.usage.output_tokens,
        "cost_usd": receipt.cost_nanos / 1e9,
        "held_usd": receipt.held_nanos / 1e9,
        **({} if receipt.left_nanos is None else {"left_usd": receipt.left_nanos / 1e9}),
        "decision_ms": round(receipt.decision_ms, 3),
        "took_ms": round(receipt.took_s * 1000, 1),
        "attempts": [
            {"model": attempt.model, "failure": attempt.failure, "detail": attempt.detail}
            for attempt in receipt.attempts
            if attempt.failure
        ],
        **({"refused": receipt.refused} if receipt.refused else {}),
        **({"loop": receipt.loop} if receipt.loop else {}),
        **({"simulated": True} if receipt.simulated else {}),
        "why": "; ".join(receipt.reasons),
    }
