"""A model family as data: its tensors, the supported configuration values, and its support in engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lbdsl.families.engines import Classes, GgufNames, Lacks, StockClass, VllmLayers
from lbdsl.families.windows import NO_WINDOWS, Windows


@dataclass(frozen=True)
class TensorRow:
    """One parameter. `dims` are names of sizes (see `ModelFacts.shaped`), outermost first, as torch stores them.

    `gguf` is llama.cpp's name for it. `when` names a boolean field of the config that must be true for the parameter to
    exist; without it, the parameter always exists.
    """

    name: str
    gguf: str
    dims: tuple[str, ...]
    when: str | None = None

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


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
class Limit:
    """A field of the config that may only have one of the `allowed` values; an absent field counts as None."""

    field: str
    allowed: tuple[Any, ...]
    reason: str


NOT_QUANTIZED = Limit("quantization_config", (None,), "the weights are quantized already; start from the unquantized model")
DECODER = Limit("is_encoder_decoder", (None, False), "only decoder models can be changed")
NO_PER_LAYER = Limit("per_layer_config", (None,), "transformers saves it, but the family's code does not follow it")
CAUSAL = Limit("use_bidirectional_attention", (None, False), "only causal attention can be changed")
IS_CAUSAL = Limit("is_causal", (None, True), "only causal attention can be changed")
COMMON_LIMITS = (NOT_QUANTIZED, DECODER, NO_PER_LAYER, IS_CAUSAL)


def ignored_windows(name: str) -> tuple[Limit, ...]:
    """Limits for a family whose attention ignores the window but whose cache applies it."""
    reason = f"{name}'s attention ignores it while its cache obeys it, so prefill and decoding would differ"
    return (Limit("sliding_window", (None,), reason), Limit("layer_types", (None, "full_attention"), reason))


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
class Family:
    """One family, keyed by transformers' `model_type`.

    `attention` and `mlp` are the parameters of the two sub-blocks of a layer, named relative to `layer_prefix`;
    `attention_norms` and `mlp_norms` are the norms before and after each, None if there is none; `embedding`, `head` and
    `other` are outside the layers. `sizes` maps the names of sizes to fields of the config, `size_defaults` has
    transformers' defaults for absent fields.
    """

    model_type: str
    examples: str
    """Well-known models of the family, for messages and the docs page of supported models."""
    classes: Classes
    attention: tuple[TensorRow, ...]
    mlp: tuple[TensorRow, ...]
    tied_by_default: bool

    # Support in engines.
    gguf: GgufNames
    decilm: Mapping[str, Any] | Lacks
    """The fields that DeciLM's configuration needs in addition to the family's own."""
    vllm: VllmLayers | Lacks
    granite_swa: bool = False
    """Whether `granite_swa`, Llama's layers with windows and learned sinks, computes the family's layers."""
    windowed_as: StockClass | None = None
    """The transformers class with a window per layer, if the family's own class does not support that."""

    attention_norms: Norms = (Norm("input_layernorm", "attn_norm"), None)
    mlp_norms: Norms = (Norm("post_attention_layernorm", "ffn_norm"), None)
    layer_prefix: str = "model.layers.{}."
    embedding: TensorRow = TensorRow("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden"))
    head: TensorRow = TensorRow("lm_head.weight", "output.weight", ("vocab", "hidden"))
    other: tuple[TensorRow, ...] = (TensorRow("model.norm.weight", "output_norm.weight", ("hidden",)),)
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Suffixes of tensor names in old checkpoints that are buffers, not parameters."""

    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    size_defaults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    flags: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """Defaults of the boolean fields that `TensorRow.when` names."""
    epsilon: float = 1e-6
    """`rms_norm_eps` if the config has none."""
    limits: tuple[Limit, ...] = COMMON_LIMITS
    windows: Windows = NO_WINDOWS

    rope_types: tuple[str, ...] = ROPE_TYPES
    partial_rotary: bool = False
    """Whether RoPE may rotate only a part of each head."""
    rope_theta: float = 10_000.0
    """The base of rotary embeddings if the config has none."""
    rope_by_layer_type: bool = False
    """Whether windowed layers have their own rotary embeddings."""
    local_rope_theta: float | None = None
    """The base for windowed layers if the config has none; None if it is the same as for the other layers."""
    without_rope: Callable[[int, Mapping[str, Any]], bool] | None = None
    """Whether a layer has no rotary embeddings, from its index and the config; None if all layers have them."""

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
        return "sdpa" if self.attention_softcap is None else "eager"

    @property
    def mixer_rows(self) -> tuple[TensorRow, ...]:
        """The attention's parameters with its norms."""
        return _with_norms(self.attention_norms, self.attention)

    @property
    def ffn_rows(self) -> tuple[TensorRow, ...]:
        """The MLP's parameters with its norms."""
        return _with_norms(self.mlp_norms, self.mlp)

    def has_rope(self, layer: int, config: Mapping[str, Any]) -> bool:
        return self.without_rope is None or not self.without_rope(layer, config)


def _with_norms(norms: Norms, rows: tuple[TensorRow, ...]) -> tuple[TensorRow, ...]:
    before, after = norms
    return (*([before.row] if before else []), *rows, *([after.row] if after else []))
