"""What a model family is, as data: which tensors make which sub-block, and which settings are understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lbdsl.core.diagnostic import fail

Windows = Callable[[Mapping[str, Any], int], tuple[int | None, ...]]
"""From a config.json's fields and the number of layers to the tokens that each layer's attention sees: None for all."""


@dataclass(frozen=True)
class TensorRow:
    """One parameter. `dims` are names of sizes (see `ModelFacts.shaped`), outermost first, as torch stores them.

    `when` names a boolean field of the config; without it, the parameter is always there. `gguf` is the name that
    llama.cpp gives it, empty where files of that format are not read for the family.
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
    """An RMS norm over the residual stream, named below a layer; `gguf` is llama.cpp's name for it."""

    name: str
    gguf: str = ""

    @property
    def row(self) -> TensorRow:
        return TensorRow(f"{self.name}.weight", f"{self.gguf}.weight" if self.gguf else "", ("hidden",))


Norms = tuple[Norm | None, Norm | None]
"""Before and after a sub-block."""


@dataclass(frozen=True)
class Limit:
    """A field of the config that may only have one of these values; absent counts as None."""

    field: str
    allowed: tuple[Any, ...]
    reason: str


def no_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The family has no native window."""
    return (None,) * layers


def one_window(default: int | None) -> Windows:
    """`sliding_window` holds for every layer; `default` where the field is absent."""

    def windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
        return (_window(config, default),) * layers

    return windows


def windows_by_type(
    default: int | None, is_windowed: Callable[[int, Mapping[str, Any]], bool], switch: str | None = None
) -> Windows:
    """`layer_types` says which layers `sliding_window` holds for; where it is absent, `is_windowed(layer, config)`.

    `switch` names a boolean field, off when absent, without which the window is not used.
    """

    def windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
        window = _window(config, default)
        if switch is not None and not config.get(switch):
            window = None
        types = config.get("layer_types")
        if types is None:
            types = [
                "sliding_attention" if window is not None and is_windowed(i, config) else "full_attention"
                for i in range(layers)
            ]
        if not isinstance(types, list) or len(types) != layers:
            raise fail("LB402", f"layer_types in the configuration is not a list of {layers} layers")
        for kind in types:
            if kind not in ("full_attention", "sliding_attention"):
                raise fail(
                    "LB404", f"layer_types holds {str(kind)[:40]!r}; full_attention and sliding_attention are understood"
                )
        if window is None and "sliding_attention" in types:
            raise fail(
                "LB404",
                "layer_types names windowed layers, but the window is switched off in this model",
                help=f"set sliding_window{f' and {switch}' if switch else ''}, or name no such layers",
            )
        return tuple(window if kind == "sliding_attention" else None for kind in types)

    return windows


def _window(config: Mapping[str, Any], default: int | None) -> int | None:
    value = config.get("sliding_window", default)
    if value is not None and (type(value) is not int or value < 1):
        raise fail("LB402", f"sliding_window in the configuration is {str(value)[:40]}, not a positive whole number")
    return value


NOT_QUANTIZED = Limit("quantization_config", (None,), "the weights are quantized already; start from the unquantized model")
DECODER = Limit("is_encoder_decoder", (None, False), "only decoder models can be changed")
NO_PER_LAYER = Limit("per_layer_config", (None,), "transformers saves it, but the family's code does not follow it")
CAUSAL = Limit("use_bidirectional_attention", (None, False), "only causal attention can be changed")
COMMON_LIMITS = (NOT_QUANTIZED, DECODER, NO_PER_LAYER)

ROPE_REASON = "its frequencies change as the text grows, so cached keys of a window would not fit new queries"
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Family:
    """One family, keyed by transformers' `model_type`.

    `attention` and `mlp` are the parameters of the two sub-blocks of a layer, named below `layer_prefix`, and
    `attention_norms` and `mlp_norms` the norms before and after each, None where there is none; `embedding`, `head` and
    `other` stand outside the layers. `sizes` maps the names of sizes to fields of the config, `size_defaults` gives those
    that transformers fills in when the field is absent, `gguf_sizes` maps them to GGUF metadata keys below the
    architecture's name; `gguf_architecture` is None where GGUF files are not read.
    """

    model_type: str
    architecture: str
    attention: tuple[TensorRow, ...]
    mlp: tuple[TensorRow, ...]
    tied_by_default: bool
    examples: str
    """Well-known models of the family, for messages and the page of supported models."""
    attention_norms: Norms = (Norm("input_layernorm", "attn_norm"), None)
    mlp_norms: Norms = (Norm("post_attention_layernorm", "ffn_norm"), None)
    windows: Windows = no_windows
    gguf_architecture: str | None = None
    layer_prefix: str = "model.layers.{}."
    gguf_layer_prefix: str = "blk.{}."
    embedding: TensorRow = TensorRow("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden"))
    head: TensorRow = TensorRow("lm_head.weight", "output.weight", ("vocab", "hidden"))
    other: tuple[TensorRow, ...] = (TensorRow("model.norm.weight", "output_norm.weight", ("hidden",)),)
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    size_defaults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gguf_sizes: Mapping[str, str] = field(default_factory=lambda: GGUF_SIZES)
    gguf_fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Other fields of the config by GGUF metadata key, below the architecture's name."""
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Ends of tensor names in old checkpoints that are buffers, not parameters."""
    limits: tuple[Limit, ...] = COMMON_LIMITS
    rope_types: tuple[str, ...] = ROPE_TYPES
    rope_reason: str = ROPE_REASON
    flags: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """Defaults of the boolean fields that `TensorRow.when` names."""
    attention_softcap: str | None = None
    """The config's field for a cap on attention scores: SDPA cannot compute one, so such a model runs eagerly."""

    @property
    def mixer_rows(self) -> tuple[TensorRow, ...]:
        """The attention with its norms."""
        return _with_norms(self.attention_norms, self.attention)

    @property
    def ffn_rows(self) -> tuple[TensorRow, ...]:
        """The MLP with its norms."""
        return _with_norms(self.mlp_norms, self.mlp)


def _with_norms(norms: Norms, rows: tuple[TensorRow, ...]) -> tuple[TensorRow, ...]:
    before, after = norms
    return (*([before.row] if before else []), *rows, *([after.row] if after else []))


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

GGUF_SIZES: Mapping[str, str] = MappingProxyType(
    {
        "layers": "block_count",
        "hidden": "embedding_length",
        "heads": "attention.head_count",
        "kv_heads": "attention.head_count_kv",
        "head_dim": "rope.dimension_count",
        "intermediate": "feed_forward_length",
        "vocab": "vocab_size",
        "positions": "context_length",
    }
)
