"""Measure whole plans jointly: on the calibration text and questions, before one of them is chosen, and on others after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.measure.flow import Changes
    from lbdsl.measure.joint import JointLoss
    from lbdsl.measure.statistics import Statistics


class WholePlans:
    """Metrics of whole plans. What was measured is kept, sequence by sequence: a plan that was measured on a share of the
    text is measured on the rest alone. `text` is how many tokens of text a plan is measured on, `questions` how many it
    is asked, each time all of them; `tokens` are those of both."""

    def __init__(self, session: Session, statistics: Statistics | None, metrics: Iterable[str]):
        """Metrics of text are measured together; each metric of answers has questions of its own."""
        from lbdsl.measure.statistics import NO_STATISTICS

        self._model = session.model
        self._statistics = statistics or NO_STATISTICS
        wanted = sorted(metrics)
        self._of_text = tuple(metric for metric in wanted if not metric_of(metric).asks)
        self._blocks = session.text if self._of_text else None
        asked = (metric for metric in wanted if metric_of(metric).asks)
        self._asking = {metric: Asking(asked_by(metric, session), session.model) for metric in asked}
        self.text = self._blocks.tokens if self._blocks is not None else 0
        self.questions = sum(asking.questions.count for asking in self._asking.values())
        self.tokens = self.text + sum(asking.questions.rows.tokens for asking in self._asking.values())

    def measure(self, plans: Sequence[Selection], title: str, share: float = 1.0) -> Sequence[Mapping[str, Measurement]]:
        """By plan, its metrics by name; those of text on a share of it."""
        from lbdsl.measure.store import MODEL_LAYER

        digests = [_digest(plan, self._statistics) for plan in plans]
        changes = {digest: plan.changes for digest, plan in zip(digests, plans, strict=True)}
        found: dict[str, dict[str, Measurement]] = {digest: {} for digest in changes}
        if self._blocks is not None:
            for digest, scores in self._measured(changes, self._blocks, title, share).items():
                found[digest] |= scores
        for metric, asking in self._asking.items():
            requests = {digest: Request(metric, f"joint {digest}", MODEL_LAYER) for digest in changes}
            costs = asking.costs({requests[digest]: plan for digest, plan in changes.items()}, self._statistics, title)
            for digest, request in requests.items():
                found[digest][metric] = costs[request]
        return [found[digest] for digest in digests]

    def _measured(
        self, changes: Mapping[str, Changes], blocks: TokenBlocks, title: str, share: float
    ) -> dict[str, Mapping[str, Measurement]]:
        from lbdsl.measure.joint import measure_plans
        from lbdsl.measure.store import open_store

        model = self._model
        with open_store(model.cache_dir) as store, model.progress.stage(title) as report:
            found = measure_plans(
                lambda: model.measured_base,
                changes,
                self._of_text,
                blocks.rows(0, max(1, math.ceil(share * blocks.sequences))),
                store,
                model.fingerprint(blocks.digest),
                progress=report,
                batch=model.options.batch,
                statistics=self._statistics,
            )
        return {digest: one.scores for digest, one in zip(changes, found, strict=True)}


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
    losses = [
        Loss(
            scores={name: ScoreValue.of(score) for name, score in loss.scores.items()},
            base_nll=loss.base_nll.value,
            tokens=loss.base_nll.tokens,
        )
        for loss in _joint(session, selections, taken)
    ]
    return losses, session.joint_text.digest


def elsewhere(
    session: Session, selections: Sequence[Selection], taken: Statistics | None, metrics: Iterable[str]
) -> list[dict[str, Measurement]]:
    """Metrics of whole plans on the text and the questions that no score used, by plan and name."""
    from lbdsl.measure.statistics import NO_STATISTICS
    from lbdsl.measure.store import MODEL_LAYER

    statistics, asks = taken or NO_STATISTICS, {metric: metric_of(metric).asks for metric in metrics}
    joint = [] if all(asks.values()) else _joint(session, selections, taken)
    found = [dict(one.scores) for one in joint] or [{} for _ in selections]
    if any(asks.values()):
        questions = recall_questions_of(session.recipe.measure, session.model, session.place, TextPart.JOINT)
        requests = [Request("recall", f"joint {_digest(selection, statistics)}", MODEL_LAYER) for selection in selections]
        models = {request: selection.changes for request, selection in zip(requests, selections, strict=True)}
        costs = Asking(questions, session.model).costs(models, statistics, "asking the best plans")
        for scores, request in zip(found, requests, strict=True):
            scores["recall"] = costs[request]
    return found


def _joint(session: Session, selections: Sequence[Selection], taken: Statistics | None) -> Sequence[JointLoss]:
    from lbdsl.measure.joint import measure_plans
    from lbdsl.measure.statistics import NO_STATISTICS
    from lbdsl.measure.store import open_store

    model, blocks = session.model, session.joint_text
    statistics = taken or NO_STATISTICS
    with open_store(model.cache_dir) as store, model.progress.stage("measuring the whole plan") as report:
        return measure_plans(
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
