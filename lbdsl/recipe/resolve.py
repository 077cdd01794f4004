"""Tree to recipe: names, types, units, phases and scopes. Statements are taken from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.actions import Action, Aspect
from lbdsl.core.diagnostic import Diagnosed, Label
from lbdsl.core.span import Span
from lbdsl.recipe.calls import resolve_action
from lbdsl.recipe.constants import constant
from lbdsl.recipe.expressions import Place, resolve_condition
from lbdsl.recipe.includes import Whole
from lbdsl.recipe.params import outside_values, resolve_param
from lbdsl.recipe.rules import lint_rules
from lbdsl.recipe.schema import (
    Assertion,
    ElseSelector,
    LayersSelector,
    ModulesSelector,
    Phase,
    RankSelector,
    Recipe,
    Rule,
    Selector,
    WhereSelector,
    recipe_digest,
)
from lbdsl.recipe.scope import Scope, at, replace
from lbdsl.recipe.search import resolve_search
from lbdsl.recipe.sets import resolve_amount, resolve_by, resolve_pattern, resolve_set
from lbdsl.recipe.settings import resolve_block
from lbdsl.syntax import tree

VERSION = 1

_FOLLOW = ("LB206", "LB207", "LB208", "LB209", "LB210")
"""What a recipe may seem to lack only because a part of it is wrong; said when there are no errors."""

_INCLUDED = ("LB110", "LB111", "LB118")
"""Names that an included file may well define."""


def resolve(whole: Whole, *, set_params: Mapping[str, str] | None = None, path: str) -> Diagnosed[Recipe]:
    """The recipe of a tree. `set_params` are `--set` values as text, checked against the recipe's parameters.

    The value is None when there are errors. `path` is the name the recipe goes by in plans and messages.
    """
    resolver = _Resolver(whole, set_params or {})
    for statement in whole.statements:
        resolver.statement(statement)
    return resolver.recipe(path)


class _Resolver:
    """Collects the parts of one recipe."""

    def __init__(self, whole: Whole, set_params: Mapping[str, str]):
        self.whole = whole
        self.scope = Scope()
        self.set_params = set_params
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
                value = constant(scope, statement.value)
                if scope.define("$", statement.name.name, statement.name.span):
                    scope.variables[statement.name.name] = value
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
            case tree.Search():
                search = resolve_search(scope, statement)
                start = statement.span.start
                word = Span(statement.span.source, start, start + len("search"))
                if self._own("search", statement) and self._only("search", word) and search is not None:
                    self.parts["search"] = search
            case tree.RuleStatement():
                self._rule(statement)

    def recipe(self, path: str) -> Diagnosed[Recipe]:
        """The finished recipe; None with errors."""
        scope = self.scope
        for name, definition in scope.defined.items():
            if not definition.used:
                scope.warning("LB210", f"`{name}` is never used", definition.span, help="use it or remove it")
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
        self.scope.error("LB134", f"`{what}` stands in an included file", node.span,
                         help="it belongs into the recipe that includes it")
        return False

    def _assertion(self, node: tree.Expr, place: Place, into: list[Assertion]) -> None:
        typed = resolve_condition(self.scope, node, place)
        if typed is not None:
            into.append(
                Assertion.model_construct(
                    expr=typed.expr, phase=Phase(typed.phase), text=self._text(node.span), at=at(node)
                )
            )

    def _rule(self, node: tree.RuleStatement) -> None:
        self.rule_count += 1
        if self.first_else is None and isinstance(node.selector, tree.ElseSelector):
            self.first_else = (self.rule_count, node.span)
        selector = self._selector(node.selector)
        actions = self._actions(node)
        if selector is not None and actions is not None:
            span = node.selector.span.to(node.actions[-1].span)
            self.rule_spans[self.rule_count] = node.span
            self.rules.append(
                Rule.model_construct(
                    number=self.rule_count,
                    selector=selector,
                    actions=actions,
                    because=node.because.value if node.because else None,
                    text=self._text(span),
                    at=at(node),
                )
            )

    def _selector(self, node: tree.Selector) -> Selector | None:
        scope = self.scope
        match node:
            case tree.ElseSelector():
                return ElseSelector.model_construct(at=at(node))
            case tree.WhereSelector():
                where = resolve_condition(scope, node.where, "where")
                return None if where is None else WhereSelector.model_construct(where=where.expr, at=at(node))
            case tree.LayersSelector():
                layers = resolve_set(scope, node.layers)
                where = None if node.where is None else resolve_condition(scope, node.where, "where")
                if layers is None or (node.where is not None and where is None):
                    return None
                return LayersSelector.model_construct(
                    layers=layers.layers, where=where.expr if where else None, at=at(node)
                )
            case tree.ModulesSelector():
                return self._modules(node)
            case tree.RankSelector():
                return self._rank(node)

    def _modules(self, node: tree.ModulesSelector) -> ModulesSelector | None:
        scope = self.scope
        patterns = [resolve_pattern(scope, pattern) for pattern in node.patterns]
        good = [pattern for pattern in patterns if pattern is not None]
        layers = None if node.layers is None else resolve_set(scope, node.layers)
        where = None if node.where is None else resolve_condition(scope, node.where, "where")
        if len(good) < len(patterns) or (node.layers is not None and layers is None) or (
                node.where is not None and where is None):
            return None
        return ModulesSelector.model_construct(
            patterns=tuple(good), layers=layers.layers if layers else None, where=where.expr if where else None,
            at=at(node))

    def _rank(self, node: tree.RankSelector) -> RankSelector | None:
        scope = self.scope
        amount = None if node.amount is None else resolve_amount(scope, node.amount)
        by = resolve_by(scope, node.by)
        until = None if node.until is None else resolve_condition(scope, node.until, "until")
        if by is None or (node.amount is not None and amount is None) or (node.until is not None and until is None):
            return None
        return RankSelector.model_construct(
            direction=node.direction,
            amount=amount,
            of_rest=node.of_rest,
            by=by,
            until=until.expr if until else None,
            at=at(node),
        )

    def _actions(self, node: tree.RuleStatement) -> tuple[Action, ...] | None:
        found = [resolve_action(self.scope, call) for call in node.actions]
        actions = [action for action in found if action is not None]
        if len(actions) < len(found):
            return None
        if isinstance(node.selector, tree.ModulesSelector) and not self._on_weights(node, actions):
            return None
        for index, action in enumerate(actions):
            for earlier in range(index):
                if not self._compose(actions[earlier], action, node.actions[earlier], node.actions[index], node):
                    return None
        return tuple(actions)

    def _on_weights(self, node: tree.RuleStatement, actions: list[Action]) -> bool:
        """Whether the actions of a `modules` rule are about weights."""
        good = True
        for action, call in zip(actions, node.actions, strict=True):
            if not action.keeps and action.aspects() != {Aspect.WEIGHTS}:
                self.scope.error("LB216", f"`{action.kind}` is not about the weights of modules", call.span,
                                 labels=(Label(node.selector.span, "chooses modules"),),
                                 help="choose whole layers: `layers SET` or `where CONDITION`")
                good = False
        return good

    def _compose(
        self, first: Action, second: Action, first_node: tree.Call, second_node: tree.Call, rule: tree.RuleStatement
    ) -> bool:
        if first.keeps or second.keeps:
            name = (first if first.keeps else second).kind
            whole = rule.actions[0].span.to(rule.actions[-1].span)
            others = [call.span.text for call in rule.actions if call.name.name != name]
            self.scope.error(
                "LB204",
                f"`{name}` combines with nothing",
                whole,
                help=f"write `{name}`" + (f" or `{' + '.join(others)}`" if others else ""),
                fix=None if others else replace(whole, name),
            )
            return False
        block = next((action for action in (first, second) if Aspect.BLOCK in action.aspects()), None)
        if block is not None and not _parts(first) & _parts(second):
            self.scope.error("LB204", f"`{block.text()}` combines with nothing",
                             rule.actions[0].span.to(rule.actions[-1].span),
                             help=f"write `{block.text()}`: the layer is gone")
            return False
        shared = _parts(first) & _parts(second)
        if shared:
            names = " and ".join(sorted(aspect.value for aspect in shared))
            self.scope.error(
                "LB203",
                f"`{first.kind}` and `{second.kind}` both change the {names} of a layer",
                second_node.span,
                labels=(Label(first_node.span, "changes it first"),),
                help="use one of them",
            )
            return False
        return True

    def _text(self, span: Span) -> str:
        """The text of a span on one line, without comments."""
        parts, position = [], span.start
        for comment in self.whole.comments[span.source] if "#" in span.text else ():
            if span.start <= comment.start < span.end:
                parts.append(span.source.text[position : comment.start])
                position = comment.end
        parts.append(span.source.text[position : span.end])
        return " ".join("".join(parts).split())


def _parts(action: Action) -> frozenset[Aspect]:
    aspects = action.aspects()
    return aspects | {Aspect.MIXER, Aspect.FFN} if Aspect.BLOCK in aspects else aspects
