"""Values known from the text alone: constants (in `param`, `let`, settings, arguments and amounts), and actions such as
`swa(window=512, sinks=4)`. Pydantic's errors about arguments become messages in the terms of the language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from lbdsl.actions import Action, actions
from lbdsl.actions.base import argument_text
from lbdsl.core.arithmetic import combined, finite, join_units
from lbdsl.core.diagnostic import Label, warning
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Share, Unit
from lbdsl.language import tree
from lbdsl.language.lexer import NUMBERS, lex, one_line
from lbdsl.language.parse import parse
from lbdsl.language.tree import Expr, Items, Number, String
from lbdsl.language.words import ticked, wish
from lbdsl.metrics import metrics
from lbdsl.recipe.schema import Boolean
from lbdsl.recipe.scope import Constant, Scope, Unresolved, attempt, each, meant_words, rebuilt
from lbdsl.recipe.types import unit_of, value_of, without_bytes

M = TypeVar("M", bound=BaseModel)

_WHAT = "a number, text, `true`, `false`, a `$variable` or arithmetic over them"


def constant(scope: Scope, node: tree.Expr, words: bool = False) -> Constant:
    """The value of an expression. With `words`, a bare name is a string."""
    match node:
        case tree.Number():
            if not finite(node.value):
                scope.fail("LB121", f"`{node.text}` is too large", node.span)
            return node
        case String() | Boolean():
            return node
        case tree.Variable():
            return variable(scope, node)
        case tree.Call(name=name, args=None) if name.name in ("true", "false"):
            return Boolean(node.span, name.name == "true")
        case tree.Call(name=name, args=None) if words:
            return String(node.span, name.name)
        case tree.Items():
            found = rebuilt(node, items=lambda item: constant(scope, item, words))
            for item in found.items:
                if isinstance(item, Items):
                    scope.fail("LB106", "a list in a list", item.span, help="write all values in one list")
            return found
        case tree.Minus():
            inner = _number(scope, node.operand)
            return Number(node.span, -inner.value, inner.unit, one_line(node.span.text))
        case tree.Arithmetic():
            operands = each(lambda operand: _number(scope, operand), node.operands)
            value, unit = calculated(scope, node, operands)
            assert value is not None, "the operands are numbers"
            return Number(node.span, value, unit, one_line(node.span.text))
        case _:
            scope.fail("LB120", "expected a constant", node.span, help=f"write {_WHAT}")


def variable(scope: Scope, node: tree.Variable) -> Constant:
    """The value of `$name`, with the span of its use."""
    scope.used.add(f"${node.name}")
    if node.name not in scope.variables:
        scope.unknown("LB110", f"no variable `${node.name}`", node, scope.variables, "variables defined above")
    if node.name in scope.expressions:
        message = f"`${node.name}` is not a constant, it depends on the model"
        label = Label(scope.expressions[node.name].node.span, "stands for this")
        scope.fail("LB120", message, node.span, labels=label, help=f"expected {_WHAT}")
    value = scope.variables[node.name]
    if value is None:
        raise Unresolved
    return placed(value, node.span, f"${node.name}")


def constants(items: Items) -> tuple[Constant, ...]:
    """The items of a list that is a constant."""
    return cast(tuple[Constant, ...], items.items)


def placed(value: Constant, span: Span, text: str) -> Constant:
    """The same value with another span, where `text` is written."""
    if isinstance(value, Items):
        return Items(span, tuple(placed(item, span, text) for item in constants(value)))
    return value.replace(span=span, text=text) if isinstance(value, Number) else value.replace(span=span)


def calculated(
    scope: Scope, node: tree.Arithmetic, operands: Sequence[Expr], among: bool = False
) -> tuple[int | float | None, Unit]:
    """The value of a chain of operations (None if it depends on the model), and its unit. `among`: it is part of an
    expression on a model, and errors are at the operand."""
    value, unit = value_of(operands[0]), unit_of(operands[0])
    for op, operand, written in zip(node.ops, operands[1:], node.operands[1:], strict=True):
        right = value_of(operand)
        if among and op == "/" and right == 0:
            scope.fail("LB121", "division by zero", node.span, labels=Label(written.span, "this is 0"))
        joined = join_units(op, unit, unit_of(operand))
        if joined is None:
            message = f"`{op}` between {unit.value} and {unit_of(operand).value}"
            hint = "both sides must be of one unit, or one a plain number"
            scope.fail("LB107", message, written.span if among else node.span, help=hint)
        unit = joined
        if value is None or right is None:
            value = None
            continue
        value = combined(op, value, right)
        if value is None or not finite(value):
            message = "division by zero" if op == "/" and right == 0 else "result is too large"
            scope.fail("LB121", message, node.span, help="a constant is a finite number of at most 18 digits")
    return value, unit


def whole_number(scope: Scope, what: str, node: tree.Expr, *units: Unit) -> int:
    """The integer value of a constant in one of the units, or without a unit. `what` is its name in messages."""
    value = constant(scope, node)
    if not isinstance(value, Number):
        more: dict[str, Any] = {}
        if isinstance(value, String) and [token.type in NUMBERS for token in lex(value.value).tokens] == [True]:
            more = {"help": "leave out the quotes", "write": value.value}
        scope.fail("LB106", f"{what} is a number, not {described(value)}", value.span, **more)
    if value.unit not in (Unit.NONE, *units):
        counted = f"counted in {units[0].value}, not in {value.unit.value}" if units else ""
        said = counted or f"a plain number, not {described(value)}"
        scope.fail("LB107", f"{what} is {said}", value.span, **without_bytes(value))
    if value.value != int(value.value):
        scope.fail("LB106", f"{what} must be a whole number, not {described(value)}", value.span)
    return int(value.value)


def length_in_tokens(scope: Scope, what: str, node: tree.Expr) -> int:
    """That of a context, a window or a sequence, which is usually a power of two."""
    warn_decimal(scope, node)
    return whole_number(scope, what, node, Unit.TOKENS)


def described(value: Constant) -> str:
    """A value as text for messages: `512 tokens`, `the text "512"`."""
    match value:
        case Number():
            plain = value.unit is Unit.NONE or value.unit.value in value.text or value.text.endswith("%")
            said = f"{value.text} ({value.value:.12g})" if value.text.startswith("$") else f"{value.text or value.value}"
            return said + ("" if plain else f" {value.unit.value}")
        case String():
            return f'the text "{value.value}"'
        case Boolean():
            return str(value.value).lower()
        case _:
            return "a list"


def literals(scope: Scope, node: tree.Expr | None) -> tuple[Number, ...]:
    """The number literals that a constant may come from: its own, or those of its variable."""
    if isinstance(node, tree.Variable):
        return scope.literals.get(node.name, ())
    return (node,) if isinstance(node, tree.Number) else ()


def warn_decimal(scope: Scope, node: tree.Expr) -> None:
    """Warn about `4k` as a window or context: it is 4000 tokens, but 4096 was probably meant. Once per literal."""
    for literal in literals(scope, node):
        text = literal.text.removesuffix("tokens").rstrip()
        if not text.endswith("k") or text.startswith("$") or literal.span in scope.warned:
            continue
        scope.warned.add(literal.span)
        binary = literal.text.replace("k", "Ki", 1)
        meant = f" ({int(text[:-1]) * 1024})" if text[:-1].isdigit() else ""
        message, help = f"`{literal.text}` is {literal.value} tokens", f"did you mean `{binary}`{meant}?"
        scope.diagnostics.append(warning("LB119", message, literal.span, help=help))


def _number(scope: Scope, node: tree.Expr) -> Number:
    value = constant(scope, node)
    if not isinstance(value, Number):
        scope.fail("LB106", f"expected a number, not {described(value)}", node.span)
    return value


# Actions -------------------------------------------------------------------------------------------------------------


def resolve_action(scope: Scope, call: tree.Call) -> Action:
    """The action of a call, its arguments checked; errors are at the argument."""
    name = call.name.name
    if name in actions():
        return filled(scope, actions()[name], call)
    if name == "sensitivity" or name in metrics():
        scope.fail("LB101", f"`{name}` is a metric, not an action", call.name.span, help=f"actions: {ticked(actions())}")
    scope.unknown("LB101", f"no action `{name}`", call.name, actions(), "actions", "action")


def filled(scope: Scope, cls: type[M], call: tree.Call) -> M:
    """The Pydantic value of a call: its parameters are the fields, except the tag."""
    values: dict[str, Any] = {}
    spans: dict[str, Span] = {}

    def one(position: int, arg: tree.Arg) -> None:
        name = _parameter(scope, cls, call, position, arg)
        if name in spans:
            scope.fail("LB104", f"`{name}` is given twice", arg.span, labels=Label(spans[name], "first here"))
        spans[name] = arg.value.span
        values[name] = _argument(scope, cls, name, arg.value)

    good = attempt(each, lambda numbered: one(*numbered), enumerate(call.args or ())) is not None
    try:
        made = cls(**values)
    except ValidationError as problem:
        for item in problem.errors():
            # An argument that has an error is not missing.
            if good or not item["type"].startswith("missing"):
                _explain(scope, cls, call, spans, item)
        raise Unresolved from None
    if not good:
        raise Unresolved
    return made


@cache
def examples_of(cls: type[Action]) -> tuple[Action, ...]:
    """The actions in an action's own examples; those of a plug-in may be wrong, and are left out."""
    files = (parse(Source("", f"else {example}")).value for example in (cls.example, *cls.examples))
    rules = (rule for file in files if file for rule in file.statements if isinstance(rule, tree.RuleStatement))
    found = (attempt(resolve_action, Scope(), call) for rule in rules for call in rule.actions)
    return tuple(action for action in found if action is not None)


