"""`native`: models that plain transformers classes can express, without code of lbdsl."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, note
from lbdsl.core.printed import as_string
from lbdsl.core.progress import Report
from lbdsl.core.units import layers_text
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.experts import AS_SAVED, routers, single_experts, stored_experts
from lbdsl.export.expresses import ONE_EXPERTS, ONE_WINDOW, llama_layers
from lbdsl.export.files import companions, copy_files, link_files, weight_names, write_json
from lbdsl.export.gguf_rope import rope_of
from lbdsl.export.reasons import fused_alike, kernels, retyped_layers, vllm_cache
from lbdsl.families import Family
from lbdsl.families.base import EXPERTS
from lbdsl.families.engines import StockClass
from lbdsl.families.windows import NoWindows, OneWindow, WindowsByType
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.layout import Layout, layout_of
from lbdsl.parts.attention import Attention
from lbdsl.parts.gated_delta_net import GatedDeltaNet
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.parts.moe import Moe
from lbdsl.run.file_layout import plan_rewrite
from lbdsl.run.shards import carry_out

LAYER_TYPES = ("full_attention", "sliding_attention")

OURS = (
    "lbdsl",
    "auto_map",
    "per_layer_config",
    "is_hybrid_swa",
    "hybrid_layer_pattern",
    "_name_or_path",
    "_model_name_or_path",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "max_window_layers",
)
"""lbdsl's own fields, and fields from which a class would derive layer types that are written explicitly here."""


