"""Choose the llama.cpp architecture for a changed model, or report why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, note, warning
from lbdsl.core.units import layers_text, plural
from lbdsl.cost.facts import ModelFacts
from lbdsl.export.base import Subject
from lbdsl.export.expresses import ANY, ONE_EXPERTS, ONE_WINDOW, llama_layers, refusals
from lbdsl.export.gguf_rope import Rope, rope_of, rope_problem, rounded_yarn
from lbdsl.export.reasons import retyped_layers
from lbdsl.families import Family
from lbdsl.families.engines import ALL_BIASES, ATTENTION_BIASES, Graph
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.layout import Layout, layout_of
from lbdsl.parts.attention import Attention, Window
from lbdsl.parts.gated_delta_net import GatedDeltaNet
from lbdsl.parts.gated_mlp import GatedMLP

ZERO_WIDTH = 32
"""Width of the all-zero MLP that replaces a removed one: the shortest row that llama.cpp can quantize."""

EXPRESSES = llama_layers(
    ONE_WINDOW, learned_sinks=ANY, experts=ONE_EXPERTS, floats=False, delta_nets=GatedDeltaNet.field_names()
)

DECI = Graph("deci", pairs=True, by_layer=True, frequency_table=True, biases=ALL_BIASES)
GRANITE_SWA = Graph(
    "granite_swa",
    pairs=True,
    windows=True,
    always_windowed=True,
    rope_pattern=True,
    frequency_table=True,
    multipliers=True,
    sink_logits=True,
    biases=ALL_BIASES,
)
"""Llama's layers with windows. Its multipliers are 1 unless the family has some; sinks that were not learned get no
attention weight."""

_MOST_LAYERS = 512


@dataclass(frozen=True)
class GgufModel:
    """The model to write. `layers` are the artifact's indices of the remaining layers. `specs`, `kv_heads`, `widths` (0
    without attention or MLP), `windowed` and `has_rope` have one entry for each of them. `local_rope` is that of windowed
    layers if they have their own."""

    graph: Graph
    layout: Layout
    facts: ModelFacts
    config: Mapping[str, Any]
    layers: tuple[int, ...]
    specs: tuple[LayerSpec, ...]
    kv_heads: tuple[int, ...]
    widths: tuple[int, ...]
    windowed: tuple[bool, ...]
    has_rope: tuple[bool, ...]
    window: int | None
    rope: Rope
    local_rope: Rope | None


def target_of(subject: Subject) -> Diagnosed[GgufModel]:
    """Choose the graph; diagnostics LB503-LB505 and LB520-LB525. Pure.

    Raises LbdslError if the configuration is unusable.
    """
    layout, config = layout_of(subject.config), subject.config
    family, sizes = layout.family, layout.sizes
    left = subject.left
    # A window of at least all positions has no effect, unless it determines the rotary embeddings.
    windows = {i: size for i, size in subject.windows.items() if size < sizes.positions or family.rope_by_layer_type}
    dropped = tuple(i for i in left if not subject.has_attention(i))
    alone = tuple(i for i in left if not subject.has_mlp(i))
    kv_heads, widths = (tuple(sizes[i] for i in left) for sizes in (subject.kv_heads, subject.widths))
    unlike = _unlike(left, kv_heads, widths)
    found = list(_refusals(subject, windows, (*dropped, *alone), unlike))
    has_rope = tuple(family.has_rope(i, config) for i in left)
    learned = subject.has_sink_logits and not family.own_sinks
    graph, why = _choose(family, bool(windows), bool(dropped or alone), unlike, has_rope, learned)
    if graph is None:
        found.append(error("LB520", why, help="leave those layers as they are, or export to another engine"))
    else:
        found += _rope_refusals(subject, family, graph)
        help = "the model needs another engine"
        lacks = (
            *_shape_problems(config, layout, graph, kv_heads),
            *_net_problems(family, [subject.specs[i] for i in left]),
        )
        found += (error("LB524", f"llama.cpp's {graph.name} cannot compute {what}", help=help) for what in lacks)
        found += _notes(dropped, alone, left)
    if graph is None or any(d.is_error for d in found):
        return Diagnosed(None, tuple(found))
    return Diagnosed(
        GgufModel(
            graph,
            layout,
            subject.facts,
            config,
            left,
            tuple(subject.specs[i] for i in left),
            kv_heads,
            widths,
            tuple(i in windows for i in left),
            has_rope,
            next(iter(windows.values()), None),
            rope_of(family, config),
            rope_of(family, config, windowed=True) if family.rope_by_layer_type else None,
        ),
        tuple(found),
    )


def _refusals(subject: Subject, windows: Mapping[int, int], halves: tuple[int, ...], unlike: str) -> Iterator[Diagnostic]:
    specs = tuple(spec if i in windows else _unwindowed(spec) for i, spec in enumerate(subject.specs))
    yield from refusals(EXPRESSES, specs, subject.base, "llama.cpp")
    if not subject.left:
        yield error("LB524", "no layer is left", help="keep at least one")
    both = f"no architecture of llama.cpp has both windows ({layers_text(windows)}) and layers "
    one = "choose one of the two"
    if windows and halves:
        help = f"{one}, or remove such layers whole: `drop(block)` can be exported"
        yield error("LB521", f"{both}without attention or MLP ({layers_text(halves)})", help=help)
    if subject.has_sink_logits and (halves or unlike) and not windows:
        said = "without attention or MLP" if halves else f"of different sizes: {unlike}"
        yield error("LB521", f"no architecture of llama.cpp has both learned sinks and layers {said}", help=one)
    if windows and unlike:
        yield error("LB521", f"{both}of different sizes: {unlike}", help=f"{one}, or give all layers the same sizes")


def _unlike(left: tuple[int, ...], kv_heads: tuple[int, ...], widths: tuple[int, ...]) -> str:
    """Text of the sizes that differ among the remaining layers `left`, with their layers; empty if none differ."""
    return "; ".join(
        f"{plural(size, name)} in " + layers_text([layer for layer, own in zip(left, sizes, strict=True) if own == size])
        for name, sizes in (("KV head", kv_heads), ("MLP channel", widths))
        if len(set(sizes) - {0}) > 1
        for size in sorted(set(sizes) - {0})
    )


def _unwindowed(spec: LayerSpec) -> LayerSpec:
    """The layer without its window, for a window of at least all positions: sink tokens are then always visible."""
    mixer = spec.mixer
    if not isinstance(mixer, Attention) or type(mixer.window) is not Window:
        return spec
    return spec.replace(mixer=mixer.replace(window=None))


def _choose(
    family: Family, windows: bool, halves: bool, unlike: str, has_rope: tuple[bool, ...], learned_sinks: bool
) -> tuple[Graph | None, str]:
    """The graph and an empty text, or None and the reason."""
    own, gguf = family.gguf.graph, family.gguf
    if halves or unlike:
        if gguf.deci is None:
            return DECI, ""
        layers = "that lack attention or MLP" if halves else f"of different sizes ({unlike})"
        return None, (
            f"llama.cpp's only architecture with layers {layers}, deci, has no place for "
            f"{gguf.deci.what}, which {family.model_type} models have"
        )
    every = own.no_rope_every
    own_rope = all(has == (not every or (place + 1) % every != 0) for place, has in enumerate(has_rope))
    if own_rope and (own.windows or not windows) and not learned_sinks:
        return own, ""
    if gguf.granite_swa is None:
        return GRANITE_SWA, ""
    return None, (
        f"no architecture of llama.cpp has {'learned sinks' if learned_sinks else 'windows'} together with "
        f"{gguf.granite_swa.what}, which {family.model_type} "
        "models have"
    )


def _rope_refusals(subject: Subject, family: Family, graph: Graph) -> Iterator[Diagnostic]:
    ropes = [rope_of(family, subject.config, windowed) for windowed in (False, True)[: 1 + family.rope_by_layer_type]]
    for rope, windowed in zip(ropes, (False, True), strict=False):
        rounded = rounded_yarn(rope, layout_of(subject.config).sizes.head_dim)
        has = {"frequency_table": graph.frequency_table, "mscale": graph.mscale, "partial": graph.delta_nets}
        problem = rope_problem(rope, **has)
        if problem is None and rounded and not graph.rounds_yarn:
            problem = f"YaRN with settings of its own (truncate): it rounds {rounded}"
        if problem is None and windowed and rope.kind != "default":
            problem = f"{rope.kind} scaling in windowed layers"
        if problem is None and not windowed and rope.kind == "yarn" and not graph.full_yarn:
            problem = "YaRN in one kind of layers"
        if problem is None and rounded:
            said = f"llama.cpp rounds {rounded}, in every GGUF file of such a model"
            yield warning("LB523", f"{said}: logits differ, the more the farther tokens stand apart")
        if problem is not None:
            said = f"llama.cpp's {graph.name} cannot compute {problem}"
            yield error("LB523", said, help="the model needs another engine")
    if len(ropes) > 1 and ropes[0] != ropes[1] and (retyped := retyped_layers(subject)):
        yield error(
            "LB523",
            f"in {family.model_type} a layer's window decides its rotary embeddings, and llama.cpp has it "
            f"the same way: {layers_text(retyped)} would get the wrong ones",
            help="window only layers that have a window in the base model, with one window for all",
        )


def _shape_problems(config: Mapping[str, Any], layout: Layout, graph: Graph, kv_heads: tuple[int, ...]) -> Iterator[str]:
    """What the graph cannot compute; `kv_heads` of each layer that is left."""
    sizes, gguf, layers = layout.sizes, layout.family.gguf, len(kv_heads)
    activation = config.get("hidden_activation") or config.get("hidden_act") or graph.activation
    if activation != graph.activation and not (graph.activation == "silu" and activation == "swish"):
        yield f"the activation {activation!r}; it has {graph.activation}"
    if graph.square and sizes.heads * sizes.head_dim != sizes.hidden:
        yield f"{sizes.heads} heads of {sizes.head_dim} at a hidden size of {sizes.hidden}: they must be equal"
    if graph.ungrouped and {*kv_heads} - {0, sizes.heads}:
        yield f"{min({*kv_heads} - {0})} KV heads for {sizes.heads} query heads: they must be equal"
    needed = {"attention_bias": ATTENTION_BIASES, "mlp_bias": {"ffn_gate"}}
    for flag in sorted(set(layout.flags) & set(needed)):
        if not needed[flag] <= graph.biases:
            yield f"the biases of {flag}"
    scale = config.get("query_pre_attn_scalar")
    if scale is not None and gguf.biggest is not None:
        # llama.cpp recognizes the biggest model, which scales differently, by the number of layers in the file.
        wanted = sizes.hidden / sizes.heads if layers == gguf.biggest else sizes.head_dim
        if float(scale) != float(wanted):
            yield f"query_pre_attn_scalar {scale} in {layers} layers; it takes {wanted:g}"
    problem = gguf.problem(config)
    if problem is not None:
        yield problem
    if len({isinstance(spec.ffn, GatedMLP) for spec in layout.specs if spec.ffn is not None}) > 1:
        yield "experts in some layers and a gated MLP in others"
    if layers > _MOST_LAYERS:
        yield f"{layers} layers; it has room for {_MOST_LAYERS}"


def every_nth(specs: Sequence[LayerSpec]) -> int | None:
    """n if the layers without a gated delta net are every n-th, counted from the first; else None."""
    full = [place for place, spec in enumerate(specs, 1) if not isinstance(spec.mixer, GatedDeltaNet)]
    n = full[0] if full else len(specs) + 1
    return n if full == [*range(n, len(specs) + 1, n)] else None


def _net_problems(family: Family, specs: Sequence[LayerSpec]) -> Iterator[str]:
    """What llama.cpp's gated delta nets cannot be."""
    nets = [spec.mixer for spec in specs if isinstance(spec.mixer, GatedDeltaNet)]
    if nets and every_nth(specs) is None:
        yield "gated delta nets in other layers than all but every n-th: drop whole groups, or as many nets of each group"
    if nets and len(nets) == len(specs):
        yield "gated delta nets without a layer of attention beside them"
    if any(net.key_dim != net.value_dim for net in nets):
        yield "heads of keys and of values of different sizes in gated delta nets"
    outputs = {row.module for row in family.rows.get("gated_delta_net", ()) if row.dims[1:] == ("values",)}
    for spec in specs:
        net = spec.mixer
        if isinstance(net, GatedDeltaNet) and net.key_heads < net.value_heads and any(map(spec.storage, outputs)):
            yield "quantized outputs of gated delta nets, whose heads it has in another order"
            return


def _notes(dropped: tuple[int, ...], alone: tuple[int, ...], left: tuple[int, ...]) -> Iterator[Diagnostic]:
    if left and left[0] in dropped:
        yield note(
            "LB525",
            f"llama.cpp reads its sizes from the first layer, so layer {left[0]} without attention "
            "is written with a matrix of zeros: the same results and no cache, for hidden x hidden weights",
        )
    if alone:
        yield note(
            "LB525",
            f"{layers_text(alone)} without MLP are written with one of {ZERO_WIDTH} zeros: "
            "llama.cpp would lose their attention",
        )
