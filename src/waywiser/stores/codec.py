"""How stores write things down: compact JSON. Accounts by position, everything that may yet grow by name.

Digests are bytes, which JSON has not: they are written as text, one character a byte. Reading back what was not
written here raises one of `UNREADABLE`; the stores turn that into `StoreError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from waywiser.core.budget import Account, Amounts
from waywiser.core.quantiles import History, Sketch
from waywiser.core.receipt import Receipt
from waywiser.core.trail import StepRecord, Trail

T = TypeVar("T")

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)


def clean(text: str) -> str:
    """Return text that any store takes: a lone surrogate, which UTF-8 has not, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def pack_amounts(amounts: Amounts) -> list[int]:
    """Write by position what calls take."""
    return [amounts.nanos, amounts.tokens, amounts.llm_calls, amounts.tool_calls]


def pack_grant(amounts: Amounts) -> list[int]:
    """Write what was granted by position: that may be seconds, too."""
    return [*pack_amounts(amounts), amounts.seconds]


def encode_account(account: Account) -> bytes:
    """Write an account; its key is kept beside it."""
    spent, held, granted = account.spent, account.held, account.granted
    rows = pack_amounts(spent), pack_amounts(held), pack_grant(granted)
    return orjson.dumps([account.name, *rows, account.started_s, account.kinds])


def decode_account(key: str, data: bytes) -> Account:
    """Read an account."""
    name, spent, held, granted, started_s, kinds = orjson.loads(data)
    return Account(key, name, Amounts(*spent), Amounts(*held), Amounts(*granted), started_s, kinds)


def encode_named(value: Any) -> bytes:
    """Write a dataclass by the names of its fields, without those that have their default."""
    return _dumps(_row(value))


def decode_named(kind: type[T], data: bytes) -> T:
    """Read a dataclass that `encode_named` wrote. Fields it does not know are passed over."""
    of: Any = kind
    value: T = _reader(of)(orjson.loads(data))
    return value


def encode_step(step: StepRecord) -> bytes:
    """Write one record of a trail: by name, without what has its default, so that old records stay readable."""
    return _dumps(_row(step))


def decode_step(data: bytes) -> StepRecord:
    """Read one record of a trail."""
    step: StepRecord = _reader(StepRecord)(orjson.loads(data))
    return step


def encode_head(trail: Trail) -> bytes:
    """Write what a trail has beside its steps: the warm prefixes, the state of loop control and so on."""
    return _dumps(_row(replace(trail, steps=())))


def decode_head(data: bytes) -> Trail:
    """Read a trail without its steps."""
    trail: Trail = _reader(Trail)(orjson.loads(data))
    return trail


def encode_history(history: History) -> bytes:
    """Write what a kind of step has cost on a model."""
    sketches = (history.nanos, history.output_tokens)
    return orjson.dumps([[one.count, list(one.weights.items()), one.unit] for one in sketches])


def decode_history(data: bytes) -> History:
    """Read what a kind of step has cost on a model."""
    nanos, output = (Sketch(count, dict(rows), unit) for count, rows, unit in orjson.loads(data))
    return History(nanos, output)


def encode_receipt(receipt: Receipt) -> bytes:
    """Write a receipt. Text that is not UTF-8 is kept as escapes, never refused: a receipt explains bad input too."""
    return _dumps(receipt)


def decode_receipt(data: bytes) -> Receipt:
    """Read a receipt. Fields it does not know are passed over, missing ones take their defaults."""
    receipt: Receipt = _reader(Receipt)(orjson.loads(data))
    return receipt


def _dumps(row: object) -> bytes:
    try:
        return orjson.dumps(row, default=_plain)
    except TypeError:
        # Text that is not UTF-8, from a tool's name or a node's: rare, so that only then every string is cleaned.
        return orjson.dumps(_cleaned(row), default=_plain)


def _row(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass that differ from their defaults."""
    return {name: found for name, default in _defaults(value.__class__) if (found := getattr(value, name)) != default}


@cache
def _defaults(kind: Any) -> tuple[tuple[str, object], ...]:
    """Return the fields of a dataclass with their defaults; what has none differs from every value."""
    return tuple((one.name, one.default) for one in fields(kind))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(one) for key, one in value.items()}
    if is_dataclass(value):
        return {one.name: _cleaned(getattr(value, one.name)) for one in fields(value)}
    return value


def _plain(value: object) -> object:
    """Turn what JSON has not into what it has."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a store cannot write a {type(value).__name__}")


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return the function that reads a value of a type from what JSON made of it."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        inner = _reader(next(arg for arg in args if arg is not NoneType))
        return lambda value: None if value is None else inner(value)
    if origin in (tuple, frozenset):
        inner = _reader(args[0])
        return lambda value: origin(map(inner, value))
    if origin is not None:  # mappings of plain values
        return lambda value: value
    if kind is bytes:
        return lambda value: value.encode("latin-1")
    if isinstance(kind, type) and is_dataclass(kind):
        readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
        return lambda row: kind(**{name: readers[name](value) for name, value in row.items() if name in readers})
    return kind if isinstance(kind, type) and kind not in (float, object) else lambda value: value
