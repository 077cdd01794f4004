"""A GGUF file translated to the checkpoint that transformers would create from it: configuration fields and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.families import FAMILIES, Family
from lbdsl.model.gguf_header import ArrayLength, GgufHeader, read_gguf_header
from lbdsl.model.safetensors_header import TensorInfo


@dataclass(frozen=True)
class GgufCheckpoint:
    """`config` has the fields of a config.json, `tensors` has transformers' names; data types are those of the file."""

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def gguf_checkpoint(path: Path) -> GgufCheckpoint:
    """Translate the header of a GGUF file. Raises LbdslError with LB403, LB405 or LB410."""
    header = read_gguf_header(path)
    named = header.metadata.get("general.architecture")
    readable = {row.gguf.graph.name: row for row in FAMILIES.values() if row.gguf.read}
    family = readable.get(str(named))
    if family is None:
        raise fail(
            "LB403",
            f"{path.name} has the architecture {str(named)[:40]!r}, which lbdsl does not read from GGUF",
            help=f"supported: {', '.join(readable)}; of others, give the safetensors folder",
        )
    _refuse_lost(path, family, header)
    layers = header.metadata.get(f"{named}.{family.gguf.sizes['layers']}")
    if type(layers) is not int or not 0 < layers <= 10_000:
        raise fail("LB410", f"{path.name} does not say how many layers it has")
    names = _names(family, layers)
    tensors = {}
    for info in header.tensors:
        name = names.get(info.name, info.name)
        tensors[name] = replace(info, name=name)
    return GgufCheckpoint(_config(family, header, tensors), tensors)


def _refuse_lost(path: Path, family: Family, header: GgufHeader) -> None:
    """Refuse features that transformers ignores when it reads GGUF: it would silently load a different model."""
    name = family.gguf.graph.name
    scaling = header.metadata.get(f"{name}.rope.scaling.type", "none")
    factors = (header.metadata.get(f"{name}.{key}", 0) for key in ("rope.scaling.factor", "rope.scale_linear"))
    scaled_table = any(info.name.startswith("rope_freqs") for info in header.tensors)
    biases = {row.gguf for row in family.layer_rows if row.when is not None}
    biased = next((info.name for info in header.tensors if info.name.split(".", 2)[-1] in biases), None)
    lost = None
    if scaled_table or scaling not in ("none", "") or any(factor not in (0, 1) for factor in factors):
        lost = "uses RoPE scaling, which is"
    elif biased is not None:
        lost = f"has biases ({biased}), which are"
    elif isinstance(header.metadata.get(f"{name}.attention.sliding_window_pattern"), ArrayLength):
        lost = "says of each layer whether it has a window, which is"
    if lost is not None:
        message = f"{path.name} {lost} lost when a GGUF file is read"
        raise fail("LB410", message, help="give the model's safetensors folder instead")
    experts = header.metadata.get(f"{name}.expert_count", 0)
    if experts:
        raise fail("LB403", f"{path.name} holds a mixture of {experts} experts", help="only dense models are supported")


def _names(family: Family, layers: int) -> dict[str, str]:
    names = {row.gguf: row.name for row in (family.embedding, family.head, *family.other)}
    for layer in range(layers):
        for row in family.layer_rows:
            names[f"blk.{layer}.{row.gguf}"] = family.layer_prefix.format(layer) + row.name
    return names


def _config(family: Family, header: GgufHeader, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": family.model_type}
    for size, key in family.gguf.sizes.items():
        value = header.metadata.get(f"{family.gguf.graph.name}.{key}")
        if isinstance(value, ArrayLength):
            raise fail("LB410", f"{key} differs from layer to layer in this file", help="only uniform models are read")
        if value is not None:
            config[family.sizes[size]] = value
    vocab = family.sizes["vocab"]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if vocab not in config and isinstance(tokens, ArrayLength):
        config[vocab] = tokens.length
    for key, field in family.gguf.fields.items():
        config[field] = header.metadata.get(f"{family.gguf.graph.name}.{key}")
    config["tie_word_embeddings"] = family.head.name not in tensors
    return config
