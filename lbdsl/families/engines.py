"""What engines have for a family: transformers' classes, a graph of llama.cpp, vLLM's layers. All by name, nothing is
imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ALL_BIASES = frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})


@dataclass(frozen=True)
class Lacks:
    """What the layers of an engine have no place for, so that they are not the family's."""

    what: str


@dataclass(frozen=True)
class Classes:
    """The classes of the family in `transformers.models.<module>`: `<stem>Attention` and so on. `body` and `config` are
    given where they are not `<stem>Model` and `<stem>Config`."""

    module: str
    stem: str
    body: str = ""
    config: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", self.body or f"{self.stem}Model")
        object.__setattr__(self, "config", self.config or f"{self.stem}Config")

    @property
    def attention(self) -> str:
        return f"{self.stem}Attention"

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

    pairs:           True when it turns neighbouring elements (2i, 2i + 1) of a head; transformers turns (i, i + d/2), so
                     rows of queries and keys are put in another order
    windows:         True when it reads which layers are windowed, one flag a layer, and one window
    always_windowed: True when it wants a windowed layer; a window of all positions has no effect
    by_layer:        True when it reads KV heads and MLP width of each layer, and one may have no attention
    no_rope_every:   n when every n-th layer has no rotary embeddings; 0 when all have
    rope_pattern:    True when it reads which layers have rotary embeddings
    frequency_table: True when it reads rope_freqs (llama3 scaling)
    full_yarn:       True when layers without a window may have YaRN while others have not
    multipliers:     True when it reads Granite's
    sink_logits:     True when it wants a learned sink, which is no token, for each head
    biases:          modules whose biases it reads
    square:          True when it wants heads x head_dim = hidden
    fused:           True when it reads queries, keys and values, and gate and up, as one matrix each
    head_always:     True when it wants the head written even if it is tied
    norm_offset:     added to every norm weight, 1 for Gemma, whose norms multiply by 1 + weight
    activation:      of the MLP, by transformers' name
    """

    name: str
    pairs: bool = False
    windows: bool = False
    always_windowed: bool = False
    by_layer: bool = False
    no_rope_every: int = 0
    rope_pattern: bool = False
    frequency_table: bool = False
    full_yarn: bool = True
    multipliers: bool = False
    sink_logits: bool = False
    biases: frozenset[str] = frozenset()
    square: bool = False
    fused: bool = False
    head_always: bool = False
    norm_offset: float = 0.0
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

    graph:       of unchanged layers
    deci:        what `deci`, the graph for layers of different sizes or without attention or MLP, lacks; None when it
                 computes the family
    granite_swa: what `granite_swa`, the graph for Llama's layers with windows, lacks
    numbers:     metadata keys, below the architecture's name, that the family adds: (field of the config, its default);
                 null is written as 0
    problem:     from the config's fields to what the graph cannot compute, None where it can
    biggest:     layers of the biggest model, whose scores are scaled by hidden / heads, where llama.cpp tells it by that
    read:        True when such files are read as base models; `sizes` and `fields` are then the metadata keys by size, and
                 the fields of the config by other keys
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


@dataclass(frozen=True)
class StockClass:
    """Another class of transformers that reads the same weights."""

    model_type: str
    architecture: str


@dataclass(frozen=True)
class VllmLayers:
    """vLLM's layers of the family. `module` has `attention(config, cache_config, quant_config, prefix)` and
    `mlp(config, quant_config, prefix)`, which make them; it is imported in vLLM's workers alone. `fused` is True when
    weights are stored as vLLM holds them, queries, keys and values in one."""

    module: str
    fused: bool = False
