"""What becomes of each layer: by scores; by search where the recipe has a `choose`, by bisection where it has a `while`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError, error, fail, note, raise_errors, warning
from lbdsl.core.measurement import Measurement, added
from lbdsl.core.units import amount_text, duration_text, plural, tokens_text
from lbdsl.cost.cost import model_cost
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import walk
from lbdsl.plan.schema import Budget, Candidate, Choice, ScoreValue
from lbdsl.recipe.schema import Choosing, Score, weighted_text
from lbdsl.session.asking import task_of
from lbdsl.session.measuring import Scored, measured_on
from lbdsl.session.patching import Selected
from lbdsl.session.predicting import forward_pace
from lbdsl.session.session import Session
from lbdsl.session.targets import forms_of
from lbdsl.session.whole_plans import WholePlans, elsewhere
from lbdsl.solve.choose import Judged, Problem, engines_of
from lbdsl.solve.evaluate import World, deciding, evaluate
from lbdsl.solve.greedy import greedy
from lbdsl.solve.optimum import least_without, solutions, unmet, unserved
from lbdsl.solve.search import SHARE, Found, search
from lbdsl.solve.select import Selection, choice_of, select
from lbdsl.solve.table import Choices, key_of

SHOWN = 8
"""Candidates that a plan keeps, and that are measured on other text."""


def choose_layers(session: Session, scored: Scored, found: tuple[Diagnostic, ...], *, best_so_far: bool) -> Selected:
    """`found`: findings of the stages before, which an error is shown with."""
    choice = None
    if session.case.choose is not None:
        chosen, choice = choose(session, scored, best_so_far=best_so_far)
    elif any(known.while_ is not None for known in session.case.rules):
        chosen = _hold(session, scored)
    else:
        chosen = select(session.case, scored.scores)
    raise_errors(found + chosen.diagnostics)
    selection = chosen.unwrap()
    # Where no score needs the text, stored weights may.
    on = scored.on or measured_on(session, session.text if any(spec.needs_inputs for spec in selection.specs) else None)
    return Selected(selection, on, scored.statistics, choice, chosen.diagnostics)


def _hold(session: Session, scored: Scored) -> Diagnosed[Selection]:
    """The selection in which the rule with `while` takes as many layers as keep its condition, if more layers never make it
    true again, found by bisection. Raises LB312 if it does not hold without any, and what `select` finds."""
    facts, recipe = session.facts, session.recipe
    known = next(known for known in session.case.rules if known.while_ is not None)
    condition, rule = known.while_, known.rule
    assert condition is not None
    asked = {part.metric for part in walk(condition) if isinstance(part, Score)}
    whole = WholePlans(session, scored.statistics, asked)
    said: dict[int, str] = {}

    def selected(size: int) -> Diagnosed[Selection]:
        return select(session.case, scored.scores, sizes={rule.number: size})

    def holds(size: int) -> bool:
        selection = selected(size).value
        if selection is None:
            return False  # A later rule cannot be carried out beside so many.
        title = f"measuring rule {rule.number} with {plural(size, 'layer')}"
        (joint,) = whole.measure([selection], title)
        values = {name: found.value for name, found in joint.items()}
        cost = model_cost(facts, selection.specs)
        world = World(facts, cost=cost, profiles=recipe.profiles, joint=values)
        said[size] = str(deciding(condition, world) or "")
        # A broken model has values that are not numbers: it does not hold.
        return bool(evaluate(condition, world).value)

    most = len(known.domain)
    if known.ranking is not None and known.ranking.amount is not None:
        most = min(most, known.ranking.amount.of(facts.layers))
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if holds(middle):
            least = middle
        else:
            most = middle - 1
    if least == 0 and not holds(0):
        selected(0).unwrap()
        message = f"`{one_line(condition.span.text)}` does not hold even without the layers of rule {rule.number}"
        help = f"without them, {said[0]}" if said.get(0) else ()
        raise fail("LB312", message, condition.span, help=help)
    found = selected(least)
    took = len(found.unwrap().rules[rule.number - 1].claims)
    text = f"rule {rule.number} takes {plural(took, 'layer')}" + (f": {said[least]}" if said.get(least) else "")
    text += f"; with {least + 1}, {said[least + 1]}" if took == least and said.get(least + 1) else ""
    return Diagnosed(found.value, (*found.diagnostics, note("LB358", text, rule.span)))


def choose(session: Session, scored: Scored, *, best_so_far: bool) -> tuple[Diagnosed[Selection], Choice]:
    """The selection that a recipe with a `choose` comes to, with notes on it, and how it was found. `best_so_far` as in
    `search`. Raises LbdslError LB356 if no plan keeps the budgets, LB306 if every plan that was
    measured is broken, and what `select` finds."""
    case, scores, wanted = session.case, scored.scores, session.recipe.measure
    problem = choice_of(case, scores, {}).unwrap()
    forms = forms_of(session.model.source, session.facts, engines_of(problem.choosing))
    there = set(problem.places)
    # Of a bound alone a screen has scores, and no pair terms.
    weight = next((weight for weight, metric in problem.choosing.minimized if metric == "kl"), 0.0)
    pairs = {both: weight * value for both, value in scored.pairs.items() if weight and there.issuperset(both)}
    problem = replace(problem, forms=forms, pairs=pairs)
    done = 0.0
    whole = WholePlans(session, scored.statistics, problem.choosing.metrics)

    def measure(plans: Sequence[Choices], share: float) -> Sequence[Judged]:
        nonlocal done
        title = f"choosing: plan {min(done, wanted.tries):.0f} of at most {wanted.tries}"  # The best is measured again.
        done += share * len(plans)
        selections = [select(case, scores, chosen=plan).unwrap() for plan in plans]
        found = whole.measure(selections, title, share)
        return [problem.judged(plan, one) for plan, one in zip(plans, found, strict=True)]

    _say_choosing(session, whole.tokens)
    if wanted.strategy == "greedy":
        found = greedy(problem, measure, tries=wanted.tries)
    else:
        # All questions are asked at once.
        share = 1.0 if whole.questions else SHARE
        found = search(problem, measure, tries=wanted.tries, seed=wanted.seed, share=share, best_so_far=best_so_far)
    if found is None and wanted.strategy == "greedy" and next(solutions(problem), None) is not None:
        message = "changing one layer after the other leads to no plan that keeps all budgets"
        raise fail("LB356", message, problem.choosing.span, help="others keep them: leave out `strategy = greedy`")
    if found is None:
        raise LbdslError((unmet(problem),))
    if found.joint and not any(math.isfinite(sum(judged.rank)) for judged in found.joint.values()):
        message = f"the `{problem.choosing.metrics[0]}` of every plan that was measured is not a number"
        raise fail("LB306", message, problem.choosing.span, help="add alternatives that change less, or `--dtype float32`")
    nearest = found.joint.get(key_of(found.best))
    if nearest is not None and nearest.excess and not found.stopped:
        raise LbdslError((_beyond(problem, found),))
    found, passed_over, compared = _checked(session, scored, problem, found)
    selected = select(case, scores, chosen=found.best)
    diagnostics = selected.diagnostics
    if found.stopped:
        message = f"the search was stopped after {found.spent:.0f} of at most {wanted.tries} plans"
        if problem.choosing.bounds and (nearest is None or nearest.excess):
            message += f", and none of them keeps {_bounds(problem)}"
        message += ": the best of them is shown, and is not the search's result"
        session.progress.say(message)
        diagnostics += (warning("LB357", message, problem.choosing.span, help="run the same command again to continue"),)
    elsewhere = _bounds_elsewhere(session, scored, problem.choosing, selected.unwrap())
    if nearest is not None and not nearest.excess:
        diagnostics += tuple(_kept_elsewhere(problem.choosing, elsewhere))
    return Diagnosed(selected.unwrap(), diagnostics), _choice(problem, found, whole, passed_over, compared, elsewhere)


def _checked(session: Session, scored: Scored, problem: Problem, found: Found) -> tuple[Found, ScoreValue | None, int]:
    """The least of many plans is in part luck: the best of the search, and that with the least sum of scores, are measured
    on text and questions that the search did not see. What keeps the bounds there within a standard error is before what
    does not; of those that do, the least is taken. With the value there of the plan with the least sum, or, if that is
    taken, of the search's (None if they are one plan), and how many were compared. A task has no other questions."""
    metrics = problem.choosing.metrics
    if found.first is None or any(task_of(metric) is not None for metric in metrics):
        return found, None, 1
    kept = [dict(key) for key, judged in found.joint.items() if not judged.excess and math.isfinite(judged.value.value)]
    # The unchanged model keeps any bound anywhere.
    kept = [plan for plan in kept if plan != problem.plain or not problem.unchanged]
    # After an interrupt no more is measured than must be; and the least sum of scores may be of a plan beyond a bound.
    plans = [found.best, *kept[: 1 if found.stopped else SHOWN], *([] if problem.choosing.bounds else [found.first])]
    alike: dict[str, tuple[Choices, Selection]] = {}
    for plan in plans:
        selected = select(session.case, scored.scores, chosen=plan).unwrap()
        alike.setdefault(selected.digest, (plan, selected))
    if len(alike) == 1:
        return found, None, 1
    plans = [plan for plan, _ in alike.values()]
    measured = elsewhere(session, [one for _, one in alike.values()], scored.statistics, metrics)
    there = [problem.judged(plan, one) for plan, one in zip(plans, measured, strict=True)]
    taken = min(range(len(plans)), key=lambda number: there[number].within_errors)
    best = plans[taken] if math.isfinite(there[taken].value.value) else found.best
    other = found.best if best == found.first else found.first
    passed_over = ScoreValue.of(there[plans.index(other)].value) if other in plans and other != best else None
    key = key_of(best)
    return replace(found, best=best, joint={key: found.joint[key], **found.joint}), passed_over, len(plans)


