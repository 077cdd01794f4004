"""Tensor rows that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lbdsl.families.base import PRE_NORMS, Norm, Norms
from lbdsl.parts import Slot, TensorRow


def projections(*, biased: tuple[str, ...] = (), when: str | None = None) -> tuple[TensorRow, ...]:
    """q, k, v and o projections. Those in `biased` have a bias: always, or if the config's field `when` is true."""
    dims = {"q": ("query", "hidden"), "k": ("key_value", "hidden"), "v": ("key_value", "hidden"), "o": ("hidden", "query")}
    gguf = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    weights = tuple(TensorRow(f"self_attn.{part}_proj.weight", f"{gguf[part]}.weight", dims[part]) for part in dims)
    biases = tuple(
        TensorRow(f"self_attn.{part}_proj.bias", f"{gguf[part]}.bias", dims[part][:1], when=when) for part in biased
    )
    return weights + biases


def gated_mlp(*, biases_when: str | None = None) -> tuple[TensorRow, ...]:
    """gate, up and down projections, with biases if the config's field `biases_when` is true."""
    dims = {"gate": ("intermediate", "hidden"), "up": ("intermediate", "hidden"), "down": ("hidden", "intermediate")}
    weights = tuple(TensorRow(f"mlp.{part}_proj.weight", f"ffn_{part}.weight", dims[part]) for part in dims)
    if biases_when is None:
        return weights
    return weights + tuple(
        TensorRow(f"mlp.{part}_proj.bias", f"ffn_{part}.bias", dims[part][:1], when=biases_when) for part in dims
    )


def experts(
    *, block: str = "mlp", gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> tuple[TensorRow, ...]:
    """A router and its experts, as transformers has them in memory; in files they stand in `block`, a tensor for each."""
    gate, up, down = (f"{block}.experts.{{}}.{part}.weight" for part in (gate, up, down))
    router = () if block == "mlp" else (f"{block}.gate.weight",)
    return (
        TensorRow("mlp.gate.weight", "ffn_gate_inp.weight", ("experts", "hidden"), routes=True, files=router),
        TensorRow("mlp.experts.gate_up_proj", "", ("experts", "gate_up", "hidden"), files=(gate, up)),
        TensorRow("mlp.experts.down_proj", "ffn_down_exps.weight", ("experts", "hidden", "intermediate"), files=(down,)),
    )


POST_ATTENTION_NORM: Mapping[Slot, Norms] = MappingProxyType(
    {**PRE_NORMS, Slot.FFN: (Norm("post_attention_layernorm", "post_attention_norm"), None)}
)
"""Norms before each sub-block, in graphs of llama.cpp that call the second one so."""

QKV = "self_attn.qkv_proj"
"""Queries, keys and values in one projection, in this order."""

QK_HEAD_NORMS = (
    TensorRow("self_attn.q_norm.weight", "attn_q_norm.weight", ("head_dim",)),
    TensorRow("self_attn.k_norm.weight", "attn_k_norm.weight", ("head_dim",)),
)
"""Norms of queries and keys, separate for each head."""

QK_NORMS = (
    TensorRow("self_attn.q_norm.weight", "attn_q_norm.weight", ("query",)),
    TensorRow("self_attn.k_norm.weight", "attn_k_norm.weight", ("key_value",)),
)
"""Norms of queries and keys over all heads together."""

ALL = ("q", "k", "v", "o")
