"""Doing to a model what a plan says, layer by layer."""

from __future__ import annotations

from typing import Any

from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.schema import Plan


def apply_changes(model: Any, plan: Plan, facts: ModelFacts) -> tuple[dict[str, Any], ...]:
    """Apply every planned action to a hybrid model, in place; the records tell what was done, in order.

    The result is checked against the plan: the same specification of every layer, and exactly as many parameters.
    """
    records = []
    for layer in plan.layers:
        for planned in layer.actions:
            for change in planned.action.changes(facts, layer.index):
                records.append(planned.action.apply(model, change))
    done = [dict(entry) for entry in model.config.lbdsl["layers"]]
    assert done == [dict(spec) for spec in plan.specs], "the changed model is not the planned one"
    params = sum(p.numel() for p in model.parameters())
    assert params == plan.after.params, f"{params} parameters, planned {plan.after.params}"
    return tuple(records)
