"""Errors of a recipe on a model that are known before measuring; and what must be measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Edit, Fix, error
from lbdsl.core.nearest import nearest, slip
from lbdsl.core.units import plural, ranges_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import ModulesSelector, Pattern, String
from lbdsl.recipe.schema import Recipe, ResolvedAssertion, Rule
from lbdsl.solve.case import Case
from lbdsl.solve.claims import Module, layer_modules, matched
from lbdsl.solve.evaluate import World, deciding, evaluate, facts_only
from lbdsl.solve.layersets import set_problems


def check_recipe(case: Case) -> tuple[Diagnostic, ...]:
    """Errors only: `requires` that do not hold, layers and modules that do not exist, scores that cannot be measured,
    actions that the model cannot express. Run it before measuring, which may take long."""
    required = (item for item in case.recipe.requires if facts_only(item.expr))
    of_model = (problem for item in required for problem in requirement_problems(item, World(case.facts)))
    rules, layers = case.recipe.rules, case.facts.layers
    of_sets = (problem for rule in rules for problem in set_problems(rule.selector, layers))
    of_patterns = (problem for rule in rules for problem in _patterns(case, rule))
    # A group of layers stands in each rule that uses it.
    return tuple(dict.fromkeys([*of_model, *of_sets, *of_patterns] or _impossible_actions(case)))


def measurable(recipe: Recipe, facts: ModelFacts) -> Diagnosed[Case]:
    """The recipe on the model, with what has to be measured. Errors are those of `check_recipe`: a recipe that does
    not fit the model is not worth measuring."""
    case = Case(recipe, facts)
    problems = check_recipe(case) or tuple(_not_there(case))
    return Diagnosed(None, problems) if problems else Diagnosed(case)


def action_findings(case: Case) -> Iterator[Diagnostic]:
    """The findings of actions on the layers that their rule may get, each once per rule."""
    for known in case.rules:
        said: dict[str, list[Diagnostic]] = {}
        chosen = known.choosing
        pairs = zip(chosen.alternatives, chosen.scores, strict=True) if chosen is not None else ()
        spans = {action: score.span for actions, score in pairs if score is not None for action in actions}
        for layer in known.domain:
            for action in known.rule.actions:
                for d in action.check(case.facts, layer):
                    said.setdefault(d.message, []).append(replace(d, span=d.span or spans.get(action)))
        for message, (d, *more) in said.items():
            count = 1 + len(more)
            where = "" if count == case.facts.layers else f" ({plural(count, 'layer')})"
            yield replace(d, message=f"rule {known.rule.number}: {message}{where}", span=d.span or known.rule.span)


def requirement_problems(requirement: ResolvedAssertion, world: World) -> tuple[Diagnostic, ...]:
    """The errors of one `requires`; empty when it holds."""
    truth, found = evaluate(requirement.expr, world)
    if truth is None or truth:
        return found
    facts = world.facts
    shown = None if facts_only(requirement.expr) else deciding(requirement.expr, world)
    message = f"the recipe requires `{requirement.text}`" + (f", and {shown}" if shown is not None else "")
    help = f"this model: family {facts.family}, {facts.layers} layers, hidden {facts.hidden}"
    return (error("LB320", message, requirement.span, help=help),)


def _patterns(case: Case, rule: Rule) -> Iterator[Diagnostic]:
    """LB218 for each pattern that no module of this model matches."""
    for pattern in rule.selector.patterns if isinstance(rule.selector, ModulesSelector) else ():
        if not matched((pattern,), case.facts):
            yield _unmatched(pattern, layer_modules(case.facts))


def _unmatched(pattern: Pattern | String, modules: tuple[Module, ...]) -> Diagnostic:
    parts = list(dict.fromkeys(module.part for module in modules))
    known = [f"*.{part.rpartition('.')[2]}" for part in parts] + [f"*.{part}" for part in parts]
    known = list(dict.fromkeys([*known, *(module.name for module in modules)]))
    near = meant = None
    if isinstance(pattern, String):
        near, meant = nearest(pattern.value, known), slip(pattern.value, known)
    fix = None if meant is None else Fix(f"write `{meant}`", (Edit(pattern.span, f'"{meant}"'),))
    example = f"a name is like `{modules[0].name}`; " if modules else ""
    listed = f"{example}modules of a layer: {', '.join(f'`{part}`' for part in parts)}"
    message = f"`{pattern.value}` matches 0 of {len(modules)} modules"
    return error("LB218", message, pattern.span, help=(*([f"nearest `{near}`"] if near else []), listed), fix=fix)


def _impossible_actions(case: Case) -> Iterator[Diagnostic]:
    """Errors of actions, including those of scores, on the layers they may be used on. Sets and patterns must be right
    first."""
    found = [d for d in action_findings(case) if d.is_error]
    for known in case.rules:
        for score in known.scores:
            checked = (d for i in known.domain for d in (score.action.check(case.facts, i) if score.action else ()))
            said = next((d for d in checked if d.is_error), None)
            if said is not None and not any(d.code == said.code and said.message in d.message for d in found):
                found.append(replace(said, message=f"`{score.text}`: {said.message}", span=score.span))
    yield from found


def _not_there(case: Case) -> Iterator[Diagnostic]:
    """LB449 for scores of an action on a part that some of the layers do not have, LB217 for one whose storage cannot hold
    their matrices."""
    for score, layers in case.scores:
        action = score.action
        under = {i: action.under(case.facts, i) for i in layers} if action is not None else {}
        lacking = [i for i, change in under.items() if change is None]
        matrices = (pair for change in under.values() if change is not None for pair in change.spec.matrices(case.facts))
        misfit = next((found for tensor, stored in matrices if (found := stored.misfit(tensor))), None)
        if misfit is not None:
            yield error("LB217", f"`{score.text}` cannot be measured: {misfit[0]}", score.span, help=misfit[1])
        if action is not None and lacking:
            paths, where = "`, `".join(action.claims()), f"{plural(len(lacking), 'layer')} {ranges_text(lacking)}"
            message = f"`{score.text}` cannot be measured: there is no `{paths}` in {where}"
            help = "claim those layers by an earlier rule, or choose among the others"
            yield error("LB449", message, score.span, help=help)
