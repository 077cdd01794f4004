"""What becomes of each layer: by scores; by search where the recipe has a `choose`, by bisection where it has a `while`."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, fail, note, raise_errors
from lbdsl.core.units import plural
from lbdsl.cost.cost import model_cost
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import walk
from lbdsl.recipe.schema import Score
from lbdsl.session.choosing import choose
from lbdsl.session.measuring import Scored, measured_on
from lbdsl.session.patching import Selected
from lbdsl.session.session import Session
from lbdsl.session.whole_plans import WholePlans
from lbdsl.solve.evaluate import World, deciding, evaluate
from lbdsl.solve.select import Selection, select


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
