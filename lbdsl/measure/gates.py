"""A screen of `recall`: what windows would lose of the answers, from one backward pass for all layers.

Every layer's attention is a mixture, (1 - g) of its own and g of the changed one, with all gates g at one half. The slope
of the answers' loss along a layer's gate is its score. The loss of changing all layers is the integral of the sum of these
slopes from no change to all of it, and half is its midpoint: a layer counts that is needed only where others are changed.

Source: scores as integrated gradients, Sundararajan et al. (arXiv 1703.01365); gates between full and windowed attention,
DuoAttention (arXiv 2410.10819).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lbdsl.core.cache import SCREENS
from lbdsl.core.digest import digest_of
from lbdsl.core.files import keep_in_cache, read_entry
from lbdsl.core.progress import Report, unreported
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.branches import Branches, joined, shared_tokens
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.rows import AnswerRows
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.measure.variant import variant_of

VERSION = 1
"""Increase it when other values are computed."""

HALF = 0.5


def answer_slopes(
    source: Callable[[], LayerSource],
    changes: Mapping[int, LayerChange],
    rows: AnswerRows,
    weights_S: Tensor,
    folder: Path,
    fingerprint: str,
    *,
    progress: Report = unreported,
    statistics: StatisticsOf = NO_STATISTICS,
    statistics_digests: object = None,
) -> Tensor:
    """[groups, layers that change, in order], float64: for each group of rows the slopes of the sum of their answers'
    losses, in nats times `weights_S`. Changes are of attention alone. They are kept in `folder` under `fingerprint`, after
    each group: an interrupted screen is taken up. `source` returns the base, which must be in memory."""
    named = [[layer, change.to_json()] for layer, change in sorted(changes.items())]
    made_of = [fingerprint, "gates", VERSION, named, weights_S.tolist(), statistics_digests]
    path = SCREENS.path(folder, f"{digest_of(made_of)[:32]}.safetensors")
    try:
        slopes_GL = load(read_entry(path))["slopes"]
        if slopes_GL.dtype != torch.float64 or slopes_GL.shape[1:] != (len(changes),) or len(slopes_GL) > len(rows.groups):
            raise ValueError(f"{path} is of another screen")
    except (OSError, SafetensorError, KeyError, ValueError):
        slopes_GL = torch.zeros(0, len(changes), dtype=torch.float64)
    progress(len(slopes_GL), len(rows.groups), "")
    for number in range(len(slopes_GL), len(rows.groups)):
        model = source()
        assert model.in_memory, "the backward pass needs all layers"
        group = rows.groups[number]
        span = slice(group.start, group.stop)
        gates_L = torch.full((len(changes),), HALF, device=model.device, requires_grad=True)
        ids_BN, counted_BN = (of_SN[span].to(model.device) for of_SN in (rows.ids_SN, rows.counted_SN))
        weights_B = weights_S[span].to(model.device)
        with torch.enable_grad():
            loss = gated_loss(model, changes, ids_BN, counted_BN, weights_B, gates_L, statistics)
            (slopes_L,) = torch.autograd.grad(loss, gates_L)
        slopes_GL = torch.cat([slopes_GL, slopes_L.double().cpu().unsqueeze(0)])
        keep_in_cache(path, save({"slopes": slopes_GL}))
        progress(number + 1, len(rows.groups), f"texts {number + 1} of {len(rows.groups)}")
    return slopes_GL


def gated_loss(
    source: LayerSource,
    changes: Mapping[int, LayerChange],
    ids_BN: Tensor,
    counted_BN: Tensor,
    weights_B: Tensor,
    gates_L: Tensor,
    statistics: StatisticsOf = NO_STATISTICS,
) -> Tensor:
    """The sum of the losses in nats of the tokens that `counted_BN` names, times the weight of their row, where changed
    layers attend by their gates; 0 is the base, 1 the changed model."""
    end = 1 + int(counted_BN.any(0).nonzero().max())
    ids_BN, counted_BN = ids_BN[:, :end], counted_BN[:, :end]
    shared = shared_tokens(ids_BN, counted_BN)
    body = source.hybrid.model
    state = source.embed(joined(ids_BN, shared) if shared else ids_BN).detach()
    inputs: Any = Branches(body, state, len(ids_BN), shared) if shared else body.prepare(state)

    def run(layer: Any, index: int, state: Tensor) -> Tensor:
        return inputs.run(layer, index, state) if shared else body.run_layer(layer, index, state, inputs)

    gate_of = dict(zip(sorted(changes), gates_L.unbind(), strict=True))
    for index, layer in enumerate(body.layers):
        if index not in changes:
            state = run(layer, index, state)
            continue
        changed = variant_of(source.hybrid, index, changes[index], statistics(index))
        own, other = (run(_only(each, attends=True), index, state) for each in (layer, changed))
        state = own + gate_of[index].to(own.dtype) * (other - own)
        state = run(_only(layer, attends=False), index, state)
    behind_BND = inputs.rows_of(state) if shared else state
    ids_BN, counted_BM = ids_BN[:, shared:], counted_BN[:, shared + 1 :]
    # A token is predicted where the one before it stands.
    with source.head() as head:
        logp_CV = torch.log_softmax(head.predict(behind_BND[:, :-1][counted_BM]), dim=-1, dtype=torch.float32)
    losses_C = -logp_CV.gather(-1, ids_BN[:, 1:][counted_BM].unsqueeze(-1)).squeeze(-1)
    return (losses_C * weights_B.unsqueeze(1).expand(counted_BM.shape)[counted_BM]).sum()


def _only(layer: Any, *, attends: bool) -> nn.Module:
    """The layer with its attention alone, or without it; it shares all that it has."""
    part = copy.copy(layer)
    part._modules = dict(layer._modules)
    if attends:
        setattr(part, part.ffn_name, None)
    else:
        setattr(part, part.mixer_name, None)
        part.spec = {**layer.spec, "mixer": None}
    return part
