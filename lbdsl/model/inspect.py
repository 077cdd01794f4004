"""`inspect_model`: the facts of a model, from its configuration and the headers of its weight files only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError, error, fail, note
from lbdsl.core.nearest import nearest
from lbdsl.core.printed import printable
from lbdsl.core.units import bytes_text, plural
from lbdsl.cost.cost import LayerCost
from lbdsl.cost.facts import DTYPE_BYTES, ModelFacts
from lbdsl.model.checkpoint import same_bytes, stored_tensors, without_weights
from lbdsl.model.gguf_model import gguf_checkpoint
from lbdsl.model.layout import Layout, layout_of
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.model.source import ModelSource, is_artifact
from lbdsl.model.tensor_names import left_out, memory_names, model_config
from lbdsl.parts import Slot, Window
from lbdsl.parts.base import WORDS

FORMAT_VERSION = 2
"""The format version of `inspect --json`."""

_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
}
_SIZES = ("hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "positions", "tied", "other_params")
_FLOATS = ("float64", "float32", "bfloat16", "float16")
_SHOWN = 3
"""How many tensors one message names; the rest are counted."""


def inspect_model(source: ModelSource, dtype: str | None = None, *, weights: bool = True) -> Diagnosed[ModelFacts]:
    """The exact facts of a model, from headers only; every tensor is checked against the configuration. Without `weights`
    a folder with config.json alone is one, too.

    `dtype` is the dtype to run in; by default the checkpoint's, and bfloat16 for GGUF. Counts of a GGUF file are those of
    the dequantized model. Does not import torch. Diagnostics: LB401-LB410, LB415.
    """
    try:
        wanted = None if dtype is None else normal_dtype(dtype)
        if source.gguf_path is not None:
            checkpoint, others = gguf_checkpoint(source.gguf_path), Counter[str]()
            layout, tensors, usual = layout_of(checkpoint.config), checkpoint.tensors, "bfloat16"
        else:
            config = model_config(source.path)
            layout = layout_of(config)
            if not weights and without_weights(source.path):
                said = note("LB401", f"{source.text} has no weights: the numbers are of config.json alone")
                return Diagnosed(layout.facts(wanted or _checkpoint_dtype(config, {})), (said,))
            ignored, stored = layout.family.ignored, stored_tensors(source.path)
            found, others = memory_names(stored, source.path), left_out(stored)
            tensors = {name: info for name, info in found.items() if not name.endswith(ignored)}
            usual = "" if wanted else _checkpoint_dtype(config, tensors)
        problems = tuple(_misfits(layout, tensors, quantized=source.gguf_path is not None))
        if not problems and source.gguf_path is None:
            _check_tied(layout, source, tensors)
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)
    if problems:
        return Diagnosed(None, problems)
    facts = layout.facts(wanted or usual)
    return Diagnosed(facts, (*_left_out(others), *_dequantized(tensors, facts)))


def _left_out(others: Mapping[str, int]) -> Iterator[Diagnostic]:
    if others:
        named = ", ".join(f"{printable(name)[:40]} ({count})" for name, count in sorted(others.items())[:_SHOWN])
        said = f"the language model alone is read, without the {plural(sum(others.values()), 'tensor')} of {named}"
        yield note("LB422", said + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""))


def _dequantized(tensors: Mapping[str, TensorInfo], facts: ModelFacts) -> Iterator[Diagnostic]:
    """A note for weights that take more bytes than in their files."""
    packed = [info for info in tensors.values() if info.packing]
    if packed:
        stored = sum(piece.stop - piece.start for info in packed for piece in info.pieces)
        becomes = facts.dtype_bytes * sum(info.elements for info in packed)
        said = f"{bytes_text(stored)} of weights in MXFP4 are dequantized: {bytes_text(becomes)} in {facts.dtype}"
        yield note("LB421", said, help="`quantize` may store what is saved in fewer bits")


def normal_dtype(name: str) -> str:
    """torch's name of a dtype given as `bf16` or similar. Raises LbdslError with LB415."""
    plain = name.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPE_BYTES:
        close = nearest(plain, [*DTYPE_BYTES, *_ALIASES])
        raise fail(
            "LB415",
            f"{name} is not a number format that models run in",
            help=f"did you mean {close}?" if close else f"one of {', '.join(DTYPE_BYTES)}",
        )
    return plain


def dropped_layers(facts: ModelFacts) -> dict[Slot, list[int]]:
    """By slot, the layers without attention (MIXER) and without an MLP (FFN)."""
    return {
        slot: [layer for layer, spec in enumerate(facts.layer_specs) if spec.part(slot) is None]
        for slot in (Slot.MIXER, Slot.FFN)
    }


def windowed_layers(facts: ModelFacts) -> dict[Window, list[int]]:
    """Layers by their attention window, native or from a plan, the smallest window first."""
    found: dict[Window, list[int]] = {}
    for layer, spec in enumerate(facts.layer_specs):
        window = spec.mixer.sees if spec.mixer is not None else None
        if window is not None:
            found.setdefault(window, []).append(layer)
    return dict(sorted(found.items(), key=lambda item: (item[0].size, item[0].sink_tokens, item[0].sink_logits)))


