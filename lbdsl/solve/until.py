"""Apply all rules, and solve `until`: the smallest number of layers for which the complete plan satisfies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, error
from lbdsl.core.units import Unit, amount_text, plural
from lbdsl.cost.cost import STATIC_VALUES, LayerCost, ModelCost
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Compare, Expr, Not, walk
from lbdsl.parts import Slot
from lbdsl.recipe.schema import CostOf
from lbdsl.recipe.types import unit_of
from lbdsl.solve.case import Case, KnownRule
from lbdsl.solve.evaluate import World, evaluate
from lbdsl.solve.match import Match
from lbdsl.solve.table import Choices, Table, TakenPaths

MOST_PLANS = 100_000
"""The maximum number of complete plans to try: all counts of two `until` rules of a model with 300 layers."""


def resolve(
    case: Case,
    matches: tuple[Match, ...],
    chosen: Choices = MappingProxyType({}),
    sizes: Mapping[int, int] = MappingProxyType({}),
) -> Diagnosed[Table]:
    """The table with every rule applied; `chosen` are the alternatives of a `choose` by layer, `sizes` how many layers a
    rule with `while` takes, by number. With several `until` rules, the first takes its smallest count for which the later
    ones can be met, and so on."""
    untils = [known.rule for known in case.rules if known.until is not None]
    plans = (case.facts.layers + 1) ** len(untils)
    if plans > MOST_PLANS:
        message = f"{len(untils)} `until` rules on {case.facts.layers} layers are up to {plans:,} plans"
        help = f"at most {MOST_PLANS:,} are tried; give some of them a count instead"
        return Diagnosed(None, (error("LB314", message, untils[-1].span, help=help),))
    return _Reader(case, matches, chosen, sizes).read(Table.empty(case.paths))


class _Try(NamedTuple):
    """The value of the bounded cost when the rule takes `size` layers."""

    size: int
    value: float
    table: Table


class _Bound(NamedTuple):
    """The first cost with a bound: its expression, whether less is better, and whether the bound is a share."""

    expr: Expr
    less: bool
    is_share: bool


@dataclass
class _Reader:
    case: Case
    matches: tuple[Match, ...]
    chosen: Choices
    sizes: Mapping[int, int]
    _known: dict[tuple[int, tuple[TakenPaths, ...]], LayerCost] = field(default_factory=dict)

    def read(self, table: Table) -> Diagnosed[Table]:
        for known, match in list(zip(self.case.rules, self.matches, strict=True))[len(table.rules) :]:
            layers = match.layers
            if known.ranking is not None and known.ranks_rest:
                amount = known.ranking.amount
                layers = table.rest(known, layers)
                most = len(layers) if amount is None else min(len(layers), amount.of(self.case.facts.layers))
                if known.while_ is not None:
                    most = min(most, self.sizes.get(known.rule.number, 0))
                if known.until is not None:
                    return self._until(known, known.until, layers, most, table)
                layers = tuple(sorted(layers[:most]))
            size = len(layers) if known.while_ is not None else None
            if known.choosing is not None:
                layers = tuple(layer for layer in table.rest(known, layers) if layer in self.chosen)
            table = table.take(known, layers, size=size, chosen=self.chosen)
        return Diagnosed(table)

    def _until(self, known: KnownRule, until: Expr, free: tuple[int, ...], most: int, table: Table) -> Diagnosed[Table]:
        bound = _bound_of(until)
        tries: list[_Try] = []
        failed = False
        later: tuple[Diagnostic, ...] = ()
        for size in range(most + 1):
            complete, problems = self.read(table.take(known, sorted(free[:size]), size=size))
            if complete is None:
                later = later or problems
                continue
            world = World(self.case.facts, cost=self._cost(complete), profiles=self.case.recipe.profiles)
            truth, problems = evaluate(until, world)
            if truth is None:
                return Diagnosed(None, problems)
            if truth:
                return Diagnosed(complete)
            failed = True
            value = evaluate(bound.expr, world).value if bound is not None else None
            tries += [_Try(size, value, complete)] if value is not None else []
        if later and not failed:
            return Diagnosed(None, later)
        return Diagnosed(None, (self._unmet(known, until, bound, most, tries, capped=most < len(free)),))

    def _cost(self, table: Table) -> ModelCost:
        return ModelCost(self.case.facts, tuple(self._layer(table, i) for i in range(self.case.facts.layers)))

    def _layer(self, table: Table, layer: int) -> LayerCost:
        key = (layer, table.takes[layer])
        if key not in self._known:
            self._known[key] = LayerCost.of(table.spec(self.case.facts, layer), self.case.facts)
        return self._known[key]

    def _unmet(
        self, known: KnownRule, until: Expr, bound: _Bound | None, most: int, tries: list[_Try], *, capped: bool
    ) -> Diagnostic:
        rule, span = known.rule, until.span
        message = f"`{one_line(span.text)}` cannot be met with any number of layers up to {most}"
        if not tries or bound is None:
            return error("LB312", message, span)
        best = (min if bound.less else max)(tries, key=lambda attempt: attempt.value)
        world = World(self.case.facts, cost=self.case.facts.cost, profiles=self.case.recipe.profiles)
        base = evaluate(bound.expr, world).value if bound.is_share else None
        text = amount_text(best.value / base, Unit.RATIO) if base else amount_text(best.value, unit_of(bound.expr))
        if len(tries) > 1 and len({attempt.value for attempt in tries}) == 1:
            done = " + ".join(f"`{action.text()}`" for action in rule.actions)
            same = f"{done} does not change it: it is {text} with any number of layers"
            return error("LB312", message, span, help=(same, "choose another action, or another value to bound"))
        binding, labels = self._binding(bound, best, most, rule.number - 1, capped)
        found = f"the best is {text}, with {plural(best.size, 'layer')}"
        return error("LB312", message, span, help=(found, *binding), labels=labels)

    def _binding(
        self, bound: _Bound, best: _Try, most: int, own: int, capped: bool
    ) -> tuple[tuple[str, ...], tuple[Label, ...]]:
        """What limits the best plan: the rule itself, or the rule whose layers have most of the remaining cost (this one
        only if there is no other)."""
        if best.size == most == self.case.facts.layers:
            return ("all layers have this action: choose one that saves more, or another bound",), ()
        if capped and best.size == most:
            return (f"the rule's own amount allows at most {plural(most, 'layer')}",), ()
        cost = next(part for part in walk(bound.expr) if isinstance(part, CostOf))
        if cost.name not in STATIC_VALUES:
            return (), ()
        parts: dict[int | None, list[int]] = {}
        for i, layer in enumerate(self._cost(best.table).layers):
            # Attribute the cost to another rule if one took something, first to one on the attention, which has most costs.
            paths = best.table.paths[i]
            mixer = paths.bit(Slot.MIXER)
            takes = sorted(best.table.takes[i], key=lambda t: (t.rule == own, not paths.touched_by(t.paths) & mixer))
            part = STATIC_VALUES[cost.name].of(layer, cost.ctx or 0)
            parts.setdefault(takes[0].rule if takes else None, []).append(part)
        total = sum(map(sum, parts.values()))
        if not total:
            return (), ()
        others = {rule: costs for rule, costs in parts.items() if rule != own and any(costs)} or parts
        index, costs = max(others.items(), key=lambda item: sum(item[1]))
        share = f"{100 * sum(costs) / total:.0f} % of the remaining `{cost.name}`, in {plural(len(costs), 'layer')}"
        if index is None:
            return (f"layers that no rule claims have {share}",), ()
        rule = self.case.recipe.rules[index]
        return (f"rule {rule.number}, `{rule.text}`, has {share}",), (Label(rule.span, "this rule limits it"),)


def _bound_of(until: Expr) -> _Bound | None:
    if any(isinstance(part, Not) for part in walk(until)):
        return None
    for part in walk(until):
        if isinstance(part, Compare):
            for i, op in enumerate(part.ops):
                for here, there, less in ((i, i + 1, "<"), (i + 1, i, ">")):
                    if op.text[0] in "<>" and any(isinstance(p, CostOf) for p in walk(part.operands[here])):
                        unit = getattr(part.operands[there], "unit", None)
                        return _Bound(part.operands[here], op.text[0] == less, unit is Unit.RATIO)
    return None
