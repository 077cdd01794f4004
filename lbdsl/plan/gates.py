"""The gates of a plan: a recipe's asserts, on the selection and on the finished model. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit, amount_text, tokens_text
from lbdsl.cost.cost import STATIC_VALUES, ModelCost, model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import Compare, Expr, walk
from lbdsl.parts import Slot
from lbdsl.parts.base import WORDS
from lbdsl.plan.schema import BARELY, AssertResult, Plan, Status
from lbdsl.plan.words import value_text
from lbdsl.recipe.schema import CostOf, Evaluate, Phase, PostScore, Recipe, ResolvedAssertion
from lbdsl.recipe.schema_blocks import OwnQuestions, task_name
from lbdsl.solve.evaluate import DecidingValue, World, deciding, decisive, evaluate, rooms

Scores = Mapping[str, Mapping[str, Measurement]]
"""The finished model's scores by name, for each text that it was judged on, or each task."""

MOVED = 8
"""The most scores of an assert that are moved by their errors in every combination."""

SENSIBLE = 1000
"""A score so near to its bound that it would take so many times the text is as good as on it."""


def assert_result(
    assertion: ResolvedAssertion, world: World, *, at_best: bool = False
) -> tuple[AssertResult, tuple[Diagnostic, ...]]:
    """The result of an assert before the model is changed, and an error if it fails or has no value. `at_best`: of all that
    the recipe can make, the model is the nearest to its bound."""
    if assertion.phase is Phase.POST:
        return _result(assertion, "after healing"), ()
    truth, found = evaluate(assertion.expr, world)
    if truth is None:
        return _result(assertion, "not measured" if all(d.code == "LB323" for d in found) else "fail"), found
    # Before selection, asserts are only about facts of the base, which their text names.
    shown = deciding(assertion.expr, world) if world.cost is not None else None
    failed = () if truth else (_failed(assertion, world, shown, " at best" if at_best else ""),)
    return _result(assertion, "pass" if truth else "fail", shown), failed


def _failed(assertion: ResolvedAssertion, world: World, shown: DecidingValue | None, how: str = "") -> Diagnostic:
    """The error for an assert that does not hold; `shown` is the value that decides it."""
    static = assertion.phase is Phase.STATIC
    help = "change fewer layers; what healing should repair is gated with `ppl_increase` or `kl_healed`"
    if static:
        left = _left(assertion, world)
        help = f"{left}: change layers in another way" if left else "change more layers"
        help += ", or loosen the assert"
    message = f"`assert {assertion.text}` fails" + (f": {shown}{how}" if shown is not None else "")
    return error("LB321" if static else "LB322", message, assertion.span, help=help)


def _left(assertion: ResolvedAssertion, world: World) -> str:
    """Which shares of a cost that is too large stay as they are; empty where more layers can be changed as others are."""
    below = (
        part for side in _bounded_above(assertion.expr) if side in decisive(assertion.expr, world) for part in walk(side)
    )
    of = next((part for part in below if isinstance(part, CostOf) and part.name in STATIC_VALUES), None)
    if of is None or world.cost is None:
        return ""
    base, static, ctx = world.facts.cost, STATIC_VALUES[of.name], of.ctx or 0
    every = all(one.spec != other.spec for one, other in zip(base.layers, world.cost.layers, strict=True))
    if not every and world.cost.value(of.name, ctx) != base.value(of.name, ctx):
        return ""

    def amount(cost: ModelCost, slot: Slot) -> int:
        alone = (layer.spec.replace(**{other: None for other in WORDS if other is not slot}) for layer in cost.layers)
        return sum(static.of(layer, ctx) for layer in model_cost(world.facts, alone).layers)

    shares = {slot: (amount(base, slot), amount(world.cost, slot)) for slot in WORDS}
    names = {Slot.MIXER: "attention", Slot.FFN: "the MLPs"}
    kept = sorted(((was, names[slot]) for slot, (was, becomes) in shares.items() if was == becomes > 0), reverse=True)
    ruled = " and ".join(f"{name} ({amount_text(size, static.unit)})" for size, name in kept)
    outside = static.outside(world.facts)
    fixed = f"the {'output head' if of.name == 'flops' else 'embeddings'} ({amount_text(outside, static.unit)})"
    said = [*([f"no rule changes {ruled}"] if kept else []), *([f"no action changes {fixed}"] if outside else [])]
    return ", and ".join(said) or "every layer is changed already"


