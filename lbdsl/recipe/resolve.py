"""Tree to recipe: names, types, units, phases and scopes. Statements are taken from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Label
from lbdsl.core.span import Span
from lbdsl.recipe.expressions import Place, resolve_condition
from lbdsl.recipe.includes import Whole
from lbdsl.recipe.lets import resolve_let
from lbdsl.recipe.params import outside_values, resolve_param
from lbdsl.recipe.rules import lint_rules
from lbdsl.recipe.schema import (
    Assertion,
    Evaluate,
    Phase,
    Recipe,
    Rule,
    recipe_digest,
)
from lbdsl.recipe.scope import Scope, at
from lbdsl.recipe.selectors import resolve_actions, resolve_selector
from lbdsl.recipe.sets import resolve_set
from lbdsl.recipe.settings import resolve_block
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line
from lbdsl.syntax.planned import not_in_this_version

VERSION = 1

_FOLLOW = ("LB206", "LB207", "LB208", "LB209", "LB210")
"""What a recipe may seem to lack only because a part of it is wrong; said when there are no errors."""

_INCLUDED = ("LB110", "LB111", "LB118")
"""Names that an included file may well define."""


def resolve(whole: Whole, *, set_params: Mapping[str, object] | None = None, path: str) -> Diagnosed[Recipe]:
    """The recipe of a tree. `set_params` are `--set` values as text, checked against the recipe's parameters.

    The value is None when there are errors. `path` is the name the recipe goes by in plans and messages.
    """
    resolver = _Resolver(whole, set_params or {})
    for statement in whole.statements:
        resolver.statement(statement)
    return resolver.recipe(path)


class _Resolver:
    """Collects the parts of one recipe."""

    def __init__(self, whole: Whole, set_params: Mapping[str, object]):
        self.whole = whole
        self.scope = Scope()
        self.parts: dict[str, Any] = {}
        self.once: dict[str, Span] = {}
        self.params: dict[str, int | float | str | bool] = {}
        self.requires: list[Assertion] = []
        self.asserts: list[Assertion] = []
        self.rules: list[Rule] = []
        self.rule_count = 0
        self.rule_spans: dict[int, Span] = {}
        self.first_else: tuple[int, Span] | None = None
        for statement in whole.statements:
            if isinstance(statement, tree.Param | tree.Let | tree.Group):
                sigil = "@" if isinstance(statement, tree.Group) else "$"
                self.scope.below.setdefault(sigil + statement.name.name, statement.name.span)
        self.outside = outside_values(self.scope, whole.statements, set_params)
        self._metric_first()

    def _metric_first(self) -> None:
        """`sensitivity` means the `measure` block's metric wherever that block stands."""
        for statement in self.whole.statements:
            if isinstance(statement, tree.Block) and statement.kind.name == "measure":
                trial = Scope()
                measure = resolve_block(trial, statement)
                if measure is not None:
                    self.scope.metric = measure.metric
                else:
                    self._metric_alone(statement)
                return

    def _metric_alone(self, block: tree.Block) -> None:
        """The metric of a block whose other settings need variables that are not defined yet, or are wrong."""
        for setting in block.settings:
            if setting.key.name == "metric":
                measure = resolve_block(Scope(), tree.Block(block.span, block.kind, (setting,)))
                if measure is not None:
                    self.scope.metric = measure.metric

    def statement(self, statement: tree.Statement) -> None:
        scope = self.scope
        planned = not_in_this_version([statement])
        if planned:
            scope.diagnostics.extend(planned)
            return
        match statement:
            case tree.Version():
                base = statement.span.source.base
                if self._only("lbr", statement.span, f"lbr {base}") and statement.number.value != VERSION:
                    scope.error(
                        "LB124",
                        f"unknown language version {statement.number.text}",
                        statement.number.span,
                        help=f"this lbdsl reads version {VERSION}",
                    )
            case tree.RecipeName():
                if self._own("recipe", statement) and self._only("recipe", statement.span):
                    self.parts["name"] = statement.name.value
            case tree.Requires():
                self._assertion(statement.expr, "requires", self.requires)
            case tree.Assertion():
                self._assertion(statement.expr, "assert", self.asserts)
            case tree.Param():
                value = resolve_param(scope, statement, self.outside.get(statement.name.name))
                if value is not None and not isinstance(value.value, tuple):
                    self.params[statement.name.name] = value.value
            case tree.Let():
                resolve_let(scope, statement)
            case tree.Group():
                layers = resolve_set(scope, statement.layers)
                if scope.define("@", statement.name.name, statement.name.span):
                    scope.groups[statement.name.name] = layers
            case tree.Block():
                kind = statement.kind.name
                value = resolve_block(scope, statement)
                if self._only(kind, statement.kind.span) and value is not None:
                    self.parts[kind] = value
            case tree.Include():
                raise AssertionError("includes are replaced by what they bring")
            case tree.RuleStatement():
                self._rule(statement)

    def recipe(self, path: str) -> Diagnosed[Recipe]:
        """The finished recipe; None with errors."""
        scope = self.scope
        for name, definition in scope.defined.items():
            if not definition.used:
                scope.warning("LB210", f"`{name}` is never used", definition.span, help="use it or remove it")
        self._check_judged_on()
        text, included = self.whole.source.text, self.whole.included
        found: Recipe | None = None
        if not any(problem.is_error for problem in scope.diagnostics):
            found = Recipe.model_construct(
                params=self.params,
                set_params=tuple(sorted(self.outside)),
                requires=tuple(self.requires),
                rules=tuple(self.rules),
                asserts=tuple(self.asserts),
                path=path,
                text=text,
                sha256=recipe_digest(text, [(item.path, item.sha256) for item in included]),
                included=included,
                **self.parts,
            )
        # Rules with errors are not among them; what the others say of each other stands all the same.
        scope.diagnostics += lint_rules(
            tuple(self.rules),
            self._rule_span,
            healed="heal" in self.once,
            gated=any(isinstance(s, tree.Assertion) for s in self.whole.statements),
            first_else=self.first_else,
        )
        order = sorted(scope.diagnostics, key=lambda d: d.span.source.base + d.span.start if d.span else -1)
        if any(problem.is_error for problem in order):
            follow = (*_FOLLOW, *_INCLUDED) if self.whole.unread else _FOLLOW
            return Diagnosed(None, tuple(problem for problem in order if problem.code not in follow))
        return Diagnosed(found, tuple(order))

    def _check_judged_on(self) -> None:
        """LB151 for a text that an assert names and the `eval` block does not."""
        if "eval" in self.once and "eval" not in self.parts:
            return  # The block has errors of its own.
        data = self.parts.get("eval", Evaluate()).data
        for name, span in self.scope.judged_on:
            if name not in data:
                listed = ", ".join(f"`{text}`" for text in data)
                self.scope.error("LB151", f"the result is not judged on `{name}`", span, help=f"texts of `eval`: {listed}")

    def _rule_span(self, rule: Rule) -> Span:
        """Where a rule stands."""
        return self.rule_spans[rule.number]

    def _only(self, what: str, span: Span, key: str = "") -> bool:
        """False, with an error, when a statement that may stand once stands again."""
        key = key or what
        if key in self.once:
            self.scope.error(
                "LB213",
                f"`{what}` is given twice",
                span,
                labels=(Label(self.once[key], "first here"),),
                help="remove one of them",
            )
            return False
        self.once[key] = span
        return True

    def _own(self, what: str, node: tree.Node) -> bool:
        """False, with an error, for a statement that only the recipe itself may hold, in an included file."""
        if node.span.source is self.whole.source:
            return True
        self.scope.error(
            "LB134", f"`{what}` stands in an included file", node.span, help="it belongs into the recipe that includes it"
        )
        return False

    def _assertion(self, node: tree.Expr, place: Place, into: list[Assertion]) -> None:
        typed = resolve_condition(self.scope, node, place)
        if typed is not None:
            into.append(
                Assertion.model_construct(
                    expr=typed.expr, phase=Phase(typed.phase), text=one_line(self._meant(node).span.text), at=at(node)
                )
            )

    def _meant(self, node: tree.Expr) -> tree.Expr:
        """A condition, or the one that a lone name stands for: reports say what is asked, not what it is called."""
        while isinstance(node, tree.Variable) and node.name in self.scope.expressions:
            node = self.scope.expressions[node.name].node
        return node

    def _rule(self, node: tree.RuleStatement) -> None:
        self.rule_count += 1
        if self.first_else is None and isinstance(node.selector, tree.ElseSelector):
            self.first_else = (self.rule_count, node.span)
        selector = resolve_selector(self.scope, node.selector)
        actions = resolve_actions(self.scope, node)
        if selector is not None and actions is not None:
            span = node.selector.span.to(node.actions[-1].span)
            self.rule_spans[self.rule_count] = node.span
            self.rules.append(
                Rule.model_construct(
                    number=self.rule_count,
                    selector=selector,
                    actions=actions,
                    because=node.because.value if node.because else None,
                    text=one_line(span.text),
                    at=at(node),
                )
            )
