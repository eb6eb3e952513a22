"""One form for what is the same: tool arguments, tool results and texts, made comparable by digest.

Loop control compares digests, so everything that may differ without meaning anything is removed before hashing:
key order, white space and number form in arguments; clock times, identifiers of requests and memory addresses in
results; letter case, punctuation and spacing in texts. Nothing here keeps what it hashed.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from zlib import crc32

from waywiser.core.calls import JSON

DIGEST_BYTES = 8
_CELLS = 16
_CELL_BITS = 4
_ALIKE_CELLS = 12  # of 16: texts that share about three quarters of their words
_FEWEST_WORDS = 12  # a sketch of fewer distinct words is mostly chance
_SKETCHED_CHARS = 4000
_MASKED_CHARS = 20_000

_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?")
_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")

# What changes from one identical answer to the next: an ISO date with its time, a time of day with seconds, seconds or
# milliseconds since 1970, a UUID, a long hexadecimal run (traces, hashes), a memory address.
_VOLATILE = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?"
    r"|\b1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?\b"
    r"|\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"
    r"|\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{16,}\b"
    r"|\b0x[0-9a-fA-F]{4,}\b"
)
# The same, told by the name of its field.
_VOLATILE_FIELD = re.compile(
    r"""(["'](?:(?:request|trace|span|correlation)_?id|elapsed\w*|duration\w*|latency\w*|took\w*|timestamp|nonce)["']\s*:\s*)"""
    r"""(?:"[^"]*"|'[^']*'|[\d.eE+-]+)""",
    re.IGNORECASE,
)
_ERROR_START = re.compile(
    r"\W*(?:\w*error|\w*exception|traceback|fail(?:ed|ure)|fatal|invalid|unauthori[sz]ed|forbidden|not found"
    r"|timed? ?out|unable to|could ?n[o']t|can ?not|no such)\b",
    re.IGNORECASE,
)
_ERROR_FIELD = re.compile(
    r"""["']error["']\s*:\s*(?!null|none|false|""|''|\[\]|\{\}|0\b)"""
    r"""|["'](?:success|ok)["']\s*:\s*false|["']is_?error["']\s*:\s*true|["']status["']\s*:\s*["'](?:error|failed)["']""",
    re.IGNORECASE,
)


def short_digest(*fields: str | bytes) -> bytes:
    """8 bytes of BLAKE2b over the fields, each preceded by its length, so that no two lists of fields run together."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for field in fields:
        data = field if isinstance(field, bytes) else field.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(4, "little"))
        state.update(data)
    return state.digest()


def canonical_arguments(arguments: str) -> str:
    """Rewrite the JSON text of a tool's arguments so that equal arguments are equal texts.

    Keys are sorted, white space inside strings is collapsed, and a number reads the same whether it was written `2`,
    `2.0`, `2e0` or `"2"`. Text that is not JSON (a model cut short) is only collapsed.
    """
    try:
        decoded: JSON = json.loads(arguments or "{}")
        return json.dumps(_plain(decoded), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return _SPACE.sub(" ", arguments).strip()


def _plain(value: JSON) -> JSON:
    if isinstance(value, str):
        text = _SPACE.sub(" ", value).strip()
        # Leading zeros are part of a zip code or an id, so such a text stays a text.
        return _plain_number(float(text)) if _NUMBER.fullmatch(text) else text
    if isinstance(value, float):
        return _plain_number(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _plain_number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def without_numbers(text: str) -> str:
    """Replace every number and volatile part by `#`: what is left is the same for a call that only counts."""
    return _DIGITS.sub("#", _VOLATILE.sub("#", text))


def masked(text: str) -> str:
    """Replace what differs between two equal answers of a tool (clock times, request ids, addresses) by `#`.

    Only the first 20 000 characters are masked; what follows is compared as it is.
    """
    head, rest = text[:_MASKED_CHARS], text[_MASKED_CHARS:]
    if '"' in head or "'" in head:
        head = _VOLATILE_FIELD.sub(r"\1#", head)
    return _SPACE.sub(" ", _VOLATILE.sub("#", head)).strip() + rest


def reads_as_error(text: str) -> bool:
    """Tell whether a tool's answer reports a failure; for surfaces that do not mark it."""
    return _ERROR_START.match(text) is not None or _ERROR_FIELD.search(text, 0, 600) is not None


def text_digest(text: str) -> bytes:
    """Digest the words of a text; case, punctuation and spacing do not count. Empty for a text without words."""
    words = _WORD.findall(text.casefold())
    if words:
        return short_digest(" ".join(words))
    bare = text.strip()
    return short_digest(bare) if bare else b""


def similarity_hash(text: str) -> int:
    """64 bits that stay mostly the same when a few words change; 0 for a text without words.

    One-permutation min-hash (Li, Owen & Zhang, 2012): each distinct word falls by its hash into one of 16 cells, and a
    cell keeps 4 bits of its least hash, so the share of equal cells estimates the Jaccard similarity of the two sets of
    words. Numbers do not count. A text of few words is hashed whole: it is alike only when equal but for numbers.
    Looks at the first 4000 characters.
    """
    words = set(_WORD.findall(without_numbers(text[:_SKETCHED_CHARS].casefold())))
    if not words:
        return 0
    if len(words) < _FEWEST_WORDS:
        plain = " ".join(_WORD.findall(without_numbers(text[:_SKETCHED_CHARS].casefold())))
        return int.from_bytes(short_digest(plain), "little") or 1
    least = [0xFFFFFFFF] * _CELLS
    for word in words:
        value = crc32(word.encode("utf-8", "surrogatepass"))
        cell = value & (_CELLS - 1)
        least[cell] = min(least[cell], value)
    sketch = 0
    for value in least:
        sketch = sketch << _CELL_BITS | (value >> 8) & ((1 << _CELL_BITS) - 1)
    return sketch or 1


def alike(one: int, other: int) -> bool:
    """Tell whether two similarity hashes belong to nearly the same words (about three quarters of them shared)."""
    if one == other:
        return one != 0
    if not one or not other:
        return False
    different = one ^ other
    equal = sum(1 for cell in range(0, _CELLS * _CELL_BITS, _CELL_BITS) if not different >> cell & 0xF)
    return equal >= _ALIKE_CELLS
