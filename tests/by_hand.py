"""The surgery of `kv_heads` and `width` in plain torch on stock models: what their expressions are compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lbdsl.actions.kv_heads import KVHeads
from lbdsl.families import FAMILIES

KEY_NORMS = {name: of for name, row in FAMILIES.items() for of in row.layer_rows if ".k_norm." in of.name}
NORMED = tuple(KEY_NORMS)
"""Families with norms of keys."""
NORMED_TOGETHER = tuple(name for name, of in KEY_NORMS.items() if of.dims == ("key_value",))
"""Those whose norms are over all heads."""


@torch.no_grad()
def outputs_of(model, modules: Iterable[nn.Module], ids: Tensor) -> dict[nn.Module, Tensor]:
    """What comes out of modules, [tokens, ...] in float64, of one pass over `ids`."""
    found: dict[nn.Module, list[Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda module, _args, out: found.setdefault(module, []).append(out.flatten(0, -2).double())
        )
        for module in dict.fromkeys(modules)
    ]
    for row in ids.split(3):
        model(input_ids=row, use_cache=False)
    for handle in handles:
        handle.remove()
    return {module: torch.cat(parts) for module, parts in found.items()}


GATED = tuple(name for name, row in FAMILIES.items() if any("query_gate" in of.dims for of in row.layer_rows))
"""Those whose queries bring a gate for the attention's output."""


