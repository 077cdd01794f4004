"""`change_layer`: change one layer of a plan by hand."""

from __future__ import annotations

from collections.abc import Mapping

from lbdsl.core.diagnostic import fail
from lbdsl.core.units import ranges_text
from lbdsl.language.tree import ModulesSelector
from lbdsl.recipe.schema import Recipe
from lbdsl.verbs.planning import Planned, plan_text
from lbdsl.verbs.saved_recipe import set_values

SUFFIX = ", changed by hand"


def change_layer(planned: Planned, layer: int, action: str) -> Planned:
    """The same plan except for one layer, which gets `action`, written as in a recipe: `"keep"`, `"drop"`,
    `"swa(window=256)"`, `"swa(window=256) + drop(mlp)"`.

    The result has a new recipe that names every layer: nothing is selected again, and only the loss of the whole plan
    is measured. Raises LbdslError for a layer or an action that does not exist, for rules on modules, and for rules or
    a `strategy` in an included file.
    """
    recipe, plan = planned.recipe, planned.plan
    if not 0 <= layer < len(plan.layers):
        raise fail("LB300", f"layer {layer} does not exist", help=f"the model has layers 0-{len(plan.layers) - 1}")
    if any(isinstance(rule.selector, ModulesSelector) for rule in recipe.rules):
        raise fail("LB345", "this plan has rules on modules, which cannot be changed by hand")
    last = len(recipe.rules) + 1
    # By the number of the rule that came first to a layer: a patch of a drop is not what an earlier rule keeps.
    texts = {
        entry.index: (
            min((item.rule for item in entry.actions), default=last),
            " + ".join(dict.fromkeys(item.action.text() for item in entry.acting)) or "keep",
        )
        for entry in plan.layers
    }
    text = _with_rules(recipe, {**texts, layer: (texts[layer][0], action)})
    path = recipe.path if recipe.path.endswith(SUFFIX) else recipe.path + SUFFIX
    return plan_text(text, path, planned.bench, set_params=set_values(plan), contexts=plan.contexts)


def _with_rules(recipe: Recipe, actions: Mapping[int, tuple[int, str]]) -> str:
    """The recipe's text with its rules replaced, at the position of the first, by one rule for each action and number, in
    the order of numbers."""
    spans = [rule.span for rule in recipe.rules]
    strategy = recipe.measure.set_at.get("strategy")
    if any(span is None or span.source.base for span in spans) or (strategy is not None and strategy.source.base):
        message = "rules and `strategy` of an included file cannot be changed by hand"
        raise fail("LB345", message, help="write them in the recipe")
    layers: dict[tuple[int, str], list[int]] = {}
    for index, said in actions.items():
        layers.setdefault(said, []).append(index)
    rules = "\n".join(f"layers {ranges_text(members)} {action}" for (_, action), members in sorted(layers.items()))
    edits = [(span, rules if place == 0 else "") for place, span in enumerate(spans) if span is not None]
    if strategy is not None:
        # Any other is for a `choose`, which becomes rules.
        edits.append((strategy, "independent"))
    text = recipe.text
    for span, new in sorted(edits, key=lambda edit: -edit[0].start):
        text = text[: span.start] + new + text[span.end :]
    return text if spans else f"{text}\n{rules}\n"
