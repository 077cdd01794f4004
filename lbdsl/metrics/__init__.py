"""Metrics, what a recipe can ask about a layer: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.core.registry import discover
from lbdsl.metrics.base import LogitsMetric, Metric, ResidualMetric

__all__ = ["LogitsMetric", "Metric", "ResidualMetric", "metrics"]


@cache
def metrics() -> Mapping[str, type[Metric]]:
    """Every metric by name, found once."""
    return discover(sys.modules[__name__], Metric, "lbdsl.metrics")
