"""Metrics, what a recipe can ask about a layer, the whole changed model or the finished model: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from lbdsl.core.diagnostic import fail
from lbdsl.core.registry import discover
from lbdsl.core.units import Unit
from lbdsl.metrics.base import DerivedMetric, LogitsMetric, Metric, Of, ResidualMetric

__all__ = ["DerivedMetric", "LogitsMetric", "Metric", "Of", "ResidualMetric", "Unit", "metrics", "metrics_of", "title_of"]

_TAKEN = frozenset({"sensitivity", "base_nll", "kv", "flops", "params", "true", "false"})


@cache
def metrics() -> Mapping[str, type[Metric]]:
    """Every metric by name, found once. LB483 for a plug-in whose declaration cannot be kept."""
    found = discover(sys.modules[__name__], Metric, "lbdsl.metrics")
    for cls in found.values():
        try:
            check_declaration(cls)
        except ValueError as problem:
            raise fail("LB483", str(problem)) from problem
    return found


def check_declaration(cls: type[Metric]) -> None:
    """ValueError when a metric's name, unit or `of` cannot be what it says."""
    if cls.kind in _TAKEN:
        raise ValueError(f"a metric cannot be called {cls.kind!r}: the language has that name already")
    if not isinstance(cls.unit, Unit):
        raise ValueError(f"the unit of the metric {cls.kind!r} is {cls.unit!r}, not a Unit")
    if not cls.of or not cls.of <= cls.possible or {Of.CHANGED, Of.FINISHED} <= cls.of:
        raise ValueError(f"the metric {cls.kind!r} cannot be of {' and of '.join(sorted(cls.of)) or 'nothing'}")


@cache
def metrics_of(of: Of) -> Mapping[str, type[Metric]]:
    """The metrics that may stand where values of `of` are asked for, by name."""
    return MappingProxyType({kind: cls for kind, cls in metrics().items() if of in cls.of})


def title_of(name: str) -> str:
    """What tables call a metric; its name where it has no title, or is of a plug-in that is not loaded."""
    cls = metrics().get(name)
    return cls.title or name if cls is not None else name
