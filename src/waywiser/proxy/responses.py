"""The dialect of `/v1/responses`: answers and their events. Requests are read in `responses_inbound.py`.

Reasoning is counted and not shown: it would be of use only to the model that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waywiser.core.calls import JSON, Chunk, Finish, Reply, ToolCallDelta, Usage
from waywiser.proxy.chat import error_of, kept
from waywiser.proxy.dialect import Asked
from waywiser.proxy.responses_inbound import read_call
from waywiser.proxy.troubles import Trouble
from waywiser.upstream.wire import Raw, dump, mend

Object = dict[str, JSON]

_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "temperature", "text",
    "tool_choice", "tools", "top_p", "user", "prompt_cache_key", "service_tier",
)  # fmt: skip
_DEFAULTS: Mapping[str, JSON] = {
    "metadata": {},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
}


class ResponsesDialect:
    """OpenAI's responses."""

    name = "responses"

    def read(self, data: Mapping[str, Raw], call_id: str) -> Asked:
        """Read a request. Raises `BadInput` naming the place."""
        session, labels = kept(data)
        echo: Object = {name: data[name] if data.get(name) is not None else _DEFAULTS.get(name) for name in _ECHOED}
        return Asked(read_call(data, call_id), session, labels, told=True, echo=echo)

    def whole(self, replies: Sequence[Reply], asked: Asked, *, model: str, now_s: float) -> bytes:
        """Write a response."""
        reply = replies[0]
        output: list[JSON] = []
        if reply.text:
            output.append(_message(f"msg_{asked.call.id}", mend(reply.text)))
        output += [
            _function_call(f"fc_{asked.call.id}_{index}", call.id, call.name, call.arguments)
            for index, call in enumerate(reply.tool_calls)
        ]
        return dump(_response(asked, model, int(now_s)) | _ended(reply.finish, output, reply.usage))

    def events(self, asked: Asked, *, model: str, now_s: float) -> ResponsesEvents:
        """Begin to write a stream."""
        return ResponsesEvents(asked, model, int(now_s))

    def trouble(self, trouble: Trouble) -> bytes:
        """Write OpenAI's error object."""
        return dump({"error": error_of(trouble)})

    def broken(self, trouble: Trouble) -> bytes:
        """Write an error event; no event says that the response is complete."""
        error = error_of(trouble)
        return _event(error | {"type": "error", "error": error})


class ResponsesEvents:
    """Writes the events of one stream, which open and close each item."""

    def __init__(self, asked: Asked, model: str, created: int) -> None:
        self._base = _response(asked, model, created)
        self._id = asked.call.id
        self._number = 0
        self._output: list[JSON] = []
        self._item: Object = {}
        self._said: list[str] = []
        self._tool = -1
        self._finish = Finish.STOP

    def start(self) -> bytes:
        """Write the events that come before any chunk."""
        begun: Object = self._base | {"status": "in_progress", "output": [], "usage": None}
        return self._event("response.created", {"response": begun}) + self._event(
            "response.in_progress", {"response": begun}
        )

    def chunk(self, chunk: Chunk, sample: int = 0) -> bytes:  # noqa: ARG002 - this dialect has one answer
        """Write a piece of the answer."""
        out = b""
        if chunk.text:
            if self._item.get("type") != "message":
                out += self._close() + self._open_message()
            text = mend(chunk.text)
            self._said.append(text)
            said: Object = {"content_index": 0, "delta": text, "logprobs": []}
            out += self._event("response.output_text.delta", self._place() | said)
        for piece in chunk.tool_calls:
            out += self._piece(piece)
        if chunk.finish is not None:
            self._finish = chunk.finish
            out += self._close()
        return out

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Write the whole response, as the last event."""
        whole = self._base | _ended(self._finish, self._output, replies[0].usage)
        return self._event(f"response.{whole['status']}", {"response": whole})

    def _piece(self, piece: ToolCallDelta) -> bytes:
        out = b""
        if self._item.get("type") != "function_call" or piece.index != self._tool:
            out += self._close()
            self._tool = piece.index
            item = _function_call(f"fc_{self._id}_{piece.index}", piece.id, piece.name, "")
            self._item = item | {"status": "in_progress"}
            out += self._event("response.output_item.added", {"output_index": len(self._output), "item": self._item})
        if piece.arguments:
            self._said.append(mend(piece.arguments))
            out += self._event("response.function_call_arguments.delta", self._place() | {"delta": self._said[-1]})
        return out

    def _open_message(self) -> bytes:
        item = _message(f"msg_{self._id}_{len(self._output)}", "")
        self._item = item | {"status": "in_progress", "content": []}
        part: Object = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return self._event(
            "response.output_item.added", {"output_index": len(self._output), "item": self._item}
        ) + self._event("response.content_part.added", self._place() | {"content_index": 0, "part": part})

    def _close(self) -> bytes:
        """Close the item that is open, if one is."""
        item, text = self._item, "".join(self._said)
        if not item:
            return b""
        place = self._place()
        if item["type"] == "message":
            whole = _message(str(item["id"]), text)
            part: Object = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            out = self._event("response.output_text.done", place | {"content_index": 0, "text": text, "logprobs": []})
            out += self._event("response.content_part.done", place | {"content_index": 0, "part": part})
        else:
            whole = item | {"arguments": text, "status": "completed"}
            out = self._event(
                "response.function_call_arguments.done", place | {"arguments": text, "name": item["name"]}
            )
        out += self._event("response.output_item.done", {"output_index": len(self._output), "item": whole})
        self._output.append(whole)
        self._item, self._said = {}, []
        return out

    def _place(self) -> Object:
        return {"item_id": self._item["id"], "output_index": len(self._output)}

    def _event(self, kind: str, fields: Object) -> bytes:
        head: Object = {"type": kind, "sequence_number": self._number}
        event = _event(head | fields)
        self._number += 1
        return event


def _event(event: Mapping[str, JSON]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), dump(dict(event)))


def _response(asked: Asked, model: str, created: int) -> Object:
    out: Object = {"id": f"resp_{asked.call.id}", "object": "response", "created_at": created, "model": model}
    fixed: Object = {
        "error": None,
        "incomplete_details": None,
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
    }
    return out | fixed | dict(asked.echo)


def _ended(finish: Finish, output: list[JSON], usage: Usage) -> Object:
    reason = {Finish.LENGTH: "max_output_tokens", Finish.CONTENT_FILTER: "content_filter"}.get(finish)
    out: Object = {"status": "incomplete" if reason else "completed", "output": output, "usage": _usage(usage)}
    return out | ({"incomplete_details": {"reason": reason}} if reason else {})


def _message(item_id: str, text: str) -> Object:
    part: Object = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": item_id, "status": "completed", "role": "assistant", "content": [part]}


def _function_call(item_id: str, call_id: str, name: str, arguments: str) -> Object:
    out: Object = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name, "arguments": arguments}
    return out | {"status": "completed"}


def _usage(usage: Usage) -> Object:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
