"""Whether two models find in long texts what they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lbdsl.core.digest import digest_of
from lbdsl.core.progress import Progress
from lbdsl.data.needle import Haystacks
from lbdsl.data.records import Question
from lbdsl.evaluate.tasks import Answers, TaskResult, answers_of, summed
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import base_not_finite
from lbdsl.measure.recall import RecallQuestions
from lbdsl.measure.rows import AnswerRows, answer_rows, likelihoods
from lbdsl.recipe.schema_blocks import OwnQuestions, task_name

VERSION = 1
"""Part of the digest of a user's own questions: answers that were judged by another rule are not compared."""

WRITTEN = "words"
"""The kind of facts whose answers a model writes."""


@dataclass(frozen=True, eq=False)
class NeedleTest:
    """Questions behind their texts, each asked alone. An answer is right if each of its tokens is the most probable one
    behind those before it, which is what greedy decoding gives; those of `written` a model in memory does write, with its
    cache. `depth_of`: in the middle of which of `depths` equal parts of its text a question's fact stands."""

    name: str
    questions: tuple[Question, ...]
    written: frozenset[int]
    digest: str
    positions: int
    batch: int = 1
    depth_of: Sequence[int] = ()
    depths: int = 0

    @classmethod
    def hidden(cls, texts: Haystacks, positions: int, batch: int = 1) -> NeedleTest:
        """About facts hidden in built-in text."""
        written = frozenset(at for at, one in enumerate(texts.questions) if one.kind == WRITTEN)
        name, depth_of = task_name(texts.context), texts.depth_of
        return cls(name, texts.questions, written, texts.digest, positions, batch, depth_of, texts.depths)

    @classmethod
    def own(cls, needle: OwnQuestions, questions: tuple[Question, ...], positions: int, batch: int = 1) -> NeedleTest:
        """A user's own. The first about each text is answered by writing: the more of them, the longer it takes."""
        texts = [one.text for one in questions]
        digest = digest_of(["questions", VERSION, [[one.before, one.answer, one.text] for one in questions]])
        return cls(task_name(needle), questions, frozenset(map(texts.index, texts)), digest, positions, batch)

    @classmethod
    def recall(cls, asked: RecallQuestions, positions: int, batch: int = 1) -> NeedleTest:
        """The questions that a plan was asked before healing: their answers are shown, and gate nothing."""
        return cls("recall", asked.questions, frozenset(), asked.blocks.digest, positions, batch)

    @property
    def rows(self) -> AnswerRows:
        return answer_rows([(one.before, one.answer) for one in self.questions], self.positions, self.batch)

    def answered(self, base: LayerSource, artifact: LayerSource | None, progress: Progress) -> TaskResult:
        models = [base] if artifact is None else [base, artifact]
        writes = all(source.in_memory for source in models)
        rows = self.rows
        right = []
        with progress.stage(f"asking {self.name}") as report:
            for number, source in enumerate(models):

                def told(share: float, number: int = number, source: LayerSource = source) -> None:
                    report(number + share, len(models), "base" if source is base else "result")

                found = likelihoods(source, rows, told, self.written if writes else ())
                right.append([float(first) if math.isfinite(nats) else math.nan for nats, first in found])
        if any(map(math.isnan, right[0])):
            raise base_not_finite(f"in {self.name}")
        answers = answers_of(right)
        texts = [one.text for one in self.questions]
        by_text = _by(texts, answers)
        kinds = _by([one.kind for one in self.questions], answers)
        depths = _by(self.depth_of, answers) if self.depth_of else {}
        return TaskResult(
            self.name,
            "answers found" if writes else "answers found, none written",
            self.digest if writes else digest_of([self.digest, "nothing written"]),
            # Questions about one text are not independent; about one alone there is no error but theirs.
            tuple(by_text.values()) if len(by_text) > 1 else tuple(answers),
            {f"{(2 * at + 1) / (2 * self.depths):.0%}": depths[at] for at in sorted(depths)},
            kinds=kinds if len(kinds) > 1 else {},
            missed=self._missed(right),
        )

    def _missed(self, right: Sequence[Sequence[float]]) -> dict[str, tuple[int, ...]]:
        """The lines of a user's own questions, of one file, that each model has wrong."""
        lines = [one.line for one in self.questions]
        if not all(lines) or len({one.kind for one in self.questions}) > 1:
            return {}
        return {
            model: tuple(sorted(line for line, share in zip(lines, shares, strict=True) if share != 1))
            for model, shares in zip(("base", "artifact"), right, strict=False)
        }


def _by(keys: Sequence[Any], answers: Sequence[Answers]) -> dict[Any, Answers]:
    """The sum of those of each key."""
    found: dict[Any, list[Answers]] = {}
    for key, answer in zip(keys, answers, strict=True):
        found.setdefault(key, []).append(answer)
    return {key: summed(of_key) for key, of_key in found.items()}
