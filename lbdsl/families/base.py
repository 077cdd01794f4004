"""A model family as data: its tensors, the supported configuration values, and its support in engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.families.engines import Classes, GgufNames, Lacks, StockClass, VllmLayers
from lbdsl.families.windows import NO_WINDOWS, Windows, positive_int
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot, TensorRow, Window
from lbdsl.parts.attention import SINK_LOGITS, Attention
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.parts.moe import Moe


@dataclass(frozen=True)
class Norm:
    """An RMS norm over the residual stream, by name relative to a layer; `gguf` is llama.cpp's name for it."""

    name: str
    gguf: str

    @property
    def row(self) -> TensorRow:
        return TensorRow(f"{self.name}.weight", f"{self.gguf}.weight", ("hidden",))


Norms = tuple[Norm | None, Norm | None]
"""The norms before and after a sub-block."""


@dataclass(frozen=True)
class Multipliers:
    """Names of the config's fields for scalar factors: of the embeddings, of each sub-block's output before the residual
    addition, and the divisor of the logits; None if there is none."""

    embedding: str | None = None
    residual: str | None = None
    logits: str | None = None


@dataclass(frozen=True)
class Only:
    """A field of the config that may only have one of the `allowed` values; an absent field counts as None."""

    field: str
    allowed: tuple[Any, ...]
    reason: str


NOT_QUANTIZED = Only("quantization_config", (None,), "the weights are quantized already; start from the unquantized model")
DECODER = Only("is_encoder_decoder", (None, False), "only decoder models can be changed")
NO_PER_LAYER = Only("per_layer_config", (None,), "transformers saves it, but the family's code does not follow it")
CAUSAL = Only("use_bidirectional_attention", (None, False), "only causal attention can be changed")
IS_CAUSAL = Only("is_causal", (None, True), "only causal attention can be changed")
NO_ROUTER_LOGITS = Only("output_router_logits", (None, False), "what routers score is not given beside the logits")
COMMON_LIMITS = (NOT_QUANTIZED, DECODER, NO_PER_LAYER, IS_CAUSAL)


def ignored_windows(name: str) -> tuple[Only, ...]:
    """Limits for a family whose attention ignores the window but whose cache applies it."""
    reason = f"{name}'s attention ignores it while its cache obeys it, so prefill and decoding would differ"
    return (Only("sliding_window", (None,), reason), Only("layer_types", (None, "full_attention"), reason))


ROPE_REASON = "its frequencies change as the text grows, so cached keys of a window would not fit new queries"
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

SIZES: Mapping[str, str] = MappingProxyType(
    {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "intermediate": "intermediate_size",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    }
)


@dataclass(frozen=True)
class Sizes:
    """The sizes that a configuration gives for all layers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int


def dense_layers(family: Family, config: Mapping[str, Any], sizes: Sizes) -> tuple[LayerSpec, ...]:
    """Layers of attention, full or with the family's own window, and a gated MLP. Raises LB402 or LB404."""

    def layer(window: int | None) -> LayerSpec:
        seen = None if window is None else Window(size=window)
        mixer = Attention(heads=sizes.heads, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim, window=seen)
        return LayerSpec(mixer=mixer, ffn=GatedMLP(width=sizes.intermediate))

    windows = family.windows(config, sizes.layers)
    kinds = {window: layer(window) for window in windows}
    return tuple(kinds[window] for window in windows)


EXPERTS = ("num_experts", "num_local_experts")
"""Names that configurations have for the number of experts."""


@dataclass(frozen=True)
class ExpertLayers:
    """Layers of attention and experts; a gated MLP where `mlp_only_layers` or `decoder_sparse_step` of the config say so.
    `width` is the config's field for the channels of an expert; the rest is for fields that are absent."""

    experts: int
    top_k: int
    width: str = "intermediate_size"
    usual_width: int | None = None

    def __call__(self, family: Family, config: Mapping[str, Any], sizes: Sizes) -> tuple[LayerSpec, ...]:
        names = [name for name in EXPERTS if config.get(name) is not None]
        experts = positive_int(config, names[0] if names else "num_experts", default=self.experts)
        top_k = positive_int(config, "num_experts_per_tok", default=self.top_k)
        if top_k > experts:
            raise fail("LB402", f"num_experts_per_tok in the configuration is {top_k}, more than the {experts} experts")
        moe = Moe(experts=experts, top_k=top_k, width=positive_int(config, self.width, default=self.usual_width))
        dense, step = config.get("mlp_only_layers") or [], positive_int(config, "decoder_sparse_step", default=1)
        if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
            raise fail("LB402", f"mlp_only_layers in the configuration is {str(dense)[:40]}, not a list of layers")
        return tuple(
            layer if index in dense or (index + 1) % step else layer.replace(ffn=moe)
            for index, layer in enumerate(dense_layers(family, config, sizes))
        )


