"""What a recipe needs measured before its layers can be selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.measurement import Request
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.weights import Stat, stats_in
from lbdsl.plan.check import check_recipe
from lbdsl.plan.claims import known_before_measuring
from lbdsl.plan.evaluate import scores_in
from lbdsl.plan.layersets import ranked_sets
from lbdsl.plan.words import plural, ranges_text
from lbdsl.recipe.schema import LayersSelector, ModulesSelector, RankSelector, Recipe, Score, WhereSelector

Needed = tuple[tuple[Request, ...], Mapping[str, Action]]


def requests_of(recipe: Recipe, facts: ModelFacts) -> Diagnosed[Needed]:
    """Every (metric, action, layer) that a rule may ask for, without repetition, and the actions by their text.

    A layer that earlier rules are sure to claim needs no score for a later condition or ranking of the rest; a ranked
    set and a ranking without `of rest` need all layers. Errors are those of `check_recipe`: nothing is worth measuring
    for a recipe that does not fit the model.
    """
    problems = check_recipe(recipe, facts)
    if problems:
        return Diagnosed(None, problems)
    wanted: dict[Request, None] = {}
    actions: dict[str, Action] = {}

    lacking: list[Diagnostic] = []

    def ask(score: Score, layers: tuple[int, ...]) -> None:
        if score.action is not None:
            actions[score.action_text] = score.action
            without = [layer for layer in layers if score.action.under(facts, layer) is None]
            if without:
                lacking.append(_not_there(recipe, score, score.action, without))
        wanted.update(dict.fromkeys(Request(score.metric, score.action_text, layer) for layer in layers))

    everywhere = tuple(range(facts.layers))
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        match rule.selector:
            case RankSelector(by=score):
                ask(score, known.domain)
            case LayersSelector(layers=layer_set, where=condition) | ModulesSelector(layers=layer_set, where=condition):
                for ranked in () if layer_set is None else ranked_sets(layer_set):
                    ask(ranked.by, everywhere)
                for score in scores_in(condition) if condition is not None else ():
                    ask(score, known.domain)
            case WhereSelector(where=condition):
                for score in scores_in(condition):
                    ask(score, known.domain)
            case _:
                pass
    if lacking:
        return Diagnosed(None, tuple(lacking))
    return Diagnosed((tuple(wanted), MappingProxyType(actions)))


def statistics_of(
    recipe: Recipe, facts: ModelFacts, requests: Iterable[Request], actions: Mapping[str, Action], *, planned: bool = True
) -> dict[int, tuple[Stat, ...]]:
    """By layer, the statistics that a score may need there to make new weights; and a rule, when it is `planned`."""
    asked = [(actions[request.action], request.layer) for request in requests if request.action]
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True) if planned else ():
        asked += [(action, layer) for action in rule.actions for layer in known.open]
    found: dict[int, tuple[Stat, ...]] = {}
    for action, layer in dict.fromkeys(asked):
        change = action.under(facts, layer)
        stats = stats_in(expr for _, expr in change.weights) if change is not None else ()
        if stats:
            found[layer] = tuple(dict.fromkeys((*found.get(layer, ()), *stats)))
    return found


def _not_there(recipe: Recipe, score: Score, action: Action, layers: list[int]) -> Diagnostic:
    paths = "`, `".join(action.claims())
    return error(
        "LB449",
        f"`{score.text}` cannot be measured: there is no `{paths}` in {plural(len(layers), 'layer')} {ranges_text(layers)}",
        recipe.span(score),
        help="claim those layers by an earlier rule, or choose among the others",
    )
