"""Reading the table to its end, and `until`: the smallest number of layers for which the complete plan satisfies it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, error
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES, LayerCost
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.plan.cost import LayerCosts, ModelCost, base_cost, model_cost
from lbdsl.plan.evaluate import Quantity, World, evaluate, holds, walk
from lbdsl.plan.match import Match, ranks_rest
from lbdsl.plan.table import Table, Take, planned_spec
from lbdsl.plan.words import amount_text, plural
from lbdsl.recipe.schema import Compare, CostOf, ElseSelector, Expr, RankSelector, Recipe, Rule
from lbdsl.syntax.lexer import one_line

MOST_PLANS = 100_000
"""How many complete plans may be tried: all counts of two `until` rules of a model with 300 layers."""


def resolve(recipe: Recipe, facts: ModelFacts, matches: tuple[Match, ...], table: Table) -> Diagnosed[Table]:
    """The table with every rule read. Several `until` rules: the first takes its smallest count for which the later
    ones can be met, and so on."""
    untils = [rule for rule in recipe.rules if isinstance(rule.selector, RankSelector) and rule.selector.until is not None]
    plans = (facts.layers + 1) ** len(untils)
    if plans > MOST_PLANS:
        return Diagnosed(
            None,
            (
                error(
                    "LB314",
                    f"{len(untils)} `until` rules on {facts.layers} layers are up to {plans:,} plans",
                    recipe.span(untils[-1]),
                    help=f"at most {MOST_PLANS:,} are tried; give some of them a count instead",
                ),
            ),
        )
    return _Reader(recipe, facts, matches, base_cost(facts)).read(0, table)


class _Try(NamedTuple):
    size: int
    value: float
    share: float | None
    unit: Unit
    table: Table


@dataclass
class _Reader:
    recipe: Recipe
    facts: ModelFacts
    matches: tuple[Match, ...]
    base: ModelCost
    _costs: LayerCosts = field(default_factory=dict)
    _specs: dict[tuple[int, tuple[Take, ...]], LayerSpec] = field(default_factory=dict)

    def read(self, start: int, table: Table) -> Diagnosed[Table]:
        for index in range(start, len(self.recipe.rules)):
            selector, match = self.recipe.rules[index].selector, self.matches[index]
            if isinstance(selector, RankSelector) and selector.until is not None:
                return self._until(index, selector, selector.until, table)
            table = table.take(match.wanted, self._layers(index, table))
        return Diagnosed(table)

    def _layers(self, index: int, table: Table) -> tuple[int, ...]:
        selector, match = self.recipe.rules[index].selector, self.matches[index]
        if isinstance(selector, ElseSelector):
            return tuple(i for i in range(self.facts.layers) if table.some_free(match.wanted, i))
        assert match.layers is not None
        if isinstance(selector, RankSelector) and ranks_rest(selector):
            free = self._free(match, table)
            assert selector.amount is not None
            return tuple(sorted(free[: selector.amount.of(self.facts.layers)]))
        return match.layers

    def _free(self, match: Match, table: Table) -> tuple[int, ...]:
        assert match.layers is not None
        return tuple(layer for layer in match.layers if table.is_rest(match.wanted, layer))

    def _until(self, index: int, selector: RankSelector, until: Expr, table: Table) -> Diagnosed[Table]:
        match = self.matches[index]
        free = self._free(match, table)
        most = len(free) if selector.amount is None else min(len(free), selector.amount.of(self.facts.layers))
        tries: list[_Try] = []
        later: tuple[Diagnostic, ...] = ()
        for size in range(most + 1):
            taken = table.take(match.wanted, tuple(sorted(free[:size])), size=size)
            complete, problems = self.read(index + 1, taken)
            if complete is None:
                later = later or problems
                continue
            world = World(self.recipe, self.facts, cost=self._cost(complete), base=self.base)
            truth, problems = holds(until, world)
            if truth is None:
                return Diagnosed(None, problems)
            if truth:
                return Diagnosed(complete)
            tries += self._try(until, world, size, complete)
        return Diagnosed(
            None, later if later and not tries else (self._unmet(index, until, most, tries, capped=most < len(free)),)
        )

    def _cost(self, table: Table) -> ModelCost:
        return model_cost(self.facts, [self._spec(table, layer) for layer in range(self.facts.layers)], self._costs)

    def _spec(self, table: Table, layer: int) -> LayerSpec:
        key = (layer, table.takes[layer])
        if key not in self._specs:
            base, maps = self.facts.layer_specs[layer], self.facts.linear_maps[layer]
            self._specs[key] = planned_spec(base, table.takes[layer], table.paths[layer], maps).stored(self.facts)
        return self._specs[key]

    def _try(self, until: Expr, world: World, size: int, table: Table) -> list[_Try]:
        side = _compared_cost(until)
        if side is None:
            return []
        value, base = (evaluate(side[0], w).value for w in (world, World(self.recipe, self.facts, cost=self.base)))
        if not isinstance(value, Quantity) or not isinstance(base, Quantity):
            return []
        share = value.value / base.value if side[2] and base.value else None
        return [_Try(size, value.value, share, value.unit, table)]

    def _unmet(self, index: int, until: Expr, most: int, tries: list[_Try], capped: bool) -> Diagnostic:
        rule, side = self.recipe.rules[index], _compared_cost(until)
        span = self.recipe.span(until) or self.recipe.span(rule)
        text = one_line(span.text) if span is not None else rule.text
        message = f"`{text}` cannot be met: every count from 0 to {most} was tried"
        if not tries or side is None:
            return error("LB312", message, span)
        best = (min if side[1] else max)(tries, key=lambda attempt: attempt.value)
        shown = amount_text(best.value, best.unit) if best.share is None else amount_text(best.share, Unit.RATIO)
        if len(tries) > 1 and len({attempt.value for attempt in tries}) == 1:
            done = " + ".join(f"`{action.text()}`" for action in rule.actions)
            same = f"{done} does not change it: it is {shown} with every count"
            return error("LB312", message, span, help=(same, "choose another action, or another value to bound"))
        help_lines = [f"best: {shown} with {plural(best.size, 'layer')}"]
        if best.size == most == self.facts.layers:
            help_lines.append("binding: the action itself, which has all layers")
            return error("LB312", message, span, help=tuple(help_lines))
        labels: tuple[Label, ...] = ()
        cost = next(part for part in walk(side[0]) if isinstance(part, CostOf))
        binding = None if capped and best.size == most else self._binding(cost, best.table, index)
        if binding is None and capped and best.size == most:
            help_lines.append(f"binding: the rule's own amount, at most {plural(most, 'layer')}")
        elif binding is not None:
            number, layers, part = binding
            where = f"rule {number.number}, `{number.text}`" if number else "layers that no rule claims"
            help_lines.append(f"binding: {where}: {plural(layers, 'layer')} with {100 * part:.0f} % of what is left")
            binding_span = self.recipe.span(number) if number else None
            if binding_span is not None:
                labels = (Label(binding_span, "this rule binds"),)
        return error("LB312", message, span, help=tuple(help_lines), labels=labels)

    def _binding(self, cost: CostOf, table: Table, own: int) -> tuple[Rule | None, int, float] | None:
        """The rule whose layers cost most of what the best plan still costs, this one only if there is no other."""
        model = self._cost(table)
        parts: dict[int | None, list[int]] = {}
        for layer in range(self.facts.layers):
            # Of another rule where one took something, and of the attention, of which most costs are.
            mixer = table.paths[layer].bit(Slot.MIXER)
            takes = sorted(
                table.takes[layer],
                key=lambda take: (take.rule == own, not table.paths[layer].touched_by(take.paths) & mixer),
            )
            take = next(iter(takes), None)
            parts.setdefault(take.rule if take else None, []).append(_layer_cost(cost, model.layers[layer]))
        total = sum(cost for costs in parts.values() for cost in costs)
        if not total:
            return None
        others = {rule: costs for rule, costs in parts.items() if rule != own and any(costs)} or parts
        rule = max(others, key=lambda key: sum(others[key]))
        return self.recipe.rules[rule] if rule is not None else None, len(others[rule]), sum(others[rule]) / total


def _layer_cost(cost: CostOf, layer: LayerCost) -> int:
    return STATIC_VALUES[cost.name].of(layer, cost.ctx or 0)


def _compared_cost(until: Expr) -> tuple[Expr, bool, bool] | None:
    """The first cost under a bound: its expression, whether less is better, and whether the bound is a share."""
    for part in walk(until):
        if isinstance(part, Compare):
            for i, op in enumerate(part.ops):
                for here, there, less in ((i, i + 1, "<"), (i + 1, i, ">")):
                    costs = [p for p in walk(part.operands[here]) if isinstance(p, CostOf)]
                    if costs and op.text[0] in "<>":
                        bound = part.operands[there]
                        return part.operands[here], op.text[0] == less, getattr(bound, "unit", None) is Unit.RATIO
    return None
