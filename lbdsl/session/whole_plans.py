"""Measure whole plans jointly: on the calibration text and questions, before one of them is chosen, and on others after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnostic, error, fail, note
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, NoValue, Request
from lbdsl.layer.difference import given_windows
from lbdsl.measure.taken import Statistics
from lbdsl.metrics import LogitsMetric, Of, metric_of, metrics_of
from lbdsl.plan.lengths import too_short
from lbdsl.plan.made_from import MeasuredOn
from lbdsl.plan.recall import RecallLoss
from lbdsl.plan.schema import Loss, ScoreValue
from lbdsl.recipe.schema_blocks import RECALL, SHORTEST_NEEDLE
from lbdsl.session.asking import Asking, asked_by, recall_questions_of
from lbdsl.session.patching import Selected
from lbdsl.session.session import Session
from lbdsl.solve.select import Selection

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.measure.scores import JointLoss


class WholePlans:
    """Metrics of whole plans. What was measured is kept, sequence by sequence: a plan that was measured on a share of the
    text is measured on the rest alone. `text` is how many tokens of text a plan is measured on, `questions` how many it
    is asked, each time all of them; `tokens` are those of both."""

    def __init__(self, session: Session, statistics: Statistics, metrics: Iterable[str]):
        """Metrics of text are measured together; each metric of answers has questions of its own."""
        self._session, self._statistics = session, statistics
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
        found: list[dict[str, Measurement]] = [{} for _ in plans]
        if self._blocks is not None:
            joint = _joint(self._session, plans, self._statistics, title, self._blocks, self._of_text, share)
            found = [dict(one.scores) for one in joint]
        for metric, asking in self._asking.items():
            for scores, cost in zip(found, _lost(metric, asking, plans, self._statistics, title), strict=True):
                scores[metric] = cost
        return found


def _digest(plan: Selection, statistics: Statistics) -> str:
    used = plan.used_statistics
    return digest_of([plan.digest, statistics.digests(used)]) if used else plan.digest


def _joint(
    session: Session,
    plans: Sequence[Selection],
    statistics: Statistics,
    title: str = "measuring the whole plan",
    blocks: TokenBlocks | None = None,
    metrics: Sequence[str] = (),
    share: float = 1.0,
) -> list[JointLoss]:
    """Of each plan these metrics on a share of this text, or all on the text that no score used; the base runs once."""
    from lbdsl.measure.scores import measure_plans

    blocks = blocks or session.joint_text
    # All that are measured on every token of a text.
    of_text = [name for name, metric in metrics_of(Of.CHANGED).items() if issubclass(metric, LogitsMetric)]
    changes = {_digest(plan, statistics): plan.changes for plan in plans}
    with session.model.measuring(blocks, title, statistics) as measuring:
        part = replace(measuring, blocks=blocks.rows(0, max(1, math.ceil(share * blocks.sequences))))
        found = dict(zip(changes, measure_plans(part, changes, metrics or of_text), strict=True))
    return [found[_digest(plan, statistics)] for plan in plans]


def _request(metric: str, plan: Selection, statistics: Statistics) -> Request:
    """What its answers are stored under."""
    from lbdsl.measure.store import MODEL_LAYER

    return Request(metric, f"joint {_digest(plan, statistics)}", MODEL_LAYER)


def _lost(metric: str, asking: Asking, plans: Sequence[Selection], statistics: Statistics, title: str) -> list[Measurement]:
    """What each plan loses of the answers."""
    requests = [_request(metric, plan, statistics) for plan in plans]
    models = {request: plan.changes for request, plan in zip(requests, plans, strict=True)}
    costs = asking.costs(models, statistics, title)
    return [costs[request] for request in requests]


def join(session: Session, selected: Selected) -> tuple[Loss | None, MeasuredOn, RecallLoss | None, tuple[Diagnostic, ...]]:
    """What the whole plan costs on text and by questions that no score used, if it changes anything; and findings."""
    loss, digest = None, None
    if selected.selection.changes:
        (joint,) = _joint(session, [selected.selection], selected.statistics)
        scores = {name: ScoreValue.of(score) for name, score in joint.scores.items()}
        loss = Loss(scores=scores, base_nll=joint.base_nll.value, tokens=joint.base_nll.tokens)
        digest = session.joint_text.digest
    recall, forgotten = _recall(session, selected.selection, selected.statistics)
    return loss, selected.on.model_copy(update={"joint_digest": digest}), recall, forgotten


def elsewhere(
    session: Session, plans: Sequence[Selection], taken: Statistics, metrics: Iterable[str]
) -> list[dict[str, Measurement]]:
    """Metrics of whole plans on the text and the questions that no score used, by plan and name."""
    asks = [metric_of(metric).asks for metric in metrics]
    joint = [] if all(asks) else _joint(session, plans, taken)
    found = [dict(one.scores) for one in joint] or [{} for _ in plans]
    if any(asks):
        questions = recall_questions_of(session.recipe.measure, session.model, session.place)
        asking = Asking(questions, session.model)
        for scores, cost in zip(found, _lost("recall", asking, plans, taken, "asking the best plans"), strict=True):
            scores["recall"] = cost
    return found


def _recall(
    session: Session, selection: Selection, statistics: Statistics
) -> tuple[RecallLoss | None, tuple[Diagnostic, ...]]:
    """What the whole changed model loses of the answers to questions that no score was measured by, and findings on it.
    Nothing where no attention changes and no value is asked for. Raises LB361 if one is asked for, and there is none."""
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
    questions = recall_questions_of(measure, model, session.place)
    asking = Asking(questions, model)
    missing = asking.missing(statistics)
    if missing is not None:
        return without(missing)
    request = _request("recall", selection, statistics)
    base, answered = asking.answers({request: selection.changes}, statistics, "asking the whole plan", "")
    score, kinds = questions.cost(base, answered[request]), questions.by_kind(base, answered[request])
    if not math.isfinite(score.value):
        help = ("the plan breaks the model: change fewer layers", "or try `--dtype float32`")
        return None, (error("LB306", f"`recall` of the whole changed model is {score.value}", help=help),)
    found = RecallLoss(
        value=score.value,
        stderr=score.stderr if math.isfinite(score.stderr) else None,
        kinds=kinds,
        left_out=tuple(name for name, kind in kinds.items() if not kind.counts),
        longest=questions.longest,
        tokens=questions.rows.tokens,
        digest=questions.blocks.digest,
    )
    return found, ()
