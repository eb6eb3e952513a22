"""What a text holds that follows a pattern: figures, money, choices, secrets, numbers of people and accounts, code.

A pattern that may begin anywhere costs more than all n-grams of a text together. So each is tried where a run of digits
begins, or only when a sign that it can't do without is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_RUN: Final = re.compile(r"\d+")
_VERSION: Final = re.compile(r"(?<![\d.])\d{1,3}\.\d{1,3}(?:\.\d+)?(?![\d.])")
_CURRENCIES: Final = "$€£¥₹₽₩%"
_MONEY: Final = re.compile(r"[$€£¥₹₽₩]\s?\d|\d\s?[$€£¥₹₽₩%]")
_CHOICES: Final = re.compile(r"(?:^|\n)\s*\(?[B2][.):]\s")
_CHOICE_MARKS: Final = ("B.", "B)", "B:", "2.", "2)", "2:")
_SECRET: Final = re.compile(
    r"sk-[A-Za-z0-9_-]{12,}|AKIA[0-9A-Z]{12,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|xox[abp]-[A-Za-z0-9-]{10,}|-----BEGIN |eyJ[A-Za-z0-9_-]{16,}"
)
_SECRET_MARKS: Final = (
    "sk-", "AKIA", "eyJ", "-----BEGIN ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xoxa-", "xoxb-", "xoxp-",
)  # fmt: skip
_IDENTITY: Final = re.compile(r"(?:\d{3}-\d{2}-\d{4}|(?:\d{4}[ -]){3}\d{2,4}|\d{15,16})(?!\d)")
_ACCOUNT: Final = re.compile(r"(?<!\d)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?!\d)")
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}\.\w")
_CODE: Final = (
    "```", "def ", "function ", "#include", "return ", ";\n", "=>", "->", "</", "SELECT ", "import ", "Traceback",
    "()", "print(", "{\n", "class ", "():", "const ", "std::", "self.", "Error:", "public ", "!=", "==",
)  # fmt: skip


def runs(text: str) -> list[re.Match[str]]:
    """Find the runs of digits."""
    return list(_RUN.finditer(text))


def names_version(text: str, digits: Sequence[re.Match[str]]) -> bool:
    """Whether a text names a version such as 3.11."""
    return "." in text and any(_VERSION.match(text, run.start()) for run in digits)


def names_money(text: str) -> bool:
    """Whether a text names an amount of money or a percentage."""
    return _has(text, _CURRENCIES) and _MONEY.search(text) is not None


def offers_choices(text: str) -> bool:
    """Whether a line of a text begins with the second of several choices."""
    return _has(text, _CHOICE_MARKS) and _CHOICES.search(text) is not None


def holds_secret(text: str) -> bool:
    """Whether a text holds what looks like a secret key."""
    return _has(text, _SECRET_MARKS) and _SECRET.search(text) is not None


def holds_identity(text: str, digits: Sequence[re.Match[str]]) -> bool:
    """Whether a text holds the number of an identity, a card or an account."""
    return any(_identifies(text, run.start()) for run in digits)


def holds_email(text: str) -> bool:
    """Whether a text holds an e-mail address."""
    return "@" in text and _EMAIL.search(text) is not None


def code_signs(text: str) -> int:
    """Count which of two dozen signs of code a text holds."""
    return sum([sign in text for sign in _CODE])


def _identifies(text: str, at: int) -> bool:
    if _IDENTITY.match(text, at) is not None:
        return True
    return at >= 2 and text[at - 1].isupper() and _ACCOUNT.match(text, at - 2) is not None


def _has(text: str, signs: Sequence[str]) -> bool:
    return any([sign in text for sign in signs])  # noqa: C419 - a list of a dozen is quicker than a generator
