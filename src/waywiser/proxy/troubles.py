"""What a client is told when something goes wrong: one table from our errors to HTTP statuses.

Official SDKs raise by the status, so the status is what matters most; `x-should-retry`, which they obey, keeps them
from asking again for what cannot change. Our own details travel in `waywiser`, beside the fields of the dialect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from waywiser.core.calls import JSON, FailureKind
from waywiser.core.receipt import Receipt
from waywiser.errors import (
    BadInput,
    BudgetExceeded,
    LoopDetected,
    NoEligibleModel,
    StoreError,
    UpstreamError,
)

Headers = tuple[tuple[str, str], ...]

_PLACE = re.compile(r"([A-Za-z_][\w.\[\]-]*): ")
_NO_RETRY: Headers = (("x-should-retry", "false"),)

# kind of the last failure: status, OpenAI's type, whether asking again may help
_UPSTREAM: Mapping[FailureKind, tuple[int, str, bool]] = {
    FailureKind.RATE_LIMITED: (429, "rate_limit_error", True),
    FailureKind.OVERLOADED: (502, "server_error", True),
    FailureKind.TIMEOUT: (504, "timeout_error", False),
    FailureKind.INVALID_REQUEST: (400, "invalid_request_error", False),
    FailureKind.CONTEXT_TOO_LONG: (400, "invalid_request_error", False),
    FailureKind.REFUSED: (400, "invalid_request_error", False),
}
_CODES = {
    FailureKind.CONTEXT_TOO_LONG: "context_length_exceeded",
    FailureKind.REFUSED: "content_filter",
    FailureKind.RATE_LIMITED: "rate_limit_exceeded",
}


class Denied(Exception):  # noqa: N818 - "Error" would say nothing more
    """The proxy itself says no, before any engine is asked."""

    def __init__(self, status: int, code: str, message: str, *, param: str = "", headers: Headers = ()) -> None:
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong, in no dialect yet. `details` are ours: what is left, when it comes back."""

    status: int
    kind: str
    code: str
    message: str
    param: str = ""
    headers: Headers = ()
    details: Mapping[str, JSON] = field(default_factory=dict)
    receipt: Receipt | None = None


def trouble_of(error: Exception, *, budget_status: int, now_s: float) -> Trouble:
    """Say what an error means to a client. One that is none of ours is an internal error that says nothing more."""
    match error:
        case Denied():
            kind = _KINDS.get(error.status, "invalid_request_error")
            return Trouble(error.status, kind, error.code, str(error), error.param, error.headers)
        case BadInput():
            place = _PLACE.match(str(error))
            return Trouble(400, "invalid_request_error", "bad_input", str(error), place[1] if place else "")
        case BudgetExceeded():
            return _budget(error, budget_status, now_s)
        case LoopDetected():
            return Trouble(409, "conflict_error", error.code, str(error), "", _NO_RETRY, receipt=error.receipt)
        case NoEligibleModel():
            return Trouble(503, "server_error", error.code, str(error), "", _NO_RETRY, receipt=error.receipt)
        case UpstreamError():
            return _upstream(error)
        case StoreError():
            return Trouble(503, "server_error", error.code, "the session store cannot be reached")
    return Trouble(500, "server_error", "internal_error", "an internal error; the proxy's log says more")


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "server_error",
}


def _budget(error: BudgetExceeded, status: int, now_s: float) -> Trouble:
    receipt, short = error.receipt, error.short
    details: dict[str, JSON] = {}
    if receipt is not None and receipt.left_nanos is not None:
        details["left_usd"] = receipt.left_nanos / 1e9
    headers = _NO_RETRY
    if short is not None:
        money = short.what == "nanos"
        details |= {"scope": short.name, "lacks": "usd" if money else short.what}
        details |= {"limit": short.limit / 1e9 if money else short.limit, "left": short.left / (1e9 if money else 1)}
    if short is not None and short.name == "tenant":  # the only limit that comes back by itself, at midnight UTC
        midnight = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        back = midnight + timedelta(days=1)
        details["comes_back_at"] = back.isoformat()
        headers = (*headers, ("retry-after", str(max(int(back.timestamp() - now_s), 1))))
    return Trouble(status, "insufficient_quota", error.code, str(error), "", headers, details, receipt)


def _upstream(error: UpstreamError) -> Trouble:
    failure = error.failure
    status, kind, retry = _UPSTREAM.get(failure.kind, (502, "server_error", False))
    headers: Headers = () if retry else _NO_RETRY
    if failure.retry_after_s is not None and retry:
        headers = (*headers, ("retry-after", str(max(round(failure.retry_after_s), 1))))
    code = _CODES.get(failure.kind, failure.kind.value)
    return Trouble(status, kind, code, failure.message, "", headers, receipt=error.receipt)
