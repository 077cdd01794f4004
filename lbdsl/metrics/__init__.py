"""Metrics of a layer, the whole changed model or the finished model, for use in recipes: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from lbdsl.core.diagnostic import fail
from lbdsl.core.registry import discover
from lbdsl.core.units import Unit
from lbdsl.metrics.base import DerivedMetric, LogitsMetric, Metric, Of, ResidualMetric, TaskMetric

__all__ = [
    "DerivedMetric",
    "LogitsMetric",
    "Metric",
    "Of",
    "ResidualMetric",
    "TaskMetric",
    "Unit",
    "metric_of",
    "metrics",
    "metrics_of",
    "title_of",
]

_TAKEN = {"sensitivity", "base_nll", "kv", "flops", "params", "weights"}
_TAKEN |= {"latency", "memory", "throughput", "serves", "true", "false"}


@cache
def metrics() -> Mapping[str, type[Metric]]:
    """All metrics by name; cached. Raises LB483 for a plug-in with an invalid declaration."""
    found = discover(sys.modules[__name__], Metric, "lbdsl.metrics")
    for cls in found.values():
        try:
            check_declaration(cls)
        except ValueError as problem:
            raise fail("LB483", str(problem)) from problem
    return found


def check_declaration(cls: type[Metric]) -> None:
    """Raise ValueError when a metric's name, unit or `of` is invalid."""
    if cls.kind in _TAKEN:
        raise ValueError(f"a metric cannot be called {cls.kind!r}: the language has that name already")
    if not isinstance(cls.unit, Unit):
        raise ValueError(f"the unit of the metric {cls.kind!r} is {cls.unit!r}, not a Unit")
    if not cls.of or not cls.of <= cls.possible or {Of.CHANGED, Of.FINISHED} <= cls.of:
        raise ValueError(f"the metric {cls.kind!r} cannot be of {' and of '.join(sorted(cls.of)) or 'nothing'}")


def metric_of(name: str) -> type[Metric]:
    """By a name that may have an argument: `task("own.yaml")`."""
    return metrics()[name.partition("(")[0]]


@cache
def metrics_of(of: Of) -> Mapping[str, type[Metric]]:
    """The metrics that can be measured of `of`, by name."""
    return MappingProxyType({kind: cls for kind, cls in metrics().items() if of in cls.of})


def title_of(name: str) -> str:
    """A metric's title in tables; its name if it has no title, or belongs to a plug-in that is not loaded."""
    cls = metrics().get(name)
    return cls.title or name if cls is not None else name
