"""The dialect of `/v1/chat/completions`.

Every parameter is read, passed on to whoever answers, kept by us (session and labels), or refused by name: the tables
below say which. What we keep is not told to providers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import orjson

from waywiser.core.calls import JSON, Chunk, Reply, Usage
from waywiser.errors import BadInput
from waywiser.proxy.dialect import Asked
from waywiser.proxy.troubles import Trouble
from waywiser.upstream.openai_inbound import (
    as_flag,
    as_object,
    as_whole,
    read_call,
    write_chunk,
    write_reply,
    write_usage,
)
from waywiser.upstream.remembered import Remembered
from waywiser.upstream.wire import Raw, dump, mend

_KEPT = frozenset({"metadata", "user", "prompt_cache_key", "safety_identifier", "store", "n", "modalities"})
_READ = frozenset({
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p",
    "max_tokens", "max_completion_tokens", "stop", "seed", "logprobs", "top_logprobs", "stream", "stream_options",
    "functions", "function_call",  # the last two are refused with a hint of what replaced them
})  # fmt: skip
PASSED = frozenset({
    "frequency_penalty", "presence_penalty", "logit_bias", "reasoning_effort", "reasoning", "verbosity", "prediction",
    "service_tier", "prompt_cache_retention", "top_k", "min_p", "repetition_penalty", "thinking",
})  # fmt: skip
MOST_SAMPLES = 16


class ChatDialect:
    """OpenAI's chat completions."""

    name = "chat"

    def __init__(self) -> None:
        self._remembered = Remembered()

    def read(self, data: Mapping[str, Raw], call_id: str) -> Asked:
        """Read a request. Raises `BadInput` naming the place."""
        for name, value in data.items():
            if value is not None and name not in _READ and name not in PASSED and name not in _KEPT:
                raise BadInput(f"{name[:100]}: this parameter is not supported")
        if data.get("modalities") not in (None, ["text"]):
            raise BadInput("modalities: only text can be answered")
        session, labels = kept(data)
        samples = as_whole(data, "n") or 1
        if samples > MOST_SAMPLES:
            raise BadInput(f"n: at most {MOST_SAMPLES}")
        if as_whole(data, "top_logprobs", least=0):
            raise BadInput("top_logprobs: alternatives are not passed on, only 0 is possible")
        streaming = as_object(data.get("stream_options") or {}, "stream_options")
        if strange := next((name for name in streaming if name not in ("include_usage", "include_obfuscation")), ""):
            raise BadInput(f"stream_options.{strange[:100]}: this parameter is not supported")
        told = as_flag(streaming, "include_usage", "stream_options.") or False
        rest = {name: value for name, value in data.items() if value is not None and name not in _KEPT}
        call = read_call(rest, call_id, remembered=self._remembered)
        return Asked(call, session, labels, samples, told)

    def whole(self, replies: Sequence[Reply], asked: Asked, *, model: str, now_s: float) -> bytes:
        """Write a chat completion, with one choice a reply."""
        out = write_reply(replies[0], reply_id=_id(asked), model=model, created=int(now_s))
        if len(replies) > 1:
            choices: list[JSON] = []
            for index, reply in enumerate(replies):
                written = write_reply(reply, reply_id="", model=model, created=0)["choices"]
                if isinstance(written, list) and isinstance(written[0], dict):
                    choices.append(written[0] | {"index": index})
            out |= {"choices": choices, "usage": write_usage(_sum(replies))}
        return dump(out)

    def events(self, asked: Asked, *, model: str, now_s: float) -> ChatEvents:
        """Begin to write a stream."""
        return ChatEvents(_id(asked), model, int(now_s), asked.samples, told=asked.told)

    def trouble(self, trouble: Trouble) -> bytes:
        """Write OpenAI's error object."""
        return dump({"error": error_of(trouble)})

    def broken(self, trouble: Trouble) -> bytes:
        """Write an error event; `[DONE]` does not follow, so nobody takes the answer for a whole one."""
        return b"data: %b\n\n" % dump({"error": error_of(trouble)})


