"""The sensitivity engine: scores of single layers, with prefix reuse, kept on disk as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lbdsl.actions import Action
from lbdsl.core.facts import ModelFacts
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.progress import Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.meter import Meter
from lbdsl.measure.predictions import Predictions, sums_of
from lbdsl.measure.store import MODEL_LAYER, Key, Store, Sum
from lbdsl.measure.variant import entries_of, variant_of
from lbdsl.metrics import LogitsMetric, ResidualMetric, metrics

BASE_NLL = Request("base_nll", "", MODEL_LAYER)
"""The base's own next-token loss on the same text, in nats a token; recorded with every measurement."""

Found = list[tuple[Key, int, Sum]]
"""Sums of (key, sequence), as the store takes them."""


def measure_requests(model: Callable[[], Any], facts: ModelFacts, requests: Iterable[Request],
                     actions: Mapping[str, Action], blocks: TokenBlocks, store: Store, fingerprint: str, *,
                     progress: Report | None = None, batch: int = 1) -> dict[Request, Measurement]:
    """Measure what is not in the store yet, and return every request's mean over the tokens of `blocks`.

    For each micro-batch of `batch` sequences the base runs once and the stream before each layer that matters is kept;
    every (layer, action) then runs from there to the end, so L layers under one action cost about L / 2 forward
    passes. Sums are stored after each such run: a kill loses one run at most, and a resumed measurement gives the
    same numbers as one that was not cut off.

    model: gives the hybrid base model (`lbdsl.model.surgery.to_hybrid`), in eval mode; called only when something is
    missing. actions: the action of every non-empty `Request.action` text. progress: told of layer-forwards of one
    sequence, the head weighted by its cost. batch: sequences at a time; a stored measurement should be resumed with
    the same.
    The result also has `BASE_NLL`. Raises LbdslError LB449 for an action that changes no layer specification, LB448
    for a store that cannot be used.
    """
    wanted = sorted(set(requests), key=lambda r: (r.layer, r.action, r.metric))
    runs = _suffixes(wanted, facts, actions)
    residuals = [r for r in wanted if issubclass(metrics()[r.metric], ResidualMetric)]
    keys = [_key(request) for request in (*wanted, BASE_NLL)]
    known = {key: dict(store.get(fingerprint, key)) for key in keys}

    work: list[_MicroBatch] = []
    for start in range(0, blocks.sequences, batch):
        rows = range(start, min(start + batch, blocks.sequences))
        missing = {key for key in keys if not all(row in known[key] for row in rows)}
        if missing:
            work.append(_MicroBatch(
                rows, base_nll=_key(BASE_NLL) in missing,
                suffixes=tuple(left for run in runs if (left := run.only(missing)).metrics),
                residuals=tuple(r for r in residuals if _key(r) in missing),
            ))
    if work:
        for found in _measured(model(), blocks, work, progress):
            store.put(fingerprint, found)
            for key, row, value in found:
                known[key][row] = value
    return {request: _mean(request, known[_key(request)], blocks.sequences) for request in (*wanted, BASE_NLL)}


@dataclass(frozen=True)
class _Suffix:
    """A run from `layer` to the end with `entries` in that layer's specification; it serves all its metrics."""

    layer: int
    action: str
    entries: Mapping[str, Any]
    metrics: tuple[type[LogitsMetric], ...]

    def only(self, missing: set[Key]) -> _Suffix:
        left = tuple(metric for metric in self.metrics if Key(metric.kind, self.action, self.layer) in missing)
        return _Suffix(self.layer, self.action, self.entries, left)


@dataclass(frozen=True)
class _MicroBatch:
    """What is missing of the sequences `rows`."""

    rows: range
    base_nll: bool
    suffixes: tuple[_Suffix, ...]
    residuals: tuple[Request, ...]


def _suffixes(wanted: Sequence[Request], facts: ModelFacts, actions: Mapping[str, Action]) -> list[_Suffix]:
    """One run per (layer, action), by layer."""
    grouped: dict[tuple[int, str], list[type[LogitsMetric]]] = {}
    for request in wanted:
        metric = metrics()[request.metric]
        if issubclass(metric, LogitsMetric):
            grouped.setdefault((request.layer, request.action), []).append(metric)
    return [_Suffix(layer, action, entries_of(actions[action], facts, layer), tuple(kinds))
            for (layer, action), kinds in grouped.items()]


