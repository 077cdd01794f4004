"""`recall`: what a change costs of the answers that stand far back in the text."""

from __future__ import annotations

from lbdsl.core.units import Unit
from lbdsl.metrics.base import Metric, Of


class Recall(Metric):
    """Rise of the loss on answers that stand far back in the text, under an action, in nats per token of an answer.

    What: texts of the `recall` sources with questions at their end; the changed model's loss on the tokens of the answers,
    less the base's: the mean over the kinds of questions (numbers, words, values that changed, passages, tables) of the
    mean over the kind's answers. Kinds of which the base finds under a fifth are left out. Values may be negative, and do
    not add up.
    Why: a window may cost little perplexity, and still lose what stands far back; few layers hold it.
    Example: `lowest 16 of rest by recall(swa(window=256)) swa(window=256)`
    Source: the rise of the loss on answers with one layer windowed (arXiv 2606.27791); heads that retrieve (arXiv
    2404.15574).
    """

    kind = "recall"
    unit = Unit.NATS
    title = "recall loss"
    takes_action = True
    asks = True
    of = frozenset({Of.LAYER, Of.CHANGED})
    possible = of
