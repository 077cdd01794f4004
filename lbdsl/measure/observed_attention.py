"""Observe the queries, keys and values of an attention module of a hybrid model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lbdsl.model.hybrid.lbdsl_sink_logits import Redirected, attend

See = Callable[[Tensor, Tensor, Tensor, float], None]
"""Gets queries [B, H, N, D], keys and values [B, kv_heads, N, D], as they are multiplied (after rotary embeddings and
norms), and the factor of the scores."""


@contextmanager
def observed_attention(attention: Any, see: See) -> Iterator[None]:
    """Call `see` at each forward of the module, whatever its attention implementation."""

    def observing(module: Any, config: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        scaling = kwargs.get("scaling")
        see(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return attend(module, config, query, key, value, mask, **kwargs)

    own = attention.__dict__.get("own_config", attention.config)
    attention.config = Redirected(own, observing)
    try:
        yield
    finally:
        attention.config = own
