"""How good an artifact is against its base model: perplexity and every metric of the finished model, with errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.arithmetic import exponential
from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Progress, Report
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.store import Sum
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.streaming import Flow, push
from lbdsl.metrics import DerivedMetric, LogitsMetric, Metric, Of, metrics_of
from lbdsl.metrics.nll import NextTokenLoss


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of the evaluation text; standard errors are clustered by sequence.

    `rise` is the artifact's next-token loss minus the base's, paired token by token (nats a token); `scores` has every
    metric that may stand of the finished model, by name.
    """

    data: str
    digest: str
    base_nll: Measurement
    nll: Measurement
    rise: Measurement
    scores: Mapping[str, Measurement]

    def post_scores(self) -> Mapping[str, float]:
        """The values that post asserts speak of."""
        return {name: score.value for name, score in self.scores.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields of `eval --json` that come from measuring. `scores` has every metric; some have a field, too."""
        base, artifact = exponential(self.base_nll.value), exponential(self.nll.value)
        fields = {field: self.scores[name] for field, name in _FIELDS.items()}
        return _finite(
            {
                "data": self.data,
                "data_digest": self.digest,
                "tokens": self.nll.tokens,
                "sequences": self.nll.sequences,
                "perplexity": {"base": base, "artifact": artifact},
                "nll": {"base": self.base_nll.value, "artifact": self.nll.value},
                "loss_rise": self.rise.value,
                **{field: score.value for field, score in fields.items()},
                "scores": {
                    name: {"value": score.value, "stderr": score.stderr, "unit": score.unit}
                    for name, score in self.scores.items()
                },
                "stderr": {
                    "perplexity_base": base * self.base_nll.stderr,
                    "perplexity_artifact": artifact * self.nll.stderr,
                    "loss_rise": self.rise.stderr,
                    **{field: score.stderr for field, score in fields.items()},
                },
            }
        )


_FIELDS = {"ppl_increase": "ppl_increase", "kl": "kl_healed", "agreement": "agreement"}
"""Fields of the JSON that were there before `scores`, and the metric that each holds."""


def post_scores(source: Mapping[str, Any]) -> Mapping[str, float]:
    """The values that post asserts speak of, from the JSON of one text; NaN where that has null."""
    return {name: math.nan if score["value"] is None else score["value"] for name, score in source["scores"].items()}


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


def comparisons() -> tuple[type[LogitsMetric], ...]:
    """What is measured of two models at every token: the rise of the loss, and all that values of the finished model are
    made of, each once."""
    found: dict[str, type[LogitsMetric]] = {NextTokenLoss.kind: NextTokenLoss}
    for metric in metrics_of(Of.FINISHED).values():
        for each in _parts(metric):
            if found.setdefault(each.kind, each) is not each:
                raise ValueError(f"two comparisons are called {each.kind!r}, one of them for {metric.kind!r}")
    return tuple(found.values())


def _parts(metric: type[Metric]) -> tuple[type[LogitsMetric], ...]:
    if issubclass(metric, DerivedMetric):
        return metric.means
    assert issubclass(metric, LogitsMetric), "no other metric may stand of the finished model"
    return (metric,)


def score_of(metric: type[Metric], means: Mapping[str, Measurement]) -> Measurement:
    """The value of a metric of the finished model, from the means of the comparisons by name."""
    parts = [means[part.kind] for part in _parts(metric)]
    if not issubclass(metric, DerivedMetric):
        return parts[0]
    value, stderr = metric.value(parts)
    return replace(parts[0], value=value, stderr=stderr, unit=metric.unit)


@torch.inference_mode()
def judge(base: Any, artifact: Any, ids_SN: Tensor, *, data: str, digest: str, progress: Report, batch: int = 1) -> Quality:
    """Compare two hybrid causal language models, or two StreamedModels, on S sequences of N tokens; every token but the
    first of each is predicted. Logits are made in chunks, log-probabilities in fp32, sums in fp64.
    """
    base_nll: list[Sum] = []
    compared = comparisons()
    found: dict[str, list[Sum]] = {metric.kind: [] for metric in compared}
    device = base.device
    batches = [ids_SN[start : start + batch].to(device) for start in range(0, ids_SN.shape[0], batch)]
    states = zip(batches, _last_hidden(base, batches), _last_hidden(artifact, batches), strict=True)
    done = 0
    with _predictor(base) as before, _predictor(artifact) as after:
        for ids_BN, base_BND, artifact_BND in states:
            predictions = Predictions(before, base_BND, ids_BN)
            base_nll += predictions.losses()
            for kind, sums in predictions.compare(artifact_BND, compared, after).items():
                found[kind] += sums
            done += len(ids_BN)
            progress(done, ids_SN.shape[0])
    rises = found[NextTokenLoss.kind]
    nll = [Sum(before.total + rise.total, rise.tokens) for before, rise in zip(base_nll, rises, strict=True)]
    means = {metric.kind: _mean(found[metric.kind], metric.unit) for metric in compared}
    return Quality(
        data=data,
        digest=digest,
        base_nll=_mean(base_nll, Unit.NATS),
        nll=_mean(nll, Unit.NATS),
        rise=means[NextTokenLoss.kind],
        scores=MappingProxyType({name: score_of(metric, means) for name, metric in metrics_of(Of.FINISHED).items()}),
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


def _mean(sums: list[Sum], unit: Unit) -> Measurement:
    return clustered_mean([item.total for item in sums], [item.tokens for item in sums], unit)
