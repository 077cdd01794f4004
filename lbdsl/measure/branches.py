"""Rows that share a beginning, run once: its keys and values are read by every row, layer by layer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from lbdsl.model.hybrid.lbdsl_cache import NoCacheLayer, adopt_cache
from lbdsl.model.hybrid.lbdsl_parts import part

SHARED = 128
"""A beginning of fewer tokens is run with each row: larger batches pay more."""

TOGETHER = 2**16
"""Rows behind a beginning are run together up to so many tokens of it: each has its keys and values for itself."""


def shared_tokens(ids_BN: Tensor, counted_BN: Tensor) -> int:
    """How many first tokens the rows share, up to the one before the first that counts; 0 where it does not pay."""
    if len(ids_BN) < 2:
        return 0
    differ_N = (ids_BN != ids_BN[0]).any(0) | counted_BN.any(0)
    first = int(differ_N.int().argmax()) if bool(differ_N.any()) else ids_BN.shape[1]
    return first - 1 if first - 1 >= SHARED else 0


def joined(ids_BN: Tensor, shared: int) -> Tensor:
    """The beginning, and all rows behind it, [1, shared + B * (N - shared)]."""
    return torch.cat([ids_BN[0, :shared], ids_BN[:, shared:].flatten()]).unsqueeze(0)


class Branches:
    """What layers need besides the hidden states, where `rows` rows of N tokens share the first `shared`; hidden states are
    `joined`. Each layer has the beginning in a cache of its own kind while it runs the rows, so that windows and other
    mixers see what they see in a whole row. `keeps`: the caches stay, for `beginning`."""

    def __init__(self, model: Any, joined_1MD: Tensor, rows: int, shared: int, keeps: bool = False):
        self._model, self._rows, self._shared = model, rows, shared
        self._cache = DynamicCache()
        self._beginning = model.prepare(joined_1MD[:, :shared], cache=self._cache, use_cache=True)
        self._kept: dict[int, Any] | None = {} if keeps else None
        # The cache says where the rows begin.
        counting = NoCacheLayer()
        counting.advance(shared)
        self._cache.layers[0] = counting
        together = max(1, TOGETHER // shared)
        self._spans = [slice(start, min(start + together, rows)) for start in range(0, rows, together)]
        behind_BND = self.rows_of(joined_1MD)
        self._behind = {
            size: model.prepare(behind_BND[:size], cache=self._cache, use_cache=True)
            for size in {span.stop - span.start for span in self._spans}
        }

    def rows_of(self, joined_1MD: Tensor) -> Tensor:
        """Behind the beginning, [B, N - shared, D]."""
        return joined_1MD[0, self._shared :].view(self._rows, -1, joined_1MD.shape[-1])

    def run(self, layer: Any, index: int, joined_1MD: Tensor) -> Tensor:
        mixer = layer.spec["mixer"]
        layers: list[Any] = self._cache.layers
        cached = NoCacheLayer() if mixer is None else part(mixer["kind"]).make_cache(self._model.config, index, mixer, None)
        layers[index] = cached
        before_1PD = self._model.run_layer(layer, index, joined_1MD[:, : self._shared], self._beginning)
        behind_BND, after = self.rows_of(joined_1MD), []
        for span in self._spans:
            layers[index] = _copied(cached)
            layers[index].batch_repeat_interleave(span.stop - span.start)
            after.append(self._model.run_layer(layer, index, behind_BND[span], self._behind[span.stop - span.start]))
        if self._kept is not None:
            self._kept[index] = cached
        layers[index] = NoCacheLayer()
        after_BND = torch.cat(after)
        return torch.cat([before_1PD, after_BND.reshape(1, -1, after_BND.shape[-1])], dim=1)

    def beginning(self) -> DynamicCache:
        """A cache of all layers after the beginning, to be filled on."""
        assert self._kept is not None, "caches are kept only where that is asked"
        cache = DynamicCache()
        adopt_cache(cache, self._model.config.lbdsl["layers"], self._model.new_cache_layers, torch.device("meta"))
        cache.layers = [_copied(self._kept[index]) for index in range(len(self._kept))]
        return cache


def _copied(layer: Any) -> Any:
    """A cache layer that can be filled on, and this one stays as it is."""
    # What grows by concatenation leaves the old tensors alone; a ring is overwritten, but not where a graph needs it.
    return copy.copy(layer) if type(layer) is DynamicLayer or torch.is_grad_enabled() else copy.deepcopy(layer)
