"""The checks a reply must pass before a step may use it (`accept:` in a policy).

| check            | passes when                                                                    |
|------------------|--------------------------------------------------------------------------------|
| `not_empty`      | there is text or a tool call                                                   |
| `not_refusal`    | the provider did not filter it, and it does not open with a stock refusal      |
| `tool_arguments` | every tool call names an offered tool and its arguments satisfy its schema     |
| `json_schema`    | where structured output was asked for, the text is JSON of that schema         |
| `min_logprob=…`  | the mean log-probability of its tokens is no lower, or nobody told it          |
| `module:name`    | that function of the user's says nothing is wrong                              |

A schema is never fetched: one that refers to another document is taken to be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from waywiser.core.calls import Call, Finish, Reply
from waywiser.core.confidence import bound_of, unsure

_REFUSAL = re.compile(
    r"\s*(i'?m sorry,? but i (can'?t|cannot)|i (can'?t|cannot|won'?t|am unable to|'?m unable to) (help|assist|comply)"
    r"|sorry,? (but )?i (can'?t|cannot)|as an ai( language model)?,? i (can'?t|cannot))",
    re.IGNORECASE,
)
UserCheck = Callable[[Call, Reply], str]


class Acceptance:
    """Runs named checks. `own` adds a user's functions, which say what is wrong (empty: nothing).

    Raises `KeyError` for a name that is neither.
    """

    def __init__(self, own: Mapping[str, UserCheck] | None = None) -> None:
        self._checks: dict[str, UserCheck] = {**_CHECKS, **(own or {})}

    def __call__(self, call: Call, reply: Reply, checks: tuple[str, ...]) -> str:
        """Say what is wrong with the reply by the first check that it fails; empty when it passes all."""
        for name in checks:
            bound = bound_of(name)
            if wrong := self._checks[name](call, reply) if bound is None else unsure(reply, bound):
                return f"{name}: {wrong}"
        return ""


def _not_empty(_: Call, reply: Reply) -> str:
    return "" if reply.tool_calls or reply.text.strip() else "neither text nor a tool call"


def _not_refusal(_: Call, reply: Reply) -> str:
    if reply.finish is Finish.CONTENT_FILTER:
        return "the provider's content filter stopped it"
    return "the reply declines" if not reply.tool_calls and _REFUSAL.match(reply.text) else ""


def _tool_arguments(call: Call, reply: Reply) -> str:
    schemas = {tool.name: tool.parameters for tool in call.tools}
    for asked in reply.tool_calls:
        if asked.name not in schemas:
            return f"there is no tool {asked.name!r}"
        if wrong := invalid(schemas[asked.name], asked.arguments or "{}"):
            return f"{asked.name}: {wrong}"
    return ""


def _json_schema(call: Call, reply: Reply) -> str:
    if call.response_format is None or reply.tool_calls:
        return ""
    return invalid(call.response_format.schema or "{}", reply.text)


def invalid(schema: str, text: str) -> str:
    """Say where and why `text` is not JSON of `schema` (both JSON text), or why nobody can tell; empty when it is."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - see `_validator`
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - see `_validator`

    try:
        fault = next(iter(_validator(schema).iter_errors(value)), None)
    except (SchemaError, Unresolvable, RecursionError) as error:
        return f"the schema itself can't be used: {str(error).splitlines()[0][:200]}"
    return "" if fault is None else f"{fault.json_path}: {fault.message[:200]}"


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for  # noqa: PLC0415 - 60 ms that only a check pays
    from referencing import Registry  # noqa: PLC0415 - as above

    loaded = orjson.loads(schema)
    kind = validator_for(loaded)
    kind.check_schema(loaded)
    return kind(loaded, registry=Registry())


_CHECKS: Mapping[str, UserCheck] = {
    "not_empty": _not_empty,
    "not_refusal": _not_refusal,
    "tool_arguments": _tool_arguments,
    "json_schema": _json_schema,
}
