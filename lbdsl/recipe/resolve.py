"""Tree to recipe: names, types, units, phases and scopes. Statements are taken from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Label
from lbdsl.core.span import Span
from lbdsl.recipe.calls import resolve_action
from lbdsl.recipe.expressions import resolve_condition
from lbdsl.recipe.includes import Whole
from lbdsl.recipe.rules import check_actions, lint_rules
from lbdsl.recipe.schema import Assertion, Evaluate, Recipe, Rule, recipe_digest
from lbdsl.recipe.scope import Scope, attempt, each
from lbdsl.recipe.sets import resolve_group, resolve_selector
from lbdsl.recipe.settings import resolve_block
from lbdsl.recipe.types import Place, phase_of
from lbdsl.recipe.variables import outside_values, resolve_let, resolve_param
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line
from lbdsl.syntax.planned import not_in_this_version

VERSION = 1


def resolve(whole: Whole, set_params: Mapping[str, object]) -> Diagnosed[Recipe]:
    """The recipe of a tree; None when there are errors. `set_params` are `--set` values as text, checked against the
    recipe's parameters."""
    resolver = _Resolver(whole, set_params)
    for statement in whole.statements:
        resolver.statement(statement)
    return resolver.recipe()


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
        self.first_else: tuple[int, Span] | None = None
        for statement in whole.statements:
            if isinstance(statement, tree.Param | tree.Let | tree.Group):
                sigil = "@" if isinstance(statement, tree.Group) else "$"
                self.scope.below.setdefault(sigil + statement.name.name, statement.name.span)
        self.outside = outside_values(self.scope, whole.statements, set_params)
        self._metric_first()

    def _metric_first(self) -> None:
        """`sensitivity` means the `measure` block's metric wherever that block stands, and whatever else it sets: that may
        need variables which are not defined yet, or be wrong."""
        for statement in self.whole.statements:
            if isinstance(statement, tree.Block) and statement.kind.name == "measure":
                for setting in statement.settings:
                    if setting.key.name == "metric":
                        alone = tree.Block(statement.span, statement.kind, (setting,))
                        measure = attempt(resolve_block, Scope(), alone)
                        self.scope.metric = self.scope.metric if measure is None else measure.metric
                return

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
                    message = f"unknown language version {statement.number.text}"
                    scope.error("LB124", message, statement.number.span, help=f"this lbdsl reads version {VERSION}")
            case tree.RecipeName():
                if self._own("recipe", statement) and self._only("recipe", statement.span):
                    self.parts["name"] = statement.name.value
            case tree.Requires():
                self._assertion(statement.expr, "requires", self.requires)
            case tree.Assertion():
                self._assertion(statement.expr, "assert", self.asserts)
            case tree.Param():
                value = resolve_param(scope, statement, self.outside.get(statement.name.name))
                if value is not None:
                    self.params[statement.name.name] = value.value
            case tree.Let():
                resolve_let(scope, statement)
            case tree.Group():
                resolve_group(scope, statement)
            case tree.Block():
                kind = statement.kind.name
                block = attempt(resolve_block, scope, statement)
                if self._only(kind, statement.kind.span) and block is not None:
                    self.parts[kind] = block
            case tree.Include():
                raise AssertionError("includes are replaced by what they bring")
            case tree.RuleStatement():
                self._rule(statement)

    def recipe(self) -> Diagnosed[Recipe]:
        scope = self.scope
        for name, span in scope.defined.items():
            if name not in scope.used:
                scope.warning("LB210", f"`{name}` is never used", span, help="use it or remove it")
        self._check_judged_on()
        source, included = self.whole.source, self.whole.included
        found: Recipe | None = None
        if not any(problem.is_error for problem in scope.diagnostics):
            found = Recipe(
                params=self.params,
                set_params=tuple(sorted(self.outside)),
                requires=tuple(self.requires),
                rules=tuple(self.rules),
                asserts=tuple(self.asserts),
                path=source.name,
                text=source.text,
                sha256=recipe_digest(source.text, [(item.path, item.sha256) for item in included]),
                included=included,
                sources=self.whole.sources,
                **self.parts,
            )
        # Rules with errors are not among them; what the others say of each other stands all the same.
        scope.diagnostics += lint_rules(
            tuple(self.rules),
            healed="heal" in self.once,
            gated=any(isinstance(s, tree.Assertion) for s in self.whole.statements),
            first_else=self.first_else,
        )
        return Diagnosed(found, tuple(scope.diagnostics))

    def _check_judged_on(self) -> None:
        """LB151 for a text that an assert names and the `eval` block does not."""
        if "eval" in self.once and "eval" not in self.parts:
            return  # The block has errors of its own.
        data = self.parts.get("eval", Evaluate()).data
        for name, span in self.scope.judged_on:
            if name not in data:
                listed = ", ".join(f"`{text}`" for text in data)
                self.scope.error("LB151", f"the result is not judged on `{name}`", span, help=f"texts of `eval`: {listed}")

    def _only(self, what: str, span: Span, key: str = "") -> bool:
        """False, with an error, when a statement that may stand once stands again."""
        key = key or what
        if key in self.once:
            first = (Label(self.once[key], "first here"),)
            self.scope.error("LB213", f"`{what}` is given twice", span, labels=first, help="remove one of them")
            return False
        self.once[key] = span
        return True

    def _own(self, what: str, node: tree.Node) -> bool:
        """False, with an error, for a statement that only the recipe itself may hold, in an included file."""
        if node.span.source is self.whole.source:
            return True
        message = f"`{what}` stands in an included file"
        self.scope.error("LB134", message, node.span, help="it belongs into the recipe that includes it")
        return False

    def _assertion(self, node: tree.Expr, place: Place, into: list[Assertion]) -> None:
        expr = attempt(resolve_condition, self.scope, node, place)
        if expr is not None:
            into.append(Assertion(node.span, expr, phase_of(expr), one_line(self._meant(node).span.text)))

    def _meant(self, node: tree.Expr) -> tree.Expr:
        """A condition, or the one that a lone name stands for: reports say what is asked, not what it is called."""
        while isinstance(node, tree.Variable) and node.name in self.scope.expressions:
            node = self.scope.expressions[node.name].node
        return node

    def _rule(self, node: tree.RuleStatement) -> None:
        self.rule_count += 1
        if self.first_else is None and isinstance(node.selector, tree.ElseSelector):
            self.first_else = (self.rule_count, node.span)
        selector = attempt(resolve_selector, self.scope, node.selector)
        actions = attempt(each, lambda call: resolve_action(self.scope, call), node.actions)
        if actions is None or not check_actions(self.scope, node, actions) or selector is None:
            return
        text = one_line(node.selector.span.to(node.actions[-1].span).text)
        because = node.because.value if node.because else None
        self.rules.append(Rule(node.span, self.rule_count, selector, actions, because, text))