def _measured(model: Any, blocks: TokenBlocks, work: Sequence[_MicroBatch], progress: Report | None) -> Iterator[Found]:
    meter = Meter(progress, model)
    for todo in work:
        meter.expect(meter.run(len(todo.rows)) + sum(meter.run(len(todo.rows), run.layer) for run in todo.suffixes))
    for todo in work:
        yield from _run(model, blocks.ids, todo, meter, blocks.sequences)


@torch.inference_mode()
def _base_pass(model: Any, ids_BN: Tensor, micro_batch: _MicroBatch) -> tuple[Any, Tensor, dict[int, Tensor], Found]:
    """The base once: the layers' inputs, the last hidden state, the stream before each layer that a suffix starts at,
    and the residual metrics."""
    layers = model.model
    starts = {run.layer for run in micro_batch.suffixes}
    asked: dict[int, list[Request]] = {}
    for request in micro_batch.residuals:
        asked.setdefault(request.layer, []).append(request)
    kept: dict[int, Tensor] = {}
    found: Found = []
    embedded_BND = layers.embed_tokens(ids_BN)
    inputs = layers.prepare(embedded_BND)

    def observe(layer: int, hidden_BND: Tensor) -> None:
        if layer in starts:
            kept[layer] = hidden_BND
        if layer in asked:
            after_BND = layers.layers[layer].attention_residual(hidden_BND, inputs)
            for request in asked[layer]:
                metric = cast(type[ResidualMetric], metrics()[request.metric])
                values_M = metric.per_token(hidden_BND.flatten(0, 1).float(), after_BND.flatten(0, 1).float())
                sums = sums_of(values_M.view(ids_BN.shape))
                found.extend((_key(request), row, value) for row, value in zip(micro_batch.rows, sums, strict=True))

    last_BND = layers.run_layers(embedded_BND, inputs, observe=observe)
    return inputs, last_BND, kept, found


def _run(model: Any, ids_SN: Tensor, micro_batch: _MicroBatch, meter: Meter, sequences: int) -> Iterator[Found]:
    """Everything that is missing of one micro-batch, in portions; progress of one is told when the next is asked for,
    that is when it is safe on disk."""
    rows = micro_batch.rows
    where = f"sequence {rows.start + 1}" + (f"-{rows.stop}" if len(rows) > 1 else "") + f" of {sequences}"
    ids_BN = ids_SN[rows.start : rows.stop].to(model.lm_head.weight.device)
    inputs, last_BND, kept, found = _base_pass(model, ids_BN, micro_batch)
    with torch.inference_mode():
        base = Predictions(model, last_BND, ids_BN)
        if micro_batch.base_nll:
            found += [(_key(BASE_NLL), row, value) for row, value in zip(rows, base.losses(), strict=True)]
    yield found
    meter.add(meter.run(len(rows)), f"{where}, base")

    for index, run in enumerate(micro_batch.suffixes):
        with torch.inference_mode():
            replace = {run.layer: variant_of(model, run.layer, run.entries)}
            changed_BND = model.model.run_layers(kept[run.layer], inputs, start=run.layer, replace=replace)
            sums = base.compare(changed_BND, run.metrics)
        if all(later.layer != run.layer for later in micro_batch.suffixes[index + 1 :]):
            del kept[run.layer]
        yield [(Key(kind, run.action, run.layer), row, value)
               for kind, values in sums.items() for row, value in zip(rows, values, strict=True)]
        meter.add(meter.run(len(rows), run.layer), f"{where}, layer {run.layer} {run.action}")


def _key(request: Request) -> Key:
    return Key(request.metric, request.action, request.layer)


def _mean(request: Request, sums: Mapping[int, Sum], sequences: int) -> Measurement:
    unit = "nats/token" if request == BASE_NLL else metrics()[request.metric].unit
    values = [sums[row] for row in range(sequences)]
    return clustered_mean([value.total for value in values], [value.tokens for value in values], unit)