EMBEDDING = TensorRow("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden"))
HEAD = TensorRow("lm_head.weight", "output.weight", ("vocab", "hidden"))
FINAL_NORM = TensorRow("model.norm.weight", "output_norm.weight", ("hidden",))
PRE_NORMS: Mapping[Slot, Norms] = MappingProxyType(
    {
        Slot.MIXER: (Norm("input_layernorm", "attn_norm"), None),
        Slot.FFN: (Norm("post_attention_layernorm", "ffn_norm"), None),
    }
)


@dataclass(frozen=True)
class Family:
    """One family, keyed by transformers' `model_type`.

    `rows` are the parameters of each kind of part, named relative to `layer_prefix`; `norms` those before and after each
    sub-block, None if there is none; `embedding`, `head` and `other` are outside the layers. `layers` makes the layers of
    an unchanged model from a config. `sizes` maps the names of sizes to fields of the config, `size_defaults` has
    transformers' defaults for absent fields.
    """

    model_type: str
    examples: str
    """Well-known models of the family, for messages and the docs page of supported models."""
    classes: Classes
    rows: Mapping[str, tuple[TensorRow, ...]]
    tied_by_default: bool

    # Support in engines.
    gguf: GgufNames
    decilm: Mapping[str, Any] | Lacks
    """The fields that DeciLM's configuration needs in addition to the family's own."""
    vllm: VllmLayers | Lacks
    granite_swa: bool = False
    """Whether `granite_swa`, Llama's layers with windows and learned sinks, computes the family's layers."""
    vllm_native: Callable[[Mapping[str, Any]], bool] = lambda config: False
    """Whether vLLM's own class computes what `native` exports of the family, by the base's configuration with the export's
    `layer_types`."""
    vllm_biases: frozenset[str] = frozenset()
    """The flags of the biases that vLLM's own class always has; it has no others."""
    windowed_as: StockClass | None = None
    """The transformers class with a window per layer, if the family's own class does not support that."""

    layers: Callable[[Family, Mapping[str, Any], Sizes], tuple[LayerSpec, ...]] = dense_layers
    norms: Mapping[Slot, Norms] = field(default_factory=lambda: PRE_NORMS)
    inside: tuple[str, ...] = ()
    """Types of models, by `model_type`, that may hold one of the family as their language model."""
    layer_prefix: str = "model.layers.{}."
    ffn_name: str = "mlp"
    """The module of a layer that has the MLP or the experts."""
    embedding: TensorRow = EMBEDDING
    head: TensorRow = HEAD
    other: tuple[TensorRow, ...] = (FINAL_NORM,)
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Suffixes of tensor names in old checkpoints that are buffers, not parameters."""

    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    size_defaults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    flags: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """Defaults of the boolean fields that `TensorRow.when` names."""
    epsilon: float = 1e-6
    """`rms_norm_eps` if the config has none."""
    limits: tuple[Only, ...] = COMMON_LIMITS
    windows: Windows = NO_WINDOWS

    rope_types: tuple[str, ...] = ROPE_TYPES
    rope_needs: tuple[str, ...] = ()
    """Fields of `rope_parameters` that the family's code reads, and has no defaults for."""
    partial_rotary: bool = False
    """Whether RoPE may rotate only a part of each head."""
    rotary_share: float = 1.0
    """The part that it rotates if the config does not say."""
    rope_theta: float = 10_000.0
    """The base of rotary embeddings if the config has none."""
    rope_by_layer_type: bool = False
    """Whether windowed layers have their own rotary embeddings."""
    local_rope_theta: float | None = None
    """The base for windowed layers if the config has none; None if it is the same as for the other layers."""
    without_rope: Callable[[int, Mapping[str, Any]], bool] | None = None
    """Whether a layer has no rotary embeddings, from its index and the config; None if all layers have them."""
    no_rope_field: str | None = "no_rope_layers"
    """The config's field that says so, 0 or 1 for each layer; None if a layer's type, windowed or not, does."""

    multipliers: Multipliers = field(default_factory=Multipliers)
    logit_softcap: str | None = None
    """The config's field for the softcap on logits."""
    attention_softcap: str | None = None
    """The config's field for the softcap on attention scores. SDPA cannot compute it, so attention is `eager`."""

    @property
    def architecture(self) -> str:
        return self.classes.causal_lm

    @property
    def attention_implementation(self) -> str:
        """In transformers, which computes a family with a softcap eagerly whether a model has a cap or not."""
        return "sdpa" if self.attention_softcap is None and not self.own_sinks else "eager"

    @property
    def own_sinks(self) -> bool:
        """Whether each query head has a learned sink, which SDPA cannot compute either."""
        return any(row.name == SINK_LOGITS.name for row in self.rows["attention"])

    @property
    def layer_rows(self) -> tuple[TensorRow, ...]:
        """The parameters of all kinds of parts, with the norms."""
        norms = (norm.row for slot in self.norms for norm in self.norms[slot] if norm is not None)
        return (*norms, *(row for rows in self.rows.values() for row in rows))

    def has_rope(self, layer: int, config: Mapping[str, Any]) -> bool:
        return self.without_rope is None or not self.without_rope(layer, config)
