"""Carry out a `choose`: measure the best plans jointly, and improve them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note
from lbdsl.core.measurement import Measurement, added
from lbdsl.core.units import duration_text, plural, tokens_text
from lbdsl.plan.schema import Budget, Candidate, Choice, ScoreValue
from lbdsl.session.asking import task_of
from lbdsl.session.measuring import Scored
from lbdsl.session.predicting import forward_pace
from lbdsl.session.session import Session
from lbdsl.session.targets import forms_of
from lbdsl.session.whole_plans import WholePlans, elsewhere
from lbdsl.solve.choose import Problem
from lbdsl.solve.evaluate import deciding
from lbdsl.solve.greedy import greedy
from lbdsl.solve.optimum import least_without, solutions, unmet
from lbdsl.solve.search import SHARE, Found, key_of, search
from lbdsl.solve.select import Selection, choice_of, select
from lbdsl.solve.table import Choices

SHOWN = 8
"""Candidates that a plan keeps."""


@dataclass(frozen=True)
class ChosenPlan:
    """The selection that a recipe with a `choose` comes to, how it was found, and notes on that."""

    selection: Selection
    choice: Choice
    diagnostics: tuple[Diagnostic, ...]


def choose(session: Session, scored: Scored, *, best_so_far: bool) -> ChosenPlan:
    """`best_so_far` as in `search`. Raises LbdslError LB356 if no plan keeps the budgets, LB306 if every plan that was
    measured is broken, and what `select` finds."""
    case, scores, wanted = session.case, scored.scores, session.recipe.measure
    problem = choice_of(case, scores, {}).unwrap()
    problem = replace(problem, forms=forms_of(session.model, problem.engines))
    if scored.screened is not None:
        there, pairs = set(problem.places), scored.screened.pairs
        weight = next(weight for weight, metric in problem.choosing.minimized if metric == "kl")
        pairs = {both: weight * value for both, value in pairs.items() if there.issuperset(both)}
        problem = replace(problem, pairs=pairs)
    minimized, done = problem.choosing.minimized, 0.0
    whole = WholePlans(session, scored.statistics, [metric for _, metric in minimized])

    def measure(plans: Sequence[Choices], share: float) -> Sequence[Measurement]:
        nonlocal done
        title = f"choosing: plan {done:.0f} of at most {wanted.tries}"
        done += share * len(plans)
        selections = [select(case, scores, chosen=plan).unwrap() for plan in plans]
        found = whole.measure(selections, title, share)
        return [added([(weight, one[metric]) for weight, metric in minimized]) for one in found]

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
    if found.joint and not any(math.isfinite(joint.value) for joint in found.joint.values()):
        message = f"the `{problem.choosing.metric}` of every plan that was measured is not a number"
        raise fail("LB306", message, problem.choosing.span, help="add alternatives that change less, or `--dtype float32`")
    found, passed_over = _checked(session, scored, minimized, found)
    selected = select(case, scores, chosen=found.best)
    diagnostics = selected.diagnostics
    if found.stopped:
        message = f"the search was stopped after {found.spent:.0f} of at most {wanted.tries} plans"
        session.progress.say(f"{message}; the best so far is taken")
        diagnostics += (note("LB357", message, problem.choosing.span, help="run the same command again to continue"),)
    choice = _choice(problem, found, whole, passed_over)
    return ChosenPlan(selected.unwrap(), choice, diagnostics)


def _checked(
    session: Session, scored: Scored, minimized: Sequence[tuple[float, str]], found: Found
) -> tuple[Found, ScoreValue | None]:
    """A search finds what is best on the text that it sees: it and the plan with the least sum of scores are measured on
    text and questions that chose nothing, and the lesser is taken. With the value of the other; None if they are one plan.
    A task has no other questions."""
    metrics = [metric for _, metric in minimized]
    if found.first is None or any(task_of(metric) is not None for metric in metrics):
        return found, None
    both = [select(session.case, scored.scores, chosen=plan).unwrap() for plan in (found.best, found.first)]
    if both[0].digest == both[1].digest:
        return found, None
    values = elsewhere(session, both, scored.statistics, metrics)
    searched, first = (ScoreValue.of(added([(weight, one[metric]) for weight, metric in minimized])) for one in values)
    if not first.value < searched.value and math.isfinite(searched.value):
        return found, first
    key = key_of(found.first)
    return replace(found, best=found.first, joint={key: found.joint[key], **found.joint}), searched


def _choice(problem: Problem, found: Found, whole: WholePlans, passed_over: ScoreValue | None) -> Choice:
    layers = range(problem.case.facts.layers)
    world = problem.world(found.best)
    budgets = []
    for number, budget in enumerate(problem.choosing.budgets):
        said, without = deciding(budget.expr, world), least_without(problem, number)
        budgets.append(
            Budget(
                text=budget.text,
                value=said.value if said is not None else None,
                unit=said.unit if said is not None else None,
                share=said.share if said is not None else None,
                without=without,
            )
        )
    candidates = [
        Candidate(
            strip=tuple(dict(key).get(layer) for layer in layers),
            sum=problem.sum(dict(key)),
            joint=ScoreValue.of(joint),
        )
        for key, joint in list(found.joint.items())[:SHOWN]
        if math.isfinite(joint.value)
    ]
    return Choice(
        metric=problem.choosing.metric,
        weights={metric: weight for weight, metric in problem.choosing.minimized},
        alternatives=tuple(" + ".join(a.text() for a in actions) for actions in problem.choosing.alternatives),
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
        passes = 2 * tries if measure.strategy == "greedy" else 1 + tries
        time = duration_text(passes * tokens / forward_pace(session.model))
        session.progress.say(
            f"choosing measures at most {plural(tries, 'plan')} on {tokens_text(tokens)} tokens each: about {time}"
        )
