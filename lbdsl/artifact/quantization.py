"""`quantization_config` in config.json: how compressed-tensors, vLLM and transformers read packed weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lbdsl.core.digest import canonical_json
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import TensorShape
from lbdsl.parts.attention import Attention

FIELD = "quantization_config"


def quantization_config(specs: Sequence[LayerSpec], model: ModelFacts, *, experts: bool = False) -> dict[str, Any] | None:
    """The entry for a model with these layers; None if no modules are packed. Every module is named exactly, in one group
    or in `ignore`; everything is sorted. With `experts`, where each of them has tensors of its own, those of a layer are
    named by patterns, which transformers looks for. `model` says which linear maps a layer has.

    Source: compressed-tensors' `QuantizationConfig` (tested with 0.20); transformers 5.24, integrations/compressed_tensors.
    """
    groups: dict[str, list[str]] = {}
    schemes: dict[str, Mapping[str, Any]] = {}
    left = ["lm_head"]
    for index, spec in enumerate(specs):
        prefix = model.family_data.layer_prefix.format(index)
        for tensor in spec.tensors(model):
            if not (tensor.is_matrix or tensor.routes) or (len(tensor.shape) == 3 and not experts):
                continue
            stored = spec.storage(tensor.module)
            scheme = stored.scheme if stored is not None else None
            key = canonical_json(scheme) if scheme is not None else ""
            if scheme is not None:
                schemes[key] = scheme
            names = groups.setdefault(key, []) if key else left
            names += _targets(prefix, tensor) if experts else [prefix + tensor.module]
    if not groups:
        return None
    return {**_entry(groups, schemes), "ignore": sorted(left)}


def with_cache(entry: dict[str, Any] | None, specs: Sequence[LayerSpec]) -> dict[str, Any] | None:
    """The entry of a model of these layers for an engine that keeps the cache as it says: 8-bit floats, without scales, if
    every attention has them. Where some have, the engine must be told in another way."""
    caches = [spec.mixer.cache for spec in specs if isinstance(spec.mixer, Attention)]
    if not caches or any(cache != "fp8" for cache in caches):
        return entry
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    return {**(entry or {**_entry({}, {}), "ignore": []}), "kv_cache_scheme": scheme}


def _entry(groups: Mapping[str, list[str]], schemes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    formats = {scheme["format"] for scheme in schemes.values()}
    ordered = enumerate(sorted(groups, key=lambda key: (schemes[key]["weights"]["num_bits"], key)))
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision" if formats else "dense",
        "config_groups": {f"group_{n}": {"targets": sorted(groups[key]), **schemes[key]} for n, key in ordered},
        "kv_cache_scheme": None,
    }


def _targets(prefix: str, tensor: TensorShape) -> Iterator[str]:
    """The modules that a matrix is in, as files call them."""
    for file in tensor.files or (tensor.name,):
        module = prefix + file.removesuffix(".weight")
        yield "re:" + re.escape(module).replace(re.escape("{}"), r"\d+") + "$" if "{}" in module else module
