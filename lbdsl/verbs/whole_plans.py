"""Measure whole plans jointly on the calibration text, before one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.select import Selection
from lbdsl.verbs.patching import fingerprint_of
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.measure.statistics import Statistics


class WholePlans:
    """What was measured is kept, sequence by sequence: a plan that was measured on a share of the text is measured on the
    rest alone."""

    def __init__(self, recipe: Recipe, bench: Workbench, statistics: Statistics | None):
        from lbdsl.measure.statistics import NO_STATISTICS
        from lbdsl.verbs.texts import data_folder, score_blocks

        self._bench = bench
        self._statistics = statistics or NO_STATISTICS
        self._blocks = score_blocks(recipe.measure, bench, data_folder(recipe.path))

    @property
    def tokens(self) -> int:
        return self._blocks.tokens

    def measure(
        self, plans: Sequence[Selection], metrics: Sequence[str], title: str, share: float = 1.0
    ) -> Sequence[Mapping[str, Measurement]]:
        """By plan, its metrics by name."""
        from lbdsl.measure.joint import measure_plans
        from lbdsl.measure.store import open_store

        bench, blocks = self._bench, self._blocks
        digests = [self._digest(plan) for plan in plans]
        changes = {digest: plan.changes for digest, plan in zip(digests, plans, strict=True)}
        with open_store(bench.cache_dir) as store, bench.progress.stage(title) as report:
            found = measure_plans(
                lambda: bench.measured_base,
                changes,
                metrics,
                blocks.rows(0, max(1, math.ceil(share * blocks.sequences))),
                store,
                fingerprint_of(bench, blocks.digest),
                progress=report,
                batch=bench.options.batch,
                statistics=self._statistics,
            )
        by_digest = dict(zip(changes, found, strict=True))
        return [by_digest[digest].scores for digest in digests]

    def _digest(self, plan: Selection) -> str:
        used = plan.used_statistics
        return digest_of([plan.digest, self._statistics.digests(used)]) if used else plan.digest
