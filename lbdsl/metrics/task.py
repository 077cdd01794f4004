"""`task`: a benchmark of lm-evaluation-harness."""

from __future__ import annotations

from lbdsl.metrics.base import Of, TaskMetric


class Task(TaskMetric):
    """Share of right answers of the finished model to a task of lm-evaluation-harness; of a layer, what its change costs.

    What: `acc_norm` of the task, else `acc`, `exact_match`, or the first of its metrics; of a group, over all questions.
    A layer's `task("hellaswag", drop)` is the base's share less that of the model with this layer changed, of the last
    `questions` of the `measure` block.
    Why: what users compare models by. With few questions its error is large: look at it before you gate or choose by it.
    Example: `lowest 4 by task("hellaswag", drop) drop`, `assert task("hellaswag") >= 40%`
    Source: Gao and others, lm-evaluation-harness (doi 10.5281/zenodo.12608602).
    """

    kind = "task"
    argument = '"hellaswag"'
    of = frozenset({Of.LAYER, Of.FINISHED})
    takes_action = True
