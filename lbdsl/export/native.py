"""`native`: models that plain transformers classes can express, without code of lbdsl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, note
from lbdsl.core.progress import Report
from lbdsl.core.units import layers_text
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.expresses import INTEGERS, ONE_KV_HEADS, ONE_WIDTH, ONE_WINDOW, Expresses, attention, refusals
from lbdsl.export.files import companions, copy_files, link_files, weight_names, write_json
from lbdsl.export.gguf_rope import rope_of
from lbdsl.export.reasons import retyped_layers
from lbdsl.families import Family
from lbdsl.families.base import Sizes
from lbdsl.families.engines import StockClass
from lbdsl.families.windows import NoWindows, OneWindow, WindowsByType
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.layout import Layout, layout_of
from lbdsl.parts.attention import Attention
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.run.file_layout import plan_rewrite
from lbdsl.run.shards import carry_out

WHERE = "a plain transformers class"

LAYER_TYPES = ("full_attention", "sliding_attention")

EXPRESSES = Expresses(
    mixer={"attention": attention(kv_heads=ONE_KV_HEADS, window=ONE_WINDOW)},
    ffn={"gated_mlp": {"width": ONE_WIDTH}},
    weights=INTEGERS,
    empty=("block",),
)

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


@dataclass(frozen=True)
class NativeForm:
    """The config.json to write, and the artifact's indices of the remaining layers, in order."""

    config: Mapping[str, Any]
    layers: tuple[int, ...]


