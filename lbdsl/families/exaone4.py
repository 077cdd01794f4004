"""EXAONE 4: norms after each sub-block and of queries and keys for each head; three of four layers may be windowed, and
then the others have no rotary embeddings."""

from types import MappingProxyType

from lbdsl.families.base import Family
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, computes_silu
from lbdsl.families.olmo3 import POST_NORMS
from lbdsl.families.rows import QK_HEAD_NORMS, gated_mlp, projections
from lbdsl.families.windows import WindowsByType


def _not_every_fourth(layer: int, config) -> bool:
    pattern = config.get("sliding_window_pattern", 4)
    return isinstance(pattern, int) and pattern > 0 and (layer + 1) % pattern != 0


def _without_rope(layer: int, config) -> bool:
    types = config.get("layer_types")
    windowed = types[layer] == "sliding_attention" if types is not None else _not_every_fourth(layer, config)
    return config.get("sliding_window", 4096) is not None and not windowed


def _as_32b(config) -> str | None:
    return "64 layers without windows" if config["num_hidden_layers"] == 64 else None


_NORMS = Lacks("norms after each sub-block")

FAMILY = Family(
    model_type="exaone4",
    examples="EXAONE 4.0 1.2B and 32B",
    classes=Classes("exaone4", "Exaone4"),
    rows={"attention": (*projections(), *QK_HEAD_NORMS), "gated_mlp": gated_mlp()},
    norms=POST_NORMS,
    tied_by_default=False,
    windows=WindowsByType(4096, _not_every_fourth),
    without_rope=_without_rope,
    no_rope_field=None,
    size_defaults=MappingProxyType({"kv_heads": 32}),
    epsilon=1e-5,
    # Windows only where there are 64 layers, and then always.
    gguf=GgufNames(Graph("exaone4", frequency_table=True), deci=_NORMS, granite_swa=_NORMS, problem=_as_32b),
    decilm=_NORMS,
    vllm=_NORMS,
    vllm_native=computes_silu,
)
