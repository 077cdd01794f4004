"""Fit the patches of scored drops and of a plan, and leave out those that do not help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lbdsl.actions.patches import Place, patches_of
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.weights import Stat, stats_by_layer
from lbdsl.plan.schema import MeasuredOn
from lbdsl.recipe.schema import Recipe
from lbdsl.session.model import OpenModel
from lbdsl.solve.select import Selection, select, unpatched

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.measure.flow import Changes
    from lbdsl.measure.statistics import Statistics


def fingerprint_of(bench: OpenModel, blocks_digest: str) -> str:
    """The cache key for the scores of this model on this text."""
    from lbdsl.measure.fingerprint import fingerprint

    return fingerprint(
        model=bench.digest,
        blocks=blocks_digest,
        saved=bench.facts.dtype,
        dtype=bench.computed.dtype,
        device=bench.device,
        versions=bench.versions,
    )


def fitted(
    recipe: Recipe,
    bench: OpenModel,
    models: Sequence[Changes],
    on: MeasuredOn,
    check: TokenBlocks,
    taken: Mapping[int, tuple[Stat, ...]] = MappingProxyType({}),
) -> Statistics:
    """The statistics of changed models, with their patches, and those of `taken`; all but the patches are there already."""
    from lbdsl.measure.patches import fit_patches
    from lbdsl.measure.statistics import kept_statistics
    from lbdsl.session.texts import score_blocks

    used = dict(taken)
    for changes in models:
        for layer, stats in stats_by_layer({i: dict(c.weights).values() for i, c in changes.items()}).items():
            used[layer] = (*used.get(layer, ()), *stats)
    key = on.statistics_key
    statistics = kept_statistics(bench.cache_dir, key, used)
    with bench.progress.stage("fitting patches") as report:
        fit_patches(
            lambda: bench.measured_base,
            bench.facts,
            models,
            score_blocks(recipe.measure, bench, bench.place(recipe.path)),
            check,
            statistics,
            bench.cache_dir,
            key,
            progress=report,
            batch=bench.options.batch,
        )
    return statistics


def helpful_patches(
    recipe: Recipe,
    bench: OpenModel,
    chosen: Selection,
    scores: Mapping[Request, Measurement],
    on: MeasuredOn,
    check: TokenBlocks | None,
    taken: Statistics | None,
) -> tuple[Selection, Statistics | None, MeasuredOn, tuple[Diagnostic, ...]]:
    """The selection with those patches alone that help, its statistics, what they bring, and a note on the others."""
    from lbdsl.measure.patch_factor import scale_patches
    from lbdsl.measure.store import open_store

    statistics, unhelped = taken, set[Place]()
    while check is not None and patches_of(bench.facts, chosen.changes):
        statistics = fitted(recipe, bench, [chosen.changes], on, check)
        with open_store(bench.cache_dir) as store, bench.progress.stage("checking patches") as report:
            useless, brought = scale_patches(
                lambda: bench.measured_base,
                bench.facts,
                chosen.changes,
                check,
                store,
                fingerprint_of(bench, check.digest),
                statistics,
                bench.cache_dir,
                on.statistics_key,
                progress=report,
                batch=bench.options.batch,
            )
        if not useless:
            if math.isfinite(brought.kl) and math.isfinite(brought.kl_without):
                on = on.model_copy(update={"patches": brought})
            break
        # What is left is fitted again, in a model without those.
        unhelped |= set(useless)
        chosen = select(recipe, bench.facts, scores, unhelped=unhelped).unwrap()
    else:
        statistics = taken
    why = f"it does not help on {check.data}" if check is not None else ""
    return chosen, statistics, on, (unpatched(unhelped, why),) if unhelped else ()
