"""`recovery`: what is left of the base's right answers."""

from __future__ import annotations

from lbdsl.metrics.base import TaskMetric


class Recovery(TaskMetric):
    """Right answers of the finished model, as a share of its base's.

    What: the two shares of right answers to the same questions, one by the other; its error is paired.
    Why: a bound that does not depend on how well the base does.
    Example: `assert recovery(task("hellaswag")) >= 95%`
    Source: this project.
    """

    kind = "recovery"
    bound = ">= 95%"
    argument = 'task("hellaswag")'
