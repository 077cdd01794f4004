"""Next-token predictions of one micro-batch, compared in chunks: tokens x vocabulary never exists at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.measure.store import Sum
from lbdsl.metrics import LogitsMetric


def chunk_tokens(device_type: str) -> int:
    """Positions whose logits exist at once. On a CPU, 128 x 49152 in fp32 still profits from the last-level cache: the
    softmax of 512 positions at a time takes twice as long a token."""
    return {"cpu": 128, "cuda": 512}.get(device_type, 256)


KEEP_BYTES = 1536 * 2**20
"""Base log-probabilities up to this size are kept for a whole micro-batch; larger ones are made again for each use."""


class Predictions:
    """The base's predictions at every position that has a next token, for B sequences of N tokens.

    `hidden_BND` is the stream after the last layer, before the final norm; `ids_BN` the tokens.
    """

    def __init__(self, model: Any, hidden_BND: Tensor, ids_BN: Tensor, keep_bytes: int = KEEP_BYTES):
        self._model = model
        self._batch = ids_BN.shape[0]
        self._targets = ids_BN[:, 1:].reshape(-1)
        self._chunk = chunk_tokens(ids_BN.device.type)
        self._hidden: Tensor | None = self._predicting(hidden_BND)
        self._kept: list[Tensor] | None = None
        vocab = model.lm_head.weight.shape[0]
        if self._targets.numel() * vocab * 4 <= keep_bytes:
            self._kept = [logp for _, logp in self._log_probs(self._hidden)]
            self._hidden = None

    def losses(self) -> list[Sum]:
        """Next-token loss of the base in nats, one sum a sequence. LB451 when it is not a number."""
        values = self._empty()
        for span, logp_CV in self._base():
            values[span] = -logp_CV.gather(-1, self._targets[span].unsqueeze(-1)).squeeze(-1)
        if not bool(values.isfinite().all()):
            raise fail(
                "LB451",
                "the base model's own loss is NaN or infinite on this text, before any change",
                help=("try `--dtype float32`: float16 overflows in many models", "else the weights are damaged"),
            )
        return self._sums(values)

    def compare(
        self, changed_BND: Tensor, metrics: Sequence[type[LogitsMetric]], model: Any = None
    ) -> dict[str, list[Sum]]:
        """Sums a sequence of every metric between the base and a changed model's last hidden state, before the final
        norm. `model` is the changed one where its norm and head are not the base's."""
        values = {metric.kind: self._empty() for metric in metrics}
        changed = self._log_probs(self._predicting(changed_BND), model)
        for (span, base_CV), (_, changed_CV) in zip(self._base(), changed, strict=True):
            for metric in metrics:
                values[metric.kind][span] = metric.per_token(base_CV, changed_CV, self._targets[span])
        return {kind: self._sums(each) for kind, each in values.items()}

    def compare_each(self, changed: Sequence[tuple[Tensor, Sequence[type[LogitsMetric]]]]) -> list[dict[str, list[Sum]]]:
        """`compare` for many changed models at once, each with its last hidden state and metrics: the base's predictions
        are made once for all of them, and logits of two models exist at a time."""
        values = [{metric.kind: self._empty() for metric in metrics} for _, metrics in changed]
        streams = [self._log_probs(self._predicting(hidden_BND)) for hidden_BND, _ in changed]
        for span, base_CV in self._base() if changed else ():
            for (_, metrics), stream, found in zip(changed, streams, values, strict=True):
                _, changed_CV = next(stream)
                for metric in metrics:
                    found[metric.kind][span] = metric.per_token(base_CV, changed_CV, self._targets[span])
        return [{kind: self._sums(each) for kind, each in found.items()} for found in values]

    def _predicting(self, hidden_BND: Tensor) -> Tensor:
        """[B * (N - 1), D]: positions that have a next token."""
        return hidden_BND[:, :-1].flatten(0, 1)

    def _base(self) -> Iterator[tuple[slice, Tensor]]:
        if self._kept is None:
            assert self._hidden is not None
            yield from self._log_probs(self._hidden)
        else:
            yield from zip(self._spans(), self._kept, strict=True)

    def _log_probs(self, hidden_MD: Tensor, model: Any = None) -> Iterator[tuple[slice, Tensor]]:
        model = self._model if model is None else model
        for span in self._spans():
            logits_CV = model.predict(hidden_MD[span])
            yield span, torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)

    def _spans(self) -> Iterator[slice]:
        for start in range(0, self._targets.numel(), self._chunk):
            yield slice(start, start + self._chunk)

    def _empty(self) -> Tensor:
        return torch.empty(self._targets.numel(), dtype=torch.float64, device=self._targets.device)

    def _sums(self, values_M: Tensor) -> list[Sum]:
        per_sequence = values_M.view(self._batch, -1)
        return [Sum(total, per_sequence.shape[1]) for total in per_sequence.sum(-1).tolist()]


def sums_of(values_BN: Tensor) -> list[Sum]:
    """One fp64 sum a sequence, of values at every position."""
    return [Sum(total, values_BN.shape[1]) for total in values_BN.sum(-1, dtype=torch.float64).tolist()]