class ChatEvents:
    """Writes the events of one stream."""

    def __init__(self, reply_id: str, model: str, created: int, samples: int, *, told: bool) -> None:
        self._id, self._model, self._created = reply_id, model, created
        self._samples = samples
        self._told = told
        head = dump({"id": reply_id, "object": "chat.completion.chunk", "created": created, "model": model})
        # Most events are a run of text and nothing else: their frame is written once.
        self._frames = [
            b'data: %b,"choices":[{"index":%d,"delta":{"content":' % (head[:-1], sample) for sample in range(samples)
        ]

    def start(self) -> bytes:
        """Write the event that names the role, for each answer."""
        return b"".join(self._event(Chunk(), sample, first=True) for sample in range(self._samples))

    def chunk(self, chunk: Chunk, sample: int = 0) -> bytes:
        """Write a piece of an answer."""
        if (
            chunk.text
            and not chunk.tool_calls
            and chunk.thinking is None
            and chunk.finish is None
            and not chunk.logprobs
        ):
            return b'%b%b},"finish_reason":null}]}\n\n' % (self._frames[sample], orjson.dumps(mend(chunk.text)))
        return self._event(chunk, sample)

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Write the usage, if it was asked for, and the end."""
        if not self._told:
            return b"data: [DONE]\n\n"
        last: dict[str, JSON] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }
        told = dump(last | {"choices": [], "usage": write_usage(_sum(replies))})
        return b"data: %b\n\ndata: [DONE]\n\n" % told

    def _event(self, chunk: Chunk, sample: int, *, first: bool = False) -> bytes:
        out = []
        for event in write_chunk(
            chunk, reply_id=self._id, model=self._model, created=self._created, first=first, usage=False
        ):
            choices = event["choices"]
            if isinstance(choices, list) and isinstance(choices[0], dict):
                choices[0]["index"] = sample
                if chunk.logprobs:
                    choices[0]["logprobs"] = {"content": _logprobs(chunk)}
            out.append(b"data: %b\n\n" % dump(event))
        return b"".join(out)


def kept(data: Mapping[str, Raw]) -> tuple[str, Mapping[str, str]]:
    """Read what OpenAI's dialects say of session and labels: `metadata`, `prompt_cache_key`, `user`, `store`."""
    if data.get("store"):
        raise BadInput("store: answers are not stored here, only false is possible")
    labels: dict[str, str] = {}
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        value = data.get(name)
        if value is not None and not isinstance(value, str):
            raise BadInput(f"{name}: expected text")
        if value:
            labels[name] = value
    session = labels.pop("prompt_cache_key", "")
    metadata = data.get("metadata")
    if metadata is not None:
        for name, value in as_object(metadata, "metadata").items():
            if not isinstance(value, str):
                raise BadInput(f"metadata.{name[:100]}: expected text")
            labels[name] = value
        if len(labels) > 32:
            raise BadInput("metadata: more than 32 entries")
        session = labels.pop("session_id", "") or session
    return session, labels


def error_of(trouble: Trouble) -> dict[str, JSON]:
    """Write the error object that OpenAI's SDKs read."""
    error: dict[str, JSON] = {
        "message": trouble.message,
        "type": trouble.kind,
        "param": trouble.param or None,
        "code": trouble.code,
    }
    if trouble.details:
        error["waywiser"] = dict(trouble.details)
    return error


def _logprobs(chunk: Chunk) -> list[JSON]:
    # A piece with one log-probability is one token: its text. For others only the numbers are known.
    token = mend(chunk.text) if len(chunk.logprobs) == 1 else ""
    return [{"token": token, "logprob": value, "bytes": None, "top_logprobs": []} for value in chunk.logprobs]


def _id(asked: Asked) -> str:
    return f"chatcmpl-{asked.call.id}"


def _sum(replies: Sequence[Reply]) -> Usage:
    return reduce(add, (reply.usage for reply in replies), Usage())
