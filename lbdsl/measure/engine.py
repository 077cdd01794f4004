"""The sensitivity engine: scores of single layers, with prefix reuse, kept on disk as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lbdsl.actions import Action
from lbdsl.core.diagnostic import fail
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.progress import Report
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.meter import Meter
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.residual import residual_sums
from lbdsl.measure.store import Store, Sum
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.streaming_scores import measure_from_disk
from lbdsl.measure.variant import StatisticsOf, no_statistics, variant_of
from lbdsl.measure.work import BASE_NLL, Found, MicroBatch, Suffix, key_of
from lbdsl.metrics import LogitsMetric, ResidualMetric, metrics

__all__ = ["BASE_NLL", "measure_requests"]


def measure_requests(
    model: Callable[[], Any],
    facts: ModelFacts,
    requests: Iterable[Request],
    actions: Mapping[str, Action],
    blocks: TokenBlocks,
    store: Store,
    fingerprint: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
    statistics: StatisticsOf = no_statistics,
) -> dict[Request, Measurement]:
    """Measure what is not in the store yet, and return every request's mean over the tokens of `blocks`.

    For each micro-batch of `batch` sequences the base runs once and the stream before each layer that matters is kept;
    every (layer, action) then runs from there to the end, so L layers under one action cost about L / 2 forward
    passes. Sums are stored after each such run: a kill loses one run at most, and a resumed measurement gives the
    same numbers as one that was not cut off.

    model: gives the hybrid base model (`lbdsl.model.surgery.to_hybrid`), in eval mode, or a StreamedModel, which is
    measured layer by layer from disk, with the same numbers; called only when something is missing. actions: the action
    of every non-empty `Request.action` text. progress: told of layer-forwards of one sequence, the head weighted by its
    cost. batch: sequences at a time; a stored measurement should be resumed with the same. statistics: those that
    the actions make new weights from.
    The result also has `BASE_NLL`. Raises LbdslError LB449 for a layer that has lost what an action needs, LB448
    for a store that cannot be used.
    """
    wanted = sorted(set(requests), key=lambda r: (r.layer, r.action, r.metric))
    runs = _suffixes(wanted, facts, actions)
    residuals = [r for r in wanted if issubclass(metrics()[r.metric], ResidualMetric)]
    keys = [key_of(request) for request in (*wanted, BASE_NLL)]
    known = {key: dict(store.get(fingerprint, key)) for key in keys}

    work: list[MicroBatch] = []
    for start in range(0, blocks.sequences, batch):
        rows = range(start, min(start + batch, blocks.sequences))
        missing = {key for key in keys if not all(row in known[key] for row in rows)}
        if missing:
            work.append(
                MicroBatch(
                    rows,
                    base_nll=key_of(BASE_NLL) in missing,
                    suffixes=tuple(left for run in runs if (left := run.only(missing)).metrics),
                    residuals=tuple(r for r in residuals if key_of(r) in missing),
                )
            )
    if work:
        base = model()
        measured = measure_from_disk if isinstance(base, StreamedModel) else _measured
        for found in measured(base, blocks, work, progress, statistics):
            store.put(fingerprint, found)
            for key, row, value in found:
                known[key][row] = value
    return {request: _mean(request, known[key_of(request)], blocks.sequences) for request in (*wanted, BASE_NLL)}


def _suffixes(wanted: Sequence[Request], facts: ModelFacts, actions: Mapping[str, Action]) -> list[Suffix]:
    """One run per (layer, action), by layer."""
    grouped: dict[tuple[int, str], list[type[LogitsMetric]]] = {}
    for request in wanted:
        metric = metrics()[request.metric]
        if issubclass(metric, LogitsMetric):
            grouped.setdefault((request.layer, request.action), []).append(metric)
    return [
        Suffix(layer, action, _under(actions[action], facts, layer), tuple(kinds))
        for (layer, action), kinds in grouped.items()
    ]


def _under(action: Action, facts: ModelFacts, layer: int) -> LayerChange:
    change = action.under(facts, layer)
    if change is None:
        raise fail(
            "LB449",
            f"`{action.text()}` cannot be measured at layer {layer}: it has no `{'`, `'.join(action.claims())}`",
            help="rank or choose among the layers that have one",
        )
    return change


def _measured(
    model: Any, blocks: TokenBlocks, work: Sequence[MicroBatch], progress: Report | None, statistics: StatisticsOf
) -> Iterator[Found]:
    meter = Meter(progress, model)
    for todo in work:
        meter.expect(meter.run(len(todo.rows)) + sum(meter.run(len(todo.rows), run.layer) for run in todo.suffixes))
    for todo in work:
        yield from _run(model, blocks.ids, todo, meter, blocks.sequences, statistics)


@torch.inference_mode()
def _base_pass(model: Any, ids_BN: Tensor, micro_batch: MicroBatch) -> tuple[Any, Tensor, dict[int, Tensor], Found]:
    """The base once: the layers' inputs, the last hidden state, the stream before each layer that a suffix starts at,
    and the residual metrics."""
    layers = model.model
    starts = {run.layer for run in micro_batch.suffixes}
    asked: dict[int, list[Request]] = {}
    for request in micro_batch.residuals:
        asked.setdefault(request.layer, []).append(request)
    kept: dict[int, Tensor] = {}
    found: Found = []
    before: dict[int, Tensor] = {}
    embedded_BND = layers.embed(ids_BN)
    inputs = layers.prepare(embedded_BND)

    def observe(layer: int, hidden_BND: Tensor) -> None:
        if layer in starts:
            kept[layer] = hidden_BND
        if layer - 1 in before:
            leave(layer - 1, hidden_BND)
        if layer in asked:
            before[layer] = hidden_BND

    def leave(layer: int, hidden_BND: Tensor) -> None:
        """Compare the stream before a layer with that after its parts; `hidden_BND` is what the layer gave."""
        found.extend(
            residual_sums(asked[layer], layers.layers[layer], before.pop(layer), hidden_BND, inputs, micro_batch.rows)
        )

    last_BND = layers.run_layers(embedded_BND, inputs, observe=observe)
    for layer in tuple(before):
        leave(layer, last_BND)
    return inputs, last_BND, kept, found


def _run(
    model: Any, ids_SN: Tensor, micro_batch: MicroBatch, meter: Meter, sequences: int, statistics: StatisticsOf
) -> Iterator[Found]:
    """Everything that is missing of one micro-batch, in portions; progress of one is told when the next is asked for,
    that is when it is safe on disk."""
    rows = micro_batch.rows
    where = f"sequence {rows.start + 1}" + (f"-{rows.stop}" if len(rows) > 1 else "") + f" of {sequences}"
    ids_BN = ids_SN[rows.start : rows.stop].to(model.lm_head.weight.device)
    inputs, last_BND, kept, found = _base_pass(model, ids_BN, micro_batch)
    with torch.inference_mode():
        base = Predictions(model, last_BND, ids_BN)
        if micro_batch.base_nll:
            found += [(key_of(BASE_NLL), row, value) for row, value in zip(rows, base.losses(), strict=True)]
    yield found
    meter.add(meter.run(len(rows)), f"{where}, base")

    for index, run in enumerate(micro_batch.suffixes):
        with torch.inference_mode():
            replace = {run.layer: variant_of(model, run.layer, run.change, statistics(run.layer))}
            changed_BND = model.model.run_layers(kept[run.layer], inputs, start=run.layer, replace=replace)
            sums = base.compare(changed_BND, run.metrics)
        if all(later.layer != run.layer for later in micro_batch.suffixes[index + 1 :]):
            del kept[run.layer]
        yield run.found(rows, sums)
        meter.add(meter.run(len(rows), run.layer), f"{where}, layer {run.layer} {run.action}")


def _mean(request: Request, sums: Mapping[int, Sum], sequences: int) -> Measurement:
    unit = Unit.NATS if request == BASE_NLL else metrics()[request.metric].unit
    values = [sums[row] for row in range(sequences)]
    return clustered_mean([value.total for value in values], [value.tokens for value in values], unit)
