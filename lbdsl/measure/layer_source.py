"""Where a model's layers are taken from when it is measured: from memory here, from disk in `streamed_model`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class LayerSource(ABC):
    """A hybrid model of which a layer, or the head, is sure to be there only while it is asked for.

    `hybrid` is the model; its configuration and shapes can be looked at any time.
    """

    in_memory: ClassVar[bool]
    """Whether a layer costs nothing to ask for, as often as one likes."""

    def __init__(self, hybrid: Any, device: Any):
        self.hybrid = hybrid
        self.device = torch.device(device)

    @property
    def layers(self) -> int:
        return len(self.hybrid.model.layers)

    @abstractmethod
    def embed(self, ids_BN: Tensor) -> Tensor:
        """[B, N] tokens to the stream before the first layer, [B, N, D]."""

    @abstractmethod
    def layer(self, index: int) -> AbstractContextManager[nn.Module]:
        """Layer `index` with its weights."""

    @abstractmethod
    def head(self) -> AbstractContextManager[Any]:
        """The hybrid model, whose `predict` works within."""


class LoadedModel(LayerSource):
    """A hybrid model in memory, in eval mode."""

    in_memory = True

    def __init__(self, hybrid: Any):
        super().__init__(hybrid, hybrid.lm_head.weight.device)

    def embed(self, ids_BN: Tensor) -> Tensor:
        return self.hybrid.model.embed(ids_BN)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        yield self.hybrid.model.layers[index]

    @contextmanager
    def head(self) -> Iterator[Any]:
        yield self.hybrid