def _beyond(problem: Problem, found: Found) -> Diagnostic:
    """LB356: what the plans that were measured lose, none of which keeps the bounds."""
    front: list[str] = []
    least = math.inf
    for judged in sorted(found.joint.values(), key=lambda judged: judged.rank[1]):
        if judged.excess < least:
            least = judged.excess
            front.append(_said(problem, judged))
    shown = [f"measured: {text}" for text in front[-SHOWN:]]
    help = (*shown, "raise the bounds or the budgets, allow what changes less, or give more `tries`")
    message = f"of {plural(len(found.joint), 'plan')} that were measured none keeps {_bounds(problem)}"
    return error("LB356", message, problem.choosing.span, help=help)


def _bounds(problem: Problem) -> str:
    return " and ".join(f"`{bound.text}`" for bound in problem.choosing.bounds)


def _said(problem: Problem, judged: Judged) -> str:
    parts = [f"{problem.choosing.objective} {amount_text(judged.value.value, judged.value.unit)}"]
    for bound, (one, _) in zip(problem.choosing.bounds, judged.bounds, strict=True):
        parts.append(f"{weighted_text(bound.terms)} {amount_text(one.value, one.unit)}")
    return ", ".join(parts)


def _bounds_elsewhere(session: Session, scored: Scored, choosing: Choosing, taken: Selection) -> dict[str, Measurement]:
    """What has a bound, by the bound's text, of the plan that is taken, on text and questions that the search did
    not see."""
    metrics = {metric for bound in choosing.bounds for _, metric in bound.terms if task_of(metric) is None}
    if not metrics or not taken.changes:
        return {}
    (there,) = elsewhere(session, [taken], scored.statistics, sorted(metrics))
    known = (bound for bound in choosing.bounds if there.keys() >= {metric for _, metric in bound.terms})
    return {bound.text: added([(weight, there[metric]) for weight, metric in bound.terms]) for bound in known}


