"""Observe what an attention module of a hybrid model attends with, and its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lbdsl.model.hybrid.lbdsl_redirect import Redirected, attend
from lbdsl.statistics import Attended


@contextmanager
def observed_attention(attention: Any, see: Callable[[Attended], None]) -> Iterator[None]:
    """Call `see` after each forward of the module, whatever its attention implementation and its sinks."""

    def observing(module: Any, config: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        output_BNHD, weights = attend(module, config, query, key, value, mask, **kwargs)
        scaling = kwargs.get("scaling")
        see(Attended(query, key, value, output_BNHD, query.shape[-1] ** -0.5 if scaling is None else scaling))
        return output_BNHD, weights

    cls, config = type(attention), Redirected(attention.config, observing)
    attention.__class__ = type(cls.__name__, (cls,), {"config": property(lambda _self: config)})
    try:
        yield
    finally:
        attention.__class__ = cls
