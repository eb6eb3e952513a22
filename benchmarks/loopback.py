"""An instant upstream on loopback, for benchmarks and fault tests.

    python benchmarks/loopback.py --port 0        prints its port on one line, serves until its standard input closes

It speaks chat completions (`…/chat/completions`) and Messages (`…/messages`), blocking and streamed, with the least
work a server can do: raw bytes over `asyncio.Protocol`, nothing parsed but what picks the answer. What it does is
picked by the model's name:

    tools:N          asks for the first offered tool until N tool results are in the history, then answers
    words:N          answers with N words, one a chunk when streamed
    slow:MS          answers after MS milliseconds
    nousage          a stream that does not say what it used
    fault:NAME       misbehaves; FAULTS below lists the names
    anything else    answers "ok" (streamed: eight chunks)

`GET /stats` tells what it saw: requests by model, connections opened, responses whose reader went away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import struct
import sys
from collections import Counter
from typing import ClassVar

MODEL = re.compile(rb'"model":\s*"([^"]*)"')
STREAMED = re.compile(rb'"stream":\s*true')
TOOL_RESULT = re.compile(rb'"role":\s*"tool"|"type":\s*"tool_result"')
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
FIRST_TOOL = re.compile(rb'"name":\s*"([^"]+)"')
TOOLS = re.compile(rb'"tools":\s*\[')
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    418: "I'm a Teapot",
    429: "Too Many Requests",
    500: "Internal Server Error",
    529: "Overloaded",
}
FAULTS = (
    "500", "529", "429", "429-after-1", "401", "context", "filter", "filter-400",
    "timeout-headers", "timeout-first-token", "stall-midstream", "cut", "reset", "drip",
    "drip-slow", "odd", "malformed-json", "malformed-sse", "empty", "content-type", "bad-tool-args", "error-midstream",
)  # fmt: skip
WORDS = ["The", " wheel", " measures", " the", " road", " as", " you", " go"]
SEEN: Counter[str] = Counter()


def head(status: int, kind: str, length: int | None, extra: str = "") -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: {kind}\r\n{size}\r\n{extra}\r\n".encode()


def whole(body: bytes, status: int = 200, kind: str = "application/json", extra: str = "") -> bytes:
    return head(status, kind, len(body), extra) + body


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: object, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return piece((f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode())


END = b"0\r\n\r\n"


class OpenAI:
    """The bytes of the chat completions dialect."""

    usage: ClassVar = {
        "prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28, "prompt_tokens_details": {"cached_tokens": 4},
    }  # fmt: skip

    def reply(self, model: str, text: str | None, calls: list[tuple[str, str, str]], finish: str) -> bytes:
        message: dict[str, object] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": finish}
        out = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": self.usage,
        }
        return json.dumps(out, separators=(",", ":")).encode()

    def chunk(self, model: str, delta: dict[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event(
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
        )

    def stream(self, model: str, words: list[str], calls: list[tuple[str, str, str]], finish: str) -> list[bytes]:
        out = [self.chunk(model, {"role": "assistant", "content": ""})]
        out += [self.chunk(model, {"content": word}) for word in words]
        for index, (call_id, name, arguments) in enumerate(calls):
            first = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            out.append(self.chunk(model, {"tool_calls": [first]}))
            for part in (arguments[:5], arguments[5:]):
                out.append(self.chunk(model, {"tool_calls": [{"index": index, "function": {"arguments": part}}]}))
        out.append(self.chunk(model, {}, finish))
        if model != "nousage":
            out.append(
                event(
                    {
                        "id": "chatcmpl-1",
                        "object": "chat.completion.chunk",
                        "created": 1,
                        "model": model,
                        "choices": [],
                        "usage": self.usage,
                    }
                )
            )
        return [*out, event("[DONE]")]

    def error(self, message: str, kind: str, code: str | None) -> bytes:
        return json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}}).encode()


class Anthropic:
    """The bytes of the Messages dialect."""

    @staticmethod
    def parsed(arguments: str) -> object:
        try:
            return json.loads(arguments)
        except ValueError:
            return {"raw": arguments}

    usage: ClassVar = {
        "input_tokens": 12, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 4, "output_tokens": 8,
    }  # fmt: skip
    finish: ClassVar = {
        "stop": "end_turn",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
        "length": "max_tokens",
    }

    def reply(self, model: str, text: str | None, calls: list[tuple[str, str, str]], finish: str) -> bytes:
        blocks: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
        blocks += [{"type": "tool_use", "id": i, "name": n, "input": self.parsed(a)} for i, n, a in calls]
        out = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": blocks,
            "usage": self.usage,
        }
        return json.dumps(out | {"stop_reason": self.finish[finish], "stop_sequence": None}).encode()

    def stream(self, model: str, words: list[str], calls: list[tuple[str, str, str]], finish: str) -> list[bytes]:
        start = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "usage": self.usage | {"output_tokens": 1},
        }
        out = [event({"type": "message_start", "message": start}, "message_start"), event({"type": "ping"}, "ping")]
        if words:
            out.append(
                event(
                    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                    "content_block_start",
                )
            )
            for word in words:
                delta = {"type": "text_delta", "text": word}
                out.append(event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"))
            out.append(event({"type": "content_block_stop", "index": 0}, "content_block_stop"))
        for index, (call_id, name, arguments) in enumerate(calls, start=1):
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            out.append(
                event({"type": "content_block_start", "index": index, "content_block": block}, "content_block_start")
            )
            for part in (arguments[:5], arguments[5:]):
                delta = {"type": "input_json_delta", "partial_json": part}
                out.append(
                    event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")
                )
            out.append(event({"type": "content_block_stop", "index": index}, "content_block_stop"))
        last = {"type": "message_delta", "delta": {"stop_reason": self.finish[finish]}, "usage": {"output_tokens": 8}}
        return [*out, event(last, "message_delta"), event({"type": "message_stop"}, "message_stop")]

    def error(self, message: str, kind: str, code: str | None) -> bytes:
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


class Server(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.buffer = b""
        self.transport: asyncio.Transport
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's
        SEEN["connections"] += 1
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None and not self.task.done():
            SEEN["abandoned"] += 1
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer[:1] == b"\x16":  # a TLS hello: answer as any plain HTTP server does
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
            return
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            top = self.buffer[: end + 2]
            found = LENGTH.search(top)
            size = int(found[1]) if found else 0
            if len(self.buffer) < end + 4 + size:
                return
            body = self.buffer[end + 4 : end + 4 + size]
            self.buffer = self.buffer[end + 4 + size :]
            self.answer(top, body)

    def answer(self, top: bytes, body: bytes) -> None:
        target = top.split(b" ", 2)[1]
        if top.startswith(b"GET"):
            out = dict(SEEN) if target == b"/stats" else {"object": "list", "data": []}
            self.transport.write(whole(json.dumps(out).encode()))
            return
        found = MODEL.search(body)
        model = found[1].decode() if found else ""
        SEEN["requests"] += 1
        SEEN[f"model {model}"] += 1
        wire: OpenAI | Anthropic = Anthropic() if b"/messages" in target else OpenAI()
        streamed = STREAMED.search(body) is not None
        if model.startswith(("fault:", "slow:")):
            self.task = asyncio.ensure_future(self.misbehave(model, wire, streamed))
            return
        text, calls, finish, words = "ok", [], "stop", WORDS
        if model.startswith("tools:") and len(TOOL_RESULT.findall(body)) < int(model[6:]):
            start = TOOLS.search(body)
            tool = FIRST_TOOL.search(body, start.end() if start else 0)
            call_id = f"call_{len(TOOL_RESULT.findall(body))}"
            text, words, finish = None, [], "tool_calls"
            calls = [(call_id, tool[1].decode() if tool else "tool", '{"order":"W1"}')]
        elif model.startswith("words:"):
            words = [f" w{n}" for n in range(int(model[6:]))]
            text = "".join(words)
        if streamed:
            self.transport.write(
                head(200, "text/event-stream", None) + b"".join(wire.stream(model, words, calls, finish)) + END
            )
        else:
            self.transport.write(whole(wire.reply(model, text, calls, finish)))

    async def misbehave(self, model: str, wire: OpenAI | Anthropic, streamed: bool) -> None:
        fault = model.removeprefix("fault:")
        write = self.transport.write
        start = head(200, "text/event-stream", None)
        good = wire.stream(model, WORDS, [], "stop")
        if model.startswith("slow:"):
            await asyncio.sleep(int(model[5:]) / 1000)
            write(start + b"".join(good) + END if streamed else whole(wire.reply(model, "ok", [], "stop")))
        elif fault == "500":
            write(whole(wire.error("The server had an error", "server_error", None), 500))
        elif fault == "529":
            write(whole(wire.error("Overloaded", "overloaded_error", None), 529))
        elif fault in ("429", "429-after-1"):
            extra = "retry-after: 1\r\n" if fault == "429-after-1" else ""
            write(
                whole(
                    wire.error("Rate limit reached for requests", "rate_limit_error", "rate_limit_exceeded"),
                    429,
                    extra=extra,
                )
            )
        elif fault == "401":
            write(whole(wire.error("Incorrect API key provided", "authentication_error", "invalid_api_key"), 401))
        elif fault == "context":
            write(
                whole(
                    wire.error(
                        "This model's maximum context length is 8192 tokens, however you requested 9000",
                        "invalid_request_error",
                        "context_length_exceeded",
                    ),
                    400,
                )
            )
        elif fault == "filter-400":
            write(
                whole(
                    wire.error(
                        "The response was filtered by the content management policy",
                        "invalid_request_error",
                        "content_filter",
                    ),
                    400,
                )
            )
        elif fault == "odd":
            write(whole(wire.error("the gnomes are on strike", "gnome_error", None), 418))
        elif fault == "filter":
            write(
                start + b"".join(wire.stream(model, WORDS[:1], [], "content_filter")) + END
                if streamed
                else whole(wire.reply(model, "", [], "content_filter"))
            )
        elif fault == "timeout-headers":
            await asyncio.sleep(600)
        elif fault == "timeout-first-token":
            write(start if streamed else head(200, "application/json", 500))
            await asyncio.sleep(600)
        elif fault == "stall-midstream":
            write(start + b"".join(good[:5]) if streamed else head(200, "application/json", 500) + b'{"id":')
            await asyncio.sleep(600)
        elif fault == "cut":
            write(start + b"".join(good[:5]) if streamed else head(200, "application/json", 500) + b'{"id":')
            await asyncio.sleep(0.02)
            self.transport.close()
        elif fault == "reset":
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif fault == "malformed-json":
            write(
                start + b"".join(good[:4]) + event('{"choices": [') + b"".join(good[4:]) + END
                if streamed
                else whole(b'{"choices": [{"message":')
            )
        elif fault == "malformed-sse":
            write(
                start + b"".join(good[:4]) + piece(b"<html>gateway</html>\n\n") + END
                if streamed
                else whole(b"data: not json\n\n")
            )
        elif fault == "empty":
            write(
                start + b"".join(wire.stream(model, [], [], "stop")) + END
                if streamed
                else whole(wire.reply(model, "", [], "stop"))
            )
        elif fault == "content-type":
            write(whole(b"<html><body>Welcome to the gateway</body></html>", kind="text/html"))
        elif fault == "bad-tool-args":
            calls = [("call_1", "lookup", '{"order": "W1')]
            write(
                start + b"".join(wire.stream(model, [], calls, "tool_calls")) + END
                if streamed
                else whole(wire.reply(model, None, calls, "tool_calls"))
            )
        elif fault == "error-midstream":
            error = json.loads(wire.error("Overloaded", "overloaded_error", None))
            write(
                start + b"".join(good[:5]) + event(error, "error") + END
                if streamed
                else whole(json.dumps(error).encode())
            )
        elif fault == "drip-slow" and streamed:
            write(start)
            for part in (*good, END):
                write(part)
                await asyncio.sleep(0.06)
        elif fault in ("drip", "drip-slow"):
            data = start + b"".join(good) + END if streamed else whole(wire.reply(model, "ok", [], "stop"))
            for at in range(0, len(data), 40):
                write(data[at : at + 40])
                await asyncio.sleep(0.005)
        else:
            write(whole(wire.error(f"no such fault: {fault}", "invalid_request_error", None), 400))


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(arguments.port))
    else:
        uvloop.run(serve(arguments.port))


if __name__ == "__main__":
    main()