def _bounded_above(expr: Expr) -> Iterator[Expr]:
    """The sides of comparisons that are to be less than something."""
    for part in walk(expr):
        if isinstance(part, Compare):
            for op, left, right in zip(part.ops, part.operands, part.operands[1:], strict=False):
                yield from {"<": (left,), ">": (right,)}.get(op.text[0], ())


def gate_of(
    plan: Plan, recipe: Recipe, facts: ModelFacts, *, no_heal: bool = False
) -> Callable[[Scores, Scores], tuple[AssertResult, ...]]:
    """A function from the finished model's scores on texts and tasks to the results of all asserts, in the recipe's order.

    An assert must hold on every text, or on the one that it names. Asserts of earlier phases keep the plan's results. An
    assert without a value fails: with a score that does not exist (see `no_value`) no condition holds, not even
    `not ppl_increase > 5%`. `no_heal`: the recipe's healing was left out.
    """
    cost, joint = model_cost(facts, plan.specs), plan.joint
    judged = World(facts, cost=cost, joint=joint, profiles=recipe.profiles)
    healing = "add a `heal` block" if recipe.heal is None else "heal it (without --no-heal)" if no_heal else "heal longer"

    def gate(post: Scores, tasks: Scores) -> tuple[AssertResult, ...]:
        worlds = {source: replace(judged, post={**post, **tasks, "": post[source]}) for source in post}
        worlds = worlds or {"": replace(judged, post=tasks)}
        pairs = zip(recipe.asserts, plan.asserts, strict=True)
        return tuple(
            _judged(item, worlds, plan.eval or Evaluate(), healing) if item.phase is Phase.POST else known
            for item, known in pairs
        )

    return gate


def _judged(assertion: ResolvedAssertion, worlds: Mapping[str, World], wanted: Evaluate, healing: str) -> AssertResult:
    # If every score names its text, one world is enough.
    own = any(part.source is None for part in _scores(assertion.expr))
    asked = worlds if own else dict(list(worlds.items())[:1])
    results = []
    for source, world in asked.items():
        on = source if len(asked) > 1 else None
        room = min(rooms(assertion.expr, world), default=math.inf)
        result = _on_one(assertion, world, wanted, healing, room, on)
        results.append(((room, -abs(result.value or 0.0)), result))
    # Of several texts, show the first that fails, or is left open by its error, else the one that is nearest to failing; of
    # those for which that is not known, the one with the largest value.
    for status in ("fail", "undecided", BARELY):
        found = next((result for _, result in results if result.status == status), None)
        if found is not None:
            return found
    return min(results, key=lambda item: item[0])[1]


def _on_one(
    assertion: ResolvedAssertion, world: World, wanted: Evaluate, healing: str, room: float, on: str | None
) -> AssertResult:
    """The result on one text, of whose conditions the nearest to failing is `room` from it."""
    truth, found = evaluate(assertion.expr, world)
    if truth is None:
        why = "; ".join(problem.message for problem in found)
        help = tuple(dict.fromkeys(line for problem in found for line in problem.help))
        return _result(assertion, "fail", on=on).model_copy(update={"why": why, "help": help})
    shown = deciding(assertion.expr, world)
    scores = {score: world.post[score.source or ""][score.metric] for score in _scores(assertion.expr)}
    error = next((item.stderr for item in scores.values() if shown is not None and item.value == shown.value), None)
    result = _result(assertion, "pass", shown, on).model_copy(update={"error": error})
    decided = [score for side in decisive(assertion.expr, world) for score in _scores(side)]
    if not _may_change(assertion, world, scores, bool(truth)):
        help = () if truth else tuple(dict.fromkeys(_remedy(score, healing) for score in decided))
        return result if truth else result.model_copy(update={"status": "fail", "help": help})
    times = (error / room) ** 2 if error and room and math.isfinite(room) and len(scores) == 1 else None
    help = tuple(dict.fromkeys(_more(score, world.post[score.source or ""], wanted, times) for score in decided))
    why = "the bound lies within the standard error"
    return result.model_copy(update={"status": BARELY if truth else "undecided", "why": why, "help": help})


