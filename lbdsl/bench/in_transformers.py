"""Times of a model in transformers: reading a prompt, and decoding one token for each sequence of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes

STEPS = 8
"""Decode steps of one timed run."""


def prompt(vocab: int, context: int, device: torch.device, seed: int = 0) -> Tensor:
    """Random token ids [1, context]: the speed of a dense model does not depend on them."""
    ids = torch.randint(0, vocab, (1, context), generator=torch.Generator().manual_seed(seed))
    return ids.to(device)


def prefill_seconds(model: Any, ids_1N: Tensor) -> float:
    """Seconds to read a prompt, with a cache and the logits of its last token."""
    return _seconds(ids_1N.device, lambda: model(input_ids=ids_1N, use_cache=True, logits_to_keep=1))


class Decoding:
    """A model with `batch` sequences of one prompt in its cache, which decodes on from there."""

    def __init__(self, model: Any, ids_1N: Tensor, batch: int) -> None:
        with torch.inference_mode():
            found = model(input_ids=ids_1N, use_cache=True, logits_to_keep=1)
            self._cache = getattr(found, CACHE_NAME)
            if batch > 1:
                self._cache.batch_repeat_interleave(batch)
        self._model = model
        self._next = ids_1N[:, -1:].expand(batch, 1).contiguous()

    @property
    def cache_bytes(self) -> int:
        """Bytes of storage of the keys and values."""
        return cache_storage_bytes(self._cache)

    def seconds(self, steps: int = STEPS) -> float:
        """Mean seconds of a step of one token for each sequence."""

        def decode() -> None:
            for _ in range(steps):
                self._model(input_ids=self._next, use_cache=True, **{CACHE_NAME: self._cache})

        return _seconds(self._next.device, decode) / steps


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that the work takes, on a GPU too."""
    start = _now(device)
    with torch.inference_mode():
        work()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()