def facts_summary(
    facts: ModelFacts, source: ModelSource | None = None, base: tuple[str, ModelFacts] | None = None
) -> dict[str, Any]:
    """The fields of `inspect --json`. `kv_bytes_per_token` is for the first token, over all layers with attention;
    `kv_bytes_at_positions` is for a sequence of the model's maximum length. `base` is the name and facts of an artifact's
    base model."""
    summary: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(facts, name) for name in ("family", "architecture", "layers", "params", "dtype")},
        "weight_bytes": weight_bytes(facts),
        "kv_bytes_per_token": facts.kv_bytes(1),
        "kv_bytes_at_positions": facts.kv_bytes(facts.positions),
        **{name: getattr(facts, name) for name in _SIZES},
        "layer_params": [LayerCost.of(spec, facts).params for spec in facts.layer_specs],
        "layer_specs": [spec.to_json() for spec in facts.layer_specs],
        "dropped": {WORDS[slot].lower(): layers for slot, layers in dropped_layers(facts).items()},
        "windows": [{**window.model_dump(), "layers": layers} for window, layers in windowed_layers(facts).items()],
        "modules": list(facts.modules),
    }
    if source is not None:
        summary["model"] = source.text
        summary["revision"] = source.revision
        summary["artifact"] = is_artifact(source)
        same = ("params", "weight_bytes", "kv_bytes_per_token", "kv_bytes_at_positions")
        of_base = None if base is None else facts_summary(base[1])
        summary["base"] = {"model": base[0], **{key: of_base[key] for key in same}} if base and of_base else None
    return summary


def weight_bytes(facts: ModelFacts) -> int:
    """Bytes of a model's weights, in the form in which its layers store them."""
    outside = facts.other_params * facts.dtype_bytes
    return outside + sum(LayerCost.of(spec, facts).weights for spec in facts.layer_specs)


def _expected(facts: ModelFacts) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shape of every saved tensor, and the dtypes of those that are integers, by their full names."""
    found, integers = {tensor.name: tensor.shape for tensor in facts.outside}, {}
    for layer, spec in enumerate(facts.layer_specs):
        prefix = facts.family_data.layer_prefix.format(layer)
        found |= {prefix + tensor.name: tensor.shape for tensor in spec.tensors(facts)}
        for tensor, storage in spec.matrices(facts):
            del found[prefix + tensor.name]
            for name, (dtype, shape) in storage.saved_tensors(tensor, facts).items():
                full = f"{prefix}{tensor.module}.{name}"
                found[full] = shape
                if dtype not in _FLOATS:
                    integers[full] = dtype
    return found, integers


def _misfits(layout: Layout, tensors: Mapping[str, TensorInfo], *, quantized: bool) -> Iterator[Diagnostic]:
    expected, integers = _expected(layout.facts("float32"))
    head, embedding = layout.family.head.name, layout.family.embedding.name
    if layout.tied and head in tensors:
        # Converted checkpoints often have a tied tensor under both names, or under either one.
        expected[head] = expected[embedding]
        if embedding not in tensors:
            del expected[embedding]
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    wrong = [name for name in expected if name in tensors and tensors[name].shape != expected[name]]
    floats = [] if quantized else expected.keys() - integers.keys()
    odd = [name for name in expected if name in floats and name in tensors and tensors[name].dtype not in _FLOATS]
    cast = [name for name, dtype in integers.items() if name in tensors and tensors[name].dtype != dtype]
    if missing:
        message = f"{len(missing)} of {len(expected)} tensors are missing: {_some(missing)}"
        yield error("LB409", message, help="the checkpoint is not complete, or its config.json is another model's")
    if extra:
        message = f"{len(extra)} tensors are not part of the model: {_some(extra)}"
        help = "the checkpoint is quantized, holds an adapter, or its config.json is another model's"
        yield error("LB409", message, help=help)
    if wrong:
        name = wrong[0]
        message = f"{len(wrong)} tensors have a different shape than the configuration gives: {name} is "
        message += f"{list(tensors[name].shape)}, expected {list(expected[name])}"
        yield error("LB409", message, help="config.json is another model's")
    if cast:
        name = cast[0]
        message = f"{len(cast)} tensors have another number format than the configuration gives: {name} is "
        message += f"{tensors[name].dtype}, expected {integers[name]}"
        yield error("LB409", message, help="something rewrote the quantized weights; apply the recipe again")
    if odd:
        message = f"{len(odd)} tensors are not floating point: {odd[0]} is {tensors[odd[0]].dtype}"
        yield error("LB404", message, help="the weights are quantized already; start from the unquantized model")


def _check_tied(layout: Layout, source: ModelSource, tensors: Mapping[str, TensorInfo]) -> None:
    """LB404 if tied weights differ in the checkpoint: transformers then unties them and ignores the configuration."""
    head, embedding = tensors.get(layout.family.head.name), tensors.get(layout.family.embedding.name)
    if layout.tied and head is not None and embedding is not None and not same_bytes(source.path, head, embedding):
        message = "head and embeddings are tied in the configuration, but differ in the checkpoint"
        raise fail("LB404", message, help="set tie_word_embeddings to false in config.json")


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name)[:80] for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _checkpoint_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str:
    """The configuration's dtype, else the dtype of most weights."""
    named = config.get("dtype", config.get("torch_dtype"))
    if named is None:
        sizes: Counter[str] = Counter()
        for info in tensors.values():
            sizes[info.dtype] += info.elements
        named = sizes.most_common(1)[0][0] if sizes else "float32"
    plain = str(named).removeprefix("torch.")
    if plain not in DTYPE_BYTES:
        raise fail(
            "LB404",
            f"the checkpoint's number format is {plain[:40]}",
            help=f"run it in another with --dtype, one of {', '.join(DTYPE_BYTES)}",
        )
    return plain
