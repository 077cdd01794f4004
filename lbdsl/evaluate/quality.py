"""How good an artifact is against its base model: perplexity, KL, top-1 agreement, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Progress, Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.store import Sum
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.streaming import Flow, push
from lbdsl.metrics import LogitsMetric
from lbdsl.metrics.kl import KullbackLeibler
from lbdsl.metrics.nll import NextTokenLoss


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of the evaluation text; standard errors are clustered by sequence.

    `rise` is the artifact's next-token loss minus the base's, paired token by token (nats a token); `kl` is
    KL(base || artifact); `agreement` the share of tokens at which both models' most likely next token is the same.
    """

    data: str
    digest: str
    base_nll: Measurement
    nll: Measurement
    rise: Measurement
    kl: Measurement
    agreement: Measurement

    @property
    def ppl_increase(self) -> float:
        """Perplexity of the artifact over the base's, minus one (a ratio)."""
        return _exp(self.rise.value) - 1

    @property
    def ppl_increase_stderr(self) -> float:
        """First-order standard error of `ppl_increase`."""
        return _exp(self.rise.value) * self.rise.stderr

    def post_scores(self) -> Mapping[str, float]:
        """The values that post asserts speak of."""
        return post_scores(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The fields of `eval --json` that come from measuring."""
        base, artifact = _exp(self.base_nll.value), _exp(self.nll.value)
        return _finite(
            {
                "data": self.data,
                "data_digest": self.digest,
                "tokens": self.nll.tokens,
                "sequences": self.nll.sequences,
                "perplexity": {"base": base, "artifact": artifact},
                "nll": {"base": self.base_nll.value, "artifact": self.nll.value},
                "loss_rise": self.rise.value,
                "ppl_increase": self.ppl_increase,
                "kl": self.kl.value,
                "agreement": self.agreement.value,
                "stderr": {
                    "perplexity_base": base * self.base_nll.stderr,
                    "perplexity_artifact": artifact * self.nll.stderr,
                    "loss_rise": self.rise.stderr,
                    "ppl_increase": self.ppl_increase_stderr,
                    "kl": self.kl.stderr,
                    "agreement": self.agreement.stderr,
                },
            }
        )


def post_scores(source: Mapping[str, Any]) -> Mapping[str, float]:
    """The values that post asserts speak of, from the JSON of one text; NaN where that has null."""
    names = {"ppl_increase": "ppl_increase", "agreement": "agreement", "kl_healed": "kl"}
    return {name: math.nan if source[key] is None else source[key] for name, key in names.items()}


def evaluation_json(after: Sequence[Quality], before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What `eval --json` and the record have of a model judged on several texts: the first one's fields, and those of each
    under `sources`. `before` are the fields of the model before healing on the same texts; empty where nothing is known."""
    sources = [quality.to_json() for quality in after]
    for source, was in zip(sources, before, strict=False):
        source["before_healing"] = dict(was)
    return {**sources[0], "sources": sources}


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null instead."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _exp(nats: float) -> float:
    """exp, infinite where it overflows: a model can be that broken."""
    return math.exp(nats) if nats < 700 else math.inf


class _Agreement(LogitsMetric):
    """1 where both models find the same next token most likely."""

    kind = "agreement"
    unit = "1"

    @staticmethod
    def per_token(base_logp_NV: Tensor, changed_logp_NV: Tensor, target_N: Tensor) -> Tensor:
        return (base_logp_NV.argmax(-1) == changed_logp_NV.argmax(-1)).double()


@torch.inference_mode()
def judge(base: Any, artifact: Any, ids_SN: Tensor, *, data: str, digest: str, progress: Report, batch: int = 1) -> Quality:
    """Compare two hybrid causal language models, or two StreamedModels, on S sequences of N tokens; every token but the
    first of each is predicted. Logits are made in chunks, log-probabilities in fp32, sums in fp64.
    """
    base_nll: list[Sum] = []
    found: dict[str, list[Sum]] = {metric.kind: [] for metric in _COMPARED}
    device = base.device
    batches = [ids_SN[start : start + batch].to(device) for start in range(0, ids_SN.shape[0], batch)]
    states = zip(batches, _last_hidden(base, batches), _last_hidden(artifact, batches), strict=True)
    done = 0
    with _predictor(base) as before, _predictor(artifact) as after:
        for ids_BN, base_BND, artifact_BND in states:
            predictions = Predictions(before, base_BND, ids_BN)
            base_nll += predictions.losses()
            for kind, sums in predictions.compare(artifact_BND, _COMPARED, after).items():
                found[kind] += sums
            done += len(ids_BN)
            progress(done, ids_SN.shape[0])
    nll = [Sum(before.total + rise.total, rise.tokens) for before, rise in zip(base_nll, found["nll"], strict=True)]
    return Quality(
        data=data,
        digest=digest,
        base_nll=_mean(base_nll, "nats/token"),
        nll=_mean(nll, "nats/token"),
        rise=_mean(found["nll"], "nats/token"),
        kl=_mean(found["kl"], "nats/token"),
        agreement=_mean(found["agreement"], "1"),
    )


def judge_on(
    base: Any, artifact: Any, texts: Sequence[TokenBlocks], title: str, progress: Progress, batch: int = 1
) -> tuple[Quality, ...]:
    """`judge` on one text after the other, each a stage of its own."""
    found = []
    for blocks in texts:
        with progress.stage(f"{title} on {blocks.data}" if len(texts) > 1 else title) as report:
            found.append(
                judge(base, artifact, blocks.ids, data=blocks.data, digest=blocks.digest, progress=report, batch=batch)
            )
    return tuple(found)


_COMPARED: tuple[type[LogitsMetric], ...] = (NextTokenLoss, KullbackLeibler, _Agreement)


def _last_hidden(model: Any, batches: Sequence[Tensor]) -> Iterable[Tensor]:
    """The residual streams after the last layer, before the final norm, [B, N, D], one after the other; of a model on
    disk all at once."""
    if isinstance(model, StreamedModel):
        flows = [Flow(ids_BN) for ids_BN in batches]
        push(model, flows)
        return [flow.last_BND for flow in flows]
    return (_forward(model, ids_BN) for ids_BN in batches)


def _forward(model: Any, ids_BN: Tensor) -> Tensor:
    embedded_BND = model.model.embed(ids_BN)
    return model.model.run_layers(embedded_BND, model.model.prepare(embedded_BND))


def _predictor(model: Any) -> AbstractContextManager[Any]:
    return model.head() if isinstance(model, StreamedModel) else nullcontext(model)


def _mean(sums: list[Sum], unit: str) -> Measurement:
    return clustered_mean([item.total for item in sums], [item.tokens for item in sums], unit)
