"""Which session a request belongs to, and what else its headers say of its place in an agent.

In this order: the header `x-waywiser-session`; `metadata.session_id`; `prompt_cache_key`; else a fingerprint of what a
conversation begins with, its system prompt and the first thing a person says: a history that grows keeps it, and marks
for prompt caches do not change it. Sessions belong to their tenant: the name under which one is kept ends in `@tenant`,
so that no choice of names makes two tenants share one. A fingerprint belongs to its key, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from waywiser.core.calls import Origin
from waywiser.core.claims import session_key
from waywiser.core.messages import Message, Role, Text, digest
from waywiser.core.steps import KINDS
from waywiser.errors import BadInput
from waywiser.proxy.http import Request
from waywiser.proxy.keys import Caller
from waywiser.proxy.troubles import Denied

LONGEST = 256
MOST_LABELS = 32
FINGERPRINTED = "fp-"


def origin_of(
    request: Request, caller: Caller, messages: tuple[Message, ...], named: str, labels: Mapping[str, str]
) -> Origin:
    """Read where a call comes from. `named` is the session its body names; `labels` are those of its body.

    Raises `BadInput` for a header that says nothing sensible, `Denied` for somebody else's tenant.
    """
    tenant = _tenant(request, caller)
    session = _short(request, b"x-waywiser-session") or _checked(named, "session")
    kind = request.header(b"x-waywiser-kind")
    if kind and kind not in KINDS:
        raise BadInput(f"x-waywiser-kind: {kind!r} is none of {', '.join(sorted(KINDS))}")
    agent = _short(request, b"x-waywiser-agent")
    return Origin(
        session=session_key(session or fingerprint(caller, messages), tenant),
        tenant=tenant,
        agent=agent,
        node=_short(request, b"x-waywiser-node"),
        labels=_labels(request, labels),
        kind=kind,
        kind_by="a header" if kind else "",
    )


def fingerprint(caller: Caller, messages: tuple[Message, ...]) -> str:
    """Name a session by how its conversation begins."""
    fields = [caller.tenant, caller.key]
    for message in messages:
        fields += (message.role.value, message.text)
        fields += [repr(part) for part in message.parts if not isinstance(part, Text)]
        if message.role is Role.USER:
            break
    return FINGERPRINTED + digest(fields).hex()


def _tenant(request: Request, caller: Caller) -> str:
    said = _short(request, b"x-waywiser-tenant")
    if "@" in said or "/" in said:
        raise BadInput("x-waywiser-tenant: no `@` and no `/`, please")
    if caller.key and said not in ("", caller.tenant):
        raise Denied(403, "wrong_tenant", "x-waywiser-tenant: this key belongs to another tenant")
    return caller.tenant if caller.key else said


def _short(request: Request, name: bytes) -> str:
    """Read a header that holds a name. Percent-encoding carries what a header cannot."""
    value = request.header(name)
    return _checked(unquote(value), name.decode()) if value else ""


def _checked(value: str, place: str) -> str:
    if len(value) > LONGEST:
        raise BadInput(f"{place}: longer than {LONGEST} characters")
    return value


def _labels(request: Request, given: Mapping[str, str]) -> Mapping[str, str]:
    """Collect labels: `x-waywiser-labels: residency=eu, team=shop`, over those of the body."""
    said = request.header(b"x-waywiser-labels")
    if not said:
        return given
    labels = dict(given)
    for pair in said.split(","):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadInput("x-waywiser-labels: expected `name=value, name=value`")
        labels[name.strip()] = unquote(value.strip())
    if len(labels) > MOST_LABELS:
        raise BadInput(f"x-waywiser-labels: more than {MOST_LABELS}")
    return labels
