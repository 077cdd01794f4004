"""`quantization_config` in config.json: how compressed-tensors, vLLM and transformers read packed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.int_weights import Int

FIELD = "quantization_config"

PACKED, INTEGERS = "pack-quantized", "int-quantized"


def quantization_config(specs: Sequence[LayerSpec], maps: Sequence[Iterable[str]], prefix: str) -> dict[str, Any] | None:
    """The entry for a model with these layers; None if no weights are packed. Every module is named exactly, in one group
    or in `ignore`; everything is sorted.

    maps: the linear maps of each layer, by name relative to the layer. prefix: the name of a layer, with {} for its number.
    Source: compressed-tensors' `QuantizationConfig` (tested with 0.20).
    """
    groups: dict[Int, list[str]] = {}
    left = ["lm_head"]
    for index, (spec, modules) in enumerate(zip(specs, maps, strict=True)):
        for module in modules:
            stored = spec.storage(module)
            # How the integers were found does not matter to a reader.
            key = stored.replace(method="rtn") if isinstance(stored, Int) else None
            (left if key is None else groups.setdefault(key, [])).append(prefix.format(index) + module)
    if not groups:
        return None
    ordered = sorted(groups.items(), key=lambda item: (item[0].bits, item[0].activations, str(item[0].group)))
    formats = {_format(stored) for stored in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {f"group_{n}": _group(stored, sorted(names)) for n, (stored, names) in enumerate(ordered)},
        "ignore": sorted(left),
        "kv_cache_scheme": None,
    }


def _format(stored: Int) -> str:
    return INTEGERS if stored.activations == 8 else PACKED


def _group(stored: Int, targets: list[str]) -> Mapping[str, Any]:
    one_a_row = stored.group == "row"
    weights = {
        **_numbers(stored.bits),
        "strategy": "channel" if one_a_row else "group",
        "group_size": None if one_a_row else stored.group,
        "dynamic": False,
    }
    inputs = {**_numbers(8), "strategy": "token", "group_size": None, "dynamic": True}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": inputs if stored.activations == 8 else None,
        "output_activations": None,
        "format": _format(stored),
    }


def _numbers(bits: int) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True}
