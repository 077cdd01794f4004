"""A tree to the text that parses to it. For trees that were made, not read: `convert` makes them from JSON.

Each kind of node has a template, in which `<field>` stands for a field's text, `<field:, >` for that of a list with its
separator, and `[...]` is left out where the field in it is None or False. Parentheses stand where precedence needs them,
and nowhere else. Everything is on one line, spaced as in canonical text; lines are the formatter's affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from lbdsl.language import tree

_TEMPLATES: Mapping[type[tree.Node], str] = {
    tree.Ident: "<name>",
    tree.Number: "<text>",
    tree.Variable: "$<name>",
    tree.Dotted: "<name>",
    tree.Arg: "[<key>=]<value>",
    tree.Call: "<name>[(<args:, >)]",
    tree.Not: "not <operand>",
    tree.Minus: "-<operand>",
    # Sets of layers
    tree.AllLayers: "all",
    tree.Point: "<value>",
    tree.Range: "<first>-<last>",
    tree.Edge: "<which> <amount>",
    tree.Every: "every <step>[ from <start>]",
    tree.RankedSet: "<direction> <amount> by <by>",
    tree.GroupRef: "@<name>",
    tree.UnionSet: "<sets:, >",
    tree.InterSet: "<sets: and >",
    tree.ExceptSet: "<base> except <removed>",
    tree.NotSet: "not <operand>",
    # Statements
    tree.Version: "lbr <number>",
    tree.RecipeName: "recipe <name>",
    tree.Requires: "requires <expr>",
    tree.Param: "param <name>: <type>[ in <domain>][ = <default>]",
    tree.Interval: "<low>..<high>",
    tree.Choice: "{<options:, >}",
    tree.Let: "let <name> = <value>",
    tree.Group: "group <name> = <layers>",
    tree.Include: "include <path>[ sha256 <sha256>]",
    tree.Block: "<kind> { <items:; > }",
    tree.Stage: "stage <name> { <settings:; > }",
    tree.Setting: "<key> = <value>",
    tree.Assertion: "assert <expr>",
    tree.Choose: "choose for layers <layers> among <among:, > minimizing <minimizing> subject to <subject_to:, >",
    tree.RuleStatement: "<selector> <actions: + >[ because <because>]",
    tree.ElseSelector: "else",
    tree.WhereSelector: "where <where>",
    tree.LayersSelector: "layers <layers>[ where <where>]",
    tree.ModulesSelector: "modules <patterns:, >[ in layers <layers>][ where <where>]",
    tree.RankSelector: "<direction>[ <amount>][ of rest<of_rest>] by <by>[ until <until>][ while <while_>]",
}

_EXPRESSIONS = (("or",), ("and",), (tree.Not,), (tree.Compare,), ("+", "-"), ("*", "/"), (tree.Minus,))
_SETS = ((tree.ExceptSet,), (tree.UnionSet,), (tree.InterSet,), (tree.NotSet,))
"""Operators, the loosest first."""

_LEVELS = {op: level for operators in (_EXPRESSIONS, _SETS) for level, ops in enumerate(operators) for op in ops}
_TIGHTEST = len(_EXPRESSIONS)

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def tree_text(statements: Iterable[tree.Statement]) -> str:
    """Text with one statement a line, plain: `format_text` makes it canonical.

    Parsing it gives equal statements, as long as the tree is one that a text could give: names are names, the text of a
    number is that of its value, and a pattern does not end in a backslash.
    """
    return "".join(node_text(statement) + "\n" for statement in statements)


def node_text(node: tree.Node, least: int = 0) -> str:
    """The text of any node, in parentheses if it binds less tightly than `least`."""
    operator = node.op if isinstance(node, tree.Logic) else node.ops[0] if isinstance(node, tree.Arithmetic) else type(node)
    level = _LEVELS.get(operator, _TIGHTEST)
    # Prefixes follow each other: `not not x`.
    inner = 0 if level == _TIGHTEST else level if operator in (tree.Not, tree.Minus) else level + 1
    match node:
        case tree.String():
            text = string_text(node.value)
        case tree.Pattern():
            text = '~"' + node.value.replace('"', '\\"') + '"'
        case tree.Items():
            text = f"[{_joined(', ', node.items, inner)}]"
        case tree.Logic():
            text = _joined(f" {node.op} ", node.operands, inner)
        case tree.Compare():
            text = _chain(node.operands, [op.text for op in node.ops], inner)
        case tree.Arithmetic():
            text = _chain(node.operands, node.ops, inner)
        case tree.Param(domain=tree.Interval() as domain) if node.default and _ENDS_IN_WORD.search(node_text(domain)):
            # A name before `=` would be read as a key, and `tokens` not as a unit.
            upper = node_text(domain.high, _TIGHTEST + 1)
            text = f"param {node_text(node.name)}: {node.type.name} in {node_text(domain.low)}..{upper}"
            text += f" = {node_text(node.default)}"
        case _:
            text = _filled(node, inner)
    return text if level >= least else f"({text})"


_ENDS_IN_WORD = re.compile(r"(?:\.\.|[^\w.$])[A-Za-z_]\w*$")
"""A last token that is a bare name, or the unit `tokens`: neither `$x` nor `model.layers`."""


def string_text(value: str) -> str:
    """A text in quotes, as a recipe holds it."""
    return f'"{value.translate(_ESCAPES)}"'


def _joined(separator: str, nodes: Iterable[tree.Node | tuple[tree.Node, ...]], least: int) -> str:
    """Nodes, or actions that are taken together, with a separator."""
    return separator.join(
        [_joined(" + ", node, least) if isinstance(node, tuple) else node_text(node, least) for node in nodes]
    )


def _chain(operands: Iterable[tree.Expr], ops: Iterable[str], least: int) -> str:
    first, *rest = [node_text(operand, least) for operand in operands]
    return first + "".join([f" {op} {operand}" for op, operand in zip(ops, rest, strict=True)])


def _filled(node: tree.Node, least: int) -> str:
    """A node's template with its fields."""
    text = ""
    for before, field, separator, after in _parts(_TEMPLATES[type(node)]):
        value = getattr(node, field) if field else ""
        if value is None or value is False:
            continue
        if isinstance(value, tree.Node):
            value = node_text(value, least)
        elif isinstance(value, tuple):
            value = _joined(separator, value, least)
        text += before + ("" if value is True else value) + after
    return text


@cache
def _parts(template: str) -> list[tuple[str, ...]]:
    """A template as (text before, field, separator, text after); a part without a field is all text."""
    parts = []
    for part in re.findall(r"\[.*?\]|<.*?>|[^[<]+", template):
        field = re.fullmatch(r"\[?([^<]*)<(\w+):?(.*?)>(.*?)\]?", part)
        parts.append(field.groups() if field else (part, "", "", ""))
    return parts