class Heads:
    """The rows of queries, keys and values of an attention by head, in float64, and the columns of the output by query
    head; `put` writes them back."""

    def __init__(self, base, layer: int):
        self.attention = base.model.layers[layer].self_attn
        config = base.config
        self.size = self.attention.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.fused = hasattr(self.attention, "qkv_proj")
        self.rows = {of: {} for of in "qkv"}
        for end in ("weight", "bias"):
            for of, rows in self._places(end).items():
                count = self.heads if of == "q" else self.kv_heads
                self.rows[of][end] = [part.double().clone() for part in rows.split(len(rows) // count)]
        self.columns = [part.double().clone() for part in self.attention.o_proj.weight.data.split(self.size, dim=1)]

    def _places(self, end: str) -> dict[str, Tensor]:
        if self.fused:
            whole = getattr(self.attention.qkv_proj, end)
            sizes = [count * self.size for count in (self.heads, self.kv_heads, self.kv_heads)]
            return {} if whole is None else dict(zip("qkv", whole.data.split(sizes), strict=True))
        found = {of: getattr(getattr(self.attention, f"{of}_proj"), end) for of in "qkv"}
        return {of: tensor.data for of, tensor in found.items() if tensor is not None}

    def turn(self, of: str, head: int, matrix: Tensor) -> None:
        for parts in self.rows[of].values():
            parts[head] = matrix @ parts[head]

    def users(self, kv_head: int) -> range:
        each = self.heads // self.kv_heads
        return range(kv_head * each, (kv_head + 1) * each)

    def put(self) -> None:
        for end in ("weight", "bias"):
            for of, rows in self._places(end).items():
                rows.copy_(torch.cat(self.rows[of][end]))
        self.attention.o_proj.weight.data.copy_(torch.cat(self.columns, dim=1))


def keys_and_values(base, layers: Iterable[int], ids: Tensor) -> dict[int, tuple[list[Tensor], list[Tensor]]]:
    """Of each layer, keys and values by head, [tokens, head_dim]."""
    of = {layer: Heads(base, layer) for layer in layers}

    def projections(heads: Heads) -> tuple[nn.Module, nn.Module]:
        attention = heads.attention
        return (attention.qkv_proj,) * 2 if heads.fused else (attention.k_proj, attention.v_proj)

    seen = outputs_of(base, [module for heads in of.values() for module in projections(heads)], ids)
    found = {}
    for layer, heads in of.items():
        keys, values = (seen[module] for module in projections(heads))
        if heads.fused:
            query, size = heads.heads * heads.size, heads.kv_heads * heads.size
            keys, values = keys[:, query : query + size], values[:, query + size : query + 2 * size]
        found[layer] = list(keys.split(heads.size, dim=1)), list(values.split(heads.size, dim=1))
    return found


def closest_rotation(to: Tensor, of: Tensor) -> Tensor:
    """The orthogonal factor of to^T of, by its polar decomposition."""
    cross = to.T @ of
    values, vectors = torch.linalg.eigh(cross @ cross.T)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T @ cross


def pairs_of(base, size: int) -> list[tuple[int, int]]:
    """The elements that rotary embeddings turn together, and those that they leave alone in the same way."""
    turned = int(size * (base.config.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    rest = (size - turned) // 2
    return [(i, i + turned // 2) for i in range(turned // 2)] + [(turned + i, turned + rest + i) for i in range(rest)]


def pair_turns(base, to: Tensor, of: Tensor) -> Tensor:
    """Pair by pair the angle that fits best."""
    found = torch.zeros(of.shape[1], of.shape[1], dtype=torch.float64)
    for a, b in pairs_of(base, of.shape[1]):
        z = (torch.complex(of[:, a], of[:, b]).conj() * torch.complex(to[:, a], to[:, b])).sum()
        z = z / z.abs()
        found[[a, a, b, b], [a, b, a, b]] = torch.stack([z.real, -z.imag, z.imag, z.real])
    return found


@torch.no_grad()
def kv_heads_by_hand(base, action: KVHeads, ids: Tensor, layers: Iterable[int]):
    """The stock model after `kv_heads`, written head by head: every head of a group gets what the group shares, so that
    shapes are the base's. Statistics are of `ids`, on the base."""
    name, made = base.config.model_type, copy.deepcopy(base)
    for layer, (keys, values) in keys_and_values(base, layers, ids).items():
        heads = Heads(made, layer)
        group = heads.kv_heads // action.n
        one = action.method == "strongest" or name in NORMED_TOGETHER
        for start in range(0, heads.kv_heads, group):
            members = range(start, start + group)
            if one:
                weight = {i: torch.cat([heads.columns[q] for q in heads.users(i)]).norm() for i in members}
                members = [max(members, key=lambda i: (values[i].norm(dim=1).mean() * weight[i]).item())]
            elif action.align and name not in GATED:
                for i in members[1:]:
                    rotation = closest_rotation(values[start], values[i])
                    heads.turn("v", i, rotation)
                    for q in heads.users(i):
                        heads.columns[q] = heads.columns[q] @ rotation.T
                    if name not in NORMED:
                        turn = pair_turns(base, keys[start], keys[i])
                        heads.turn("k", i, turn)
                        for q in heads.users(i):
                            heads.turn("q", q, turn)
            for of in "kv":
                for parts in heads.rows[of].values():
                    parts[start : start + group] = [sum(parts[i] for i in members) / len(members)] * group
            if name in NORMED_TOGETHER:
                weights = heads.attention.k_norm.weight.data.unflatten(0, (heads.kv_heads, -1))
                weights[start : start + group] = weights[members[0]].clone()
        heads.put()
    return made


def inputs_of_down(model, ids) -> list:
    """What goes into `down` of each layer, [M, width]."""
    found: list = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: found.append(args[0].flatten(0, -2)))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def width_by_hand(model, kept: int, inputs: list, refit: bool = False):
    """The stock model with narrower MLPs, channel by channel."""
    model = copy.deepcopy(model)
    for layer, inputs_MW in zip(model.model.layers, inputs, strict=True):
        mlp = layer.mlp
        norms = mlp.down_proj.weight.detach().pow(2).sum(0).sqrt()
        ranked = sorted(range(len(norms)), key=lambda c: (-float(inputs_MW[:, c].abs().mean() * norms[c]), c))
        keep = sorted(ranked[:kept])
        if refit:
            lost = sorted(ranked[kept:])
            among = inputs_MW[:, keep].double()
            ridge = 1.0 * among.pow(2).mean() * len(among)
            # Least squares with a row for each channel that asks it to be small.
            left = torch.cat([among, ridge.sqrt() * torch.eye(kept, dtype=torch.float64)])
            right = torch.cat([inputs_MW[:, lost].double(), torch.zeros(kept, len(lost), dtype=torch.float64)])
            stand_in = torch.linalg.lstsq(left, right).solution
            down = mlp.down_proj.weight.data
            down[:, keep] += (down[:, lost].double() @ stand_in.T).float()
        mlp.down_proj.weight.data = mlp.down_proj.weight.data[:, keep]
        if hasattr(mlp, "gate_up_proj"):
            mlp.gate_up_proj.weight.data = mlp.gate_up_proj.weight.data[keep + [len(norms) + c for c in keep]]
            continue
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight.data = projection.weight.data[keep]
            if projection.bias is not None:
                projection.bias.data = projection.bias.data[keep]
    return model
