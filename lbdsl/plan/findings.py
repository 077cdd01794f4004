"""Findings about a recipe on a model besides the errors of `check_recipe`: those of `check --model`, before measuring,
and those that prevent a selection from being applied."""

from __future__ import annotations

from collections.abc import Iterator

from lbdsl.actions.base import touching
from lbdsl.core.diagnostic import Diagnostic, note, warning
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit, tokens_text
from lbdsl.cost.cost import model_cost
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Arithmetic, Compare, Expr, Logic, Node, walk
from lbdsl.layer.difference import given_windows
from lbdsl.layer.paths import touch
from lbdsl.parts import Slot
from lbdsl.plan.gates import assert_result
from lbdsl.plan.lengths import windows_of, with_lengths
from lbdsl.recipe.beyond import nothing_beyond
from lbdsl.recipe.schema import ENGINES, CostOf, Phase, PostScore, PredictedOf, Recipe, Score, Serves
from lbdsl.recipe.types import has_cost
from lbdsl.solve.case import Case, action_findings
from lbdsl.solve.choose import Forms
from lbdsl.solve.evaluate import World, evaluate, facts_only, rooms
from lbdsl.solve.lint import lacking_part
from lbdsl.solve.reach import Reach, reach
from lbdsl.solve.select import Selection, select


def static_findings(case: Case, forms: Forms | None = None) -> tuple[Diagnostic, ...]:
    """Layers and patterns that the model does not have, `requires` and static asserts that fail, an `until` that no
    scores can meet, rules that no score can give a layer, windows and contexts beyond the model's positions. For a recipe
    that needs no score, the selection is computed as well. `forms` are those of the engines that budgets of a `choose` name
    (None: they are taken to serve everything)."""
    recipe, facts = case.recipe, case.facts
    fits = case.measurable()
    if fits.value is None:
        return fits.diagnostics
    if case.requests or any(_needs_profile(rule, recipe) for rule in recipe.rules):
        impossible = impossible_untils(case, forms)
        if impossible:
            return impossible
        found = [*_unreachable(case), *action_findings(case)]
        windows = windows_of((action for rule in recipe.rules for action in rule.actions), facts)
        found += nothing_beyond(recipe, windows, facts.positions)
        found += [*impossible_asserts(case), *context_findings(case)]
    else:
        selection, chosen = select(case, {})
        if selection is None:
            return chosen
        found = [*chosen, *_failing_asserts(case, selection), *context_findings(case)]
        found += nothing_beyond(recipe, given_windows(facts.layer_specs, selection.specs), facts.positions)
    return (*found, *with_lengths(case).diagnostics)


def impossible_untils(case: Case, forms: Forms | None = None) -> tuple[Diagnostic, ...]:
    """LB312 where it is certain. Costs then depend only on how many layers each rule takes, not on which: all layers are
    identical, rules change only mixers, and rankings are of the layers left by the fixed sets before them. LB356 where only
    a `choose` needs scores."""
    if any(_needs_profile(rule, case.recipe) for rule in case.recipe.rules):
        return ()
    alone = case.choose is not None and not any(known.scores for known in case.rules if known.choosing is None)
    if not alone and (len(set(case.facts.layer_specs)) != 1 or not _counts_decide(case)):
        return ()
    # Any scores give the same costs as the real ones. Without a model no engine can be asked.
    scores = dict.fromkeys(case.requests, Measurement(0.0, 0.0, Unit.NATS, 1, 1))
    any_form: Forms = {engine: (lambda specs: True,) for engine in ENGINES}
    found = select(case, scores, forms=any_form if forms is None else forms).diagnostics
    return tuple(d for d in found if d.code in ("LB312", "LB356"))


def _counts_decide(case: Case) -> bool:
    changing = {action for rule in case.recipe.rules for action in rule.actions if not action.keeps}
    if any(known.while_ is not None for known in case.rules):
        return False
    of_mixer = all(touch(path, Slot.MIXER) for action in changing for path in action.claims())
    if not of_mixer or not all(touching(a, b) for a in changing for b in changing):
        return False
    ranked = False
    for known in case.rules:
        if known.ranks_rest:
            ranked = True
        elif not known.is_else and (ranked or known.fixed is None):
            return False
    # Several `until` rules would be tried in every combination, which takes seconds on a deep model.
    return sum(known.until is not None for known in case.rules) == 1


def context_findings(case: Case) -> Iterator[Diagnostic]:
    """LB324 for each context of the recipe beyond the model's positions."""
    positions, said = case.facts.positions, set()
    for node in case.recipe.costs_asked:
        if node.ctx is not None and node.ctx > positions and node.ctx not in said:
            said.add(node.ctx)
            what = f"{node.name}({tokens_text(node.ctx)}) is computed"
            if isinstance(node, PredictedOf):
                what = f"`{one_line(node.span.text)}` is about {tokens_text(node.ctx)} tokens"
            yield warning("LB324", f"{what}, but this model has {tokens_text(positions)} positions", node.span)