class Native(Exporter):
    """A folder that plain transformers loads: no remote code, no lbdsl.

    What: layers that were removed whole are left out and the others renumbered; windowed layers are marked in
    `layer_types`. Unchanged weight files are hard links to the artifact's.
    Engine: transformers 5.16 and later: the family's own class, or another one with the same weights that supports windows
    in some layers. vLLM's own class, too (tested with 0.32), of Gemma 2 and 3, EXAONE 4, Granite and Qwen 3.5, and without
    windows of families with experts; of gpt-oss, where the windows are every second layer's, from the first on; Olmo 3 by
    its backend of transformers. Not with biases, but for gpt-oss's. Quantized experts are written one by one, as other
    tools write them, and all of Mixtral's, which vLLM reads only so.
    Limits: a layer has both attention and MLP, or neither; the number of KV heads, the MLP width and how experts are stored
    are the same in all layers. In families where windowed layers have other rotary embeddings, only layers with a native
    window can get another window.
    Source: transformers, models/*/modeling_*.py and masking_utils.py.
    """

    kind = "native"
    engine = "transformers"
    where = "a plain transformers class"
    expresses = llama_layers(ONE_WINDOW, alike=True, experts=ONE_EXPERTS, delta_nets=GatedDeltaNet.field_names())

    @classmethod
    def engines(cls, subject: Subject) -> tuple[str, ...]:
        engines = (cls.engine, "vllm") if _in_vllm(subject) else (cls.engine,)
        return engines[1:] if any(subject.fp8_caches.values()) else engines

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        return native_config(subject).diagnostics

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        write_json(output / "config.json", native_config(subject).unwrap())
        copy_files(artifact, output, companions(artifact))
        joined, singles = single_experts(subject, read_tensors(artifact))
        if subject.left == tuple(range(len(subject.left))) and not joined:
            link_files(artifact, output, weight_names(artifact), progress)
            return
        names = renamed(artifact, subject.facts.family_data.layer_prefix, subject.left) | routers(subject)
        made = {name: single.tensor for name, single in singles.items()}
        plan = plan_rewrite(artifact, drop=joined, rename=names, made=made)
        carry_out(plan, output, make=lambda name: singles[name].read(artifact), progress=progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        return f"AutoModelForCausalLM.from_pretrained({as_string(output)})"


def _in_vllm(subject: Subject) -> bool:
    """Whether vLLM's own class computes the export."""
    family = subject.facts.family_data
    # Classes of experts need some, and ignore one window of all layers.
    some = "moe" not in family.rows or any(isinstance(spec.ffn, Moe) for spec in subject.specs)
    windows = not subject.windows or isinstance(family.windows, WindowsByType)
    # Where full layers have no rotary embeddings beside windows, vLLM looks for windows that are there.
    rope = family.without_rope is None or bool(subject.windows) or subject.config.get("sliding_window") is None
    plain = family.vllm_biases == {*subject.facts.flags} and not any(fused_alike(subject))
    types = [LAYER_TYPES[layer in subject.windows] for layer in subject.left]
    return family.vllm_native({**subject.config, "layer_types": types}) and some and windows and rope and plain


def native_config(subject: Subject) -> Diagnosed[dict[str, Any]]:
    """The fields of config.json, of the equivalent stock class; diagnostics LB503-LB505, LB523, LB530 and LB531. Pure."""
    layout = layout_of(subject.config)
    family, left, windows = layout.family, subject.left, subject.windows
    found = [
        *Native.refusals(subject, empty=False),
        *half_layers(subject, Native.where),
        *_retyped(subject, family),
        *stored_experts(subject),
        *_cache(subject),
        *((*kernels(subject), *vllm_cache(subject, left)) if "vllm" in Native.engines(subject) else ()),
    ]
    stock = _class_for(layout, bool(windows), len(windows) == len(left))
    if stock is None:
        why = "because of its biases" if family.windowed_as else "which has one mask for all layers"
        of = f"{layers_text(windows)} of this {family.model_type} model, {why}"
        said = f"no stock class of transformers computes windows in {of}"
        found.append(error("LB530", said, help=AS_SAVED))
    if stock is None or any(d.is_error for d in found):
        return Diagnosed(None, tuple(found))
    if stock.model_type != family.model_type:
        said = f"it loads as {stock.model_type}, whose class has windows in some layers and the same weights"
        found.append(note("LB531", said))
    return Diagnosed({**_stock_config(subject, layout, stock), **subject.quantization(left)}, tuple(found))


def _cache(subject: Subject) -> Iterator[Diagnostic]:
    """LB505 for a cache of 8-bit floats that no engine of the export keeps."""
    fp8 = [layer for layer, is_fp8 in subject.fp8_caches.items() if is_fp8]
    if fp8 and not Native.engines(subject):
        said = f"{Native.where} keeps its cache in the model's dtype ({layers_text(fp8)})"
        yield error("LB505", said, help=AS_SAVED)


def half_layers(subject: Subject, where: str) -> Iterator[Diagnostic]:
    """LB530 for layers of which only the attention or the MLP is gone, and for a model without layers."""
    if not subject.left:
        yield error("LB530", "no layer is left", help="keep at least one")
    for part, has in (("attention", subject.has_attention), ("MLP", subject.has_mlp)):
        if layers := [i for i in subject.left if not has(i)]:
            said = f"{where} has attention and MLP in every layer, and there is no {part} in {layers_text(layers)}"
            yield error("LB530", said, help=f"drop whole layers, or {AS_SAVED}")


def _retyped(subject: Subject, family: Family) -> Iterator[Diagnostic]:
    """LB523 for layers that would get the rotary embeddings of another layer type."""
    same = rope_of(family, subject.config) == rope_of(family, subject.config, windowed=True)
    by_field = family.without_rope is None or family.no_rope_field is not None
    if not (same and by_field) and (wrong := retyped_layers(subject)):
        yield error(
            "LB523",
            f"in {family.model_type} a layer's type decides its window and its rotary embeddings: "
            f"{layers_text(wrong)} would get the wrong ones",
            help="window only layers that have a window in the base model",
        )


def _class_for(layout: Layout, windowed: bool, all_windowed: bool) -> StockClass | None:
    """The transformers class that can compute the model; None if there is none."""
    family = layout.family
    own = StockClass(family.model_type, family.architecture)
    by_type, one = isinstance(family.windows, WindowsByType), isinstance(family.windows, OneWindow)
    if not windowed or by_type or (all_windowed and one):
        return own
    return None if layout.flags else family.windowed_as


def left_fields(subject: Subject, layout: Layout, stock: StockClass) -> dict[str, Any]:
    """The base's fields for another class of the remaining layers, which all have the same sizes. Defaults differ between
    families, so fields that the base's config omits are written explicitly."""
    sizes, experts = layout.sizes, dict[str, Any]()
    for layer in subject.left:
        mixer, ffn = subject.specs[layer].mixer, subject.specs[layer].ffn
        if isinstance(mixer, Attention):
            sizes = replace(sizes, kv_heads=mixer.kv_heads)
        if isinstance(ffn, GatedMLP):
            sizes = replace(sizes, intermediate=ffn.width)
        elif isinstance(ffn, Moe):
            names = [name for name in EXPERTS if name in subject.config] or [EXPERTS[0]]
            experts = {**dict.fromkeys(names, ffn.experts), "num_experts_per_tok": ffn.top_k}
    if {"gated_mlp", "moe"} <= layout.family.rows.keys():
        has = [isinstance(subject.specs[layer].ffn, GatedMLP) for layer in subject.left]
        experts |= {"mlp_only_layers": [new for new, dense in enumerate(has) if dense], "decoder_sparse_step": 1}
    return {
        **{key: value for key, value in subject.config.items() if key not in OURS},
        **{name: getattr(sizes, size) for size, name in layout.family.sizes.items()},
        "model_type": stock.model_type,
        "architectures": [stock.architecture],
        "num_hidden_layers": len(subject.left),
        **experts,
        "tie_word_embeddings": layout.tied,
    }


def _stock_config(subject: Subject, layout: Layout, stock: StockClass) -> dict[str, Any]:
    """The base's configuration with the remaining layers and their sizes; all layer fields are explicit, so that no
    default applies."""
    config, left, windows = subject.config, subject.left, subject.windows
    new = left_fields(subject, layout, stock)
    family = layout.family
    own = stock.model_type == family.model_type
    if family.without_rope is not None and family.no_rope_field is not None:
        new[family.no_rope_field] = [int(family.has_rope(i, config)) for i in left]
    new.pop("layer_types", None)
    kind = family.windows
    if isinstance(kind, WindowsByType) or not own:
        new["layer_types"] = [LAYER_TYPES[i in windows] for i in left]
    elif "gated_delta_net" in family.rows:
        delta = [isinstance(subject.specs[i].mixer, GatedDeltaNet) for i in left]
        new["layer_types"] = ["linear_attention" if is_delta else LAYER_TYPES[False] for is_delta in delta]
    # A class with windows by layer type and no switch creates the sliding-window mask even if no layer is windowed.
    always = own and isinstance(kind, WindowsByType) and kind.switch is None
    if own and isinstance(kind, NoWindows):
        new.pop("sliding_window", None)
    elif windows or not always:
        new["sliding_window"] = next(iter(windows.values()), None)
    if isinstance(kind, WindowsByType | OneWindow) and kind.switch is not None:
        new[kind.switch] = bool(windows)
    if not {"rope_parameters", "rope_theta", "rope_scaling"} & set(new):
        new["rope_theta"] = rope_of(family, config).theta
    return new


def renamed(artifact: Path, prefix: str, layers: tuple[int, ...]) -> dict[str, str]:
    """Old to new tensor names of renumbered layers."""
    old_to_new = {prefix.format(old): prefix.format(new) for new, old in enumerate(layers) if new != old}
    return {
        name: new + name.removeprefix(old)
        for name in read_tensors(artifact)
        for old, new in old_to_new.items()
        if name.startswith(old)
    }
