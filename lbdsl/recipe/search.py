"""`search { ... }`: parameters to vary, what to make small or large, and conditions."""

from __future__ import annotations

from typing import Any, Literal, cast

from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Span
from lbdsl.recipe.expressions import resolve_condition, resolve_expr
from lbdsl.recipe.schema import Assertion, Objective, Phase, Search, Vary
from lbdsl.recipe.scope import Scope, attempt
from lbdsl.recipe.settings import checked, read_settings
from lbdsl.recipe.types import has_cost, kind_name, kind_of, phase_of
from lbdsl.recipe.variables import Declared, Domain, in_domain, resolve_domain
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

_FORM = "as in `search { vary $window in 64..1Ki; minimize ppl_increase; subject to kv(32Ki) <= 25%; trials = 20 }`"


def resolve_search(scope: Scope, node: tree.Search) -> Search | None:
    """The search with its parameters, domains, phases and units checked; None with errors."""
    vary = _varied(scope, [item for item in node.items if isinstance(item, tree.Vary)])
    written = [item for item in node.items if isinstance(item, tree.Objective)]
    objectives = [_objective(scope, item) for item in written]
    conditions = [_condition(scope, item) for item in node.items if isinstance(item, tree.Subject)]
    read = read_settings(scope, "search", [item for item in node.items if isinstance(item, tree.Setting)])
    if not _complete(scope, node, bool(written)) or not read.good or vary is None:
        return None
    good, held = [item for item in objectives if item is not None], [item for item in conditions if item is not None]
    if len(good) < len(objectives) or len(held) < len(conditions):
        return None
    fields = {"vary": vary, "objectives": tuple(good), "subject_to": tuple(held), "span": node.span}
    found: Search | None = checked(scope, Search, read.values | fields, read.spans, node.span)
    return found


def _complete(scope: Scope, node: tree.Search, aims: bool) -> bool:
    start = node.span.start
    word = Span(node.span.source, start, start + len("search"))
    missing = [
        what
        for what, there in (
            ("`vary`", any(isinstance(item, tree.Vary) for item in node.items)),
            ("`minimize` or `maximize`", aims),
        )
        if not there
    ]
    if missing:
        scope.error("LB141", f"the search has no {' and no '.join(missing)}", word, help=_FORM)
    return not missing


def _varied(scope: Scope, nodes: list[tree.Vary]) -> tuple[Vary, ...] | None:
    found: list[Vary | None] = []
    first: dict[str, Span] = {}
    for node in nodes:
        name = node.name.name
        if name in first:
            scope.error(
                "LB143",
                f"`${name}` is varied twice",
                node.name.span,
                labels=(Label(first[name], "first here"),),
                help="give it one domain",
            )
            found.append(None)
        else:
            first[name] = node.name.span
            found.append(_vary(scope, node))
    good = [item for item in found if item is not None]
    return tuple(good) if len(good) == len(found) else None


def _vary(scope: Scope, node: tree.Vary) -> Vary | None:
    name = node.name.name
    declared = scope.params.get(name)
    if declared is None:
        if name in scope.variables:
            if scope.variables[name] is not None:
                scope.error(
                    "LB140",
                    f"`${name}` is not a parameter, its value is fixed",
                    node.name.span,
                    labels=(Label(scope.defined["$" + name].span, "defined here"),),
                    help="define it with `param`, and `search` may vary it",
                )
        else:
            message, what = f"no parameter `${name}`", "parameters defined above"
            attempt(scope.unknown, "LB110", message, name, node.name.span, scope.params, what, "$")
        return None
    param = declared.node
    domain = attempt(resolve_domain, scope, param, node.domain)
    if domain is None or not _inside(scope, declared, domain):
        return None
    values: tuple[Any, ...] = tuple(option.value for option in domain.options)
    low, high = values if domain.is_interval else (None, None)
    return Vary(node.span, name, low, high, () if domain.is_interval else values)


def _inside(scope: Scope, declared: Declared, domain: Domain) -> bool:
    """Whether every value that may be tried is one that the parameter may have."""
    own = declared.domain
    if own is None:
        return True
    if domain.is_interval and not own.is_interval:
        scope.error(
            "LB116",
            f"`${declared.node.name.name}` has no range of values",
            domain.span,
            labels=(Label(own.span, "its domain"),),
            help="list those to try: `in {a, b}`",
        )
        return False
    return all([in_domain(scope, declared.node, own, value, "LB116") for value in domain.options])


def _objective(scope: Scope, node: tree.Objective) -> Objective | None:
    direction = cast(Literal["minimize", "maximize"], node.direction)
    expr = attempt(resolve_expr, scope, node.expr, direction)
    if expr is None:
        return None
    if kind_of(expr) != "number":
        scope.error(
            "LB106",
            f"`{direction}` wants a number, not {kind_name(expr)}",
            node.expr.span,
            help=("a condition stands after `subject to`",) if kind_of(expr) == "boolean" else (),
        )
        return None
    if phase_of(expr) is Phase.STATIC and not has_cost(expr):
        scope.error(
            "LB142",
            "this is the same for all values of the parameters",
            node.expr.span,
            help="give a cost such as `kv(32Ki)`, a loss such as `nll`, or `ppl_increase`",
        )
        return None
    return Objective(node.span, direction, expr, phase_of(expr), one_line(node.expr.span.text))


def _condition(scope: Scope, node: tree.Subject) -> Assertion | None:
    expr = attempt(resolve_condition, scope, node.expr, "subject to")
    if expr is None:
        return None
    return Assertion(node.span, expr, phase_of(expr), one_line(node.expr.span.text))
