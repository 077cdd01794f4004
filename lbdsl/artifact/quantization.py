"""`quantization_config` in config.json: how compressed-tensors, vLLM and transformers read packed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lbdsl.core.digest import canonical_json
from lbdsl.layer.spec import LayerSpec

FIELD = "quantization_config"


def quantization_config(specs: Sequence[LayerSpec], maps: Sequence[Iterable[str]], prefix: str) -> dict[str, Any] | None:
    """The entry for a model with these layers; None if no weights are packed. Every module is named exactly, in one group
    or in `ignore`; everything is sorted.

    maps: the linear maps of each layer, by name relative to the layer. prefix: the name of a layer, with {} for its number.
    Source: compressed-tensors' `QuantizationConfig` (tested with 0.20).
    """
    groups: dict[str, list[str]] = {}
    schemes: dict[str, Mapping[str, Any]] = {}
    left = ["lm_head"]
    for index, (spec, modules) in enumerate(zip(specs, maps, strict=True)):
        for module in modules:
            stored = spec.storage(module)
            scheme = stored.scheme if stored is not None else None
            key = canonical_json(scheme) if scheme is not None else ""
            if scheme is not None:
                schemes[key] = scheme
            (groups.setdefault(key, []) if key else left).append(prefix.format(index) + module)
    if not groups:
        return None
    formats = {scheme["format"] for scheme in schemes.values()}
    ordered = enumerate(sorted(groups, key=lambda key: (schemes[key]["weights"]["num_bits"], key)))
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {f"group_{n}": {"targets": sorted(groups[key]), **schemes[key]} for n, key in ordered},
        "ignore": sorted(left),
        "kv_cache_scheme": None,
    }
