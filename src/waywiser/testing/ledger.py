"""Pieces for tests of session stores: scopes, claims, settlements, records and receipts, few fields left empty."""

from __future__ import annotations

from waywiser.core.budget import Amounts, Claim, Keep, Limits, Scope
from waywiser.core.calls import Usage
from waywiser.core.receipt import Attempt, Considered, Receipt, Term
from waywiser.core.session import Settlement
from waywiser.core.trail import Action, LoopState, StepRecord, WarmPrefix

NOW_S = 1_800_000_000.0
CALL = Amounts(nanos=1000, tokens=100, llm_calls=1)
NO_LIMITS = Limits()


def session_scope(limits: Limits = NO_LIMITS, session: str = "s1") -> Scope:
    """Return the scope of a session."""
    return Scope(f"session/{session}", "session", limits)


def claim(
    hold: str,
    *path: Scope,
    wanted: Amounts = CALL,
    least: Amounts | None = None,
    kind: str = "tool_call",
    keep: tuple[Keep, ...] = (),
    at_s: float = 0.0,
    lease_s: float = 60.0,
    session: str = "s1",
) -> Claim:
    """Return a claim; `strict` unless `least` says otherwise. Times count from `NOW_S`."""
    now_s = NOW_S + at_s
    return Claim(hold, path, kind, wanted, least or wanted, now_s, now_s + lease_s, keep, session)


def settlement(
    hold: str,
    *path: Scope,
    used: Amounts = CALL,
    kind: str = "tool_call",
    at_s: float = 1.0,
    session: str = "s1",
    step: StepRecord | None = None,
    warm: WarmPrefix | None = None,
    loop: LoopState | None = None,
    receipt: Receipt | None = None,
) -> Settlement:
    """Return a settlement of the tenant `acme` on the model `m/small` under the policy `p`."""
    return Settlement(
        hold,
        path,
        kind,
        used,
        NOW_S + at_s,
        session,
        tenant="acme",
        tier="economy",
        model="m/small",
        policy="p",
        receipt=receipt,
        step=step,
        warm=warm,
        loop=loop,
    )


def step_record(number: int, *, tool: str = "look_up", output_tokens: int = 7) -> StepRecord:
    """Return a record with something in most of its fields, digests of every byte value among them."""
    return StepRecord(
        number,
        NOW_S + number,
        "tool_call",
        "economy",
        "m/small",
        node="agent",
        agent="researcher",
        human=bytes(range(248, 256)),
        results=(Action(tool, b"\x00\x01\x80\xff1234", b"abcdefgh", is_error=number % 2 == 1),),
        text=b"\xfe" * 8,
        text_simhash=2**63 + number,
        calls=(b"12345678", b"\xff" * 8),
        output_tokens=output_tokens,
        cost_nanos=900,
    )


def a_receipt(receipt_id: str, *, session: str = "s1", refused: str = "", at_s: float = 1.0) -> Receipt:
    """Return a receipt with something in most of its fields."""
    usage = Usage(100, 10, cached_tokens=50)
    return Receipt(
        receipt_id,
        session,
        "acme",
        "researcher",
        "agent",
        3,
        NOW_S + at_s,
        "p",
        "tool_call",
        "shape",
        0.75,
        "economy",
        "m/small",
        considered=(Considered("m/small", "economy", 0.5, (Term("cost", 0.25, -0.125),), 800),),
        attempts=(Attempt("m/small", "economy", NOW_S, 0.5, usage, 900, notes=("tools_as_schema",)),),
        usage=usage,
        cost_nanos=900,
        left_nanos=100,
        refused=refused,
        reasons=("the cheapest tier is enough", "naïve Grüße 漢字"),
    )
