"""Base classes of metrics: a metric declares what it needs and where it may be used, and has one small function. The
engine does the rest.

To add one, write one file in this folder with a subclass of `LogitsMetric`, `ResidualMetric` or `DerivedMetric`. torch
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
    """What a metric is measured of, and so where its name may be used."""

    LAYER = "a layer"
    """In `where`, `by` and `measure { metric = ... }`."""

    CHANGED = "the whole changed model"
    """In `assert`, `requires` and `while`, measured before healing."""

    FINISHED = "the finished model"
    """In `assert`, measured after healing."""


class Metric(ABC):
    """A mean over tokens of a per-token value (accumulated in fp32 or better), or a function of such means.

    The first paragraph of its docstring is its description; What, Why, Example and Source are its page.
    """

    kind: ClassVar[str]
    unit: ClassVar[Unit]
    of: ClassVar[frozenset[Of]]
    """Where it may be used. CHANGED and FINISHED exclude each other: in `assert` they would be ambiguous."""

    possible: ClassVar[frozenset[Of]]
    """The values of `of` that the engine supports for this type of metric."""

    title: ClassVar[str] = ""
    """Its title in tables and plots, if that is not its name."""

    bound: ClassVar[str] = "< 0.1"
    """An example bound for an assert, used in help texts."""

    takes_action: ClassVar[bool] = False
    """True: `nll(swa(window=256))` is a layer's value under that action, and bare `nll` that under `default_action`."""
    default_action: ClassVar[str] = "drop"

    asks: ClassVar[bool] = False
    """True: it is of answers to questions, and not of every token of the calibration text."""

    @classmethod
    def form(cls) -> str:
        """The form used in recipes: `nll(ACTION)`, `influence`."""
        return f"{cls.kind}(ACTION)" if cls.takes_action and Of.LAYER in cls.of else cls.kind

    @classmethod
    def layer_form(cls) -> str:
        """Of a layer under the default action: `nll(drop)`."""
        return f"{cls.kind}({cls.default_action})"


class LogitsMetric(Metric):
    """Compares next-token predictions of the base and of the changed or finished model."""

    takes_action = True
    of = frozenset({Of.LAYER, Of.CHANGED})
    possible = frozenset(Of)

    @staticmethod
    @abstractmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        """Values of N tokens, shape [N], from fp32 log-probabilities over the vocabulary V and the true next tokens."""


class ResidualMetric(Metric):
    """Compares the residual stream before and after a part of a layer; one pass over the base measures all layers.

    `influence` alone measures the first of `parts`, the attention sub-block; `influence(block)` the whole layer.
    """

    of = frozenset({Of.LAYER})
    possible = of
    parts: ClassVar[tuple[str, ...]] = ("attention", "block")

    @staticmethod
    @abstractmethod
    def per_token(before_ND: torch.Tensor, after_ND: torch.Tensor) -> torch.Tensor:
        """Values of N tokens, shape [N], from fp32 residual states of width D."""


class TaskMetric(Metric):
    """A share of right answers to questions, or of the base's right answers: of a task, and not of a text."""

    unit = Unit.RATIO
    asks = True
    of = frozenset({Of.FINISHED})
    possible = frozenset({Of.LAYER, Of.FINISHED})
    bound = ">= 90%"
    argument: ClassVar[str]
    """An example of what stands in its parentheses."""

    @classmethod
    def form(cls) -> str:
        return f"{cls.kind}({cls.argument})"

    @classmethod
    def layer_form(cls) -> str:
        return f"{cls.kind}({cls.argument}, {cls.default_action})"


class DerivedMetric(Metric):
    """A metric of the finished model, computed from the means of the metrics in `means`; each is measured only once."""

    of = frozenset({Of.FINISHED})
    possible = of
    means: ClassVar[tuple[type[LogitsMetric], ...]]

    @staticmethod
    @abstractmethod
    def value(means: Sequence[Measurement]) -> tuple[float, float]:
        """The value and its standard error, from the means in the order of `means`; NaN or infinite if undefined."""
