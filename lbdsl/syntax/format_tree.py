"""A tree to the text that parses to it: `tree_text`. For trees that were made, not read: `convert` makes them from JSON.

Parentheses stand where precedence needs them, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lbdsl.syntax import tree

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _UNARY, _VALUE = range(8)
"""Expressions by how tightly they bind."""

_EXCEPT, _UNION, _INTER, _NOT_SET, _ATOM = range(5)
"""The same of sets of layers."""


def tree_text(statements: Iterable[tree.Statement]) -> str:
    """Text with one statement a line, plain: `format_text` makes it canonical.

    Parsing it gives equal statements, as long as the tree is one that a text could give: names are names, the text of a
    number is that of its value, and a pattern does not end in a backslash.
    """
    return "".join(_STATEMENTS[type(statement)](statement) + "\n" for statement in statements)


def expression_text(node: tree.Expr) -> str:
    """An expression on one line, spaced as the formatter does."""
    return _expr(node, _OR)


def set_text(node: tree.LayerSet) -> str:
    """A set of layers on one line."""
    return _set(node, _EXCEPT)


# Expressions ---------------------------------------------------------------------------------------------------------


def _level(node: tree.Expr) -> int:
    match node:
        case tree.Logic():
            return _OR if node.op == "or" else _AND
        case tree.Not():
            return _NOT
        case tree.Compare():
            return _COMPARE
        case tree.Arithmetic():
            return _SUM if node.ops[0] in ("+", "-") else _PRODUCT
        case tree.Minus():
            return _UNARY
        case _:
            return _VALUE


def _expr(node: tree.Expr, least: int) -> str:
    """The text of an expression where one of level `least` or tighter may stand."""
    level = _level(node)
    text = _bare(node, level)
    return text if level >= least else f"({text})"


def _bare(node: tree.Expr, level: int) -> str:
    match node:
        case tree.Number():
            return node.text
        case tree.String():
            return _string(node)
        case tree.Pattern():
            return _pattern(node)
        case tree.Variable():
            return f"${node.name}"
        case tree.Dotted():
            return node.name
        case tree.Call():
            return _call(node)
        case tree.Items():
            return f"[{', '.join(_expr(item, _OR) for item in node.items)}]"
        case tree.Logic():
            return f" {node.op} ".join(_expr(operand, level + 1) for operand in node.operands)
        case tree.Compare():
            return _chain(node.operands, (op.text for op in node.ops), level + 1)
        case tree.Arithmetic():
            return _chain(node.operands, node.ops, level + 1)
        case tree.Not():
            return f"not {_expr(node.operand, _NOT)}"
        case tree.Minus():
            return f"-{_expr(node.operand, _UNARY)}"


def _chain(operands: Iterable[tree.Expr], ops: Iterable[str], least: int) -> str:
    first, *rest = (_expr(operand, least) for operand in operands)
    return first + "".join(f" {op} {operand}" for op, operand in zip(ops, rest, strict=True))


def string_text(value: str) -> str:
    """A text in quotes, as a recipe holds it."""
    return f'"{value.translate(_ESCAPES)}"'


def _string(node: tree.String) -> str:
    return string_text(node.value)


def _pattern(node: tree.Pattern) -> str:
    return '~"' + node.value.replace('"', '\\"') + '"'


def _call(node: tree.Call) -> str:
    return node.name.name if node.args is None else f"{node.name.name}({', '.join(map(_arg, node.args))})"


def _arg(node: tree.Arg) -> str:
    value = _expr(node.value, _OR)
    return value if node.key is None else f"{node.key.name}={value}"


# Sets of layers ------------------------------------------------------------------------------------------------------


def _set(node: tree.LayerSet, least: int) -> str:
    level, text = _set_parts(node)
    return text if level >= least else f"({text})"


def _set_parts(node: tree.LayerSet) -> tuple[int, str]:
    match node:
        case tree.ExceptSet():
            return _EXCEPT, f"{_set(node.base, _UNION)} except {_set(node.removed, _UNION)}"
        case tree.UnionSet():
            return _UNION, ", ".join(_set(part, _INTER) for part in node.sets)
        case tree.InterSet():
            return _INTER, " and ".join(_set(part, _NOT_SET) for part in node.sets)
        case tree.NotSet():
            return _NOT_SET, f"not {_set(node.operand, _ATOM)}"
        case tree.AllLayers():
            return _ATOM, "all"
        case tree.Point():
            return _ATOM, _bare(node.value, _VALUE)
        case tree.Range():
            return _ATOM, f"{_bare(node.first, _VALUE)}-{_bare(node.last, _VALUE)}"
        case tree.Edge():
            return _ATOM, f"{node.which} {_bare(node.amount, _VALUE)}"
        case tree.Every():
            return _ATOM, f"every {node.step.text}" + (f" from {node.start.text}" if node.start is not None else "")
        case tree.RankedSet():
            return _ATOM, f"{node.direction} {_bare(node.amount, _VALUE)} by {_call(node.by)}"
        case tree.GroupRef():
            return _ATOM, f"@{node.name}"


# Statements ----------------------------------------------------------------------------------------------------------


def _domain(node: tree.Interval | tree.Choice) -> str:
    if isinstance(node, tree.Interval):
        return f"{_expr(node.low, _OR)}..{_expr(node.high, _OR)}"
    return "{" + ", ".join(_expr(option, _OR) for option in node.options) + "}"


def _param(node: tree.Param) -> str:
    start = f"param ${node.name.name}: {node.type.name}"
    domain = "" if node.domain is None else f" in {_domain(node.domain)}"
    if node.default is None:
        return start + domain
    if isinstance(node.domain, tree.Interval) and _ends_in_word(domain):
        # A name before `=` would be read as a key, and `tokens` not as a unit.
        domain = f" in {_expr(node.domain.low, _OR)}..({_expr(node.domain.high, _OR)})"
    return f"{start}{domain} = {_expr(node.default, _OR)}"


def _ends_in_word(text: str) -> bool:
    """Whether the last token is a bare name, or the unit `tokens`: neither `$x` nor `model.layers`."""
    return re.search(r"(?:\.\.|[^\w.$])[A-Za-z_]\w*$", text) is not None


def _include(node: tree.Include) -> str:
    return f"include {_string(node.path)}" + (f" sha256 {_string(node.sha256)}" if node.sha256 is not None else "")


def _setting(node: tree.Setting) -> str:
    return f"{node.key.name} = {_expr(node.value, _OR)}"


def _braces(word: str, items: Iterable[str]) -> str:
    return f"{word} {{ {'; '.join(items)} }}"


def _rule(node: tree.RuleStatement) -> str:
    because = "" if node.because is None else f" because {_string(node.because)}"
    return f"{_selector(node.selector)} {' + '.join(map(_call, node.actions))}{because}"


def _selector(node: tree.Selector) -> str:
    match node:
        case tree.ElseSelector():
            return "else"
        case tree.WhereSelector():
            return f"where {_expr(node.where, _OR)}"
        case tree.LayersSelector():
            return f"layers {set_text(node.layers)}" + _tail("where", node.where)
        case tree.ModulesSelector():
            patterns = ", ".join(_expr(pattern, _VALUE) for pattern in node.patterns)
            layers = "" if node.layers is None else f" in layers {set_text(node.layers)}"
            return f"modules {patterns}{layers}" + _tail("where", node.where)
        case tree.RankSelector():
            amount = "" if node.amount is None else f" {_bare(node.amount, _VALUE)}"
            rest = " of rest" if node.of_rest else ""
            return f"{node.direction}{amount}{rest} by {_call(node.by)}" + _bound(node.bound)


def _bound(node: tree.Expr | tree.While | None) -> str:
    return _tail("while", node.expr) if isinstance(node, tree.While) else _tail("until", node)


def _choose(node: tree.Choose) -> str:
    among = ", ".join(" + ".join(map(_call, action)) for action in node.among)
    budgets = ", ".join(_expr(expr, _OR) for expr in node.subject_to)
    return (
        f"choose for layers {set_text(node.layers)} among {among} minimizing {_call(node.minimizing)} subject to {budgets}"
    )


def _item(node: tree.Setting | tree.Stage) -> str:
    return (
        _setting(node)
        if isinstance(node, tree.Setting)
        else _braces(f"stage {node.name.name}", map(_setting, node.settings))
    )


def _tail(word: str, node: tree.Expr | None) -> str:
    return "" if node is None else f" {word} {_expr(node, _OR)}"


_STATEMENTS: Mapping[type, Callable[[Any], str]] = {
    tree.Version: lambda node: f"lbr {node.number.text}",
    tree.RecipeName: lambda node: f"recipe {_string(node.name)}",
    tree.Requires: lambda node: f"requires {_expr(node.expr, _OR)}",
    tree.Param: _param,
    tree.Let: lambda node: f"let ${node.name.name} = {_expr(node.value, _OR)}",
    tree.Group: lambda node: f"group @{node.name.name} = {set_text(node.layers)}",
    tree.Include: _include,
    tree.Block: lambda node: _braces(node.kind.name, map(_item, node.items)),
    tree.Assertion: lambda node: f"assert {_expr(node.expr, _OR)}",
    tree.RuleStatement: _rule,
    tree.Choose: _choose,
}
