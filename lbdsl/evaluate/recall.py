"""Whether the finished model finds what stands far back in a text, by the questions of `recall`."""

from __future__ import annotations

import math
from functools import partial

from lbdsl.core.progress import Progress, Report
from lbdsl.evaluate.tasks import Answers, TaskResult, answers_of, summed
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import base_not_finite
from lbdsl.measure.recall import RecallQuestions
from lbdsl.measure.rows import likelihoods


class RecallTest:
    """The questions that a whole plan was asked before healing: their answers are shown, and gate nothing."""

    name = "recall"

    def __init__(self, questions: RecallQuestions):
        self._questions = questions

    def answered(self, base: LayerSource, artifact: LayerSource | None, progress: Progress) -> TaskResult:
        models = [base] if artifact is None else [base, artifact]
        asked, right = self._questions, []
        with progress.stage("asking recall") as report:
            for done, source in enumerate(models):
                told = partial(_told, report, done, len(models))
                found = likelihoods(source, asked.rows, told)
                right.append([float(first) if math.isfinite(nats) else math.nan for nats, first in found])
        if any(map(math.isnan, right[0])):
            raise base_not_finite("in the questions of recall")
        answers = answers_of(right)
        by_text: dict[int, list[Answers]] = {}
        by_kind: dict[str, list[Answers]] = {}
        for one, answer in zip(asked.questions, answers, strict=True):
            by_text.setdefault(one.text, []).append(answer)
            by_kind.setdefault(one.kind, []).append(answer)
        parts = {kind: summed(of_kind) for kind, of_kind in by_kind.items()}
        return TaskResult(self.name, "answers found", asked.blocks.digest, tuple(map(summed, by_text.values())), parts)


def _told(report: Report, done: int, models: int, share: float) -> None:
    report((done + share) / models, 1.0, "answers")
