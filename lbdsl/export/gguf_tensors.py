"""The tensors of a GGUF file: each is taken from rows of an artifact's tensor, or constant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lbdsl.core.diagnostic import fail
from lbdsl.export.gguf_rope import frequency_divisors
from lbdsl.export.gguf_target import ZERO_WIDTH, GgufModel
from lbdsl.families.base import Sizes
from lbdsl.layer.difference import learned_sinks
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.parts import TensorRow
from lbdsl.parts.attention import SINK_LOGITS
from lbdsl.parts.gated_delta_net import GatedDeltaNet
from lbdsl.parts.int_weights import Int

NO_SINK = -1e30
"""Logit of a sink that gets no attention weight: its softmax probability is 0 in every number format."""


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix stored as integers: its storage, and the tensors of the checkpoint by name relative to the module."""

    storage: Int
    parts: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class OutTensor:
    """One tensor to write: the rows of `source` from `start` on, plus `offset`; heads of `pair_dim` rows are reordered for
    llama.cpp's RoPE pairs. Of all experts' tensor, they are rows of each matrix, of the transposed ones where it is
    `transposed`. `rows`, `columns`: the source's in the order in which they are written. `minus_exp`: -exp of its numbers;
    `float32`: written so. Without `source`, it is filled with `values` (one number, or one per element). `packed`: the
    matrix is stored as integers, and `source` gives only its shape."""

    name: str
    shape: tuple[int, ...]
    source: TensorInfo | None = None
    start: int = 0
    pair_dim: int | None = None
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    transposed: bool = False
    offset: float = 0.0
    minus_exp: bool = False
    float32: bool = False
    values: tuple[float, ...] = (0.0,)
    packed: PackedMatrix | None = None


def out_tensors(target: GgufModel, tensors: Mapping[str, TensorInfo]) -> tuple[OutTensor, ...]:
    """The tensors to write, in the order of the layers. Raises LB409 if one is missing in the artifact."""
    family, sizes, facts = target.layout.family, target.layout.sizes, target.facts

    def find(name: str) -> TensorInfo:
        if name not in tensors:
            raise fail("LB409", f"the artifact has no {name}", help="check it with `lbdsl show`, or apply the recipe again")
        return tensors[name]

    def whole(name: str, source: str, offset: float = 0.0) -> OutTensor:
        info = find(source)
        return OutTensor(name, info.shape, info, offset=offset)

    tied = target.layout.tied
    embedding = family.embedding.name
    if tied and embedding not in tensors:
        # A tied pair may be stored under either name.
        embedding = family.head.name
    found = [
        whole("token_embd.weight", embedding),
        whole("output_norm.weight", family.other[0].name, target.graph.norm_offset),
    ]
    if not tied or target.graph.head_always:
        found.append(whole("output.weight", embedding if tied else family.head.name))
    divisors = frequency_divisors(target.rope, sizes.head_dim)
    if divisors is not None:
        found.append(OutTensor("rope_freqs.weight", (len(divisors),), values=tuple(divisors)))
    rows = {row.name: row for row in (*family.layer_rows, SINK_LOGITS)}
    for place, layer in enumerate(target.layers):
        prefix = family.layer_prefix.format(layer)
        spec = target.specs[place]
        for tensor in spec.tensors(facts):
            storage = spec.storage(tensor.module) if tensor.is_matrix else None
            if isinstance(storage, Int):
                names = storage.saved_tensors(tensor, facts)
                parts = {name: find(f"{prefix}{tensor.module}.{name}") for name in names}
                info = replace(next(iter(parts.values())), shape=tensor.shape)
                packed = PackedMatrix(storage, parts)
            else:
                info, packed = find(prefix + tensor.name), None
            found += (replace(out, packed=packed) for out in layer_tensors(target, place, info, rows[tensor.name]))
        found += _constants(target, place, sizes)
    return tuple(found)


