"""Questions about what stands in a text, and what a changed model loses of their answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, NoValue
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.records import Question
from lbdsl.data.split import TextPart
from lbdsl.measure.answers import Answered
from lbdsl.measure.rows import AnswerRows, answer_rows

VERSION = 1
"""Part of the digest: answers that were counted by another rule are not compared."""

FINDS = 0.2
"""The least share of a kind's questions that the base has to find: of what it does not find nothing can be lost."""

NOTHING_FOUND = NoValue(
    f"has no value: the base finds under {FINDS:.0%} of the answers of every kind",
    'name questions that it can answer, `recall = "mine.jsonl"` in the `measure` block, or rank by `kl`',
)


@dataclass(frozen=True)
class KindRecall:
    """Of the questions of one kind: how many there are, how many the base and the changed model find, and the rise of the
    loss in nats a token of an answer."""

    asked: int
    base: int
    found: int
    rise: float

    @property
    def counts(self) -> bool:
        return self.base >= FINDS * self.asked


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
        blocks = TokenBlocks(rows.ids_SN, digest, "recall", TextPart.SCORE, 0, 1, None)
        return cls(asked, rows, blocks, max(len(one.before) + len(one.answer) for one in asked))

    @property
    def count(self) -> int:
        return len(self.questions)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.kind for one in self.questions))

    def by_kind(self, base: Answered, changed: Answered) -> dict[str, KindRecall]:
        """What each kind's questions lose; a rise of NaN where the changed model has no likelihoods."""
        found = {}
        for kind in self.kinds:
            of_kind = [(row, one) for row, one in zip(self.rows.row_of, self.questions, strict=True) if one.kind == kind]
            rise = sum(changed.losses[row] - base.losses[row] for row, _ in of_kind)
            found[kind] = KindRecall(
                len(of_kind),
                sum(base.misses[row] == 0 for row, _ in of_kind),
                sum(changed.misses[row] == 0 for row, _ in of_kind),
                rise / sum(len(one.answer) for _, one in of_kind),
            )
        return found

    def cost(self, base: Answered, changed: Answered) -> Measurement:
        """The mean over kinds that count of each kind's rise a token of an answer, in nats. Its standard error is clustered
        by text, as of a mean of ratio estimators. Without a kind that counts there is no value."""
        kinds = {kind: found for kind, found in self.by_kind(base, changed).items() if found.counts}
        texts = {one.text for one in self.questions if one.kind in kinds}
        tokens = sum(len(one.answer) for one in self.questions if one.kind in kinds)
        if not kinds:
            return Measurement(math.nan, math.nan, Unit.NATS, 0, 0, NOTHING_FOUND)
        value = math.fsum(found.rise for found in kinds.values()) / len(kinds)
        if not math.isfinite(value) or len(texts) < 2:
            return Measurement(value, math.nan, Unit.NATS, tokens, len(texts))
        size = {kind: sum(len(one.answer) for one in self.questions if one.kind == kind) for kind in kinds}
        share = dict.fromkeys(texts, 0.0)
        for row, one in zip(self.rows.row_of, self.questions, strict=True):
            if one.kind in kinds:
                rest = changed.losses[row] - base.losses[row] - kinds[one.kind].rise * len(one.answer)
                share[one.text] += rest / size[one.kind] / len(kinds)
        spread = len(texts) / (len(texts) - 1) * math.fsum(each**2 for each in share.values())
        return Measurement(value, math.sqrt(spread), Unit.NATS, tokens, len(texts))


def own_part(questions: Sequence[Question], part: TextPart) -> list[Question]:
    """Every other text of a user's own questions for the scores of layers, the others for whole plans; of fewer than four
    texts every other question."""
    texts = list(dict.fromkeys(one.text for one in questions))
    keys = [texts.index(one.text) for one in questions] if len(texts) > 3 else list(range(len(questions)))
    return [one for one, key in zip(questions, keys, strict=True) if (key % 2 == 0) == (part is TextPart.SCORE)]
