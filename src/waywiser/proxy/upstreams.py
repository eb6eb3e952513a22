"""The upstreams as the proxy uses them: with the keys a client brought along, and nothing a provider can't take.

What is known only while a request is answered (its provider keys, which model it is with) travels in a context
variable, which every task has for itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from waywiser.core.calls import Call, Chunk, Failure, FailureKind, Outcome
from waywiser.core.models import Model
from waywiser.ports import Upstream

_HINTS = frozenset({
    "reasoning_effort", "reasoning", "verbosity", "prediction", "service_tier", "prompt_cache_retention", "thinking",
    "context_management", "output_config", "inference_geo",
})  # fmt: skip
"""Parameters that say how to go about an answer, not what it is to be: providers that do not know them do without."""

_KNOWN: Mapping[str, frozenset[str]] = {
    "openai": frozenset({
        "frequency_penalty", "presence_penalty", "logit_bias", "reasoning_effort", "reasoning", "verbosity",
        "prediction", "service_tier", "prompt_cache_retention", "top_k", "min_p", "repetition_penalty",
    }),
    "anthropic": frozenset({
        "top_k", "thinking", "service_tier", "context_management", "output_config", "inference_geo",
    }),
}  # fmt: skip


@dataclass(slots=True)
class Errand:
    """What belongs to one request: keys by provider, as the client brought them; which models were asked so far."""

    keys: Mapping[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)


_errand: ContextVar[Errand | None] = ContextVar("waywiser_errand", default=None)


def on_errand(errand: Errand) -> None:
    """Make `errand` the one of the running task. Every request does, so none ever sees another's."""
    _errand.set(errand)


def with_own_keys(keys: Callable[[Model], str]) -> Callable[[Model], str]:
    """Look keys up among those the client brought, then where they would be otherwise."""

    def find(model: Model) -> str:
        errand = _errand.get()
        return (errand.keys.get(model.provider, "") if errand is not None else "") or keys(model)

    return find


class Attended:
    """An upstream that notes which model a request is with, and sends it no parameter of another dialect."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def send(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Answer a call whole."""
        fit = _fitted(model, call)
        return fit if isinstance(fit, Failure) else self._upstream.send(model, fit, timeout_s)

    async def asend(self, model: Model, call: Call, timeout_s: float) -> Outcome:
        """Like `send`, for an event loop."""
        fit = _fitted(model, call)
        return fit if isinstance(fit, Failure) else await self._upstream.asend(model, fit, timeout_s)

    def stream(self, model: Model, call: Call, timeout_s: float) -> Generator[Chunk | Failure, None, None]:
        """Answer a call in pieces."""
        fit = _fitted(model, call)
        if isinstance(fit, Failure):
            yield fit
        else:
            yield from self._upstream.stream(model, fit, timeout_s)

    async def astream(self, model: Model, call: Call, timeout_s: float) -> AsyncGenerator[Chunk | Failure, None]:
        """Like `stream`, for an event loop."""
        fit = _fitted(model, call)
        if isinstance(fit, Failure):
            yield fit
            return
        async with aclosing(self._upstream.astream(model, fit, timeout_s)) as items:
            async for item in items:
                yield item

    def close(self) -> None:
        """Close connections of the blocking side."""
        self._upstream.close()

    async def aclose(self) -> None:
        """Close connections of the async side."""
        await self._upstream.aclose()


def _fitted(model: Model, call: Call) -> Call | Failure:
    """Note the model; leave out hints it does not know; refuse, by name, what would change the answer."""
    errand = _errand.get()
    if errand is not None:
        errand.models.append(model.name)
    extra, known = call.settings.extra, _KNOWN.get(model.api)
    if not extra or known is None or all(name in known for name in extra):
        return call
    for name in extra:
        if name not in known and name not in _HINTS:
            return Failure(
                FailureKind.INVALID_REQUEST, f"{name}: {model.name} does not take this parameter", sent=False
            )
    left = {name: value for name, value in extra.items() if name in known}
    return replace(call, settings=replace(call.settings, extra=left))
