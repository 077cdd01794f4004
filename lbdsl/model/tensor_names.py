"""Checkpoints whose files call tensors otherwise than the model in memory does.

A language model beside an image or audio model is read alone: its configuration is `text_config`; its tensors have one of
PREFIXES before their names. Experts are a tensor each in most files, and one tensor of all in memory (`TensorRow.files`).
Source: transformers 5.24, conversion_mapping.py, models/mistral3 and models/gemma3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES, Family
from lbdsl.model.config_file import read_json_object
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.parts import TensorRow

PREFIXES = {"model.language_model.": "model.", "language_model.model.": "model.", "language_model.lm_head.": "lm_head."}
"""Beginnings of names in files, and what the language model saved alone has in their place."""
MXFP4 = "mxfp4"
SHARED = ("dtype", "torch_dtype", "quantization_config", "use_bidirectional_attention", "is_encoder_decoder")
"""Fields that hold for the language model, too, where it does not have them."""
TIED = "tie_word_embeddings"
"""Of the whole, where it says so: its class ties them, whatever its language model would do."""


def model_config(folder: Path) -> dict[str, Any]:
    """The fields of config.json, of the language model if it is of a supported family. Weights in MXFP4 are read as the
    numbers that they mean, so they are no property of the model. Raises LB402."""
    config = read_json_object(folder / "config.json")
    found = text_config(config) or config
    packed = found.get("quantization_config")
    mxfp4 = isinstance(packed, dict) and packed.get("quant_method") == MXFP4
    return {name: value for name, value in found.items() if not (mxfp4 and name == "quantization_config")}


def text_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of a language model of a supported family inside another model; None if there is none."""
    text = config.get("text_config")
    family = FAMILIES.get(str(text.get("model_type"))) if isinstance(text, dict) else None
    if not isinstance(text, dict) or family is None or config.get("model_type") not in family.inside:
        return None
    shared = {name: config[name] for name in SHARED if name in config}
    tied = {TIED: config[TIED]} if TIED in config else {}
    return {**shared, **text, **tied, "architectures": [family.architecture]}


def memory_names(tensors: Mapping[str, TensorInfo], folder: Path) -> dict[str, TensorInfo]:
    """The tensors of the model of a folder by their names in memory."""
    found = unpacked_tensors(language_tensors(tensors))
    config = model_config(folder) if (folder / "config.json").is_file() else {}
    family = FAMILIES.get(str(config.get("model_type")).removeprefix(ARTIFACT_PREFIX))
    return joined_tensors(found, family) if family is not None else found


def language_tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Those of the language model, by the names that it has alone; all where there is no other model."""
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        start = next((start for start in PREFIXES if name.startswith(start)), None)
        if start is not None:
            alone = PREFIXES[start] + name.removeprefix(start)
            _check_new(alone, found.keys() | tensors.keys())
            found[alone] = replace(info, name=alone, stored=name)
    if not found:
        return dict(tensors)
    return {**{name: info for name, info in tensors.items() if name.startswith("lm_head.")}, **found}


def left_out(tensors: Mapping[str, TensorInfo]) -> Counter[str]:
    """How many tensors are not the language model's, by the first words of their names: of an image model, `mtp`."""
    if not any(name.startswith(tuple(PREFIXES)) for name in tensors):
        return Counter()
    others = (name for name in tensors if not name.startswith((*PREFIXES, "lm_head.")))
    return Counter(".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in others)


def unpacked_tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """What the files have as blocks of 16 bytes, each two 4-bit floats, and a scale for each block: one tensor, transposed.

    Source: OCP Microscaling Formats 1.0 (MXFP4); transformers 5.24, integrations/mxfp4.py.
    """
    found = dict(tensors)
    for name, blocks in tensors.items():
        whole = name.removesuffix("_blocks")
        scales = tensors.get(f"{whole}_scales")
        if whole == name or scales is None or {blocks.dtype, scales.dtype} != {"uint8"}:
            continue
        if len(scales.shape) != 3 or blocks.shape != (*scales.shape, 16):
            continue
        del found[name], found[scales.name]
        _check_new(whole, found)
        experts, rows, groups = scales.shape
        place = (blocks.file, blocks.start, blocks.stop)
        shape = (experts, 32 * groups, rows)
        found[whole] = TensorInfo(whole, "bfloat16", shape, *place, pieces=(blocks, scales), packing=MXFP4)
    return found


def joined_tensors(tensors: Mapping[str, TensorInfo], family: Family) -> dict[str, TensorInfo]:
    """By their names in memory: what stands in several tensors is one, with these as its pieces."""
    found, rows = dict(tensors), [row for row in family.layer_rows if row.files]
    start, _, _ = family.layer_prefix.partition("{}")
    layers = {name.removeprefix(start).partition(".")[0] for name in tensors if name.startswith(start)} if rows else ()
    for layer in sorted(layers):
        prefix = family.layer_prefix.format(layer)
        for info, names in filter(None, [_joined(found, prefix, row) for row in rows]):
            for name in names:
                del found[name]
            _check_new(info.name, found)
            found[info.name] = info
    return found


def _check_new(name: str, known: Container[str]) -> None:
    if name in known:
        raise fail("LB409", f"the checkpoint has {name[:80]!a} by two names")


def _joined(tensors: Mapping[str, TensorInfo], prefix: str, row: TensorRow) -> tuple[TensorInfo, list[str]] | None:
    """The tensor of a row, if the files have it by other names, all of one kind; and those names."""
    numbers = count() if "{}" in row.files[0] else (0,)
    every = ([prefix + file.format(number) for file in row.files] for number in numbers)
    there = list(takewhile(lambda names: all(name in tensors for name in names), every))
    if not there:
        return None
    stacked = [[tensors[name] for name in names] for names in there]
    pieces, name, old = [*chain(*stacked)], prefix + row.name, [*chain(*there)]
    first, size = pieces[0], sum(piece.stop - piece.start for piece in pieces)
    if "{}" not in row.files[0]:
        return replace(first, name=name, stored=first.stored or first.name), old
    kinds = {(piece.dtype, len(piece.shape), piece.shape[1:]) for piece in pieces}
    rows = {sum(piece.shape[0] for piece in of_one if piece.shape) for of_one in stacked}
    if len(kinds) > 1 or len(rows) > 1:
        return None
    shape = (len(stacked), *rows, *first.shape[1:])
    return TensorInfo(name, first.dtype, shape, first.file, first.start, first.start + size, pieces=tuple(pieces)), old
