"""Times of a model in transformers: reading a prompt, and decoding one token for each sequence of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes


class TimedModel:
    """A model that reads and writes in this process; `lbdsl.bench.contexts.Timed`. A prompt is of random tokens: the
    speed of a dense model does not depend on them."""

    def __init__(self, model: Any, vocab: int, steps: int) -> None:
        self._model, self._vocab, self._steps = model, vocab, steps

    def _prompt(self, context: int) -> Tensor:
        """[1, context]."""
        ids = torch.randint(0, self._vocab, (1, context), generator=torch.Generator().manual_seed(0))
        return ids.to(self._model.device)

    def read(self, context: int) -> float:
        ids_1N = self._prompt(context)
        return _seconds(ids_1N.device, lambda: self._model(input_ids=ids_1N, use_cache=True, logits_to_keep=1))

    def prepare(self, context: int, batch: int) -> float:
        self._cache = None
        ids_1N = self._prompt(context)
        with torch.inference_mode():
            found = self._model(input_ids=ids_1N, use_cache=True, logits_to_keep=1)
            self._cache = getattr(found, CACHE_NAME)
            if batch > 1:
                self._cache.batch_repeat_interleave(batch)
        self._next = ids_1N[:, -1:].expand(batch, 1).contiguous()
        return float(cache_storage_bytes(self._cache))

    def write(self) -> float:
        def decode() -> None:
            for _ in range(self._steps):
                self._model(input_ids=self._next, use_cache=True, **{CACHE_NAME: self._cache})

        return _seconds(self._next.device, decode) / self._steps


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
