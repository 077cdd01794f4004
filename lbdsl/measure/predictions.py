"""Compare next-token predictions in chunks, so that logits of all tokens x vocabulary never exist at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.measure.answers import ANSWERED
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

    `ids_BN` are B sequences of N tokens; of those that are predicted count all, or those that `counted_BN` names. A metric
    is NaN where a changed model's likelihood of the text is not finite. `hidden_BND` are the base's hidden
    states after the last layer, before the final norm. The base's predictions are computed once for all changed models, and
    the predictions of at most two models exist at a time. Raises LB451 if the base's loss is NaN or infinite.
    """
    places_M, targets_M, counted_BN = _predicted(ids_BN, counted_BN)
    losses_M = torch.empty_like(targets_M, dtype=torch.float64)
    values = [
        {metric.kind: torch.empty_like(targets_M, dtype=torch.float64) for metric in each.metrics} for each in changed
    ]
    for span in _chunks(targets_M):
        places, targets = places_M[span], targets_M[span]
        base_CV = _log_probs(base, hidden_BND, places)
        losses_M[span] = -base_CV.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        for each, found in zip(changed, values, strict=True):
            changed_CV = _log_probs(each.model, each.hidden_BND, places)
            # A most likely token is found among NaNs, too: what a model without likelihoods is worth is no number.
            known = changed_CV.gather(-1, targets.unsqueeze(-1)).squeeze(-1).isfinite()
            for metric in each.metrics:
                found[metric.kind][span] = metric.per_token(base_CV, changed_CV, targets).where(known, math.nan)
    if not bool(losses_M.isfinite().all()):
        raise base_not_finite("on this text")
    return _by_row(losses_M, counted_BN), [
        {kind: _by_row(values_M, counted_BN) for kind, values_M in found.items()} for found in values
    ]


@torch.inference_mode()
def answer_sums(model: Any, hidden_BND: Tensor, ids_BN: Tensor, counted_BN: Tensor) -> dict[str, list[SequenceSum]]:
    """What the answers, whose tokens `counted_BN` names, are worth to a model alone: see `ANSWERED`."""
    places_M, targets_M, counted_BN = _predicted(ids_BN, counted_BN)
    values = {kind: torch.empty_like(targets_M, dtype=torch.float64) for kind in ANSWERED}
    for span in _chunks(targets_M):
        logp_CV = _log_probs(model, hidden_BND, places_M[span])
        for kind, metric in ANSWERED.items():
            values[kind][span] = metric.per_token(logp_CV, logp_CV, targets_M[span])
    return {kind: _by_row(values_M, counted_BN) for kind, values_M in values.items()}


def _predicted(ids_BN: Tensor, counted_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The places that predict a token that counts, in the flattened sequences; the tokens; and where they are among all
    but the first of each sequence. The head takes as long as many layers: it predicts nothing else."""
    counted_BN = torch.ones_like(ids_BN, dtype=torch.bool) if counted_BN is None else counted_BN
    counted_BN = counted_BN[:, 1:]
    places_BN = torch.arange(ids_BN.numel(), device=ids_BN.device).view_as(ids_BN)[:, :-1]
    return places_BN[counted_BN], ids_BN[:, 1:][counted_BN], counted_BN


def _chunks(targets_M: Tensor) -> Iterator[slice]:
    chunk = chunk_tokens(targets_M.device.type)
    return (slice(start, start + chunk) for start in range(0, len(targets_M), chunk))


def _by_row(values_M: Tensor, counted_BN: Tensor) -> list[SequenceSum]:
    values_BN = torch.zeros(counted_BN.shape, dtype=torch.float64, device=counted_BN.device)
    values_BN[counted_BN] = values_M
    return sums_of(values_BN, counted_BN)


def base_not_finite(where: str) -> Exception:
    return fail(
        "LB451",
        f"the base model's own loss is NaN or infinite {where}, before any change",
        help=("try `--dtype float32`: float16 overflows in many models", "else the weights are damaged"),
    )


def sums_of(values_BN: Tensor, counted_BN: Tensor | None = None) -> list[SequenceSum]:
    """One fp64 sum per sequence, over the values at all positions, or at those that count."""
    if counted_BN is None:
        counted_BN = torch.ones_like(values_BN, dtype=torch.bool)
    totals = values_BN.double().where(counted_BN, 0.0).sum(-1)
    return [SequenceSum(total, count) for total, count in zip(totals.tolist(), counted_BN.sum(-1).tolist(), strict=True)]


def _log_probs(model: Any, hidden_BND: Tensor, places: Tensor) -> Tensor:
    """Log-probabilities [C, V] in fp32, at positions `places` of the flattened sequences."""
    return torch.log_softmax(model.predict(hidden_BND.flatten(0, 1)[places]), dim=-1, dtype=torch.float32)
