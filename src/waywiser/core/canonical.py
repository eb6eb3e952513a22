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
_ERROR_CHARS = 600
_ECHOED_CHARS = 1000

_WRITE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?")
_VALUE = re.compile(r'[:\[,]("(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*)')  # in canonical arguments
_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")

# What changes from one identical answer to the next. Each pattern is guarded by a cheap test of whether it can match,
# and begins with a plain character class, which the regular expression engine skips to quickly.
_HAS_CLOCK = re.compile(r":\d\d")
_CLOCK = re.compile(
    r"\d\d\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?|\d\d?:\d\d:\d\d(?:[.,]\d+)?"
)
_EPOCH = re.compile(r"1(?<!\w1)[5-9]\d{8}(?:\d{3})?(?:\.\d+)?\b")  # seconds or milliseconds since 1970
_HAS_HEX = re.compile(r"[0-9a-fA-F]{8}[0-9a-fA-F-]{8}")
_HEX = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
# The same, told by the name of its field.
_FIELD_WORDS = ("equest", "race", "pan", "orrelation", "lapsed", "uration", "atency", "took", "imestamp", "nonce")
_FIELD = re.compile(
    r"""(["'](?:(?:request|trace|span|correlation)_?id|elapsed\w*|duration\w*|latency\w*|took\w*|timestamp|nonce)["']\s*:\s*)"""
    r"""(?:"[^"]*"|'[^']*'|[\d.eE+-]+)""",
    re.IGNORECASE,
)
_ERROR_WORDS = ("error", "false", "failed")
# What says that something failed and nothing of why: such errors of different commands are not the same error.
_BARE_FAILURE = re.compile(
    r"exit(?:ed)?(?: with)?(?: code| status)?\W*\d+|return ?code\W*\d+|</?\w+>\s*\d*"
    r"|\b(?:error|command|failed|with|non-?zero|no output|output|stdout|stderr)\b",
    re.IGNORECASE,
)
_BARE_CHARS = 200
_ERROR_START = re.compile(
    r"[^\w\"'{]*(?:http\S*\s+)?"
    r"(?:[45]\d\d\s+(?=bad |unauth|forbidden|not |method|conflict|too |internal|service|gateway)"
    r"|\w*error|\w*exception|traceback|fail(?:ed|ure)|fatal|invalid|unauthori[sz]ed|forbidden|not found"
    r"|timed? ?out|unable to|could ?n[o']t|can ?not|no such)\b",
    re.IGNORECASE,
)
_ERROR_FIELD = re.compile(
    r"""["']error["']\s*:\s*(?!\s|null|none|false|""|''|\[\]|\{\}|0\b)"""
    r"""|["'](?:success|ok)["']\s*:\s*false|["']is_?error["']\s*:\s*true|["']status["']\s*:\s*["'](?:error|failed)["']""",
    re.IGNORECASE,
)


def short_digest(*fields: str | bytes) -> bytes:
    """8 bytes of BLAKE2b over one field, or over several with their lengths, so that they never run together."""
    whole = _bytes(fields[0]) if len(fields) == 1 else b"".join([b"%d:%b" % (len(b), b) for b in map(_bytes, fields)])
    return blake2b(whole, digest_size=DIGEST_BYTES).digest()


def _bytes(field: str | bytes) -> bytes:
    return field if isinstance(field, bytes) else field.encode("utf-8", "surrogatepass")


def canonical_arguments(arguments: str) -> str:
    """Rewrite the JSON text of a tool's arguments so that equal arguments are equal texts.

    Keys are sorted, white space inside strings is collapsed, and a number reads the same whether it was written `2`,
    `2.0`, `2e0` or `"2"`. Text that is not JSON (a model cut short) is only collapsed.
    """
    try:
        decoded: JSON = json.loads(arguments or "{}")
        return _WRITE(_plain(decoded))
    except (ValueError, RecursionError):
        return " ".join(arguments.split())


def _plain(value: JSON) -> JSON:
    if isinstance(value, str):
        text = " ".join(value.split())
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
    return _DIGITS.sub("#", _without_volatile(text))


def masked(text: str) -> str:
    """Replace what differs between two equal answers of a tool (clock times, request ids, addresses) by `#`.

    Only the first 20 000 characters are masked; what follows is compared as it is.
    """
    head, rest = text[:_MASKED_CHARS], text[_MASKED_CHARS:]
    if any(word in head for word in _FIELD_WORDS):
        head = _FIELD.sub(r"\1#", head)
    return " ".join(_without_volatile(head).split()) + rest


