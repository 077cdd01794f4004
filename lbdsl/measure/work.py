"""What is to be measured of one model on one text: the missing runs, by micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbdsl.core.measurement import Request
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.store import MODEL_LAYER, Key, Sum
from lbdsl.metrics import LogitsMetric

BASE_NLL = Request("base_nll", "", MODEL_LAYER)
"""The base's own next-token loss on the same text, in nats a token; recorded with every measurement."""

Found = list[tuple[Key, int, Sum]]
"""Sums of (key, sequence), as the store takes them."""


@dataclass(frozen=True)
class Suffix:
    """A run from `layer` to the end with that layer changed; it serves all its metrics."""

    layer: int
    action: str
    change: LayerChange
    metrics: tuple[type[LogitsMetric], ...]

    def only(self, missing: set[Key]) -> Suffix:
        """With the metrics that are missing."""
        left = tuple(metric for metric in self.metrics if Key(metric.kind, self.action, self.layer) in missing)
        return Suffix(self.layer, self.action, self.change, left)

    def found(self, rows: range, sums: Mapping[str, list[Sum]]) -> Found:
        """The sums of its metrics by name, one a sequence of `rows`, as the store takes them."""
        return [
            (Key(kind, self.action, self.layer), row, value)
            for kind, values in sums.items()
            for row, value in zip(rows, values, strict=True)
        ]


@dataclass(frozen=True)
class MicroBatch:
    """What is missing of the sequences `rows`."""

    rows: range
    base_nll: bool
    suffixes: tuple[Suffix, ...]
    residuals: tuple[Request, ...]


def key_of(request: Request) -> Key:
    """Under what a request's sums are kept."""
    return Key(request.metric, request.action, request.layer)
