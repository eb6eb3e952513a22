"""The byte-pair encodings, built from rank files in the package: no network, no cache folder, no environment.

Providers other than OpenAI do not publish a tokenizer that could be shipped. Their models are counted with the nearest
published one and a scale in percent, chosen to err on the high side (`TOKENIZERS` says where each scale comes from).
"""

from __future__ import annotations

import lzma
import re
from binascii import a2b_base64
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tiktoken import Encoding

MAX_PIECE_CHARS: Final = 32_768
"""Longest text handed to the tokenizer at once; longer ones are cut where the count does not change."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a family of models is counted: with which ranks, and scaled by how many percent."""

    ranks: str
    percent: int = 100


@dataclass(frozen=True, slots=True)
class _Ranks:
    """One rank file: the hash of its unpacked bytes, how text is cut before merging, and the special tokens."""

    sha256: str
    pattern: str
    special: tuple[tuple[str, int], ...]


_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_RANKS: Final = {
    # The patterns and numbers are those of tiktoken's public encodings (MIT): without them the ranks mean nothing.
    "o200k_base": _Ranks(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        "|".join(
            (
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _ENDING,
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _ENDING,
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
        (("<|endoftext|>", 199999), ("<|endofprompt|>", 200018)),
    ),
    "cl100k_base": _Ranks(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "|".join(  # noqa: FLY002 - one alternative a line reads better
            (
                r"'(?i:[sdmt]|ll|ve|re)",
                r"[^\r\n\p{L}\p{N}]?+\p{L}++",
                r"\p{N}{1,3}+",
                r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
                r"\s++$",
                r"\s*[\r\n]",
                r"\s+(?!\S)",
                r"\s",
            )
        ),
        (
            ("<|endoftext|>", 100257),
            ("<|fim_prefix|>", 100258),
            ("<|fim_middle|>", 100259),
            ("<|fim_suffix|>", 100260),
            ("<|endofprompt|>", 100276),
        ),
    ),
}

TOKENIZERS: Final = {
    "o200k_base": Tokenizer("o200k_base"),
    "cl100k_base": Tokenizer("cl100k_base"),
    # Anthropic publishes no tokenizer. Public comparisons put Claude 3 to 4.6 some 15 to 25% above o200k, and the
    # provider says that the one since Opus 4.7 makes up to 1.35 times as many tokens of the same text.
    "claude": Tokenizer("o200k_base", 125),
    "claude_2026": Tokenizer("o200k_base", 165),
    # Measured on the growth of prompt_tokens in recorded Gemini 3 sessions: digits are split one by one.
    "gemini": Tokenizer("o200k_base", 125),
    # Llama 3 extends cl100k's vocabulary; DeepSeek, Qwen, GLM, Kimi and Mistral have 100k to 150k entries of their own.
    "llama": Tokenizer("cl100k_base", 105),
    "open": Tokenizer("o200k_base", 120),
}

_LOCK = Lock()


def tokenizer(name: str) -> Tokenizer:
    """Look up a tokenizer by the name that `Model.encoding` carries. Raises `ValueError` for an unknown one."""
    try:
        return TOKENIZERS[name]
    except KeyError:
        raise ValueError(f"unknown encoding {name!r}; known are {', '.join(sorted(TOKENIZERS))}") from None


def encoding(ranks: str) -> Encoding:
    """Build the encoding of a rank file, once a process. Takes 0.2 to 0.4 s the first time.

    Raises `ValueError` when the file's bytes are not the published ones.
    """
    with _LOCK:
        return _build(ranks)


@cache
def _build(ranks: str) -> Encoding:
    from tiktoken import Encoding  # noqa: PLC0415 - 20 ms, which routing on estimates never needs

    known = _RANKS[ranks]
    data = lzma.decompress(files("waywiser.catalog").joinpath("ranks", f"{ranks}.tiktoken.xz").read_bytes())
    if sha256(data).hexdigest() != known.sha256:
        raise ValueError(f"the packaged ranks of {ranks} are damaged")
    # Each line is "<base64> <rank>" and ranks count from 0 without a gap, so that the second column need not be read.
    tokens = data.split()[::2]
    return Encoding(
        ranks,
        pat_str=known.pattern,
        mergeable_ranks={a2b_base64(token): rank for rank, token in enumerate(tokens)},
        special_tokens=dict(known.special),
    )


# Between a character that is no space and a single space before a letter, and between a line end and a letter or digit,
# both patterns always start a new piece: cutting there leaves the count as it is.
_SAFE_CUT = re.compile(r"(?<=\S)(?= [A-Za-z])|(?<=\n)(?=[A-Za-z0-9])")


def pieces(text: str, limit: int = MAX_PIECE_CHARS) -> list[str]:
    """Cut a text into pieces of at most `limit` characters whose token counts add up to that of the whole.

    A stretch of `limit` characters without a safe place (one endless word) is cut at the limit, which changes the count
    by a token or two per cut, and keeps the merging, whose time grows faster than the length of a word, in bounds.
    """
    parts: list[str] = []
    start = 0
    while len(text) - start > limit:
        end = start + limit
        cut = end
        # Looking back 512 characters finds a place in any prose or code and costs nothing in what has none.
        for match in _SAFE_CUT.finditer(text, max(start + 1, end - 512), end):
            cut = match.start()
        parts.append(text[start:cut])
        start = cut
    parts.append(text[start:])
    return parts


def count(text: str, ranks: str) -> int:
    """Count the tokens of a text exactly. Special tokens in it are read as plain text; lone surrogates are allowed."""
    if not text:
        return 0
    built = encoding(ranks)
    if len(text) <= MAX_PIECE_CHARS:
        return len(built.encode_ordinary(text))
    return sum(len(built.encode_ordinary(piece)) for piece in pieces(text))
