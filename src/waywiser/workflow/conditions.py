"""Conditions on the state of a workflow: `topic == 'order' and not done`. Parsed once, never evaluated as code.

What there is: names of state keys, texts in quotes, numbers, `true`, `false`, `nothing`, lists in brackets; `==`, `!=`,
`<`, `<=`, `>`, `>=`, `in`, `not in`; `and`, `or`, `not`, parentheses. A name alone is true when its value is neither
missing nor empty. Values that can't be compared make a comparison false, never an error in the middle of a run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_LENGTH = 500
_WORDS = {"true": True, "false": False, "nothing": None, "null": None, "True": True, "False": False, "None": None}
_COMPARISONS: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: lambda a, b: a < b,  # type: ignore[operator]  # values of any type
    ast.LtE: lambda a, b: a <= b,  # type: ignore[operator]  # values of any type
    ast.Gt: lambda a, b: a > b,  # type: ignore[operator]  # values of any type
    ast.GtE: lambda a, b: a >= b,  # type: ignore[operator]  # values of any type
    ast.In: lambda a, b: a in b,  # type: ignore[operator]  # values of any type
    ast.NotIn: lambda a, b: a not in b,  # type: ignore[operator]  # values of any type
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition: its text, the state keys it reads, and for each key the values it is compared with."""

    text: str
    names: tuple[str, ...]
    literals: tuple[tuple[str, object], ...]
    tree: ast.expr

    def holds(self, state: Mapping[str, object]) -> bool:
        """Whether the condition is true of a state. Keys that are missing count as nothing."""
        return bool(_value(self.tree, state))


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises `ValueError` that says what is not understood."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a condition may have {MAX_LENGTH} characters at most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too deeply nested"
        raise ValueError(f"{text!r} is not a condition: {reason}") from None
    _check(tree)
    nodes = list(ast.walk(tree))
    names = dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name) and node.id not in _WORDS)
    compared = [pair for node in nodes if isinstance(node, ast.Compare) for pair in _compared(node)]
    return Condition(text, tuple(names), tuple(compared), tree)


def _check(node: ast.expr) -> None:
    """Let only the forms of the language through."""
    if isinstance(node, ast.Name):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return
    parts: list[ast.expr]
    if isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        parts = [node.operand]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = node.elts
    else:
        raise ValueError(f"`{ast.unparse(node)}` is not understood in a condition")
    for part in parts:
        _check(part)


def _compared(node: ast.Compare) -> list[tuple[str, object]]:
    """The pairs of a state key and a literal it is compared with."""
    pairs: list[tuple[str, object]] = []
    sides = [node.left, *node.comparators]
    for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
        for name, literal in ((left, right), (right, left)):
            if not isinstance(name, ast.Name) or name.id in _WORDS:
                continue
            if isinstance(op, ast.In | ast.NotIn) and literal is right and isinstance(literal, ast.List | ast.Tuple):
                pairs += [(name.id, item.value) for item in literal.elts if isinstance(item, ast.Constant)]
            elif isinstance(op, ast.Eq | ast.NotEq) and isinstance(literal, ast.Constant):
                pairs.append((name.id, literal.value))
    return pairs


def _value(node: ast.expr, state: Mapping[str, object]) -> object:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _WORDS[node.id] if node.id in _WORDS else state.get(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, state) for item in node.elts]
    if isinstance(node, ast.BoolOp):
        values = (bool(_value(part, state)) for part in node.values)
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, state)
        return not value if isinstance(node.op, ast.Not) else -value if isinstance(value, int | float) else None
    if isinstance(node, ast.Compare):
        sides = [_value(part, state) for part in (node.left, *node.comparators)]
        return all(_compare(op, left, right) for op, left, right in zip(node.ops, sides, sides[1:], strict=False))
    raise TypeError(ast.dump(node))  # _check lets nothing else through


def _compare(op: ast.cmpop, left: object, right: object) -> bool:
    try:
        return bool(_COMPARISONS[type(op)](left, right))
    except TypeError:
        return False
