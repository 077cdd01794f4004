"""`needle`: finding facts in a long text."""

from __future__ import annotations

from lbdsl.metrics.base import TaskMetric


class Needle(TaskMetric):
    """Share of the facts in a text of so many tokens that the finished model finds; or of a user's own questions.

    What: up to nine facts are hidden in a text, at all depths, each asked for at its end: numbers, words, and values that
    changed, of which the last counts, in equal parts. An answer is right if all of its tokens are the model's first choice,
    alone; those that are words the model writes itself. The text is built in, and not healed on: with the same tokenizer,
    and above about 4Ki tokens the same packages, it is the same for every model. `needle("mine.jsonl")` asks the questions
    of a file: a line is `{"text": ..., "question": ..., "answer": ...}`, with an answer that stands in the text.
    Why: a window may cost little perplexity, and still lose what stands far back.
    Example: `assert needle(4Ki) >= 90%`, `assert recovery(needle("mine.jsonl")) >= 90%`
    Source: RULER, Hsieh and others, 2024 (arXiv 2404.06654), its questions with several keys.
    """

    kind = "needle"
    argument = "4Ki"
