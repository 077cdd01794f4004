"""A screen of changes: what each would do to the predictions, and each two together, from a few backward passes.

With s_i the sum of g . d_i over a text, g the gradient of the log-likelihood of next tokens that the model itself samples,
by the hidden states after a layer, and d_i what change i of that layer does to them, KL(base || changed) of the text is to
second order 1/2 E[(sum_i s_i)^2]: 1/2 E[s_i^2] for one change, and E[s_i s_j] more for two. A text is taken as independent
runs of `RUN` positions: single positions leave out that one prediction feels a change in several of them, and long runs
are too few.

Source: the Fisher information as the Hessian of the KL; for structured pruning, Fisher masks, Kwon et al. (arXiv
2204.09656).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import pad

from lbdsl.core.cache import SCREENS
from lbdsl.core.digest import digest_of
from lbdsl.core.files import keep_in_cache, read_entry
from lbdsl.core.progress import Report, unreported
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import chunk_tokens
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.measure.variant import variant_of

VERSION = 2
"""Increase it when other values are computed."""

SAMPLES, RUN = 4, 16
"""Next tokens that are sampled a position, each with a backward pass, which costs less than as many tokens of text; and
positions in a run. On SmolLM2 one sample, and runs of 1 or 64, give worse plans."""

OneLayer = tuple[int, LayerChange]
"""A change of one layer of the base."""


@dataclass(frozen=True)
class Screened:
    """Of P changes: `squares_SP`, the sum of s_i^2 over the runs of each of S sequences, and `products_PP`, the sums of
    s_i s_j over all of them, each the mean over the samples; `positions` in a sequence. In float64."""

    squares_SP: Tensor
    products_PP: Tensor
    positions: int


def screen(
    source: Callable[[], LayerSource],
    changes: Sequence[OneLayer],
    blocks: TokenBlocks,
    folder: Path,
    fingerprint: str,
    *,
    seed: int = 0,
    progress: Report = unreported,
    batch: int = 1,
    statistics: StatisticsOf = NO_STATISTICS,
    statistics_digests: object = None,
) -> Screened:
    """The screen of `changes` on `blocks`, kept in `folder` under `fingerprint`, after each batch: an interrupted one is
    taken up. `source` returns the base, which must be in memory. It takes one forward and `SAMPLES` backward passes, and
    each layer once for each of its changes."""
    # What is sampled depends on the batch.
    changed = [[layer, change.to_json()] for layer, change in changes]
    key = digest_of([fingerprint, seed, batch, VERSION, changed, statistics_digests])
    path = SCREENS.path(folder, f"{key[:32]}.safetensors")
    try:
        kept = load(read_entry(path))
        squares_SP, products_PP = kept["squares"], kept["products"]
        shapes = squares_SP.shape[1:], products_PP.shape, squares_SP.dtype, products_PP.dtype
        if (
            shapes != ((len(changes),), 2 * (len(changes),), torch.float64, torch.float64)
            or len(squares_SP) > blocks.sequences
        ):
            raise ValueError(f"{path} is of another screen")
    except (OSError, SafetensorError, KeyError, ValueError):
        squares_SP = torch.zeros(0, len(changes), dtype=torch.float64)
        products_PP = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for start in range(len(squares_SP), blocks.sequences, batch):
        model = source()
        assert model.in_memory, "the backward pass needs all layers"
        ids_BN = blocks.ids[start : start + batch].to(model.device)
        values_PBR = _effects(model, changes, ids_BN, seed + start, statistics)
        squares_SP = torch.cat([squares_SP, values_PBR.square().sum(-1).T])
        flat = values_PBR.flatten(1)
        products_PP = products_PP + flat @ flat.T
        keep_in_cache(path, save({"squares": squares_SP, "products": products_PP}))
        progress(start + len(ids_BN), blocks.sequences, f"sequences {start + 1}-{start + len(ids_BN)}")
    return Screened(squares_SP, products_PP, blocks.seq - 1)


def _effects(
    source: LayerSource, changes: Sequence[OneLayer], ids_BN: Tensor, seed: int, statistics: StatisticsOf
) -> Tensor:
    """s [P, B, R] of the R runs, each as often as `SAMPLES`, over the root of that; in float64, on the CPU."""
    body = source.hybrid.model
    with torch.enable_grad():
        states = [source.embed(ids_BN).detach().requires_grad_()]
        inputs = body.prepare(states[0])
        for index, layer in enumerate(body.layers):
            states.append(body.run_layer(layer, index, states[-1], inputs))
        lasts_TBND = _gradients_of_samples(source, states[-1].detach(), seed)
        # By layer, that of each sample.
        gradients = [[*of_layer] for of_layer in zip(*(_gradients(states, last) for last in lasts_TBND), strict=True)]
    found = []
    with torch.inference_mode():
        for layer, change in changes:
            variant = variant_of(source.hybrid, layer, change, statistics(layer))
            changed_BND = body.run_layer(variant, layer, states[layer].detach(), inputs)
            difference_BND = changed_BND.float() - states[layer + 1].detach().float()
            effects = [_runs((difference_BND * each.float()).sum(-1)[:, :-1]) for each in gradients[layer]]
            found.append(torch.cat(effects, -1).double().cpu())
    return torch.stack(found) / SAMPLES**0.5


def _runs(values_BN: Tensor) -> Tensor:
    """The sums [B, R] over runs of positions; the last may be shorter."""
    return pad(values_BN, (0, -values_BN.shape[-1] % RUN)).unflatten(-1, (-1, RUN)).sum(-1)


def _gradients(states: Sequence[Tensor], last_BND: Tensor) -> list[Tensor]:
    """By the hidden states after each layer, from that after the last."""
    return [*torch.autograd.grad(states[-1], states[1:-1], grad_outputs=last_BND, retain_graph=True), last_BND]


def _gradients_of_samples(source: LayerSource, hidden_BND: Tensor, seed: int) -> Tensor:
    """T = SAMPLES gradients [T, B, N, D] of the log-likelihood of a sampled next token a position, by the hidden states
    after the last layer; 0 at the last position, which has no next token."""
    flat_MD = hidden_BND.flatten(0, 1)
    gradients_TMD = torch.zeros(SAMPLES, *flat_MD.shape, dtype=flat_MD.dtype, device=flat_MD.device)
    generator = torch.Generator(device=flat_MD.device).manual_seed(seed)
    chunk = chunk_tokens(flat_MD.device.type)
    with source.head() as head:
        for start in range(0, len(flat_MD), chunk):
            part_CD = flat_MD[start : start + chunk].detach().requires_grad_()
            logp_CV = torch.log_softmax(head.predict(part_CD), dim=-1, dtype=torch.float32)
            sampled_CT = torch.multinomial(logp_CV.detach().exp(), SAMPLES, replacement=True, generator=generator)
            for number, picked_C in enumerate(logp_CV.gather(-1, sampled_CT).unbind(-1)):
                (gradient_CD,) = torch.autograd.grad(picked_C.sum(), part_CD, retain_graph=True)
                gradients_TMD[number, start : start + chunk] = gradient_CD
    gradients_TBND = gradients_TMD.unflatten(1, hidden_BND.shape[:2])
    gradients_TBND[:, :, -1] = 0
    return gradients_TBND
