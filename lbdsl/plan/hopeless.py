"""`until` conditions that no scores can meet: found before anything is measured."""

from __future__ import annotations

from lbdsl.actions import Action
from lbdsl.actions.base import touching
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import touch
from lbdsl.parts import Slot
from lbdsl.plan.claims import fixed_layers
from lbdsl.plan.match import ranks_rest
from lbdsl.plan.select import select
from lbdsl.recipe.schema import ElseSelector, LayersSelector, RankSelector, Recipe


def hopeless_untils(recipe: Recipe, facts: ModelFacts, requests: tuple[Request, ...]) -> tuple[Diagnostic, ...]:
    """LB312 where it is certain. Costs then depend only on how many layers each rule takes, not on which: all layers are
    alike, rules change nothing but mixers, and rankings are of what fixed sets before them leave."""
    if not (_alike(facts) and _counts_decide(recipe, facts)):
        return ()
    # Any scores give the costs that the real ones will.
    scores = dict.fromkeys(requests, Measurement(0.0, 0.0, Unit.NATS, 1, 1))
    return tuple(d for d in select(recipe, facts, scores).diagnostics if d.code == "LB312")


def _alike(facts: ModelFacts) -> bool:
    return len(set(facts.layer_specs)) == 1


def _counts_decide(recipe: Recipe, facts: ModelFacts) -> bool:
    untils = ranked = 0
    changing = {action for rule in recipe.rules for action in rule.actions if not action.keeps}
    if not all(_of_mixer(action) for action in changing) or not all(touching(a, b) for a in changing for b in changing):
        return False
    for rule in recipe.rules:
        match rule.selector:
            case RankSelector(until=until) as selector if ranks_rest(selector):
                ranked += 1
                untils += until is not None
            case LayersSelector() if ranked == 0 and fixed_layers(rule, facts) is not None:
                pass
            case ElseSelector():
                pass
            case _:
                return False
    # Several would be tried in every combination, which takes seconds on a deep model.
    return untils == 1


def _of_mixer(action: Action) -> bool:
    return all(touch(path, Slot.MIXER) for path in action.claims())
