"""Measure whole plans jointly on the calibration text, before one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.metrics import Of, metrics_of
from lbdsl.plan.schema import Loss, ScoreValue
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.select import Selection
from lbdsl.workbench.asking import Asking
from lbdsl.workbench.patching import fingerprint_of
from lbdsl.workbench.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.measure.statistics import Statistics


class WholePlans:
    """What was measured is kept, sequence by sequence: a plan that was measured on a share of the text is measured on the
    rest alone."""

    def __init__(self, recipe: Recipe, bench: Workbench, statistics: Statistics | None, task: str | None = None):
        """`task`: whose questions they are asked instead of the text."""
        from lbdsl.measure.statistics import NO_STATISTICS
        from lbdsl.workbench.texts import score_blocks

        self._bench = bench
        self._statistics = statistics or NO_STATISTICS
        self._asking = Asking(task, recipe, bench) if task is not None else None
        # `tokens`: of the text, or the answers. `measured_on`: tokens of the text, or questions.
        if self._asking is None:
            self._blocks = score_blocks(recipe.measure, bench, bench.place(recipe.path))
            self.tokens = self.measured_on = self._blocks.tokens
        else:
            asked = self._asking.questions
            self._blocks, self.tokens, self.measured_on = asked.blocks, asked.rows.tokens, asked.count

    def measure(
        self, plans: Sequence[Selection], metrics: Sequence[str], title: str, share: float = 1.0
    ) -> Sequence[Mapping[str, Measurement]]:
        """By plan, its metrics by name."""
        from lbdsl.measure.joint import measure_plans
        from lbdsl.measure.store import MODEL_LAYER, open_store

        bench, blocks = self._bench, self._blocks
        digests = [_digest(plan, self._statistics) for plan in plans]
        changes = {digest: plan.changes for digest, plan in zip(digests, plans, strict=True)}
        if self._asking is not None:
            requests = {digest: Request(metrics[0], f"joint {digest}", MODEL_LAYER) for digest in digests}
            models = {requests[digest]: plan for digest, plan in changes.items()}
            falls = self._asking.falls(models, self._statistics, title)
            return [{metrics[0]: falls[requests[digest]]} for digest in digests]
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


def _digest(plan: Selection, statistics: Statistics) -> str:
    used = plan.used_statistics
    return digest_of([plan.digest, statistics.digests(used)]) if used else plan.digest


def joint_loss(
    recipe: Recipe, bench: Workbench, selection: Selection, taken: Statistics | None
) -> tuple[Loss | None, str | None]:
    """The loss of the whole changed model on text that no score was measured on, and that text's digest."""
    if not selection.changes:
        return None, None
    (found,), digest = joint_losses(recipe, bench, [selection], taken)
    return found, digest


def joint_losses(
    recipe: Recipe, bench: Workbench, selections: Sequence[Selection], taken: Statistics | None
) -> tuple[Sequence[Loss], str]:
    """The same of several, of which the base runs once for all."""
    from lbdsl.measure.joint import measure_plans
    from lbdsl.measure.statistics import NO_STATISTICS
    from lbdsl.measure.store import open_store
    from lbdsl.workbench.texts import joint_blocks

    blocks = joint_blocks(recipe.measure, bench, bench.place(recipe.path))
    statistics = taken or NO_STATISTICS
    with open_store(bench.cache_dir) as store, bench.progress.stage("measuring the whole plan") as report:
        found = measure_plans(
            lambda: bench.measured_base,
            {_digest(selection, statistics): selection.changes for selection in selections},
            tuple(metrics_of(Of.CHANGED)),
            blocks,
            store,
            fingerprint_of(bench, blocks.digest),
            progress=report,
            batch=bench.options.batch,
            statistics=statistics,
        )
    losses = [
        Loss(
            scores={name: ScoreValue.of(score) for name, score in loss.scores.items()},
            base_nll=loss.base_nll.value,
            tokens=loss.base_nll.tokens,
        )
        for loss in found
    ]
    return losses, blocks.digest
