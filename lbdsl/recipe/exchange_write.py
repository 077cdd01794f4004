"""Tree to data: the statements of a recipe as JSON values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, error
from lbdsl.core.units import Unit
from lbdsl.recipe.exchange_models import FORMAT_VERSION
from lbdsl.syntax import tree
from lbdsl.syntax.format_tree import expression_text, set_text

_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")


def recipe_data(statements: Iterable[tree.Statement]) -> Diagnosed[dict[str, Any]]:
    """The data of a recipe. LB045 for what has no form in it: a setting given twice."""
    found = [problem for statement in statements if isinstance(statement, tree.Block) for problem in _repeated(statement)]
    if found:
        return Diagnosed(None, tuple(found))
    return Diagnosed(
        {
            "format_version": FORMAT_VERSION,
            "statements": [_STATEMENTS[type(statement)](statement) for statement in statements],
        }
    )


def _repeated(block: tree.Block) -> list[Diagnostic]:
    seen: dict[str, tree.Setting] = {}
    found = []
    for setting in block.settings:
        first = seen.setdefault(setting.key.name, setting)
        if first is not setting:
            found.append(
                error(
                    "LB045",
                    f"`{setting.key.name}` is set twice, and JSON has no such form",
                    setting.key.span,
                    labels=(Label(first.key.span, "first set here"),),
                    help="remove one of them",
                )
            )
    return found


def _number(node: tree.Number) -> int | float | str:
    """A JSON number where that reads back as the same text, else the text."""
    if node.unit is Unit.NONE and isinstance(node.value, int) and str(node.value) == node.text:
        return node.value
    # Without an exponent, which YAML's readers do not agree on.
    if node.unit is Unit.NONE and _DECIMAL.fullmatch(node.text) and repr(node.value) == node.text:
        return node.value
    return node.text


def value_data(node: tree.Expr) -> Any:
    """A value: a number, a boolean, `{"text": ...}` for a string, a list, a call, or any other expression as text."""
    match node:
        case tree.Number():
            return _number(node)
        case tree.Minus(operand=tree.Number() as operand):
            number = _number(operand)
            return -number if isinstance(number, int | float) and number else expression_text(node)
        case tree.String():
            return {"text": node.value}
        case tree.Items():
            return [value_data(item) for item in node.items]
        case tree.Call():
            return _call(node)
        case _:
            return expression_text(node)


def _call(node: tree.Call) -> Any:
    """`keep` by its name, `swa(window=4)` as {"swa": {"window": 4}}, `swa(4)` as {"swa": [4]}, and a mixed one as text."""
    name = node.name.name
    if node.args is None:
        return {"true": True, "false": False}.get(name, name)
    keys = [arg.key.name for arg in node.args if arg.key is not None]
    if not keys:
        return {name: [value_data(arg.value) for arg in node.args]}
    if len(keys) == len(node.args) == len(set(keys)):
        return {name: {key: value_data(arg.value) for key, arg in zip(keys, node.args, strict=True)}}
    return expression_text(node)


def _action(node: tree.Call) -> Any:
    # An action called `true` is a name, too.
    return node.name.name if node.args is None else _call(node)


def _layers(node: tree.LayerSet) -> Any:
    return _number(node.value) if isinstance(node, tree.Point) and isinstance(node.value, tree.Number) else set_text(node)


def _amount(node: tree.Number | tree.Variable) -> Any:
    return _number(node) if isinstance(node, tree.Number) else f"${node.name}"


def _domain(node: tree.Interval | tree.Choice) -> Any:
    if isinstance(node, tree.Choice):
        return [value_data(option) for option in node.options]
    return {"from": value_data(node.low), "to": value_data(node.high)}


def _given(**values: Any) -> dict[str, Any]:
    """Those that are there; a final underscore frees Python's own words."""
    return {key.rstrip("_"): value for key, value in values.items() if value is not None}


def _param(node: tree.Param) -> dict[str, Any]:
    return _given(
        param=f"${node.name.name}",
        type=node.type.name,
        in_=node.domain and _domain(node.domain),
        default=None if node.default is None else value_data(node.default),
    )


def _rule(node: tree.RuleStatement) -> dict[str, Any]:
    do = [_action(call) for call in node.actions]
    return {
        **_selector(node.selector),
        **_given(do=do[0] if len(do) == 1 else do, because=node.because.value if node.because else None),
    }


def _condition(node: tree.Expr | None) -> str | None:
    return None if node is None else expression_text(node)


def _selector(node: tree.Selector) -> dict[str, Any]:
    match node:
        case tree.ElseSelector():
            return {"else": True}
        case tree.WhereSelector():
            return {"where": expression_text(node.where)}
        case tree.LayersSelector():
            return _given(layers=_layers(node.layers), where=_condition(node.where))
        case tree.ModulesSelector():
            patterns = [{"regex": p.value} if isinstance(p, tree.Pattern) else p.value for p in node.patterns]
            return _given(
                modules=patterns,
                in_layers=None if node.layers is None else _layers(node.layers),
                where=_condition(node.where),
            )
        case tree.RankSelector():
            return _given(
                rank=node.direction,
                amount=None if node.amount is None else _amount(node.amount),
                of_rest=node.of_rest or None,
                by=_action(node.by),
                until=_condition(node.until),
            )


_STATEMENTS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    tree.Version: lambda node: {"lbr": _number(node.number)},
    tree.RecipeName: lambda node: {"recipe": node.name.value},
    tree.Requires: lambda node: {"requires": expression_text(node.expr)},
    tree.Param: _param,
    tree.Let: lambda node: {"let": f"${node.name.name}", "value": value_data(node.value)},
    tree.Group: lambda node: {"group": f"@{node.name.name}", "layers": _layers(node.layers)},
    tree.Include: lambda node: _given(include=node.path.value, sha256=node.sha256.value if node.sha256 else None),
    tree.Block: lambda node: {node.kind.name: {item.key.name: value_data(item.value) for item in node.settings}},
    tree.Assertion: lambda node: {"assert": expression_text(node.expr)},
    tree.RuleStatement: _rule,
}
