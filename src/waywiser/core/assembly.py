"""Putting a streamed answer together: chunks in, one `Reply` out, and what is known of it before the end."""

from __future__ import annotations

from waywiser.core.calls import Chunk, Finish, Reply, Usage
from waywiser.core.messages import Part, Text, Thinking, ToolCall


class Assembly:
    """Collects the chunks of one stream. Feeding is O(1) a chunk; `reply()` joins what was fed."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thoughts: list[Thinking] = []
        self._thinking: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._logprobs: list[float] = []
        self._model = ""
        self._id = ""
        self.finish: Finish | None = None
        self.usage: Usage | None = None
        self.characters = 0

    def feed(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if chunk.text:
            self._text.append(chunk.text)
            self.characters += len(chunk.text)
        if chunk.thinking is not None:
            self._think(chunk.thinking)
            self.characters += len(chunk.thinking.text)
        for delta in chunk.tool_calls:
            known_id, known_name, pieces = self._calls.get(delta.index, ("", "", []))
            pieces.append(delta.arguments)
            self._calls[delta.index] = (known_id or delta.id, known_name or delta.name, pieces)
            self.characters += len(delta.name) + len(delta.arguments)
        self._logprobs.extend(chunk.logprobs)
        self._model = chunk.model or self._model
        self._id = chunk.id or self._id
        self.finish = chunk.finish or self.finish
        self.usage = chunk.usage or self.usage

    @property
    def tokens(self) -> int:
        """How many tokens were told one by one, with their log-probabilities; 0 where a provider does not."""
        return len(self._logprobs)

    def reply(self) -> Reply:
        """Join what has been fed so far. A missing usage stays zero and is marked as estimated."""
        parts: list[Part] = list(self._thoughts)
        if self._thinking:
            parts.append(Thinking("".join(self._thinking)))
        if self._text:
            parts.append(Text("".join(self._text)))
        return Reply(
            tuple(parts),
            tuple(
                ToolCall(call_id, name, "".join(pieces)) for _, (call_id, name, pieces) in sorted(self._calls.items())
            ),
            self.finish or Finish.STOP,
            self.usage or Usage(estimated=True),
            self._model,
            self._id,
            tuple(self._logprobs),
        )

    def _think(self, piece: Thinking) -> None:
        """Collect thinking. A signature closes its block: it is valid only with the very text it signs."""
        if piece.redacted:
            self._thoughts.append(piece)
            return
        if piece.text:
            self._thinking.append(piece.text)
        if piece.signature:
            self._thoughts.append(Thinking("".join(self._thinking), piece.signature))
            self._thinking = []
