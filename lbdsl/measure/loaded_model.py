"""A loaded hybrid model as a source of layers: the same calls as for one that stays on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class LoadedModel:
    """See `StreamedModel`: all layers of `hybrid` are in memory all the time."""

    def __init__(self, hybrid: Any):
        self.hybrid = hybrid
        self.device = hybrid.lm_head.weight.device

    @property
    def layers(self) -> int:
        return len(self.hybrid.model.layers)

    @torch.inference_mode()
    def embed(self, ids_BN: Tensor) -> Tensor:
        """[B, N] tokens to the stream before the first layer, [B, N, D]."""
        return self.hybrid.model.embed(ids_BN)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        yield self.hybrid.model.layers[index]

    @contextmanager
    def head(self) -> Iterator[Any]:
        yield self.hybrid
