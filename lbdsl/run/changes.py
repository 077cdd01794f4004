"""Apply a plan's changes to a model, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.measure.expressions import made_of
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.measure.variant import AGAIN
from lbdsl.plan.schema import LayerPlan, Plan

Made = Callable[[Any, LayerPlan], Mapping[str, Any]]
"""Returns the new parameters of a layer of a model, by name relative to the layer."""


def made_from(statistics: StatisticsOf) -> Made:
    """A function that computes new parameters from the model's weights and its layers' statistics."""
    return lambda model, layer: made_of(model, layer.index, layer.change.weights, statistics(layer.index))


def apply_changes(model: Any, plan: Plan, made: Made = made_from(NO_STATISTICS)) -> tuple[dict[str, Any], ...]:
    """Apply the plan to every layer of a hybrid model, in place; returns records of what was done, in order.

    The result is checked against the plan: specification of every layer and number of parameters. Raises LB449 if a layer
    no longer has the weights that it needs, LB475 if the result differs from the plan.
    """
    records = []
    for layer in plan.layers:
        if not layer.changed:
            continue
        try:
            model.set_layer(layer.index, layer.after.to_json(), made(model, layer))
        except ValueError as problem:
            raise fail(
                "LB449",
                str(problem),
                help=AGAIN if "has lost" in str(problem) else (),
            ) from None
        records += [
            {"layer": layer.index, "action": item.action.text(), "paths": list(item.paths)} for item in layer.acting
        ]
    params = sum(p.numel() for p in model.parameters())
    if model.config.lbdsl["layers"] != [spec.to_json() for spec in plan.specs] or params != plan.after.params:
        raise fail(
            "LB475",
            "the changed model is not the planned one: other layers, or "
            f"{params} parameters where {plan.after.params} were planned",
            help="an action that changes what its plan does not say is a defect of that action",
        )
    return tuple(records)
