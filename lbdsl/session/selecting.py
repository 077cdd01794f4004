"""What becomes of each layer: by scores; by search where the recipe has a `choose`, by bisection where it has a `while`."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, raise_errors
from lbdsl.session.choosing import choose
from lbdsl.session.holding import hold
from lbdsl.session.measuring import Scored, nothing_measured
from lbdsl.session.patching import Selected
from lbdsl.session.session import Session
from lbdsl.solve.select import select


def choose_layers(session: Session, scored: Scored, found: tuple[Diagnostic, ...], *, best_so_far: bool) -> Selected:
    """`found`: findings of the stages before, which an error is shown with."""
    choice = None
    if session.case.choose is not None:
        best = choose(session, scored, best_so_far=best_so_far)
        chosen, choice = Diagnosed(best.selection, best.diagnostics), best.choice
    elif any(known.while_ is not None for known in session.case.rules):
        chosen = hold(session, scored)
    else:
        chosen = select(session.case, scored.scores)
    raise_errors(found + chosen.diagnostics)
    selection = chosen.unwrap()
    on = scored.on or nothing_measured(session, needs_gram=any(spec.needs_gram for spec in selection.specs))
    return Selected(selection, on, scored.statistics, choice, chosen.diagnostics)