def layer_tensors(target: GgufModel, place: int, info: TensorInfo, row: TensorRow) -> Iterator[OutTensor]:
    """The output tensors of one parameter of a layer: one, or several if a fused parameter is split."""
    graph, sizes, block = target.graph, target.layout.sizes, f"blk.{place}."
    module, _, leaf = row.gguf.rpartition(".")
    turned = sizes.head_dim if graph.pairs else None
    query, kv, width = sizes.heads * sizes.head_dim, target.kv_heads[place] * sizes.head_dim, target.widths[place]
    rest = info.shape[1:]
    if row.dims[0] == "qkv" and not graph.fused:
        yield OutTensor(f"{block}attn_q.{leaf}", (query, *rest), info, 0, turned)
        yield OutTensor(f"{block}attn_k.{leaf}", (kv, *rest), info, query, turned)
        yield OutTensor(f"{block}attn_v.{leaf}", (kv, *rest), info, query + kv)
    elif row.dims[0] == "experts" and row.plain:
        yield from _of_biased_experts(block, info, row)
    elif row.dims[0] == "experts" and "gate_up" in row.dims:
        shape = (info.shape[0], width, *info.shape[2:])
        yield OutTensor(f"{block}ffn_gate_exps.weight", shape, info, 0)
        yield OutTensor(f"{block}ffn_up_exps.weight", shape, info, width)
    elif row.dims[0] == "gate_up" and not graph.fused:
        yield OutTensor(f"{block}ffn_gate.{leaf}", (width, *rest), info, 0)
        yield OutTensor(f"{block}ffn_up.{leaf}", (width, *rest), info, width)
    elif row.dims == ("one", "hidden"):
        yield OutTensor(f"{block}{row.gguf}", rest, info)
    elif isinstance(net := target.specs[place].mixer, GatedDeltaNet) and {"mixed", "values", "value_heads"} & {*row.dims}:
        yield _of_net(net, OutTensor(f"{block}{row.gguf}", info.shape, info), row)
    else:
        pair_dim = turned if module in ("attn_q", "attn_k") else None
        offset = graph.norm_offset if module.endswith("_norm") and module != "ssm_norm" else 0.0
        yield OutTensor(f"{block}{row.gguf}", info.shape, info, pair_dim=pair_dim, offset=offset)


def _of_biased_experts(block: str, info: TensorInfo, row: TensorRow) -> Iterator[OutTensor]:
    """A parameter of all experts of gpt-oss, [experts, inputs, outputs] or [experts, outputs], where outputs of gate and up
    stand by turns. llama.cpp reads biases in float32."""
    *_, outputs = info.shape
    parts: dict[str, tuple[int, ...] | None] = {f"{block}{row.gguf}": None}
    if row.dims[-1] == "gate_up":
        leaf = "bias" if len(info.shape) == 2 else "weight"
        parts = {
            f"{block}ffn_{name}_exps.{leaf}": tuple(range(first, outputs, 2)) for first, name in enumerate(("gate", "up"))
        }
    for name, taken in parts.items():
        count = outputs if taken is None else len(taken)
        if len(info.shape) == 2:
            yield OutTensor(name, (info.shape[0], count), info, columns=taken, float32=True)
        else:
            yield OutTensor(name, (info.shape[0], count, info.shape[1]), info, rows=taken, transposed=True)


def _of_net(net: GatedDeltaNet, out: OutTensor, row: TensorRow) -> OutTensor:
    """A parameter of a gated delta net, with the heads of values in llama.cpp's order: the first of those that share a head
    of keys, of every head of keys, then the second of each."""

    def turned(size: int, before: int = 0) -> tuple[int, ...]:
        """Rows of heads of so many rows each, which come after others."""
        each = net.value_heads // net.key_heads
        heads = (key * each + place for place in range(each) for key in range(net.key_heads))
        return (*range(before), *(before + head * size + i for head in heads for i in range(size)))

    if row.dims[0] == "mixed":
        if len(out.shape) == 3:  # The convolution, whose kernel llama.cpp reads in float32.
            out = replace(out, shape=(out.shape[0], out.shape[2]), float32=True)
        return replace(out, rows=turned(net.value_dim, 2 * net.key_heads * net.key_dim))
    if row.dims[0] == "value_heads":
        return replace(out, rows=turned(1), minus_exp=row.name.endswith(".A_log"))
    if row.dims[0] == "values":
        return replace(out, rows=turned(net.value_dim))
    return replace(out, columns=turned(net.value_dim))


def _constants(target: GgufModel, place: int, sizes: Sizes) -> list[OutTensor]:
    """Constant tensors for removed sub-blocks that llama.cpp requires, and sinks that get no attention weight."""
    hidden = sizes.hidden
    found: dict[str, tuple[tuple[int, ...], float]] = {}
    if target.specs[place].mixer is None and place == 0:
        found |= {"attn_norm": ((hidden,), 1.0), "attn_output": ((hidden, hidden), 0.0)}
    if not target.widths[place]:
        found |= {"ffn_norm": ((hidden,), 1.0), "ffn_down": ((hidden, ZERO_WIDTH), 0.0)}
        found |= dict.fromkeys(("ffn_gate", "ffn_up"), ((ZERO_WIDTH, hidden), 0.0))
    if target.graph.sink_logits and not learned_sinks(target.specs[place]):
        found["attn_sinks"] = (sizes.heads,), NO_SINK
    return [OutTensor(f"blk.{place}.{name}.weight", shape, values=(value,)) for name, (shape, value) in found.items()]
