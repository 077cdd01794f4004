"""Fit the patches of scored drops and of a plan, and leave out those that do not help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from lbdsl.actions.patches import SubBlock, patches_of
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.weights import Stat
from lbdsl.measure.taken import Statistics
from lbdsl.plan.made_from import MeasuredOn
from lbdsl.plan.schema import Choice
from lbdsl.session.session import Session
from lbdsl.solve.select import Selection, select, unpatched

if TYPE_CHECKING:
    from lbdsl.measure.flow import Changes


def fitted(
    session: Session,
    models: Sequence[Changes],
    on: MeasuredOn,
    taken: Mapping[int, tuple[Stat, ...]] = MappingProxyType({}),
) -> Statistics:
    """The statistics of changed models, with their patches, and those of `taken`; all but the patches are there already."""
    from lbdsl.measure.patches import fit_patches
    from lbdsl.measure.statistics import kept_statistics

    model, check = session.model, session.check_text
    assert check is not None, "patches are checked"
    used = dict(taken)
    for changes in models:
        for layer, change in changes.items():
            used[layer] = (*used.get(layer, ()), *change.stats)
    key = on.statistics_key
    statistics = kept_statistics(model.cache_dir, key, used)
    with session.progress.stage("fitting patches") as report:
        fit_patches(
            lambda: model.measured_base,
            session.facts,
            models,
            session.text,
            check,
            statistics,
            model.cache_dir,
            key,
            progress=report,
            batch=model.options.batch,
        )
    return statistics


@dataclass(frozen=True)
class Selected:
    """What becomes of each layer, on which text that was decided, the statistics that new weights are made with, and how a
    `choose` found it."""

    selection: Selection
    on: MeasuredOn
    statistics: Statistics
    choice: Choice | None
    diagnostics: tuple[Diagnostic, ...]


def helpful_patches(session: Session, scores: Mapping[Request, Measurement], selected: Selected) -> Selected:
    """With those patches alone that help, the statistics that they need, what they bring, and a note on the others."""
    from lbdsl.measure.patch_factor import scale_patches

    model, check = session.model, session.check_text
    chosen, on, statistics, unhelped = selected.selection, selected.on, selected.statistics, set[SubBlock]()
    while check is not None and patches_of(session.facts, chosen.changes):
        statistics = fitted(session, [chosen.changes], on)
        with model.measuring(check, "checking patches", statistics) as measuring:
            useless, brought = scale_patches(measuring, session.facts, chosen.changes, model.cache_dir, on.statistics_key)
        if not useless:
            if math.isfinite(brought.kl) and math.isfinite(brought.kl_without):
                on = on.model_copy(update={"patches": brought})
            break
        # What is left is fitted again, in a model without those.
        unhelped |= set(useless)
        chosen = select(session.case, scores, unhelped=unhelped).unwrap()
    else:
        statistics = selected.statistics
    why = f"it does not help on {check.data}" if check is not None else ""
    found = (*selected.diagnostics, *([unpatched(unhelped, why)] if unhelped else ()))
    return replace(selected, selection=chosen, on=on, statistics=statistics, diagnostics=found)
