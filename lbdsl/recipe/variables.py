"""Resolve variables: parameters, `param $w: tokens in 64..8Ki = 256`, with the values of `--set`, and `let $name = EXPR`.

A `let` is a constant, or an expression that is resolved again at each use: `let $half = kv(32Ki) <= 50%` can be used in
`until` and in `assert`, `let $mild = nll < 0.1` in `where`. The meaning of such an expression, and whether it is allowed,
is decided where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Label
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit, readings, readings_text
from lbdsl.language import tree
from lbdsl.language.parse import parse
from lbdsl.language.tree import Number, String, walk
from lbdsl.recipe.expressions import MAX_EXPANDED, resolve_expr
from lbdsl.recipe.scope import Constant, Named, Plain, Scope, Unresolved, attempt, rebuilt, size_of
from lbdsl.recipe.types import Clause, kind_of, unit_of
from lbdsl.recipe.values import constant, described, literals, placed

MAX_SIZE = 1000
MAX_DEPTH = 50

# Expressions with a name ---------------------------------------------------------------------------------------------

_PLACES: tuple[Clause, ...] = ("where", "assert")
"""An expression that is invalid in both is invalid everywhere: the other places allow less than `assert` does."""


def resolve_let(scope: Scope, node: tree.Let) -> None:
    """Define the variable; wrong values are reported here, once."""
    name = node.name.name
    value = expression = None
    if _is_constant(scope, node.value):
        value = attempt(constant, scope, node.value)
    else:
        expression = attempt(_expression, scope, node)
    if scope.define(node.name):
        scope.literals[name] = literals(scope, node.value)
        scope.variables[name] = value
        if expression is not None:
            scope.expressions[name] = expression


def _expression(scope: Scope, node: tree.Let) -> Named[tree.Expr]:
    """The expression if it is valid at some place; else report the errors of the place with the fewest."""
    size, depth = size_of(node.value, scope.expressions, tree.Expr)
    depth += isinstance(node.value, tree.Variable)  # a name of a name is a level, too
    if size > MAX_SIZE or depth > MAX_DEPTH:
        what = f"more than {MAX_SIZE} parts" if size > MAX_SIZE else f"nesting deeper than {MAX_DEPTH}"
        message = f"`${node.name.name}` is an expression of {what}"
        scope.fail("LB212", message, node.value.span, help="write it out, or name less of it")
    found: list[tuple[Diagnostic, ...]] = []
    for place in _PLACES:
        trial = replace(scope, diagnostics=[], judged_on=[], warned=set(scope.warned))
        attempt(resolve_expr, trial, node.value, place)
        beyond, scope.expanded = scope.expanded <= MAX_EXPANDED < trial.expanded, trial.expanded
        found.append(tuple(problem for problem in trial.diagnostics if problem.is_error))
        if beyond:
            scope.diagnostics += [problem for problem in found[-1] if problem.code == "LB212"]
            raise Unresolved
        if not found[-1]:
            return Named(node.value, size, depth)
    scope.diagnostics += found[len(found[1]) < len(found[0])]
    raise Unresolved


def _is_constant(scope: Scope, node: tree.Expr) -> bool:
    """Whether nothing in it depends on a model."""
    for part in walk(node):
        match part:
            case tree.Dotted() | tree.Compare() | tree.Logic() | tree.Not():
                return False
            case tree.Call() if part.args is not None or part.name.name not in ("true", "false"):
                return False
            case tree.Variable() if part.name in scope.expressions:
                return False
    return True


# Parameters ----------------------------------------------------------------------------------------------------------

TYPES: Mapping[str, tuple[str, tuple[Unit, ...], bool, str]] = {
    "int": ("number", (Unit.NONE,), True, "a whole number"),
    "float": ("number", (Unit.NONE,), False, "a number"),
    "ratio": ("number", (Unit.RATIO, Unit.NONE), False, "a share, as in `5%`"),
    "tokens": ("number", (Unit.TOKENS, Unit.NONE), True, "a number of tokens, as in `8Ki`"),
    "bytes": ("number", (Unit.BYTES, Unit.NONE), True, "a number of bytes, as in `2GiB`"),
    "str": ("text", (Unit.NONE,), False, "text"),
    "bool": ("boolean", (Unit.NONE,), False, "`true` or `false`"),
}
"""Type -> kind of value, units it may be written in (the first is the parameter's unit), whether it is an integer, and its
meaning."""

Domain = tree.Interval | tree.Choice


class Outside(NamedTuple):
    """A value from `--set`: None when it could not be read. `literals` has its number literal, if it is one. `is_number`:
    given as a number and not as text, so that a share above 1 is meant."""

    value: Constant | None
    literals: tuple[Number, ...] = ()
    is_number: bool = False


def outside_values(
    scope: Scope, statements: Sequence[tree.Statement], set_params: Mapping[str, object]
) -> dict[str, Outside]:
    """The values of `--set`, parsed by the type that the recipe declares; a number or boolean is first converted to text.
    Unknown names are errors."""
    declared = {statement.name.name: statement for statement in statements if isinstance(statement, tree.Param)}
    found: dict[str, Outside] = {}
    if not isinstance(set_params, Mapping):
        raise TypeError(f'set_params is a dict of names and values, as in {{"window": 512}}, not {set_params!r}')
    for given, value in set_params.items():
        text = value if isinstance(value, str) else str(value).lower()
        name = given.removeprefix("$")
        if name in declared:
            read = attempt(_read, scope, text, declared[name]) or Outside(None)
            found[name] = read._replace(is_number=not isinstance(value, str))
        else:
            written = tree.Ident(Span(_outside(name, f"{given}={text}"), 0, len(given)), name)
            attempt(scope.unknown, "LB118", f"the recipe has no parameter `${name}`", written, declared, "parameters")
    return found


def _outside(name: str, text: str) -> Source:
    """The text of a value of `--set`, `--sweep` or `set_params`."""
    return Source(f"the value given for ${name}", text, has_lines=False)


def _read(scope: Scope, text: str, param: tree.Param) -> Outside:
    """`--set` text as a constant. Text for a `str` needs no quotes."""
    name = param.name.name
    source = _outside(name, text)
    span = Span(source, 0, len(text))
    try:
        text.encode()
    except UnicodeEncodeError:  # a command-line argument that is not UTF-8
        scope.fail("LB118", f"the value for `${name}` is not UTF-8 text", span)
    if param.type.name == "str" and not (len(text) >= 2 and text[0] == text[-1] == '"'):
        return Outside(String(span, text))
    file, problems = parse(Source(source.name, f"let $it = {text}"))
    if not problems and file is not None and len(file.statements) == 1 and isinstance(file.statements[0], tree.Let):
        written = file.statements[0].value
        value = attempt(constant, Scope(), written)
        if value is not None:
            value = placed(value, span, text)
            return Outside(value, (value,) if isinstance(value, Number) and isinstance(written, Number) else ())
    if param.type.name not in TYPES:
        return Outside(None)  # LB127 says so.
    declared = Label(param.span, f"a parameter of type {param.type.name}")
    meant = readings(text, in_bytes=param.type.name == "bytes")
    help = readings_text(meant) if meant else f"it takes {TYPES[param.type.name][3]}"
    scope.fail("LB118", f"`{text}` is not a valid value for `${name}`", span, labels=declared, help=help)


def resolve_param(scope: Scope, node: tree.Param, outside: Outside | None) -> Plain | None:
    """Define the variable and return its value: that of `--set`, else the default. None with an error."""
    name = node.name.name
    value = attempt(_value, scope, node, outside)
    if not scope.define(node.name):
        return None
    scope.variables[name] = value
    written = literals(scope, node.default) if outside is None else outside.literals
    scope.literals[name] = written + tuple(number for part in _parts(node.domain) for number in literals(scope, part))
    return value


def _value(scope: Scope, node: tree.Param, outside: Outside | None) -> Plain | None:
    name = node.name.name
    if node.type.name not in TYPES:
        scope.unknown("LB127", f"no type `{node.type.name}`", node.type, TYPES, "types")
    default = None if node.default is None else attempt(_of_type, scope, node, node.default)
    domain = None if node.domain is None else attempt(_domain, scope, node, node.domain)
    if default is not None:
        default = attempt(_in_domain, scope, node, domain, default, "LB116")
    if outside is None:
        if node.default is None:
            scope.error("LB117", f"`${name}` has no value", node.span, help=f"give it one: `--set {name}=VALUE`")
        return default
    if outside.value is None:
        return None
    value = _of_type(scope, node, outside.value, "LB118", is_share=outside.is_number)
    return _in_domain(scope, node, domain, value, "LB118")


def _of_type(scope: Scope, node: tree.Param, written: tree.Expr, code: str = "LB106", *, is_share: bool = False) -> Plain:
    """The value of a constant in the parameter's type and unit; a bare number above 1 only if it `is_share`."""
    value, name = constant(scope, written), node.name.name
    kind, units, whole, _ = TYPES[node.type.name]
    if isinstance(value, Plain) and kind_of(value) == kind and unit_of(value) in units:
        if not isinstance(value, Number):
            return value
        if node.type.name == "ratio" and value.unit is Unit.NONE and abs(value.value) > 1 and not is_share:
            message = f"`${name}` is a share, and {value.text} without `%` is {100 * value.value:g} %"
            scope.fail("LB118" if code == "LB118" else "LB107", message, value.span, help=f"write `{value.value:.12g}%`")
        if not whole or value.value == int(value.value):
            return Number(value.span, int(value.value) if whole else value.value, units[0], value.text)
    message = f"`${name}` is of type {node.type.name}, and {described(value)} is not"
    share = kind == kind_of(value) == "number" and unit_of(value) is Unit.RATIO
    labels = () if value.span.source is node.span.source else Label(node.span, "declared here")
    scope.fail(code, message, value.span, help="the type of a share is `ratio`" if share else (), labels=labels)


def _parts(domain: Domain | None) -> Any:
    """The two ends of an interval, or the values of a choice."""
    return () if domain is None else tree.parts_of(domain)


def _domain(scope: Scope, node: tree.Param, written: Domain) -> Domain:
    """The domain with its constants in the parameter's type."""
    of_type: Any = partial(_of_type, scope, node)
    if isinstance(written, tree.Choice):
        return rebuilt(written, options=of_type)
    found = rebuilt(written, low=of_type, high=of_type)
    if not isinstance(found.low, Number) or not isinstance(found.high, Number):
        scope.fail("LB106", "only numbers have a range", written.span, help="list the values: `in {a, b}`")
    if found.low.value > found.high.value:
        scope.fail("LB205", "the domain runs backwards", written.span)
    return found


def _in_domain(scope: Scope, node: tree.Param, domain: Domain | None, value: Plain, code: str) -> Plain:
    """The value if it is in the domain."""
    options: list[Any] = [part.value for part in _parts(domain) if isinstance(part, Plain)]
    inside = options[0] <= value.value <= options[1] if isinstance(domain, tree.Interval) else value.value in options
    if domain is not None and not inside:
        message = f"`${node.name.name}` cannot be {described(value)}"
        scope.fail(code, message, value.span, labels=Label(domain.span, "its domain"))
    return value
