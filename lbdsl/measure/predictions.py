"""Compare next-token predictions in chunks, so that logits of all tokens x vocabulary never exist at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.measure.store import SequenceSum
from lbdsl.metrics import LogitsMetric


def chunk_tokens(device_type: str) -> int:
    """Number of positions whose logits exist at once. On a CPU, 128 x 49152 in fp32 still benefits from the last-level
    cache: a softmax over 512 positions at a time takes twice as long per token."""
    return {"cpu": 128, "cuda": 512}.get(device_type, 256)


class Changed(NamedTuple):
    """A changed model to compare with its base: the hidden states before its final norm, the metrics, and the hybrid model
    whose `predict` to use (the base if norm and head are the base's)."""

    hidden_BND: Tensor
    metrics: Sequence[type[LogitsMetric]]
    model: Any


@torch.inference_mode()
def compare(
    base: Any, hidden_BND: Tensor, ids_BN: Tensor, changed: Sequence[Changed], counted_BN: Tensor | None = None
) -> tuple[list[SequenceSum], list[dict[str, list[SequenceSum]]]]:
    """The base's next-token loss in nats, and every metric of each changed model by name; one sum per sequence, in fp64.

    `ids_BN` are B sequences of N tokens; of those that are predicted count all, or those that `counted_BN` names.
    `hidden_BND` are the base's hidden
    states after the last layer, before the final norm. The base's predictions are computed once for all changed models, and
    the predictions of at most two models exist at a time. Raises LB451 if the base's loss is NaN or infinite.
    """
    targets_M = ids_BN[:, 1:].flatten()
    places_M = torch.arange(ids_BN.numel(), device=ids_BN.device).view_as(ids_BN)[:, :-1].flatten()
    losses_M = _empty(targets_M)
    values = [{metric.kind: _empty(targets_M) for metric in each.metrics} for each in changed]
    chunk = chunk_tokens(ids_BN.device.type)
    for start in range(0, len(targets_M), chunk):
        span = slice(start, start + chunk)
        places, targets = places_M[span], targets_M[span]
        base_CV = _log_probs(base, hidden_BND, places)
        losses_M[span] = -base_CV.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        for each, found in zip(changed, values, strict=True):
            changed_CV = _log_probs(each.model, each.hidden_BND, places)
            for metric in each.metrics:
                found[metric.kind][span] = metric.per_token(base_CV, changed_CV, targets)
    if not bool(losses_M.isfinite().all()):
        raise fail(
            "LB451",
            "the base model's own loss is NaN or infinite on this text, before any change",
            help=("try `--dtype float32`: float16 overflows in many models", "else the weights are damaged"),
        )
    batch = len(ids_BN)
    counted = None if counted_BN is None else counted_BN[:, 1:]
    return sums_of(losses_M.view(batch, -1), counted), [
        {kind: sums_of(values_M.view(batch, -1), counted) for kind, values_M in found.items()} for found in values
    ]


def sums_of(values_BN: Tensor, counted_BN: Tensor | None = None) -> list[SequenceSum]:
    """One fp64 sum per sequence, over the values at all positions, or at those that count."""
    if counted_BN is None:
        counted_BN = torch.ones_like(values_BN, dtype=torch.bool)
    totals = values_BN.double().where(counted_BN, 0.0).sum(-1)
    return [SequenceSum(total, count) for total, count in zip(totals.tolist(), counted_BN.sum(-1).tolist(), strict=True)]


def _log_probs(model: Any, hidden_BND: Tensor, places: Tensor) -> Tensor:
    """Log-probabilities [C, V] in fp32, at positions `places` of the flattened sequences."""
    return torch.log_softmax(model.predict(hidden_BND.flatten(0, 1)[places]), dim=-1, dtype=torch.float32)


def _empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.float64, device=like.device)
