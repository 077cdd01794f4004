"""Measure whole plans jointly on the calibration text, before one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnostic, error, fail, note
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, NoValue, Request
from lbdsl.data.split import TextPart
from lbdsl.layer.difference import given_windows
from lbdsl.metrics import LogitsMetric, Of, metric_of, metrics_of
from lbdsl.plan.lengths import too_short
from lbdsl.plan.recall import RecallLoss, RecallOfKind
from lbdsl.plan.schema import Loss, MeasuredOn, ScoreValue
from lbdsl.recipe.schema_blocks import RECALL, SHORTEST_NEEDLE
from lbdsl.session.asking import Asking, asked_by, recall_questions_of
from lbdsl.session.patching import Selected
from lbdsl.session.session import Session
from lbdsl.solve.select import Selection

if TYPE_CHECKING:
    from lbdsl.measure.statistics import Statistics


class WholePlans:
    """What was measured is kept, sequence by sequence: a plan that was measured on a share of the text is measured on the
    rest alone."""

    def __init__(self, session: Session, statistics: Statistics | None, metric: str = "nll"):
        """`metric`: where it is of answers, they are asked its questions instead of the text."""
        from lbdsl.measure.statistics import NO_STATISTICS

        self._model = session.model
        self._statistics = statistics or NO_STATISTICS
        self._asking = Asking(asked_by(metric, session), session.model) if metric_of(metric).asks else None
        # `tokens`: of the text, or the answers. `measured_on`: tokens of the text, or questions.
        if self._asking is None:
            self._blocks = session.text
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

        model, blocks = self._model, self._blocks
        digests = [_digest(plan, self._statistics) for plan in plans]
        changes = {digest: plan.changes for digest, plan in zip(digests, plans, strict=True)}
        if self._asking is not None:
            requests = {digest: Request(metrics[0], f"joint {digest}", MODEL_LAYER) for digest in digests}
            models = {requests[digest]: plan for digest, plan in changes.items()}
            costs = self._asking.costs(models, self._statistics, title)
            return [{metrics[0]: costs[requests[digest]]} for digest in digests]
        with open_store(model.cache_dir) as store, model.progress.stage(title) as report:
            found = measure_plans(
                lambda: model.measured_base,
                changes,
                metrics,
                blocks.rows(0, max(1, math.ceil(share * blocks.sequences))),
                store,
                model.fingerprint(blocks.digest),
                progress=report,
                batch=model.options.batch,
                statistics=self._statistics,
            )
        by_digest = dict(zip(changes, found, strict=True))
        return [by_digest[digest].scores for digest in digests]


def text_metrics() -> tuple[str, ...]:
    """The metrics of the whole changed model that are measured on every token of a text."""
    return tuple(name for name, metric in metrics_of(Of.CHANGED).items() if issubclass(metric, LogitsMetric))


def _digest(plan: Selection, statistics: Statistics) -> str:
    used = plan.used_statistics
    return digest_of([plan.digest, statistics.digests(used)]) if used else plan.digest


@dataclass(frozen=True)
class Joined:
    """What the whole plan costs, on text and by questions that no score used."""

    loss: Loss | None
    on: MeasuredOn
    recall: RecallLoss | None
    diagnostics: tuple[Diagnostic, ...]


def join(session: Session, selected: Selected) -> Joined:
    """Measure the whole plan, if it changes anything."""
    losses, digest = None, None
    if selected.selection.changes:
        losses, digest = joint_losses(session, [selected.selection], selected.statistics)
    recall, forgotten = _recall(session, selected.selection, selected.statistics)
    on = selected.on.model_copy(update={"joint_digest": digest})
    return Joined(losses[0] if losses else None, on, recall, forgotten)


def joint_losses(session: Session, selections: Sequence[Selection], taken: Statistics | None) -> tuple[Sequence[Loss], str]:
    """The same of several, of which the base runs once for all."""
    from lbdsl.measure.joint import measure_plans
    from lbdsl.measure.statistics import NO_STATISTICS
    from lbdsl.measure.store import open_store

    model, blocks = session.model, session.joint_text
    statistics = taken or NO_STATISTICS
    with open_store(model.cache_dir) as store, model.progress.stage("measuring the whole plan") as report:
        found = measure_plans(
            lambda: model.measured_base,
            {_digest(selection, statistics): selection.changes for selection in selections},
            text_metrics(),
            blocks,
            store,
            model.fingerprint(blocks.digest),
            progress=report,
            batch=model.options.batch,
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


def _recall(
    session: Session, selection: Selection, taken: Statistics | None
) -> tuple[RecallLoss | None, tuple[Diagnostic, ...]]:
    """What the whole changed model loses of the answers to questions that no score was measured by, and findings on it.
    Nothing where no attention changes and no value is asked for. Raises LB361 if one is asked for, and there is none."""
    from lbdsl.measure.statistics import NO_STATISTICS
    from lbdsl.measure.store import MODEL_LAYER

    model, measure = session.model, session.recipe.measure
    asked, length = "recall" in session.recipe.metrics_asked, measure.recall_seq or 0
    touched = any(layer.before.mixer != layer.after.mixer for layer in selection.layers)
    if not selection.changes or not (asked or (touched and model.options.recall)):
        return None, ()

    def without(missing: NoValue) -> tuple[None, tuple[Diagnostic, ...]]:
        if asked:
            raise fail("LB361", f"`recall` {missing.reason}", help=missing.help)
        message = f"`recall` {missing.reason}: nothing says what the plan forgets"
        return None, (note("LB361", message, help=missing.help),)

    window = max(given_windows(session.facts.layer_specs, selection.specs), default=0)
    if length < max(SHORTEST_NEEDLE, 2 * window) and RECALL in measure.recall:
        return without(too_short(length, window))
    questions = recall_questions_of(measure, model, session.place, TextPart.JOINT)
    asking, statistics = Asking(questions, model), taken or NO_STATISTICS
    base, _ = asking.answers({}, statistics, "asking the base")
    missing = questions.cost(base, base).missing
    if missing is not None:
        return without(missing)
    request = Request("recall", f"joint {_digest(selection, statistics)}", MODEL_LAYER)
    _, answered = asking.answers({request: selection.changes}, statistics, "asking the whole plan", starts=True)
    score, kinds = questions.cost(base, answered[request]), questions.by_kind(base, answered[request])
    if not math.isfinite(score.value):
        help = ("the plan breaks the model: change fewer layers", "or try `--dtype float32`")
        return None, (error("LB306", f"`recall` of the whole changed model is {score.value}", help=help),)
    found = RecallLoss(
        value=score.value,
        stderr=score.stderr if math.isfinite(score.stderr) else None,
        kinds={name: RecallOfKind.model_validate(kind, from_attributes=True) for name, kind in kinds.items()},
        left_out=tuple(name for name, kind in kinds.items() if not kind.counts),
        longest=questions.longest,
        tokens=questions.rows.tokens,
        digest=questions.blocks.digest,
    )
    return found, ()