class Native(Exporter):
    """A folder that plain transformers loads: no remote code, no lbdsl.

    What: layers that were removed whole are left out and the others renumbered; windowed layers are marked in
    `layer_types`. Unchanged weight files are hard links to the artifact's.
    Engine: transformers 5.16 and later: the family's own class, or another one with the same weights that supports windows
    in some layers.
    Limits: a layer has both attention and MLP, or neither; the number of KV heads and the MLP width are the same in all
    layers. In families where windowed layers have other rotary embeddings, only layers with a native window can get another
    window.
    Source: transformers, models/*/modeling_*.py and masking_utils.py.
    """

    kind: ClassVar[str] = "native"
    engine: ClassVar[str] = "transformers"
    where: ClassVar[str] = WHERE
    expresses: ClassVar[Expresses] = EXPRESSES

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        return native_form(subject).diagnostics

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        form = native_form(subject).unwrap()
        write_json(output / "config.json", dict(form.config))
        copy_files(artifact, output, companions(artifact))
        if form.layers == tuple(range(len(form.layers))):
            link_files(artifact, output, weight_names(artifact), progress)
        else:
            names = renamed(artifact, subject.facts.family_data.layer_prefix, form.layers)
            carry_out(plan_rewrite(artifact, rename=names), output, progress=progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        return f'AutoModelForCausalLM.from_pretrained("{output}")'


def native_form(subject: Subject) -> Diagnosed[NativeForm]:
    """The equivalent stock configuration; diagnostics LB503-LB505, LB523, LB530 and LB531. Pure."""
    layout = layout_of(subject.config)
    family = layout.family
    left = subject.left
    windows = subject.windows
    found = [
        *refusals(EXPRESSES, subject.specs, subject.base, WHERE, empty=False),
        *half_layers(subject, left, WHERE),
        *_retyped(subject, family, left, windows),
    ]
    stock = _class_for(layout, bool(windows), len(windows) == len(left))
    if stock is None:
        found.append(_no_class(family, windows))
    if stock is None or any(d.is_error for d in found):
        return Diagnosed(None, tuple(found))
    if stock.model_type != family.model_type:
        found.append(
            note("LB531", f"it loads as {stock.model_type}, whose class has windows in some layers and the same weights")
        )
    sizes = sizes_of(subject.specs[left[0]], layout.sizes)
    config = {**_stock_config(subject.config, layout, sizes, stock, left, windows), **subject.quantization(left)}
    return Diagnosed(NativeForm(config, left), tuple(found))


def half_layers(subject: Subject, left: tuple[int, ...], where: str) -> list[Diagnostic]:
    """LB530 for layers of which only the attention or the MLP is gone, and for a model without layers."""
    found = []
    if not left:
        found.append(error("LB530", "no layer is left", help="keep at least one"))
    for part, layers in (
        ("attention", [i for i in left if not subject.has_attention(i)]),
        ("MLP", [i for i in left if not subject.has_mlp(i)]),
    ):
        if layers:
            found.append(
                error(
                    "LB530",
                    f"{where} has attention and MLP in every layer, and there is no {part} in {layers_text(layers)}",
                    help="drop whole layers, or load the artifact itself with trust_remote_code=True",
                )
            )
    return found


def _retyped(subject: Subject, family: Family, left: tuple[int, ...], windows: Mapping[int, int]) -> list[Diagnostic]:
    """LB523 for layers that would get the rotary embeddings of another layer type."""
    if rope_of(family, subject.config) == rope_of(family, subject.config, windowed=True):
        return []
    wrong = retyped_layers(subject, left, windows)
    if not wrong:
        return []
    return [
        error(
            "LB523",
            f"in {family.model_type} a layer's type decides its window and its rotary embeddings: "
            f"{layers_text(wrong)} would get the wrong ones",
            help="window only layers that have a window in the base model",
        )
    ]


def _class_for(layout: Layout, windowed: bool, all_windowed: bool) -> StockClass | None:
    """The transformers class that can compute the model; None if there is none."""
    family = layout.family
    own = StockClass(family.model_type, family.architecture)
    by_type, one = isinstance(family.windows, WindowsByType), isinstance(family.windows, OneWindow)
    if not windowed or by_type or (all_windowed and one):
        return own
    return None if layout.flags else family.windowed_as


def _no_class(family: Family, windows: Mapping[int, int]) -> Diagnostic:
    why = "because of its biases" if family.windowed_as else "which has one mask for all layers"
    return error(
        "LB530",
        f"no stock class of transformers computes windows in {layers_text(windows)} of this {family.model_type} model, "
        f"{why}",
        help="load the artifact itself with trust_remote_code=True",
    )


def sizes_of(spec: LayerSpec, base: Sizes) -> Sizes:
    """The base's sizes, updated with those of a layer; all remaining layers have the same."""
    if isinstance(spec.mixer, Attention):
        base = replace(base, kv_heads=spec.mixer.kv_heads)
    return replace(base, intermediate=spec.ffn.width) if isinstance(spec.ffn, GatedMLP) else base


def _stock_config(
    config: Mapping[str, Any],
    layout: Layout,
    sizes: Sizes,
    stock: StockClass,
    left: tuple[int, ...],
    windows: Mapping[int, int],
) -> dict[str, Any]:
    """The base's configuration with the remaining layers and their sizes; all layer fields are explicit, so that no
    default applies."""
    new = {key: value for key, value in config.items() if key not in OURS}
    family = layout.family
    own = stock.model_type == family.model_type
    # Defaults differ between families, so fields that the base's config omits are written explicitly.
    new |= {name: getattr(sizes, size) for size, name in family.sizes.items()}
    new |= {
        "model_type": stock.model_type,
        "architectures": [stock.architecture],
        "num_hidden_layers": len(left),
        "tie_word_embeddings": layout.tied,
    }
    if family.without_rope is not None:
        new["no_rope_layers"] = [int(family.has_rope(i, config)) for i in left]
    new.pop("layer_types", None)
    kind = family.windows
    if isinstance(kind, WindowsByType) or not own:
        new["layer_types"] = [LAYER_TYPES[i in windows] for i in left]
    # A class with windows by layer type and no switch creates the sliding-window mask even if no layer is windowed.
    always = own and isinstance(kind, WindowsByType) and kind.switch is None
    if own and isinstance(kind, NoWindows):
        new.pop("sliding_window", None)
    elif windows or not always:
        new["sliding_window"] = next(iter(windows.values()), None)
    if isinstance(kind, WindowsByType) and kind.switch is not None:
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