def without_echo(text: str, arguments: str) -> str:
    """Replace by `#` what a tool's answer repeats of its (canonical) arguments: whole values, as words of their own.

    So "no user Ann" and "no user Bob" are the same failure.
    """
    if len(text) > _MASKED_CHARS or len(arguments) > _ECHOED_CHARS:
        return text
    for value in dict.fromkeys(_VALUE.findall(arguments)):
        bare = value.strip('"')
        if bare and bare in text:
            pieces = text.split(bare)
            text = pieces[0]
            for piece in pieces[1:]:
                alone = not (text[-1:].isalnum() or piece[:1].isalnum())
                text += ("#" if alone else bare) + piece
    return text


def _without_volatile(text: str) -> str:
    if _HAS_CLOCK.search(text) is not None:
        text = _CLOCK.sub("#", text)
    text = _EPOCH.sub("#", text)
    if _HAS_HEX.search(text) is not None:
        text = _HEX.sub(_unless_plain, text)
    return _ADDRESS.sub("#", text) if "0x" in text else text


def reads_as_error(text: str) -> bool:
    """Tell whether a tool's answer reports a failure; for surfaces that do not mark it."""
    head = text[:_ERROR_CHARS]
    if _ERROR_START.match(head) is not None:
        return True
    head = head.lower()
    return any(word in head for word in _ERROR_WORDS) and _ERROR_FIELD.search(head) is not None


def _unless_plain(found: re.Match[str]) -> str:
    """A long run of digits only is a number, one of letters only a word."""
    run = found.group()
    return run if run.isdigit() or run.isalpha() else "#"


def says_why(text: str) -> bool:
    """Tell whether a tool's report of a failure holds more than the fact (an exit code, an empty output)."""
    return len(text) > _BARE_CHARS or _WORD.search(_BARE_FAILURE.sub(" ", text)) is not None


def text_marks(text: str) -> tuple[bytes, int]:
    """Digest the words of a text, and hash them so that similar texts have similar hashes.

    Letter case, punctuation and spacing do not count; the digest of a text without words is that of its signs, of an
    empty one empty. The hash is 64 bits; it leaves out words with digits in them, and is 0 where nothing is left. It
    looks at the first 4000 characters.

    The hash is a one-permutation min-hash (Li, Owen & Zhang, 2012): each distinct word falls by its own hash into one
    of 16 cells, and a cell keeps 4 bits of its least one, so the share of equal cells estimates the Jaccard similarity
    of the two sets of words. A text of few words is hashed whole instead: it is alike only when equal but for numbers.
    """
    if not text:
        return b"", 0
    folded = text.casefold()
    words = _WORD.findall(folded)
    if not words:
        bare = folded.strip()
        return (short_digest(bare) if bare else b""), 0
    joined = " ".join(words)
    if len(folded) > _SKETCHED_CHARS:
        words = _WORD.findall(folded[:_SKETCHED_CHARS])
    alphabetic = [word for word in words if word.isalpha()]
    plain = " ".join(alphabetic)
    distinct: set[bytes] = set()
    if len(alphabetic) >= _FEWEST_WORDS:
        distinct = set(plain.encode("utf-8", "surrogatepass").split())
    if len(distinct) < _FEWEST_WORDS:
        sketch = int.from_bytes(short_digest(plain), "little") if plain else 0
    else:
        # Falling order, so that what stays in a cell is the least.
        hashes = sorted(map(crc32, distinct), reverse=True)
        least = {value & (_CELLS - 1): value for value in hashes}
        sketch = 0
        for cell in range(_CELLS):
            sketch = sketch << _CELL_BITS | least.get(cell, 0) >> 8 & ((1 << _CELL_BITS) - 1)
    return short_digest(joined), sketch


def alike(one: int, other: int) -> bool:
    """Tell whether two similarity hashes belong to nearly the same words (about three quarters of them shared)."""
    if one == other:
        return one != 0
    if not one or not other:
        return False
    different = one ^ other
    equal = sum(1 for cell in range(0, _CELLS * _CELL_BITS, _CELL_BITS) if not different >> cell & 0xF)
    return equal >= _ALIKE_CELLS
