"""What a character is: letter, digit, space, a sign, or of a script that writes no spaces. ASCII has a way of its own.

Most texts are ASCII, and `bytes.translate` reads those twenty times faster than array operations do. Both ways say the
same of every text.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Codes: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
Classes: TypeAlias = npt.NDArray[np.uint8]

OTHER, LETTER, DIGIT, DENSE, SPACE = 0, 1, 2, 3, 4


def _table() -> Classes:
    """Return the class of each code point below 0x10000; those above are read as the last entry (a symbol)."""
    table = np.full(0x10000, LETTER, dtype=np.uint8)
    table[:128] = OTHER
    for first, last in (("0", "9"), ("٠", "٩"), ("۰", "۹"), ("०", "९"), ("০", "৯")):
        table[ord(first) : ord(last) + 1] = DIGIT
    for first, last in (("a", "z"), ("A", "Z")):
        table[ord(first) : ord(last) + 1] = LETTER
    table[[9, 10, 11, 12, 13, 32, 0xA0, 0x3000]] = SPACE
    for low, high in ((0x80, 0x9F), (0xA1, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7)):
        table[low : high + 1] = OTHER
    for low, high in ((0x060C, 0x061F), (0x0964, 0x0965), (0x2000, 0x2BFF), (0x3001, 0x303F), (0xFF00, 0xFF0F)):
        table[low : high + 1] = OTHER
    for low, high in ((0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65), (0xD800, 0xF8FF), (0xFE00, 0xFE6F)):
        table[low : high + 1] = OTHER
    # No spaces: Thai, Lao, Burmese, Khmer, kana, Han. Hangul has spaces but joins its particles: dense as well.
    for low, high in ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3041, 0x30FF), (0x3400, 0x9FFF)):
        table[low : high + 1] = DENSE
    for low, high in ((0xAC00, 0xD7A3), (0xF900, 0xFAFF)):
        table[low : high + 1] = DENSE
    table[0xFFFF] = OTHER
    return table


_CLASS: Final = _table()
_ASCII_CLASS: Final = _CLASS[:256].tobytes()
_ASCII_CODE: Final = bytes(
    48 if kind == DIGIT else 32 if kind == SPACE else code for code, kind in enumerate(_ASCII_CLASS)
)
_CAPITALS: Final = bytes(range(ord("A"), ord("Z") + 1))


def characters(text: str) -> tuple[Codes, Classes]:
    """Return the code points of a lower-case text (any digit as `0`, any space as a blank) and their classes."""
    if text.isascii():
        raw = text.encode()
        return (
            np.frombuffer(raw.translate(_ASCII_CODE), dtype=np.uint8),
            np.frombuffer(raw.translate(_ASCII_CLASS), dtype=np.uint8),
        )
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).copy()
    classes = _CLASS[np.minimum(codes, 0xFFFF)]
    codes[classes == DIGIT] = 48
    codes[classes == SPACE] = 32
    return codes, classes


def written(codes: Codes) -> str:
    """Return the text of code points; what is none (half of a surrogate pair) becomes a question mark in a box."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "replace")


def capitals(text: str) -> int:
    """Count the capital letters of a text."""
    if text.isascii():
        raw = text.encode()
        return len(raw) - len(raw.translate(None, _CAPITALS))
    return sum(map(str.isupper, text))


def marks(text: str, signs: bytes) -> int:
    """Count the characters of a text that are among some ASCII signs."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw) - len(raw.translate(None, signs))
