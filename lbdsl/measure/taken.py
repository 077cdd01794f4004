"""Statistics of layers that were taken, without loading torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lbdsl.layer.weights import Stat

if TYPE_CHECKING:
    from torch import Tensor

LayerStatistics = Mapping[str, "Tensor"]
"""The statistics of one layer, by the statistic's text: in float32, on the CPU."""

StatisticsOf = Callable[[int], LayerStatistics]
"""Returns the statistics of a layer."""

Wanted = Mapping[int, Sequence[Stat]]
"""The requested statistics of each layer."""


class Statistics:
    """Statistics of layers, loaded by `load` when a layer is requested."""

    def __init__(self, load: Callable[[int], LayerStatistics] = lambda _layer: MappingProxyType({})):
        self._load = load

    def __call__(self, layer: int) -> LayerStatistics:
        return self._load(layer)

    def digests(self, used: Wanted) -> dict[str, str]:
        """sha256 over a statistic's values in the layers that use it, by its text; omitted if any layer has no value."""
        hashes: dict[str, Any] = {}
        missing: set[str] = set()
        for layer, stats in sorted(used.items()):
            values = self(layer)
            for stat in stats:
                value = values.get(stat.text)
                if value is None or tuple(value.shape) != stat.dims:
                    missing.add(stat.text)
                else:
                    hashes.setdefault(stat.text, hashlib.sha256()).update(f"{layer}:".encode() + value.numpy().tobytes())
        return {text: digest.hexdigest() for text, digest in sorted(hashes.items()) if text not in missing}


NO_STATISTICS = Statistics()
