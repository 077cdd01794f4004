"""Questions about what stands in a text, and what a changed model loses of their answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, NoValue
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.records import Question
from lbdsl.data.split import TextPart
from lbdsl.measure.answers import Answered
from lbdsl.measure.rows import AnswerRows, answer_rows
from lbdsl.plan.recall import FINDS, RecallOfKind

VERSION = 1
"""Part of the digest: answers that were counted by another rule are not compared."""

NOTHING_FOUND = NoValue(
    f"has no value: the base finds under {FINDS:.0%} of the answers of every kind",
    'name questions that it can answer, `recall = "mine.jsonl"` in the `measure` block; or leave `recall` out of rules, '
    "and `recovery(needle(...))` out of the asserts",
)


@dataclass(frozen=True, eq=False)
class RecallQuestions:
    """`rows` has a row for each question, in the order of `questions`; `blocks` are their tokens. `longest`: tokens of the
    longest text with its question."""

    questions: tuple[Question, ...]
    rows: AnswerRows
    blocks: TokenBlocks
    longest: int

    @classmethod
    def of(cls, questions: Iterable[Question], positions: int, batch: int = 1) -> RecallQuestions:
        asked = tuple(questions)
        rows = answer_rows([(one.before, one.answer) for one in asked], positions, batch)
        digest = digest_of(["recall", VERSION, [[one.before, one.answer, one.kind, one.text] for one in asked], positions])
        blocks = TokenBlocks(rows.ids_SN, digest, "recall")
        return cls(asked, rows, blocks, max(len(one.before) + len(one.answer) for one in asked))

    @property
    def count(self) -> int:
        return len(self.questions)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.kind for one in self.questions))

    def by_kind(self, base: Answered, changed: Answered) -> dict[str, RecallOfKind]:
        """What each kind's questions lose; a rise of NaN where the changed model has no likelihoods."""
        found = {}
        for kind in self.kinds:
            of_kind = [(row, one) for row, one in zip(self.rows.row_of, self.questions, strict=True) if one.kind == kind]
            rise = sum(changed.losses[row] - base.losses[row] for row, _ in of_kind)
            found[kind] = RecallOfKind(
                asked=len(of_kind),
                base=sum(base.misses[row] == 0 for row, _ in of_kind),
                found=sum(changed.misses[row] == 0 for row, _ in of_kind),
                rise=rise / sum(len(one.answer) for _, one in of_kind),
            )
        return found

    def weights(self, base: Answered) -> dict[int, float]:
        """By row, what a nat of its answer counts in `cost`: kinds that count weigh alike, and their tokens."""
        counting = {kind for kind, found in self.by_kind(base, base).items() if found.counts}
        tokens = Counter[str]()
        for one in self.questions:
            tokens[one.kind] += len(one.answer)
        pairs = zip(self.rows.row_of, self.questions, strict=True)
        return {row: 1 / tokens[one.kind] / len(counting) for row, one in pairs if one.kind in counting}

    def cost(self, base: Answered, changed: Answered) -> Measurement:
        """The mean over kinds that count of each kind's rise a token of an answer, in nats. Its standard error is clustered
        by text, as of a mean of ratio estimators. Without a kind that counts there is no value."""
        weights, kinds = self.weights(base), self.by_kind(base, changed)
        asked = [(row, one) for row, one in zip(self.rows.row_of, self.questions, strict=True) if row in weights]
        if not asked:
            return Measurement(math.nan, math.nan, Unit.NATS, 0, 0, NOTHING_FOUND)
        share = dict.fromkeys((one.text for _, one in asked), 0.0)
        for row, one in asked:
            rest = changed.losses[row] - base.losses[row] - kinds[one.kind].rise * len(one.answer)
            share[one.text] += rest * weights[row]
        value = math.fsum((changed.losses[row] - base.losses[row]) * weights[row] for row, _ in asked)
        return self._measurement(value, [*share.values()], weights)

    def slope(self, base: Answered, slopes: Sequence[float]) -> Measurement:
        """As `cost`, of the slopes that groups of rows give with these weights in them; clustered by group."""
        weights = self.weights(base)
        if not weights:
            return Measurement(math.nan, math.nan, Unit.NATS, 0, 0, NOTHING_FOUND)
        size = {row: len(one.answer) for row, one in zip(self.rows.row_of, self.questions, strict=True)}
        parts = [math.fsum(weights[row] * size[row] for row in group if row in weights) for group in self.rows.groups]
        value = math.fsum(slopes)
        rests = [slope - value * part for slope, part in zip(slopes, parts, strict=True) if part]
        return self._measurement(value, rests, weights)

    def _measurement(self, value: float, rests: Sequence[float], weights: Mapping[int, float]) -> Measurement:
        """`rests`: how far each cluster is from its part of the value."""
        tokens = sum(len(one.answer) for row, one in zip(self.rows.row_of, self.questions, strict=True) if row in weights)
        if not math.isfinite(value) or len(rests) < 2:
            return Measurement(value, math.nan, Unit.NATS, tokens, len(rests))
        spread = len(rests) / (len(rests) - 1) * math.fsum(rest**2 for rest in rests)
        return Measurement(value, math.sqrt(spread), Unit.NATS, tokens, len(rests))


def own_part(questions: Sequence[Question], part: TextPart) -> list[Question]:
    """Every other text of a user's own questions for the scores of layers, the others for whole plans; of fewer than four
    texts every other question."""
    texts = list(dict.fromkeys(one.text for one in questions))
    keys = [texts.index(one.text) for one in questions] if len(texts) > 3 else list(range(len(questions)))
    return [one for one, key in zip(questions, keys, strict=True) if (key % 2 == 0) == (part is TextPart.SCORE)]
