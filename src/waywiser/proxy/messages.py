"""The dialect of Anthropic's `/v1/messages`, stateless: what the provider would run or keep for a client is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waywiser.core.calls import JSON, Chunk, Reply
from waywiser.errors import BadInput
from waywiser.proxy.dialect import Asked
from waywiser.proxy.troubles import Trouble
from waywiser.upstream.anthropic_inbound import EventWriter, read_call, write_reply
from waywiser.upstream.openai_inbound import as_object
from waywiser.upstream.wire import Raw, dump

_READ = frozenset({
    "model", "messages", "system", "max_tokens", "tools", "tool_choice", "temperature", "top_p", "stop_sequences",
    "stream", "output_config",
})  # fmt: skip
_KEPT = frozenset({"metadata"})
PASSED = frozenset({"top_k", "thinking", "service_tier", "context_management", "inference_geo"})

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesDialect:
    """Anthropic's messages."""

    name = "messages"

    def read(self, data: Mapping[str, Raw], call_id: str) -> Asked:
        """Read a request. Raises `BadInput` naming the place."""
        for name, value in data.items():
            if value is not None and name not in _READ and name not in PASSED and name not in _KEPT:
                raise BadInput(f"{name[:100]}: this parameter is not supported")
        labels: dict[str, str] = {}
        metadata = as_object(data.get("metadata") or {}, "metadata")
        for name, value in metadata.items():
            if value is not None and not isinstance(value, str):
                raise BadInput(f"metadata.{name[:100]}: expected text")
            if value:
                labels["user" if name == "user_id" else name] = value
        session = labels.pop("session_id", "")
        rest = {name: value for name, value in data.items() if value is not None and name not in _KEPT}
        return Asked(read_call(rest, call_id), session, labels)

    def whole(self, replies: Sequence[Reply], asked: Asked, *, model: str, now_s: float) -> bytes:  # noqa: ARG002 - this dialect tells no time
        """Write a message."""
        return dump(write_reply(replies[0], reply_id=_id(asked), model=model))

    def events(self, asked: Asked, *, model: str, now_s: float) -> MessagesEvents:  # noqa: ARG002 - as above
        """Begin to write a stream."""
        return MessagesEvents(_id(asked), model)

    def trouble(self, trouble: Trouble) -> bytes:
        """Write Anthropic's error object."""
        return dump(_error(trouble))

    def broken(self, trouble: Trouble) -> bytes:
        """Write an error event; `message_stop` does not follow."""
        return _event(_error(trouble))


class MessagesEvents:
    """Writes the events of one stream."""

    def __init__(self, reply_id: str, model: str) -> None:
        self._writer = EventWriter(reply_id=reply_id, model=model)

    def start(self) -> bytes:
        """Write the event that opens the message."""
        return b"".join(map(_event, self._writer.start()))

    def chunk(self, chunk: Chunk, sample: int = 0) -> bytes:  # noqa: ARG002 - this dialect has one answer
        """Write a piece of the answer."""
        return b"".join(map(_event, self._writer.chunk(chunk)))

    def end(self, replies: Sequence[Reply]) -> bytes:  # noqa: ARG002 - the last chunk closed everything
        """Nothing follows the event that closes the message."""
        return b""


def _event(event: Mapping[str, JSON]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), dump(dict(event)))


def _error(trouble: Trouble) -> dict[str, JSON]:
    kind = _KINDS.get(trouble.status, "invalid_request_error" if trouble.status < 500 else "api_error")
    error: dict[str, JSON] = {"type": kind, "message": trouble.message, "code": trouble.code}
    if trouble.param:
        error["param"] = trouble.param
    if trouble.details:
        error["waywiser"] = dict(trouble.details)
    return {"type": "error", "error": error}


def _id(asked: Asked) -> str:
    return f"msg_{asked.call.id}"
