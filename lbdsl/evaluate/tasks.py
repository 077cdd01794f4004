"""Right answers of an artifact and of its base to the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Progress
from lbdsl.core.units import Unit
from lbdsl.measure.layer_source import LayerSource


class Answers(NamedTuple):
    """Questions that may depend on each other, such as those about one text: how many, and how many (or how much of them)
    the base and the artifact have right."""

    asked: int
    base: float
    artifact: float


@dataclass(frozen=True)
class TaskResult:
    """`name` is as in a recipe, `task("hellaswag")`; `metric` says what a right answer is. `parts` are its parts by name,
    such as the depths of a needle. Standard errors are clustered; that of the recovery is paired."""

    name: str
    metric: str
    digest: str
    answers: tuple[Answers, ...]
    parts: Mapping[str, Answers]

    @property
    def base(self) -> Measurement:
        return clustered_mean([one.base for one in self.answers], self._asked, Unit.RATIO)

    @property
    def artifact(self) -> Measurement:
        return clustered_mean([one.artifact for one in self.answers], self._asked, Unit.RATIO)

    @property
    def recovery(self) -> Measurement:
        """NaN where the base has no right answer. It is a ratio estimator, as a mean over the base's right answers."""
        right = [one.base for one in self.answers]
        if not sum(right):
            return Measurement(math.nan, math.nan, Unit.RATIO, 0, len(right))
        return clustered_mean([one.artifact for one in self.answers], right, Unit.RATIO)

    @property
    def _asked(self) -> list[int]:
        return [one.asked for one in self.answers]

    def post_scores(self) -> Mapping[str, float]:
        """The values that asserts compare, by metric name."""
        return {self.name.partition("(")[0]: self.artifact.value, "recovery": self.recovery.value}

    def to_json(self) -> dict[str, Any]:
        """`base`, `artifact` and `recovery` are shares; `parts` has the shares of each part."""
        found = {"base": self.base, "artifact": self.artifact, "recovery": self.recovery}
        return {
            "name": self.name,
            "metric": self.metric,
            "digest": self.digest,
            "questions": sum(self._asked),
            **{name: value.value for name, value in found.items()},
            "stderr": {name: value.stderr for name, value in found.items()},
            "parts": {
                name: {"questions": part.asked, "base": part.base / part.asked, "artifact": part.artifact / part.asked}
                for name, part in self.parts.items()
            },
        }


class Test(Protocol):
    """What two models can be asked."""

    @property
    def name(self) -> str: ...

    def answered(self, base: LayerSource, artifact: LayerSource, progress: Progress) -> TaskResult:
        """Ask both, as a stage of its own."""


def ask(base: LayerSource, artifact: LayerSource, tests: Sequence[Test], progress: Progress) -> tuple[TaskResult, ...]:
    return tuple(test.answered(base, artifact, progress) for test in tests)
