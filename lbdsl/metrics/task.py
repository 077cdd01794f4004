"""`task`: a benchmark of lm-evaluation-harness."""

from __future__ import annotations

from lbdsl.metrics.base import TaskMetric


class Task(TaskMetric):
    """Share of right answers of the finished model to a task of lm-evaluation-harness.

    What: `acc_norm` of the task, else `acc`, `exact_match`, or the first of its metrics; of a group, over all questions.
    Why: what users compare models by. With few questions its error is large: look at it before you gate on it.
    Example: `assert task("hellaswag") >= 40%`
    Source: Gao and others, lm-evaluation-harness (doi 10.5281/zenodo.12608602).
    """

    kind = "task"
    argument = '"hellaswag"'