def _parameters(cls: type[BaseModel]) -> list[str]:
    return [name for name in cls.model_fields if name not in ("kind", "node")]


def choices(cls: type[BaseModel], name: str) -> tuple[str, ...]:
    """The allowed values of a parameter, if its type lists them; the words, if it takes numbers, too."""
    annotation: Any = cls.model_fields[name].annotation
    if annotation is bool:
        return ("true", "false")
    args = get_args(annotation)
    values = args if get_origin(annotation) is Literal else [word for arg in args for word in get_args(arg)]
    return tuple(str(value) for value in values if isinstance(value, str | int) and not isinstance(value, bool))


def signature(name: str, cls: type[BaseModel]) -> str:
    """`swa(window, sinks=0)`."""
    parts = []
    for parameter in _parameters(cls):
        default = cls.model_fields[parameter].get_default()
        said = "..." if default is None else argument_text(default)
        parts.append(parameter if default is PydanticUndefined else f"{parameter}={said}")
    return f"{name}({', '.join(parts)})" if parts else name


def _parameter(scope: Scope, cls: type[BaseModel], call: tree.Call, position: int, arg: tree.Arg) -> str:
    """The parameter that an argument is for."""
    names, name = _parameters(cls), call.name.name
    form = f"its form is `{signature(call.name.name, cls)}`"
    if arg.key is not None:
        if arg.key.name in names:
            return arg.key.name
        hints, meant = meant_words(arg.key.name, names, "parameter")
        scope.fail("LB103", f"`{name}` has no parameter `{arg.key.name}`", arg.key.span, help=(*hints, form), write=meant)
    if any(other.key is not None for other in (call.args or ())[:position]):
        scope.fail("LB104", "a positional argument follows a named one", arg.span, help=form)
    if position >= len(names):
        count = {0: "no arguments", 1: "one argument"}.get(len(names), f"at most {len(names)} arguments")
        scope.fail("LB104", f"`{name}` takes {count}", arg.span, help=form)
    return names[position]


