"""What a metric is: a declaration of what it needs and where it may stand, and one small function. The engine does the
rest.

To add one, write one file beside this one with a subclass of `LogitsMetric`, `ResidualMetric` or `DerivedMetric`. torch
is imported only inside the functions: a recipe is checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit

if TYPE_CHECKING:
    import torch


class Of(StrEnum):
    """What a metric is a value of, and so where its name may stand."""

    LAYER = "a layer"
    """In `where`, `by` and `measure { metric = ... }`."""

    CHANGED = "the whole changed model"
    """In `assert` and `requires`, measured before healing."""

    FINISHED = "the finished model"
    """In `assert`, judged after healing."""


class Metric(ABC):
    """A mean over tokens of a per-token value (accumulated in fp32 or better), or made of such means.

    The first paragraph of its docstring is its description; What, Why, Example and Source make its page.
    """

    kind: ClassVar[str]
    unit: ClassVar[Unit]
    of: ClassVar[frozenset[Of]]
    """Where it may stand. CHANGED and FINISHED exclude each other: `assert` would not know which is meant."""

    possible: ClassVar[frozenset[Of]]
    """What the engine can measure this sort of metric of."""

    title: ClassVar[str] = ""
    """What tables and pictures call it, where that is not its name."""

    bound: ClassVar[str] = "< 0.1"
    """What an assert may compare it with, for advice."""

    takes_action: ClassVar[bool] = False
    """True: `nll(swa(window=256))` is a layer's value under that action, and bare `nll` that under `default_action`."""
    default_action: ClassVar[str] = "drop"

    @classmethod
    def kind_name(cls) -> str:
        return cls.kind

    @classmethod
    def form(cls) -> str:
        """How it is written: `nll(ACTION)`, `influence`."""
        return f"{cls.kind}(ACTION)" if cls.takes_action and Of.LAYER in cls.of else cls.kind


class LogitsMetric(Metric):
    """Compares next-token predictions of the base and of the changed or finished model."""

    takes_action = True
    of = frozenset({Of.LAYER, Of.CHANGED})
    possible = frozenset(Of)

    @staticmethod
    @abstractmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        """Values of N tokens from fp32 log-probabilities over the vocabulary V and the true next tokens; shape [N]."""


class ResidualMetric(Metric):
    """Compares the residual stream before and after a part of a layer; one pass over the base serves all layers.

    `influence` alone is of the first of `parts`, the attention sub-block; `influence(block)` is of the whole layer.
    """

    of = frozenset({Of.LAYER})
    possible = of
    parts: ClassVar[tuple[str, ...]] = ("attention", "block")

    @staticmethod
    @abstractmethod
    def per_token(before_ND: torch.Tensor, after_ND: torch.Tensor) -> torch.Tensor:
        """Values of N tokens from fp32 residual states of width D; shape [N]."""


class DerivedMetric(Metric):
    """Of the finished model, made of the means of comparisons: those of `means`, each measured once for all that ask."""

    of = frozenset({Of.FINISHED})
    possible = of
    means: ClassVar[tuple[type[LogitsMetric], ...]]

    @staticmethod
    @abstractmethod
    def value(means: Sequence[Measurement]) -> tuple[float, float]:
        """The value and its standard error, from the means in the order of `means`; NaN or infinite where there is
        none."""
