"""Sources of a model's layers for measurements: in memory here, on disk in `streamed_model`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class LayerSource(ABC):
    """A hybrid model whose layers and head are guaranteed to have weights only inside `layer(i)` and `head()`.

    `hybrid` is the model; its configuration and shapes can be read at any time.
    """

    in_memory: ClassVar[bool]
    """Whether all layers are in memory, so that `layer` costs nothing."""

    def __init__(self, hybrid: Any, device: Any):
        self.hybrid = hybrid
        self.device = torch.device(device)

    @property
    def layers(self) -> int:
        return len(self.hybrid.model.layers)

    @abstractmethod
    def embed(self, ids_BN: Tensor) -> Tensor:
        """Map [B, N] token ids to the hidden states before the first layer, [B, N, D]."""

    @abstractmethod
    def layer(self, index: int) -> AbstractContextManager[nn.Module]:
        """A context manager that gives layer `index` with its weights."""

    @abstractmethod
    def head(self) -> AbstractContextManager[Any]:
        """A context manager that gives the hybrid model with a working `predict`."""


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