def _argument(scope: Scope, cls: type[BaseModel], name: str, node: tree.Expr) -> Any:
    """The Python value of an argument. Units are checked here, types and bounds by the action's own model."""
    value = constant(scope, node, words=True)
    field = cls.model_fields[name]
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra and not (isinstance(value, String) and get_args(field.annotation)):
        unit = Unit(str(extra["unit"]))
        if unit is Unit.TOKENS and not extra.get("decimal"):
            warn_decimal(scope, node)
        return whole_number(scope, f"`{name}`", value, unit)
    if isinstance(value, Items):
        if not any(get_origin(kind) is tuple for kind in get_args(field.annotation)):
            scope.fail("LB106", f"`{name}` takes one value, not a list", node.span)
        return tuple(whole_number(scope, f"`{name}`", item, Unit.NONE) for item in constants(value))
    if isinstance(value, Number):
        if value.unit not in (Unit.NONE, Unit.RATIO):
            scope.fail("LB107", f"`{name}` is a plain number, not {described(value)}", node.span)
        return Share(value.value) if value.unit is Unit.RATIO else value.value
    return value.value


BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}

_TYPES = {
    "amount": "a whole number or a share, as in `75%`",
    "bool": "`true` or `false`",
    "float": "a number",
    "int": "a whole number",
    "string": "text",
}


def refusal(item: Mapping[str, Any]) -> tuple[str, str]:
    """The code and the message for one of Pydantic's errors: LB106 for a value of the wrong type, else LB105."""
    name, kind, context = str(item["loc"][0]) if item["loc"] else "", item["type"], item.get("ctx", {})
    bound = next((f"{words} {context[key]:.12g}" for key, words in BOUNDS.items() if key in context), None)
    if bound is not None:
        return "LB105", f"`{name}` must be {bound}"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return "LB106", f"`{name}` must be {_TYPES.get(kind.split('_')[0], 'of another type')}"
    return "LB105", f"`{name}`: {item['msg'].lower()}" if name else item["msg"].lower()


def _explain(
    scope: Scope, cls: type[BaseModel], call: tree.Call, spans: Mapping[str, Span], item: Mapping[str, Any]
) -> None:
    """Report one of Pydantic's errors at the argument it is about."""
    kind = call.name.name
    name = str(item["loc"][0]) if item["loc"] else ""
    span = spans.get(name, call.span)
    form = f"its form is `{signature(kind, cls)}`"
    if item["type"] == "missing":
        scope.error("LB104", f"`{kind}` needs `{name}`", call.span, help=form)
    elif item["type"] != "literal_error":
        scope.error(*refusal(item), span, help=item.get("ctx", {}).get("help", form))
    else:
        expected, given = str(item["ctx"]["expected"]).replace("'", "`"), item["input"]
        help, said = f"it can be {expected}", filter(None, [wish(str(given), "parameter")])
        if isinstance(given, str) and "`" not in expected:
            others = [
                f"`{other}={given}`" for other in _parameters(cls) if given in choices(cls, other) and given.isidentifier()
            ]
            scope.error("LB106", f"`{name}` must be a whole number", span, help=(*(others or said), help))
        else:
            scope.error("LB105", f"`{name}` of `{kind}` cannot be `{given}`", span, help=(*said, help))
