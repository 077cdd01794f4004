"""What a metric is: a declaration of what it needs, and one small function over it. The engine does the rest.

To add one, write one file beside this one with a subclass of `LogitsMetric` or `ResidualMetric`. torch is imported
only inside the functions: a recipe is checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


class Metric(ABC):
    """A number per layer, the mean over calibration tokens of a per-token value (accumulated in fp32 or better)."""

    kind: ClassVar[str]
    unit: ClassVar[str]
    takes_action: ClassVar[bool]
    """True: `nll(swa(window=256))` is meant under that action, and bare `nll` under `default_action`."""
    default_action: ClassVar[str] = "drop"
    joint: ClassVar[bool]
    """True when it also exists for the whole changed model, in `assert`, `requires` and `until`."""

    @classmethod
    def kind_name(cls) -> str:
        return cls.kind


class LogitsMetric(Metric):
    """Compares next-token predictions of the base and of the changed model."""

    takes_action = True
    joint = True

    @staticmethod
    @abstractmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        """Values of N tokens from fp32 log-probabilities over the vocabulary V and the true next tokens; shape [N]."""


class ResidualMetric(Metric):
    """Compares the residual stream before and after a part of a layer; one pass over the base serves all layers.

    `influence` alone is of the first of `parts`, the attention sub-block; `influence(block)` is of the whole layer.
    """

    takes_action = False
    joint = False
    parts: ClassVar[tuple[str, ...]] = ("attention", "block")

    @staticmethod
    @abstractmethod
    def per_token(before_ND: torch.Tensor, after_ND: torch.Tensor) -> torch.Tensor:
        """Values of N tokens from fp32 residual states of width D; shape [N]."""
