"""Quality of an artifact against its base model: perplexity and all metrics of the finished model, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from lbdsl.core.arithmetic import exponential
from lbdsl.core.measurement import Measurement
from lbdsl.core.progress import Progress
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.evaluate.tasks import TaskResult
from lbdsl.measure.flow import Flow, Meter, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import Changed, compare
from lbdsl.measure.store import SequenceSum, mean_of
from lbdsl.metrics import DerivedMetric, LogitsMetric, Metric, Of, TaskMetric, metrics_of
from lbdsl.metrics.nll import NextTokenLoss
from lbdsl.model.hybrid.lbdsl_parts import state_shares


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of the evaluation text; standard errors are clustered by sequence.

    `rise` is the artifact's next-token loss minus the base's, paired token by token (nats per token); `scores` has all
    metrics that apply to the finished model, by name; `state_shares`, by layer, the share of its attention's output that
    comes from a state. Of a base alone the last four are empty.
    """

    data: str
    digest: str
    base_nll: Measurement
    nll: Measurement | None = None
    rise: Measurement | None = None
    scores: Mapping[str, Measurement] = field(default_factory=dict)
    state_shares: Mapping[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The measured fields of `eval --json`. `scores` has every metric; some also have their own field."""
        losses = {"base": self.base_nll, **({"artifact": self.nll} if self.nll is not None else {})}
        rises = {"loss_rise": self.rise} if self.rise is not None else {}
        fields = {**rises, **{field: self.scores[name] for field, name in _FIELDS.items() if name in self.scores}}
        shares = {str(layer): share for layer, share in self.state_shares.items()}
        return finite(
            {
                "data": self.data,
                "data_digest": self.digest,
                "tokens": self.base_nll.tokens,
                "sequences": self.base_nll.sequences,
                "perplexity": {model: exponential(loss.value) for model, loss in losses.items()},
                "nll": {model: loss.value for model, loss in losses.items()},
                **{field: score.value for field, score in fields.items()},
                **({"state_shares": shares} if shares else {}),
                "scores": {
                    name: {"value": score.value, "stderr": score.stderr, "unit": score.unit}
                    for name, score in self.scores.items()
                },
                "stderr": {
                    **{f"perplexity_{model}": exponential(loss.value) * loss.stderr for model, loss in losses.items()},
                    **{field: score.stderr for field, score in fields.items()},
                },
            }
        )


_FIELDS = {"ppl_increase": "ppl_increase", "kl": "kl_healed", "agreement": "agreement"}
"""Fields of the JSON that are older than `scores`, and the metric of each."""


def scores_in(source: Mapping[str, Any]) -> Mapping[str, Measurement]:
    """The scores in the JSON of one text; NaN for null."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return {
        name: Measurement(
            number(score["value"]), number(score["stderr"]), Unit(score["unit"]), source["tokens"], source["sequences"]
        )
        for name, score in source["scores"].items()
    }


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


Kept = dict[str, dict[int, Tensor]]
"""Hidden states of a base after its last layer, by text and by the first sequence of a micro-batch."""

KEPT_BYTES = 2**28


def judge_on(
    base: LayerSource,
    artifact: LayerSource | None,
    texts: Sequence[TokenBlocks],
    title: str,
    progress: Progress,
    batch: int = 1,
    kept: Kept | None = None,
) -> tuple[Quality, ...]:
    """Compare two models on each text, or look at a base alone, as a separate progress stage; every token except the first
    of each sequence is predicted. Micro-batches of `batch` sequences run through a streamed model together, as many as fit
    in memory. `kept` has the base's hidden states for the next judgement on the same texts, where they are small.
    """
    found = []
    for blocks in texts:
        with progress.stage(f"{title} on {blocks.data}" if len(texts) > 1 else title) as report, state_shares() as shares:
            found.append(_judged(base, artifact, blocks, Meter(report, base), batch, kept))
        found[-1] = replace(found[-1], state_shares=shares())
    return tuple(found)


def _judged(
    base: LayerSource,
    artifact: LayerSource | None,
    blocks: TokenBlocks,
    meter: Meter,
    batch: int,
    kept: Kept | None,
) -> Quality:
    states = {} if kept is None else kept.setdefault(blocks.digest, {})
    keeps = kept is not None and stream_bytes(base, blocks.sequences, blocks.seq) <= KEPT_BYTES
    base_nll: list[SequenceSum] = []
    compared = comparisons() if artifact is not None else ()
    found: dict[str, list[SequenceSum]] = {metric.kind: [] for metric in compared}
    models = [base] if artifact is None else [base, artifact]
    meter.expect((len(models) - bool(states)) * meter.runs(blocks.sequences) + bool(states) * meter.heads(blocks.sequences))
    room = 0.0 if all(model.in_memory for model in models) else room_for_streams(*models)
    for group in grouped(blocks.ids.split(batch), lambda ids_BN: 3 * stream_bytes(base, len(ids_BN), blocks.seq), room):
        before, after = ([Flow(ids_BN.to(base.device)) for ids_BN in group] for _ in range(2))
        first, last = len(base_nll) + 1, len(base_nll) + sum(map(len, group))
        where = f"sequence{f's {first}-{last}' if last > first else f' {first}'} of {blocks.sequences}"
        places = range(first, last + 1, batch)
        new = [flow for place, flow in zip(places, before, strict=True) if place not in states]
        push(base, new, meter.layers_of(new, f"{where}, base"))
        for place, flow in zip(places, before, strict=True):
            if place in states:
                flow.base_BND = states[place].to(base.device)
            elif keeps:
                states[place] = flow.base_BND.to("cpu")
        if artifact is not None:
            push(artifact, after, meter.layers_of(after, f"{where}, result"))
        with base.head() as head, nullcontext() if artifact is None else artifact.head() as other:
            for flow, its in zip(before, after, strict=True):
                changed = [Changed(its.base_BND, compared, other)] if artifact is not None else []
                losses, sums = compare(head, flow.base_BND, flow.ids_BN, changed)
                base_nll += losses
                for of_artifact in sums:
                    for kind, values in of_artifact.items():
                        found[kind] += values
                meter.add(len(models) * meter.heads(len(flow.ids_BN)), f"{where}, predictions")
    of_base = Quality(data=blocks.data, digest=blocks.digest, base_nll=mean_of(base_nll, Unit.NATS))
    if artifact is None:
        return of_base
    rises = found[NextTokenLoss.kind]
    nll = [SequenceSum(before.total + rise.total, rise.tokens) for before, rise in zip(base_nll, rises, strict=True)]
    means = {metric.kind: mean_of(found[metric.kind], metric.unit) for metric in compared}
    return replace(
        of_base,
        nll=mean_of(nll, Unit.NATS),
        rise=means[NextTokenLoss.kind],
        scores=MappingProxyType({name: score_of(metric, means) for name, metric in _of_texts().items()}),
    )
