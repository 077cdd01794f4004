"""Carry out a `while`: find by bisection how many layers keep a condition on the whole changed model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnosed, fail, note
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import plural
from lbdsl.language.lexer import one_line
from lbdsl.layer.cost import model_cost
from lbdsl.metrics import Of, metrics_of
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World, deciding, evaluate
from lbdsl.solve.select import Selection, select
from lbdsl.verbs.whole_plans import WholePlans
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.measure.statistics import Statistics


def hold(
    recipe: Recipe, bench: Workbench, scores: Mapping[Request, Measurement], statistics: Statistics | None
) -> Diagnosed[Selection]:
    """The selection in which the rule with `while` takes as many layers as keep its condition, if more layers never make it
    true again. Raises LB312 if it does not hold without any, and what `select` finds."""
    facts = bench.facts
    known = next(known for known in Case(recipe, facts).rules if known.while_ is not None)
    condition, rule = known.while_, known.rule
    assert condition is not None
    plans = WholePlans(recipe, bench, statistics)
    values: dict[int, str] = {}

    def selected(size: int) -> Diagnosed[Selection]:
        return select(recipe, facts, scores, sizes={rule.number: size})

    def holds(size: int) -> bool:
        selection = selected(size).unwrap()
        title = f"measuring rule {rule.number} with {plural(size, 'layer')}"
        (joint,) = plans.measure([selection], tuple(metrics_of(Of.CHANGED)), title)
        world = World(
            facts,
            cost=model_cost(facts, selection.specs),
            profiles=recipe.profiles,
            joint={name: found.value for name, found in joint.items()},
        )
        truth = bool(evaluate(condition, world).unwrap())
        values[size] = str(deciding(condition, world) or "")
        return truth

    least, most = 0, len(selected(facts.layers).unwrap().rules[rule.number - 1].claims)
    while least < most:
        middle = (least + most + 1) // 2
        if holds(middle):
            least = middle
        else:
            most = middle - 1
    text = one_line(condition.span.text)
    if least == 0 and not holds(0):
        help = f"without the layers of rule {rule.number}, {values[0]}"
        raise fail("LB312", f"`{text}` does not hold with any number of layers", condition.span, help=help)
    found = selected(least)
    said = f"rule {rule.number} takes {plural(least, 'layer')}" + (f": {values[least]}" if values.get(least) else "")
    said += f"; with {least + 1}, {values[least + 1]}" if values.get(least + 1) else ""
    return Diagnosed(found.value, (*found.diagnostics, note("LB358", said, rule.span)))
