"""Right answers of an artifact and of its base to the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from lbdsl.core.measurement import NONE_RIGHT, Measurement, NoValue, clustered_mean
from lbdsl.core.progress import Progress
from lbdsl.core.units import Unit
from lbdsl.measure.layer_source import LayerSource


class Answers(NamedTuple):
    """Questions that may depend on each other, such as those about one text: how many, and how many (or how much of them)
    the base and the artifact have right. NaN: the artifact's likelihoods are not finite; None: the base alone was asked."""

    asked: int
    base: float
    artifact: float | None


@dataclass(frozen=True)
class TaskResult:
    """`name` is as in a recipe, `task("hellaswag")`; `metric` says what a right answer is. `parts` are its parts by name,
    such as the depths of a needle, `kinds` its kinds of facts; `missed` the lines of a user's own questions that each model
    has wrong. Standard errors are clustered; that of the recovery is paired. `missing`: why no share says anything."""

    name: str
    metric: str
    digest: str
    answers: tuple[Answers, ...]
    parts: Mapping[str, Answers]
    missing: NoValue | None = None
    kinds: Mapping[str, Answers] = field(default_factory=dict)
    missed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def base(self) -> Measurement:
        return self._mean([one.base for one in self.answers], self._asked)

    @property
    def artifact(self) -> Measurement:
        return self._mean(self._artifact, self._asked)

    @property
    def recovery(self) -> Measurement:
        """NaN where the base has no right answer. It is a ratio estimator, as a mean over the base's right answers."""
        right = [one.base for one in self.answers]
        if not sum(right):
            return Measurement(math.nan, math.nan, Unit.RATIO, 0, len(right), NONE_RIGHT)
        return self._mean(self._artifact, right)

    @property
    def shares(self) -> Mapping[str, Measurement]:
        """`base`, and with an artifact `artifact` and `recovery`."""
        both = {} if self._alone else {"artifact": self.artifact, "recovery": self.recovery}
        return {"base": self.base, **both}

    def _mean(self, right: Sequence[float], of: Sequence[float]) -> Measurement:
        return replace(clustered_mean(right, of, Unit.RATIO), missing=self.missing)

    @property
    def _asked(self) -> list[int]:
        return [one.asked for one in self.answers]

    @property
    def _alone(self) -> bool:
        return any(one.artifact is None for one in self.answers)

    @property
    def _artifact(self) -> list[float]:
        return [math.nan if one.artifact is None else one.artifact for one in self.answers]

    def post_scores(self) -> Mapping[str, Measurement]:
        """The scores that asserts compare, by metric name."""
        return {self.name.partition("(")[0]: self.artifact, "recovery": self.recovery}

    def to_json(self) -> dict[str, Any]:
        """`base`, `artifact` and `recovery` are shares; `parts` has the shares of each part, `kinds` of each kind."""
        return {
            "name": self.name,
            "metric": self.metric,
            "digest": self.digest,
            "questions": sum(self._asked),
            **{name: found.value for name, found in self.shares.items()},
            "stderr": {name: found.stderr for name, found in self.shares.items()},
            "parts": _shares(self.parts),
            **({"kinds": _shares(self.kinds)} if self.kinds else {}),
            **({"missed": {model: list(lines) for model, lines in self.missed.items()}} if self.missed else {}),
        }


def _shares(answers: Mapping[str, Answers]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "questions": part.asked,
            "base": part.base / part.asked,
            **({} if part.artifact is None else {"artifact": part.artifact / part.asked}),
        }
        for name, part in answers.items()
    }


def answers_of(right: Sequence[Sequence[float]]) -> list[Answers]:
    """Question by question, from the shares that the base has right, and the artifact if it was asked."""
    base, *artifact = right
    return [Answers(1, *both) for both in zip(base, artifact[0] if artifact else [None] * len(base), strict=True)]


def summed(answers: Sequence[Answers]) -> Answers:
    """All of them as one."""
    artifact = [one.artifact for one in answers if one.artifact is not None]
    return Answers(sum(one.asked for one in answers), sum(one.base for one in answers), sum(artifact) if artifact else None)


class Test(Protocol):
    """What two models can be asked, or a base alone."""

    @property
    def name(self) -> str: ...

    def answered(self, base: LayerSource, artifact: LayerSource | None, progress: Progress) -> TaskResult:
        """Ask both, as a stage of its own. Raises LB451 where the base's likelihoods are not finite."""


def ask(
    base: LayerSource, artifact: LayerSource | None, tests: Sequence[Test], progress: Progress
) -> tuple[TaskResult, ...]:
    return tuple(test.answered(base, artifact, progress) for test in tests)
