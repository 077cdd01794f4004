"""`needle`: finding facts in a long text."""

from __future__ import annotations

from lbdsl.metrics.base import TaskMetric


class Needle(TaskMetric):
    """Share of the facts in a text of so many tokens that the finished model finds.

    What: up to ten facts are hidden in a text, at all depths, and asked for at its end; an answer is right if all of its
    tokens are the model's first choice, alone. It is made of built-in text that is not healed on: with the same
    tokenizer, and above about 4Ki tokens the same packages, it is the same for every model.
    Why: a window may cost little perplexity, and still lose what stands far back.
    Example: `assert needle(4Ki) >= 90%`
    Source: RULER, Hsieh and others, 2024 (arXiv 2404.06654), its questions with several keys.
    """

    kind = "needle"
    argument = "4Ki"
