"""The joint loss: the whole changed model against the base, since single layers' scores do not add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.progress import Report
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.meter import Meter
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.store import MODEL_LAYER, Key, Store, Sum
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.streaming_scores import joint_from_disk
from lbdsl.measure.variant import StatisticsOf, no_statistics, variant_of
from lbdsl.metrics import LogitsMetric, Of, metrics_of

_BASE = Key("base_nll", "", MODEL_LAYER)


@dataclass(frozen=True)
class JointLoss:
    """Of the whole changed model: every metric that may stand of it, by name, `nll` and `kl` among them; and the base's
    loss on the same text, in nats a token."""

    scores: Mapping[str, Measurement]
    base_nll: Measurement


def measure_joint(
    model: Callable[[], Any],
    changes: Mapping[int, LayerChange],
    blocks: TokenBlocks,
    store: Store,
    fingerprint: str,
    selection_digest: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
    statistics: StatisticsOf = no_statistics,
) -> JointLoss:
    """Measure the model with the layers of `changes` under their specifications, on JOINT text.

    model: gives the hybrid base model, which is not changed, or a StreamedModel, which is measured from disk; called
    only when something is missing. changes: possibly empty. The stretch before the first
    changed layer runs once for both. Kept in the store under `selection_digest`, which must identify `changes`; sums are
    stored after each micro-batch.
    """
    joint = tuple(cast(type[LogitsMetric], metric) for metric in metrics_of(Of.CHANGED).values())
    keys = {metric.kind: Key(metric.kind, f"joint {selection_digest}", MODEL_LAYER) for metric in joint}
    known = {key: dict(store.get(fingerprint, key)) for key in (*keys.values(), _BASE)}
    work = [range(start, min(start + batch, blocks.sequences)) for start in range(0, blocks.sequences, batch)]
    work = [rows for rows in work if not all(row in sums for sums in known.values() for row in rows)]
    if work:
        base = model()
        measured = joint_from_disk if isinstance(base, StreamedModel) else _measured
        for rows, sums in measured(base, changes, blocks, work, joint, progress, statistics):
            found = [
                (_BASE if kind == _BASE.metric else keys[kind], row, value)
                for kind, values in sums.items()
                for row, value in zip(rows, values, strict=True)
            ]
            store.put(fingerprint, found)
            for key, row, value in found:
                known[key][row] = value

    means = {metric.kind: _mean(known[keys[metric.kind]], blocks.sequences, metric.unit) for metric in joint}
    return JointLoss(MappingProxyType(means), _mean(known[_BASE], blocks.sequences, Unit.NATS))


def _measured(
    model: Any,
    changes: Mapping[int, LayerChange],
    blocks: TokenBlocks,
    work: Sequence[range],
    joint: Sequence[type[LogitsMetric]],
    progress: Report | None,
    statistics: StatisticsOf,
) -> Iterator[tuple[range, dict[str, list[Sum]]]]:
    """Sums a sequence by metric, the base's loss among them, of one micro-batch after the other."""
    first = min(changes, default=len(model.model.layers))
    meter = Meter(progress, model)
    for rows in work:
        meter.expect(meter.run(len(rows)) + meter.run(len(rows), first))
    variants = {layer: variant_of(model, layer, change, statistics(layer)) for layer, change in sorted(changes.items())}
    for rows in work:
        ids_BN = blocks.ids[rows.start : rows.stop].to(model.lm_head.weight.device)
        sums = _compare(model, ids_BN, first, variants, joint)
        yield rows, sums
        meter.add(meter.run(len(rows)) + meter.run(len(rows), first), f"sequence {rows.stop} of {blocks.sequences}")


@torch.inference_mode()
def _compare(
    model: Any, ids_BN: Tensor, first: int, variants: Mapping[int, torch.nn.Module], joint: Sequence[type[LogitsMetric]]
) -> dict[str, list[Sum]]:
    layers = model.model
    embedded_BND = layers.embed(ids_BN)
    inputs = layers.prepare(embedded_BND)
    shared_BND = layers.run_layers(embedded_BND, inputs, stop=first)
    base = Predictions(model, layers.run_layers(shared_BND, inputs, start=first), ids_BN)
    changed_BND = layers.run_layers(shared_BND, inputs, start=first, replace=variants)
    return {_BASE.metric: base.losses(), **base.compare(changed_BND, joint)}


def _mean(sums: Mapping[int, Sum], sequences: int, unit: Unit) -> Measurement:
    values = [sums[row] for row in range(sequences)]
    return clustered_mean([value.total for value in values], [value.tokens for value in values], unit)
