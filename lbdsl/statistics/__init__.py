"""Statistics of a layer on calibration text, used to compute its new weights: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from pydantic import ValidationError

from lbdsl.core.diagnostic import fail
from lbdsl.core.registry import discover
from lbdsl.layer.weights import Stat
from lbdsl.statistics.base import Attended, Observed, Routed, Statistic

__all__ = ["Attended", "Observed", "Routed", "Statistic", "statistic_of", "statistics"]


@cache
def statistics() -> Mapping[str, type[Statistic]]:
    """All statistics by name (cached)."""
    return discover(sys.modules[__name__], Statistic, "lbdsl.statistics")


def statistic_of(named: Stat) -> Statistic:
    """The statistic that an expression names. Raises LB483 if it is unknown."""
    found = statistics().get(named.kind)
    if found is None:
        raise fail("LB483", f"no statistic is called {named.kind!r}", help=f"known: {', '.join(statistics())}")
    try:
        return found.model_validate(dict(named.args))
    except ValidationError as problem:
        raise fail("LB483", f"{named.text} is not a statistic: {problem.errors()[0]['msg']}") from None
