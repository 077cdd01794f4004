"""Support for a family in engines: transformers' classes, a llama.cpp graph, vLLM's layers. All by name; nothing is
imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ATTENTION_BIASES = frozenset({"attn_q", "attn_k", "attn_v", "attn_output"})
ALL_BIASES = ATTENTION_BIASES | {"ffn_gate", "ffn_up", "ffn_down"}


@dataclass(frozen=True)
class Lacks:
    """A feature of the family that an engine's layers do not support, so the engine cannot run the family."""

    what: str


@dataclass(frozen=True)
class Classes:
    """The classes of the family in `transformers.models.<module>`: `<stem>Attention` and so on. `body`, `config`
    and `moe` are needed only if they are not `<stem>Model`, `<stem>Config` and `<stem>SparseMoeBlock`."""

    module: str
    stem: str
    body: str = ""
    config: str = ""
    moe: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", self.body or f"{self.stem}Model")
        object.__setattr__(self, "config", self.config or f"{self.stem}Config")
        object.__setattr__(self, "moe", self.moe or f"{self.stem}SparseMoeBlock")

    @property
    def attention(self) -> str:
        return f"{self.stem}Attention"

    @property
    def delta_net(self) -> str:
        return f"{self.stem}GatedDeltaNet"

    @property
    def mlp(self) -> str:
        return f"{self.stem}MLP"

    @property
    def norm(self) -> str:
        return f"{self.stem}RMSNorm"

    @property
    def causal_lm(self) -> str:
        return f"{self.stem}ForCausalLM"


@dataclass(frozen=True)
class Graph:
    """One of llama.cpp's graphs, read from its source (src/models/*.cpp). `name` is `general.architecture`.

    pairs:           True if RoPE rotates adjacent elements (2i, 2i + 1) of a head; transformers rotates (i, i + d/2), so
                     rows of queries and keys are reordered
    windows:         True if it reads which layers are windowed, one flag per layer, and one window size
    always_windowed: True if it requires a windowed layer; a window of all positions has no effect
    by_layer:        True if it reads KV heads and MLP width per layer, and a layer may have no attention
    no_rope_every:   n if every n-th layer has no rotary embeddings; 0 if all have them
    rope_pattern:    True if it reads which layers have rotary embeddings
    frequency_table: True if it reads rope_freqs (llama3 scaling)
    mscale:          True if it reads YaRN's mscale, where that is 1 (scores are then not scaled)
    rounds_yarn:     True if its models have bounds of YaRN that are not rounded; llama.cpp rounds them
    full_yarn:       True if layers without a window may have YaRN while windowed layers have none
    multipliers:     True if it reads Granite's multipliers
    sink_logits:     True if it requires a learned sink logit (not a sink token) for each head
    biases:          modules whose biases it reads
    square:          True if it requires heads x head_dim = hidden
    ungrouped:       True if it requires a KV head for each query head
    fused:           True if it reads queries, keys and values, and gate and up, as one matrix each
    head_always:     True if it requires the head even if it is tied
    norm_offset:     added to every norm weight, 1 for Gemma, whose norms multiply by 1 + weight
    delta_nets:      True if it has gated delta nets, all but every n-th layer, and rotary embeddings over a part of a head
    activation:      activation of the MLP, by transformers' name
    """

    name: str
    pairs: bool = False
    windows: bool = False
    always_windowed: bool = False
    by_layer: bool = False
    no_rope_every: int = 0
    rope_pattern: bool = False
    frequency_table: bool = False
    mscale: bool = False
    rounds_yarn: bool = False
    full_yarn: bool = True
    multipliers: bool = False
    sink_logits: bool = False
    biases: frozenset[str] = frozenset()
    square: bool = False
    ungrouped: bool = False
    fused: bool = False
    head_always: bool = False
    norm_offset: float = 0.0
    delta_nets: bool = False
    activation: str = "silu"


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


def no_problem(config: Mapping[str, Any]) -> str | None:
    return None


@dataclass(frozen=True)
class GgufNames:
    """The family in llama.cpp.

    graph:       the graph for unchanged layers
    deci:        what is missing in `deci`, the graph for layers of different sizes or without attention or MLP; None if it
                 supports the family
    granite_swa: what is missing in `granite_swa`, the graph for Llama's layers with windows; None if it supports the family
    numbers:     metadata keys, relative to the architecture's name, that the family adds: (field of the config, or of an
                 object in it after a dot, its default); null is written as 0
    problem:     maps the config to a text of what the graph cannot compute, or None
    biggest:     number of layers by which llama.cpp recognizes the biggest model, whose scores it scales by hidden / heads
    read:        True if such files are supported as base models; `sizes` then maps sizes to metadata keys, and `fields`
                 maps other metadata keys to fields of the config
    """

    graph: Graph
    deci: Lacks | None = None
    granite_swa: Lacks | None = None
    numbers: Mapping[str, tuple[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    problem: Callable[[Mapping[str, Any]], str | None] = no_problem
    biggest: int | None = None
    read: bool = False
    sizes: Mapping[str, str] = field(default_factory=lambda: GGUF_SIZES)
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def computes_silu(config: Mapping[str, Any]) -> bool:
    """For classes that compute SiLU, whatever the configuration says."""
    return config.get("hidden_act", "silu") == "silu"


def computes_gelu(config: Mapping[str, Any]) -> bool:
    return config.get("hidden_activation", "gelu_pytorch_tanh") in (None, "gelu_pytorch_tanh")


@dataclass(frozen=True)
class StockClass:
    """Another class of transformers that reads the same weights."""

    model_type: str
    architecture: str


@dataclass(frozen=True)
class VllmLayers:
    """vLLM's layers of the family. `module` defines `attention(config, cache_config, quant_config, prefix)` and
    `mlp(config, quant_config, prefix)`, which create them, and for experts `moe` with what `mlp` takes; it is imported only
    in vLLM's workers. `fused` is True if checkpoints already have queries, keys and values, and gate and up, fused as in
    vLLM. `without`: flags of the configuration that vLLM's layers do not follow."""

    module: str
    fused: bool = False
    without: tuple[str, ...] = ()
