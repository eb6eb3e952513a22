"""Our own receipts, one a line, as `waywiser explain session:ID --json` prints them.

A receipt holds no prompt and no answer. So what a history would have shown is taken from it: the kind of the step (or
what the classifier said of it), the classification, the health of the models, where a loop was found, what each
attempt used. A history is made up that shows just that: a repeated call where a loop was found, a new one elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from waywiser.core.calls import Origin, Reply, Tool
from waywiser.core.messages import Message, Text, assistant, tool_result, user
from waywiser.core.messages import ToolCall as Asked
from waywiser.core.receipt import Receipt
from waywiser.core.steps import SURE, StepKind
from waywiser.errors import BadInput
from waywiser.replay.recording import Problem, Recorded, Session
from waywiser.replay.spool import Spool
from waywiser.stores.codec import UNREADABLE, decode_receipt

_TOOLS = (Tool("work"),)


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a receipt from the other formats."""
    return "kind_by" in record and "top_tier_nanos" in record and "considered" in record


def session_of(record: Mapping[str, Any], spool: Spool) -> str | None:  # noqa: ARG001 - every format is asked alike
    """Name the session a receipt belongs to. Raises `BadInput` for one that names none."""
    session = record.get("session")
    if not isinstance(session, str) or not session:
        raise BadInput("session: missing")
    tenant = record.get("tenant")
    return f"{tenant}\x1f{session}" if tenant else session  # tenants may use the same names


def read_session(
    records: Sequence[tuple[str, Mapping[str, Any]]], tools: tuple[Tool, ...], patience: int = 3
) -> Session | Problem:
    """Read the receipts of one session. `patience` is how often something must repeat to be a loop, by the policy."""
    receipts = []
    for place, record in records:
        try:
            receipts.append(decode_receipt(orjson.dumps(record)))
        except UNREADABLE as error:
            raise BadInput(f"{place}: not a receipt: {error}") from None
    receipts.sort(key=lambda receipt: (receipt.at_s, receipt.step))
    # A call that was cancelled or broke below the engine was no decision's fault: nothing can be replayed of it.
    told = [receipt for receipt in receipts if receipt.refused not in {"cancelled", "broken"}]
    if not told:
        return Problem(records[0][0], "no receipt of a finished call", dropped=True)
    offered = tools or _TOOLS
    history = _History(told, patience)
    calls = tuple(
        Recorded(
            history.messages,
            history.lengths[index],
            _reply(receipt),
            receipt.model,
            () if receipt.kind_by == "shape" and receipt.kind_confidence >= SURE else offered,
            origin=_origin(receipt),
            usage=next((attempt.usage for attempt in receipt.attempts if not attempt.failure), None),
            cost_nanos=receipt.cost_nanos,
            at_s=receipt.at_s,
            receipt=receipt,
        )
        for index, receipt in enumerate(told)
    )
    return Session(told[0].session, records[0][0], calls)


class _History:
    """Turns made up so that loop control sees what it saw: the newest results repeat wherever a loop was found."""

    def __init__(self, receipts: Sequence[Receipt], patience: int) -> None:
        repeated: set[int] = set()
        for index, receipt in enumerate(receipts):
            if receipt.loop or any(": every rung of the ladder is used" in reason for reason in receipt.reasons):
                repeated.update(range(max(index - patience, 0), index))
        turns: list[Message] = [user("(the request is not recorded)")]
        self.lengths: list[int] = []
        for index in range(len(receipts)):
            self.lengths.append(len(turns))
            token = "again" if index in repeated else f"new {index}"
            turns.append(assistant("", [Asked(f"call-{index}", "work", orjson.dumps({"on": token}).decode())]))
            turns.append(tool_result(f"call-{index}", f"(result of {token})", name="work"))
        self.messages = tuple(turns)


def _origin(receipt: Receipt) -> Origin:
    """Declare the kind where it was declared or sure; where it was learned or revealed, let it be decided again."""
    sure = receipt.kind_by in {"declared", "graph"} or (receipt.kind_by == "shape" and receipt.kind_confidence >= SURE)
    return Origin(
        session=receipt.session,
        tenant=receipt.tenant,
        agent=receipt.agent,
        node=receipt.node,
        kind=receipt.kind if sure and not _concluded(receipt) else "",
        kind_by=receipt.kind_by if sure else "",
    )


def _concluded(receipt: Receipt) -> bool:
    """Tell whether the kind is that of the last answer the policy asked for: it would be declared again."""
    if receipt.kind != StepKind.SYNTHESIS or receipt.kind_by != "declared":
        return False
    return receipt.loop == "conclude" or any(reason.endswith("is reached") for reason in receipt.reasons)


def _reply(receipt: Receipt) -> Reply:
    if receipt.kind == StepKind.TOOL_CALL:
        return Reply((), (Asked(f"call-{receipt.step}", "work", "{}"),))
    return Reply((Text("(the answer is not recorded)"),))
