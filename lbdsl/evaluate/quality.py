"""Quality of an artifact against its base model: perplexity and all metrics of the finished model, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lbdsl.core.arithmetic import exponential
from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Progress
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.evaluate.tasks import TaskResult
from lbdsl.measure.flow import Flow, Meter, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import Changed, compare
from lbdsl.measure.store import SequenceSum
from lbdsl.metrics import DerivedMetric, LogitsMetric, Metric, Of, TaskMetric, metrics_of
from lbdsl.metrics.nll import NextTokenLoss


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of the evaluation text; standard errors are clustered by sequence.

    `rise` is the artifact's next-token loss minus the base's, paired token by token (nats per token); `scores` has all
    metrics that apply to the finished model, by name.
    """

    data: str
    digest: str
    base_nll: Measurement
    nll: Measurement
    rise: Measurement
    scores: Mapping[str, Measurement]

    def post_scores(self) -> Mapping[str, float]:
        """The values that post asserts compare, by metric name."""
        return {name: score.value for name, score in self.scores.items()}

    def to_json(self) -> dict[str, Any]:
        """The measured fields of `eval --json`. `scores` has every metric; some also have their own field."""
        base, artifact = exponential(self.base_nll.value), exponential(self.nll.value)
        fields = {field: self.scores[name] for field, name in _FIELDS.items()}
        return finite(
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
"""Fields of the JSON that are older than `scores`, and the metric of each."""


def post_scores(source: Mapping[str, Any]) -> Mapping[str, float]:
    """The values that post asserts compare, from the JSON of one text; NaN for null."""
    return {name: math.nan if score["value"] is None else score["value"] for name, score in source["scores"].items()}


def evaluation_json(
    after: Sequence[Quality], before: Sequence[Mapping[str, Any]] = (), tasks: Sequence[TaskResult] = ()
) -> dict[str, Any]:
    """The JSON of `eval --json` and the record for a model evaluated on several texts: the fields of the first text, and
    those of each under `sources`; and its right answers under `tasks`. `before` has the fields of the model before healing
    on the same texts, if known."""
    sources = [quality.to_json() for quality in after]
    for source, was in zip(sources, before, strict=False):
        source["before_healing"] = dict(was)
    answered = {"tasks": [finite(task.to_json()) for task in tasks]} if tasks else {}
    return {**sources[0], "sources": sources, **answered}


def finite(value: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparisons() -> tuple[type[LogitsMetric], ...]:
    """The per-token metrics to measure when comparing two models: the rise of the loss, and all that the metrics of the
    finished model are computed from, each once."""
    found: dict[str, type[LogitsMetric]] = {NextTokenLoss.kind: NextTokenLoss}
    for metric in _of_texts().values():
        for each in _parts(metric):
            if found.setdefault(each.kind, each) is not each:
                raise ValueError(f"two comparisons are called {each.kind!r}, one of them for {metric.kind!r}")
    return tuple(found.values())


def _of_texts() -> Mapping[str, type[Metric]]:
    """The metrics of the finished model on a text, by name."""
    return {name: metric for name, metric in metrics_of(Of.FINISHED).items() if not issubclass(metric, TaskMetric)}


def _parts(metric: type[Metric]) -> tuple[type[LogitsMetric], ...]:
    if issubclass(metric, DerivedMetric):
        return metric.means
    assert issubclass(metric, LogitsMetric), "no other metric may stand of the finished model"
    return (metric,)


def score_of(metric: type[Metric], means: Mapping[str, Measurement]) -> Measurement:
    """The value of a metric of the finished model, from the means of the `comparisons`, by name."""
    parts = [means[part.kind] for part in _parts(metric)]
    if not issubclass(metric, DerivedMetric):
        return parts[0]
    value, stderr = metric.value(parts)
    return replace(parts[0], value=value, stderr=stderr, unit=metric.unit)


def judge_on(
    base: LayerSource, artifact: LayerSource, texts: Sequence[TokenBlocks], title: str, progress: Progress, batch: int = 1
) -> tuple[Quality, ...]:
    """Compare two models on each text, as a separate progress stage; every token except the first of each sequence is
    predicted. Micro-batches of `batch` sequences run through a streamed model together, as many as fit in memory.
    """
    found = []
    for blocks in texts:
        with progress.stage(f"{title} on {blocks.data}" if len(texts) > 1 else title) as report:
            found.append(_judged(base, artifact, blocks, Meter(report, base), batch))
    return tuple(found)


def _judged(base: LayerSource, artifact: LayerSource, blocks: TokenBlocks, meter: Meter, batch: int) -> Quality:
    base_nll: list[SequenceSum] = []
    compared = comparisons()
    found: dict[str, list[SequenceSum]] = {metric.kind: [] for metric in compared}
    meter.expect(2 * meter.runs(blocks.sequences))
    room = 0.0 if base.in_memory and artifact.in_memory else room_for_streams(base, artifact)
    for group in grouped(blocks.ids.split(batch), lambda ids_BN: 3 * stream_bytes(base, len(ids_BN), blocks.seq), room):
        before, after = ([Flow(ids_BN.to(base.device)) for ids_BN in group] for _ in range(2))
        first, last = len(base_nll) + 1, len(base_nll) + sum(map(len, group))
        where = f"sequence{f's {first}-{last}' if last > first else f' {first}'} of {blocks.sequences}"
        push(base, before, meter.layers_of(before, f"{where}, base"))
        push(artifact, after, meter.layers_of(after, f"{where}, result"))
        with base.head() as head, artifact.head() as other:
            for flow, its in zip(before, after, strict=True):
                losses, (sums,) = compare(head, flow.base_BND, flow.ids_BN, [Changed(its.base_BND, compared, other)])
                base_nll += losses
                for kind, values in sums.items():
                    found[kind] += values
                meter.add(2 * meter.heads(len(flow.ids_BN)), f"{where}, predictions")
    rises = found[NextTokenLoss.kind]
    nll = [SequenceSum(before.total + rise.total, rise.tokens) for before, rise in zip(base_nll, rises, strict=True)]
    means = {metric.kind: _mean(found[metric.kind], metric.unit) for metric in compared}
    return Quality(
        data=blocks.data,
        digest=blocks.digest,
        base_nll=_mean(base_nll, Unit.NATS),
        nll=_mean(nll, Unit.NATS),
        rise=means[NextTokenLoss.kind],
        scores=MappingProxyType({name: score_of(metric, means) for name, metric in _of_texts().items()}),
    )


def _mean(sums: list[SequenceSum], unit: Unit) -> Measurement:
    return clustered_mean([item.total for item in sums], [item.tokens for item in sums], unit)