def _kept_elsewhere(choosing: Choosing, there: Mapping[str, Measurement]) -> Iterator[Diagnostic]:
    """LB363 for a bound that the plan keeps on what it was chosen by, and not elsewhere."""
    for bound in choosing.bounds:
        found = there.get(bound.text)
        if found is not None and found.value - bound.most > (found.stderr if math.isfinite(found.stderr) else 0.0):
            said = f"{amount_text(found.value, found.unit)} ± {amount_text(found.stderr, found.unit)}"
            message = f"`{bound.text}` is kept on what the plan was chosen by, and is {said} on other text"
            yield warning("LB363", message, bound.span, help="let more choose: `tokens`, `recall_questions`")


def _choice(
    problem: Problem,
    found: Found,
    whole: WholePlans,
    passed_over: ScoreValue | None,
    compared: int,
    elsewhere: Mapping[str, Measurement],
) -> Choice:
    layers = range(problem.case.facts.layers)
    world = problem.world(found.best)
    budgets = []
    for number, budget in enumerate(problem.choosing.budgets):
        said = deciding(budget.expr, world)
        without = least_without(problem, number) if problem.choosing.cost is None else None
        names = ("value", "unit", "share", "between")
        shown: dict[str, Any] = {} if said is None else {name: getattr(said, name) for name in names}
        budgets.append(Budget(text=budget.text, without=without, **shown))
    taken = found.joint.get(key_of(found.best))
    for bound, (one, _) in zip(problem.choosing.bounds, taken.bounds if taken is not None else (), strict=False):
        here, there = ScoreValue.of(one), elsewhere.get(bound.text)
        other = None if there is None else ScoreValue.of(there)
        room = bound.most - one.value
        budgets.append(
            Budget(text=bound.text, value=one.value, unit=one.unit, stderr=here.stderr, elsewhere=other, room=room)
        )
    candidates = [
        Candidate(
            strip=tuple(dict(key).get(layer) for layer in layers),
            sum=problem.sum(dict(key)),
            joint=ScoreValue.of(judged.value),
            bounds={
                weighted_text(bound.terms): ScoreValue.of(one)
                for bound, (one, _) in zip(problem.choosing.bounds, judged.bounds, strict=True)
            },
            kept=not judged.excess,
        )
        for key, judged in list(found.joint.items())[:SHOWN]
        if math.isfinite(sum(judged.rank))
    ]
    return Choice(
        metric=problem.choosing.objective,
        weights={metric: weight for weight, metric in problem.choosing.minimized},
        alternatives=tuple(" + ".join(a.text() for a in actions) for actions in problem.choosing.alternatives),
        compared=compared,
        unserved={budget.text: lost for budget in problem.choosing.budgets if (lost := unserved(problem, budget))},
        layers=tuple(problem.options),
        sum=problem.sum(found.best),
        least=found.least,
        budgets=tuple(budgets),
        candidates=tuple(candidates),
        tokens=whole.text,
        questions=whole.questions,
        spent=found.spent,
        stopped=found.stopped,
        searched=found.first is not None and found.best != found.first,
        passed_over=passed_over if passed_over is None or math.isfinite(passed_over.value) else None,
    )


def _say_choosing(session: Session, tokens: int) -> None:
    """The most time that the search may take, before anything is measured."""
    measure, tries = session.recipe.measure, session.recipe.measure.tries
    if tries:
        # One plan after the other is measured beside the base each time.
        passes = 2 * tries if measure.strategy == "greedy" else 1 + tries + SHOWN
        time = duration_text(passes * tokens / forward_pace(session.model))
        session.progress.say(
            f"choosing measures at most {plural(tries, 'plan')} on {tokens_text(tokens)} tokens each: about {time}"
        )
