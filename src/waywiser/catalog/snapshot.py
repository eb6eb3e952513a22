"""Prices and context windows, taken from genai-prices when a release is made and kept beside this file.

Importing genai-prices costs 110 ms and an HTTP client, a third of what `import waywiser` may take; reading the snapshot
costs 3 ms. `python -m waywiser.catalog.snapshot` writes it again, and a test fails when it no longer says what the
installed genai-prices says. Nothing here ever asks the network.

The file is JSON: `{"genai_prices": version, "models": {provider: [[id, context, names, stems, epochs], …]}}`.
`names` are other exact names of the model, `stems` the beginnings of dated ones. `epochs` is a list of
`[first day or "", [[above_tokens, input, output, cached, cache_write], …]]`, oldest first, in pico-dollars a token.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from waywiser.catalog.providers import PROVIDERS
from waywiser.core.models import Price

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, TieredPrices

FILE: Final = "snapshot.json"

# Not reached by chat completions, or paid by something else than tokens: sound, pictures, embeddings, moderation,
# bare completion, and OpenAI's models that live behind the Responses endpoint only.
_NOT_CHAT: Final = re.compile(
    r"embed|rerank|whisper|tts|audio|realtime|transcribe|transcription|voice|voxtral|speech|orpheus|-live|live-|"
    r"image|nano-banana|dall-e|moderation|guard|ocr|robotics|omni|diffusion|flux|"
    r"^(ada|babbage|curie|davinci|text-)|-instruct-?\d*$(?<=gpt-3.5-turbo-instruct)|^ft:|\.ft-|"
    r"^(o1-pro|o3-pro|gpt-5(\.\d)?-pro|codex-mini|computer-use|claude-v1|claude-2)|gpt-[\d.]+-codex|deep-research",
    re.IGNORECASE,
)


Row: TypeAlias = list[Any]
"""One model as stored: `[id, context, names, stems, epochs]`. Unpacked only for the models that are asked for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The packaged file: which genai-prices it was taken from, and its rows by provider."""

    version: str
    rows: Mapping[str, list[Row]]


@cache
def load() -> Snapshot:
    """Read the packaged snapshot, once a process."""
    stored = orjson.loads(files("waywiser.catalog").joinpath(FILE).read_bytes())
    return Snapshot(stored["genai_prices"], stored["models"])


def prices(row: Row, on: date) -> tuple[Price, ...]:
    """Return the prices of a row that are in force on a day; none when the first epoch has not begun."""
    day = on.isoformat()
    for start, steps in reversed(row[4]):
        if start <= day:
            return tuple(Price(step[1], step[2], step[3], step[4], above_tokens=step[0]) for step in steps)
    return ()


def taken() -> dict[str, object]:
    """Take the snapshot from the installed genai-prices."""
    from importlib.metadata import version as installed  # noqa: PLC0415 - only to take a snapshot

    from genai_prices import data  # noqa: PLC0415 - the import this module exists to avoid

    models: dict[str, list[Row]] = {}
    for provider in data.providers:
        if provider.id in PROVIDERS:
            rows = [_row(info) for info in provider.models if _is_chat(provider.id, info.id)]
            models[provider.id] = [row for row in rows if row]
    return {"genai_prices": installed("genai-prices"), "models": models}


def _is_chat(provider: str, name: str) -> bool:
    # Claude at Google is reached through Vertex, not through the endpoint of the provider table.
    return not _NOT_CHAT.search(name) and not (provider == "google" and name.startswith("claude"))


def _row(info: ModelInfo) -> Row | None:
    epochs = _epochs(info)
    if not epochs:
        return None
    names, stems = _names(info.match)
    return [info.id, info.context_window or 0, sorted(names - {info.id}), sorted(stems), epochs]


def _names(match: MatchLogic) -> tuple[set[str], set[str]]:
    """Exact names and beginnings of names, where the match is a plain one or an alternative of plain ones."""
    from genai_prices import types  # noqa: PLC0415 - as in `taken`

    clauses = match.or_ if isinstance(match, types.ClauseOr) else [match]
    return (
        {clause.equals for clause in clauses if isinstance(clause, types.ClauseEquals)},
        {clause.starts_with for clause in clauses if isinstance(clause, types.ClauseStartsWith)},
    )


def _epochs(info: ModelInfo) -> list[list[object]]:
    from genai_prices import types  # noqa: PLC0415 - as in `taken`

    if not isinstance(info.prices, list):
        rows = _rows(info.prices)
        return [["", rows]] if rows else []
    epochs: list[tuple[str, list[list[int]]]] = []
    for conditional in info.prices:
        rows = _rows(conditional.prices)
        if not rows:
            continue
        if isinstance(conditional.constraint, types.TimeOfDateConstraint) and epochs:
            # Prices by the hour: the dearest hour, so that a budget is never surprised.
            start, earlier = epochs.pop()
            epochs.append((start, _dearest(earlier, rows)))
        elif isinstance(conditional.constraint, types.StartDateConstraint):
            epochs.append((conditional.constraint.start_date.isoformat(), rows))
        else:
            epochs.append(("", rows))
    # A new epoch with the same prices (only web searches changed) is no new epoch to us.
    changed = [epoch for index, epoch in enumerate(epochs) if index == 0 or epoch[1] != epochs[index - 1][1]]
    return [[start, rows] for start, rows in changed]


def _dearest(one: list[list[int]], other: list[list[int]]) -> list[list[int]]:
    return [[max(pair) for pair in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _rows(price: ModelPrice) -> list[list[int]]:
    """Rows of `[above, input, output, cached, cache_write]`; none when tokens are not what is paid for."""
    from genai_prices.types import TieredPrices  # noqa: PLC0415 - as in `taken`

    fields = {name: getattr(price, f"{name}_mtok") for name in ("input", "output", "cache_read", "cache_write")}
    if fields["input"] is None or fields["output"] is None or price.requests_kcount is not None:
        return []
    for missing in ("cache_read", "cache_write"):
        if fields[missing] is None:
            fields[missing] = fields["input"]
    if not isinstance(fields["input"], TieredPrices) and not isinstance(fields["cache_read"], TieredPrices):
        # Resellers' averages can put reading from a cache above reading afresh; nobody is charged that.
        fields["cache_read"] = min(fields["cache_read"], fields["input"])
    starts = {0} | {tier.start for value in fields.values() for tier in getattr(value, "tiers", ())}
    order = ("input", "output", "cache_read", "cache_write")
    return [[start, *(_picos(fields[name], start) for name in order)] for start in sorted(starts)]


def _picos(value: Decimal | TieredPrices, above: int) -> int:
    """Pico-dollars a token from dollars a million tokens, rounded up; of the tier that `above` begins."""
    chosen = value if isinstance(value, Decimal) else value.base
    for tier in () if isinstance(value, Decimal) else value.tiers:
        if tier.start <= above:
            chosen = tier.price
    return int(-(-chosen * 1_000_000 // 1))


def dump(snapshot: Mapping[str, object]) -> str:
    """Write the snapshot as it is stored: one model a line, so that a change of prices reads well in a diff."""
    models = snapshot["models"]
    assert isinstance(models, dict)  # noqa: S101 - made by taken()
    blocks = (f"{json.dumps(provider)}: [\n{_lines(rows)}\n]" for provider, rows in models.items())
    head = json.dumps(snapshot["genai_prices"])
    return f'{{"genai_prices": {head}, "models": {{\n' + ",\n".join(blocks) + "\n}}\n"


def _lines(rows: Iterable[object]) -> str:
    return ",\n".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in rows)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name(FILE)
    target.write_text(dump(taken()), encoding="utf-8")
