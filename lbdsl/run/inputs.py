"""A run: its plan, the inputs besides it, and where it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lbdsl.core.progress import Progress, Report
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.evaluate.quality import Kept
from lbdsl.evaluate.tasks import Test
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.plan.gates import Scores
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.run.workdir import WorkFolder

Gate = Callable[[Scores, Scores], tuple[AssertResult, ...]]
"""Maps the scores on each text and each task to the results of all asserts."""


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run besides its plan.

    base:        returns the base model in the hybrid runtime
    judged_base: returns the base as the reference for evaluation, in memory or streamed from disk
    changed:     returns a separate copy of the model to change
    weights:     returns the folder of the base's safetensors
    heal_blocks:  one for each stage of healing; none without healing
    calibration:  the text that the inputs of packed weights are taken on, None if they need none
    eval_blocks:  one for each evaluation text
    tasks:        what the finished model is asked
    validation:   the text that each stage is watched on; None to keep its last weights
    seen:         by the digest of an evaluation text, the share of it that healing or measuring has seen
    texts:        the sha256 of each text and task that heals or judges, by name
    trackers:     where else the healing loss is shown
    release:      frees the base, which `base` then loads again
    statistics:   returns the statistics of a layer, used to compute its new weights
    compute:      the compute dtype, if it differs from the dtype of the stored weights
    """

    facts: ModelFacts
    tokenizer: Any
    base: Callable[[], Any]
    judged_base: Callable[[], LayerSource]
    changed: Callable[[], Any]
    weights: Callable[[], Path]
    heal_blocks: tuple[TokenBlocks, ...]
    eval_blocks: tuple[TokenBlocks, ...]
    gate: Gate
    tasks: tuple[Test, ...] = ()
    validation: tuple[TokenBlocks | None, ...] = ()
    calibration: TokenBlocks | None = None
    device: Any = "cpu"
    seen: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    release: Callable[[], None] = lambda: None
    statistics: StatisticsOf = NO_STATISTICS
    batch: int = 1
    compute: str | None = None


@dataclass(frozen=True)
class Run:
    """What is done in which work folder; `resume`: finished work that is there is used again."""

    plan: Plan
    inputs: RunInputs
    work: WorkFolder
    progress: Progress
    resume: bool = False
    should_stop: Callable[[], bool] = lambda: False
    base_states: Kept = field(default_factory=dict)
    """Those that judging before healing leaves for judging the result."""

    def stop_if_asked(self) -> None:
        """Stop between stages, where all finished work is on disk."""
        from lbdsl.heal.heal import HealInterrupted

        if self.should_stop():
            raise HealInterrupted

    def stopping(self, report: Report) -> Report:
        """The same report, which first looks whether to stop."""

        def told(done: float, total: float, note: str = "") -> None:
            self.stop_if_asked()
            report(done, total, note)

        return told
