"""What a `choose` did: the best plans as strips of layers, and what each budget costs."""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot
from string import ascii_lowercase

from rich.text import Text

from lbdsl.core.printed import printable
from lbdsl.core.units import Unit, amount_text, plural, tokens_text
from lbdsl.plan.schema import Budget, Choice, Plan, ScoreValue
from lbdsl.plan.words import signed_text
from lbdsl.report.strip import Row, strip_lines

STRIPS = 5
"""Plans that are shown."""


def choice_lines(plan: Plan, width: int, ascii_: bool) -> Iterator[Text]:
    choice = plan.choice
    if choice is None:
        return
    among = f"{len(choice.alternatives)} alternatives for {plural(len(choice.layers), 'layer')}"
    screened = plan.measure.strategy == "screen"
    estimated, pairs = (", scores estimated by a screen", ", with pair terms,") if screened else ("", "")
    yield Text(f" chosen among {among}, by {choice.metric}{estimated}:", style="bold")
    spent, pm = "scores alone chose", "+-" if ascii_ else "±"
    if choice.candidates:
        yield from strip_lines(_rows(choice, pm), width)
        legend = "   ".join(f"{_sign(choice, n)} {printable(text)}" for n, text in enumerate(choice.alternatives))
        yield Text(f"  {legend}")
        for served, numbers in choice.unserved.items():
            texts = " or ".join(printable(choice.alternatives[number]) for number in numbers)
            yield Text(f"  left out: no format of {printable(served)} has {texts}", "yellow")
        parts = [f"{tokens_text(choice.tokens)} tokens of calibration text"] if choice.tokens else []
        text = " and ".join([*parts, *([f"{choice.questions} questions"] if choice.questions else [])])
        spent = f"measured jointly, in all as much as {choice.spent:.0f} plans on {text}"
    alone = f"; the sum of the single layers{pairs} is {choice.sum:+.3g}" if choice.weights else ""
    yield Text(f"  {spent}{alone}")
    if not choice.weights and choice.candidates and choice.candidates[0].joint.value >= 1:
        yield Text(f"  nothing that was measured keeps the bounds for less: they take the whole of {choice.metric}")
    other = _elsewhere(plan, choice)
    if choice.candidates and other is not None:
        compared = f", on which the best {choice.compared} were compared," if choice.compared > 1 else ""
        text = f"  on other text{compared} the first has {choice.metric} {signed_text(other, pm)}"
        joint = choice.candidates[0].joint
        if other.value - joint.value > 2 * hypot(joint.stderr or 0.0, other.stderr or 0.0):
            text += ", more than chance explains: let more text choose, by measure { tokens = ... }"
        yield Text(text)
        if choice.passed_over is not None:
            alone = f"the best by {'the screen' if screened else 'scores'} alone"
            said = f"{alone} has" if choice.searched else f"it is {alone}, for the best of the search has"
            yield Text(f"  {said} {signed_text(choice.passed_over, pm)} there")
    for budget in choice.budgets:
        yield Text(f"  {_budget(budget, choice.least, pm)}")


def _elsewhere(plan: Plan, choice: Choice) -> ScoreValue | None:
    """What was minimized, on the text and questions of `Plan.loss`; None for a task."""
    scores = dict(plan.loss.scores)
    if plan.recall is not None:
        scores["recall"] = ScoreValue(value=plan.recall.value, stderr=plan.recall.stderr, unit=Unit.NATS)
    if not choice.weights or not scores.keys() >= choice.weights.keys():
        return None
    terms = [(weight, scores[name]) for name, weight in choice.weights.items()]
    error = hypot(*(weight * (score.stderr or 0.0) for weight, score in terms))
    return ScoreValue(value=sum(weight * score.value for weight, score in terms), stderr=error or None, unit=Unit.NATS)


def _rows(choice: Choice, pm: str) -> list[Row]:
    """What is minimized, and what has a bound."""
    rows = []
    for candidate in choice.candidates[:STRIPS]:
        joint = candidate.joint
        value = signed_text(joint, pm) if choice.weights else amount_text(joint.value, joint.unit)
        bounds = (f"{name} {signed_text(bound, pm)}" for name, bound in candidate.bounds.items())
        signs = [" " if number is None else _sign(choice, number) for number in candidate.strip]
        over = [] if candidate.kept else ["over"]
        rows.append(Row(", ".join([value, *bounds, *over]), signs, [""] * len(signs)))
    return rows


def _sign(choice: Choice, number: int) -> str:
    changing = [text for text in choice.alternatives if text != "keep"]
    text = choice.alternatives[number]
    return "=" if text == "keep" else ascii_lowercase[changing.index(text) % 26]


def _budget(budget: Budget, least: float, pm: str) -> str:
    said = printable(budget.text)
    if budget.value is not None and budget.unit is not None:
        unit = Unit.RATIO if budget.share is not None else budget.unit
        said += f": it is {amount_text(budget.value if budget.share is None else budget.share, unit)}"
        said += f" ({' to '.join(amount_text(end, unit) for end in budget.between)})" if budget.between else ""
        said += f" {pm}{budget.stderr:.2g}" if budget.stderr is not None else ""
        if budget.room is not None and budget.room > 0:
            said += f" (room for {amount_text(budget.room, unit)})"
        if budget.elsewhere is not None:
            said += f" on what it was chosen by, {signed_text(budget.elsewhere, pm)} on other text"
    if budget.without is None:
        return said
    said += "; " if budget.value is not None else ": "
    if least - budget.without < 1e-9:
        return f"{said}it costs nothing"
    return f"{said}the least sum of scores is {least:+.3g}, and {budget.without:+.3g} without this budget"