def _scores(expr: Expr) -> Iterator[PostScore]:
    return (part for part in walk(expr) if isinstance(part, PostScore))


def _may_change(assertion: ResolvedAssertion, world: World, scores: Iterable[PostScore], truth: bool) -> bool:
    """Whether a condition would no longer be `truth`, were each score one standard error more, or less."""
    keys = list(dict.fromkeys((score.source or "", score.metric) for score in scores))
    signs = product((-1, 1), repeat=len(keys)) if len(keys) <= MOVED else ((sign,) * len(keys) for sign in (-1, 1))
    for moves in signs:
        post = {source: dict(of) for source, of in world.post.items()}
        for (source, name), sign in zip(keys, moves, strict=True):
            found = post[source][name]
            post[source][name] = replace(found, value=found.value + sign * found.stderr)
        if evaluate(assertion.expr, replace(world, post=post)).value is not truth:
            return True
    return False


def _more(score: PostScore, answers: Mapping[str, Measurement], wanted: Evaluate, times: float | None) -> str:
    """The setting that makes an error smaller; it falls with the square root of what is asked. `answers` are the scores of
    the same text or task, whose largest count is that of its questions: a recovery is of those that the base has right."""
    factor = 2.0 if times is None or times > SENSIBLE else max(2.0, 1.1 * times)
    asked = max(found.tokens for found in answers.values())
    questions = f"about {math.ceil(factor * asked)} questions decide, and {asked} were asked"
    if isinstance(score.task, OwnQuestions):
        return f"{questions}: write further ones, about other texts, into {score.task.file}; or move the bound"
    if isinstance(score.task, int):
        setting, now = "needle_texts", wanted.needle_texts
    elif score.task is not None:
        setting, now = "limit", wanted.limit or 0
    else:
        setting, now = "tokens", wanted.tokens
    if setting == "limit" and not now:
        return f"ask more questions than {task_name(score.task or '')} has, or move the bound"
    needed = math.ceil(factor * now)
    said = tokens_text(needed) if setting == "tokens" else str(needed)
    return f"{questions if setting == 'needle_texts' else 'more of it decides'}: `{setting} = {said}` in the `eval` block"


def _remedy(score: PostScore, healing: str) -> str:
    """What brings back what a failed score says is lost."""
    if isinstance(score.task, int | OwnQuestions):
        return "healing brings back few facts that stand outside the windows: widen them, or keep more layers"
    if score.task is not None:
        return f"{healing} on text like that of the task, change fewer layers, or choose them by `{task_name(score.task)}`"
    return f"{healing}, or change less"


def failures(results: Iterable[AssertResult], *, where: str = "") -> Iterator[Diagnostic]:
    """LB468 for each assert that failed. `where`: what became of the result, as a help."""
    for item in results:
        if item.failed:
            got = f" (got {value_text(item)})" if item.value is not None else ""
            why = f": {item.why}" if item.why else ""
            kind = "is undecided" if item.status == "undecided" else "failed"
            message = f"the quality gate {kind}: assert {item.text}{got}{f' on {item.on}' if item.on else ''}{why}"
            yield error("LB468", message, help=(*([where] if where else []), *item.help))


def _result(
    assertion: ResolvedAssertion, status: Status, shown: DecidingValue | None = None, on: str | None = None
) -> AssertResult:
    value, unit = (float(shown.value), shown.unit) if shown is not None else (None, None)
    if shown is not None and shown.share is not None:
        value, unit = float(shown.share), Unit.RATIO
    between = shown.between if shown is not None else None
    return AssertResult(
        text=assertion.text, phase=assertion.phase, status=status, value=value, unit=unit, on=on, between=between
    )