def beyond_positions(case: Case, contexts: tuple[int, ...]) -> Iterator[Diagnostic]:
    """LB324 as a note for those contexts beyond the model's positions that were asked for beside the recipe."""
    named = {node.ctx for node in case.recipe.costs_asked}
    beyond = [tokens_text(ctx) for ctx in contexts if ctx > case.facts.positions and ctx not in named]
    if beyond:
        limit = f"this model has {tokens_text(case.facts.positions)} positions"
        yield note("LB324", f"costs at {', '.join(beyond)} are computed, but {limit}")


def _unreachable(case: Case) -> Iterator[Diagnostic]:
    """Rules that get no layer, because earlier rules claim all of theirs whatever the scores are, or they have none."""
    for known in case.rules:
        lacking, layers = lacking_part(known), case.facts.layers
        amount = known.ranking.amount if known.ranking is not None else None
        if (amount is not None and not amount.of(layers)) or (known.fixed is not None and not known.fixed):
            why = "its set is empty" if amount is None else f"{amount.text} of {layers} layers is less than one"
            message = f"rule {known.rule.number} matches no layer: {why}"
            yield warning("LB310", message, known.rule.span, help=f"the model has {layers} layers")
        elif lacking is not None:
            yield lacking
        elif not known.open and not known.is_else:
            said = "earlier rules claim all that it could"
            if known.fixed is not None:
                said = f"shadowed, {len(known.fixed)} of {len(known.fixed)} claimed by earlier rules"
            message = f"rule {known.rule.number} gets no layer: {said}"
            yield warning("LB307", message, known.rule.span, help="move it up, or remove it")


def _needs_profile(node: Node, recipe: Recipe) -> bool:
    """Whether it has predicted values and there are no profiles yet: they are read when a plan is made."""
    return not recipe.profiles and any(isinstance(part, PredictedOf) for part in walk(node))


def _failing_asserts(case: Case, selection: Selection) -> Iterator[Diagnostic]:
    """Static asserts that fail."""
    world = World(case.facts, cost=model_cost(case.facts, selection.specs), profiles=case.recipe.profiles)
    for assertion in case.recipe.asserts:
        known = not _needs_profile(assertion, case.recipe) or facts_only(assertion.expr)
        if assertion.phase is Phase.STATIC and known:
            yield from assert_result(assertion, world)[1]


def impossible_asserts(case: Case) -> tuple[Diagnostic, ...]:
    """LB321 for static asserts that fail whatever the scores are: on facts of the base, or with a bound on a cost that the
    rules cannot reach."""
    static = [assertion for assertion in case.recipe.asserts if assertion.phase is Phase.STATIC]
    of_facts = [assertion for assertion in static if facts_only(assertion.expr)]
    found = [d for assertion in of_facts for d in assert_result(assertion, World(case.facts))[1]]
    reached = reach(case) if len(static) > len(of_facts) else None
    for assertion in static if reached is not None else ():
        for part, world in _failing_at_best(assertion.expr, reached)[:1]:
            found += assert_result(assertion.replace(expr=part), world, at_best=True)[1]
    return tuple(found)


def _failing_at_best(expr: Expr, reached: Reach | None) -> tuple[tuple[Expr, World], ...]:
    """The comparisons for which a condition fails in every plan, each with a plan that comes nearest to it; nothing where
    some plan may hold it, or where that is not known."""
    match expr:
        case _ if reached is None:
            return ()
        case Logic(op="and"):
            return next(filter(None, (_failing_at_best(part, reached) for part in expr.operands)), ())
        case Logic():
            each = [_failing_at_best(part, reached) for part in expr.operands]
            return tuple(found for of in each for found in of) if all(each) else ()
        case Compare():
            pairs = zip(expr.ops, expr.operands, expr.operands[1:], strict=False)
            ones = (expr.replace(ops=(op,), operands=(left, right)) for op, left, right in pairs)
            return next(filter(None, (_never(one, reached) for one in ones)), ())
        case _:
            return ()


def _never(one: Compare, reached: Reach) -> tuple[tuple[Expr, World], ...]:
    """Of one comparison. It is monotone in a cost that occurs once and not below a fraction's line: where it holds neither
    for the least of it nor for the most, it never does."""
    parts = list(walk(one))
    costs = [part for part in parts if isinstance(part, CostOf)]
    other = any(isinstance(part, PredictedOf | Score | PostScore | Serves) for part in parts)
    divided = any(
        isinstance(part, Arithmetic) and "/" in part.ops and any(map(has_cost, part.operands[1:])) for part in parts
    )
    if len(costs) != 1 or other or divided or one.ops[0].text[0] not in "<>":
        return ()
    facts = reached.case.facts
    worlds = []
    for most in (False, True):
        worlds.append(World(facts, cost=reached.end(costs[0], most=most)))
        if evaluate(one, worlds[-1]).value is not False:
            return ()
    return ((one, max(worlds, key=lambda world: rooms(one, world)[0])),)
