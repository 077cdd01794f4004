"""Scores and joint losses of a model on disk: the engine's numbers, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lbdsl.core.progress import Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.memory import free_bytes
from lbdsl.measure.meter import Meter
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.residual import residual_sums
from lbdsl.measure.store import Sum
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.streaming import Flow, push
from lbdsl.measure.variant import StatisticsOf, no_statistics
from lbdsl.measure.work import BASE_NLL, Found, MicroBatch, key_of
from lbdsl.metrics import LogitsMetric

SHARE = 0.3
"""Of free memory that streams of hidden states may take."""


def measure_from_disk(
    model: StreamedModel,
    blocks: TokenBlocks,
    work: Sequence[MicroBatch],
    progress: Report | None,
    statistics: StatisticsOf = no_statistics,
    budget: int | None = None,
) -> Iterator[Found]:
    """Everything that is missing, in portions as they are finished.

    Work is done in passes over the weights: as much at once as its hidden states, one stream for each change, fit into
    `budget` bytes (None: a share of free memory). When all of it fits, every layer is read once.
    """
    meter = Meter(progress, model.hybrid)
    passes = _passes(model, blocks, work, SHARE * free_bytes(model.device) if budget is None else budget)
    for todo in passes:
        meter.expect(sum(_units(meter, model, part) for part in todo))
    for number, todo in enumerate(passes, start=1):
        where = f"pass {number} of {len(passes)}"
        yield from _pass(model, blocks, todo, meter, where, statistics)


def joint_from_disk(
    model: StreamedModel,
    changes: Mapping[int, LayerChange],
    blocks: TokenBlocks,
    work: Sequence[range],
    joint: Sequence[type[LogitsMetric]],
    progress: Report | None,
    statistics: StatisticsOf,
) -> Iterator[tuple[range, dict[str, list[Sum]]]]:
    """Sums a sequence by metric, the base's loss among them, of one micro-batch after the other; two streams each."""
    meter = Meter(progress, model.hybrid)
    first = min(changes, default=model.layers)
    passes = _grouped(work, [2 * _stream_bytes(model, blocks, rows) for rows in work], SHARE * free_bytes(model.device))
    for rows in work:
        meter.expect(meter.run(len(rows)) + meter.run(len(rows), first))
    for number, group in enumerate(passes, start=1):
        flows = [Flow(_ids(model, blocks, rows), (changes,)) for rows in group]
        _push(model, flows, meter, f"pass {number} of {len(passes)}", statistics)
        with model.head() as predictor:
            for rows, flow in zip(group, flows, strict=True):
                with torch.inference_mode():
                    base = Predictions(predictor, flow.last_BND, flow.ids_BN, keep_bytes=0)
                    (sums,) = base.compare_each([(cast(Tensor, flow.changed[0]), joint)])
                    found = {BASE_NLL.metric: base.losses(), **sums}
                yield rows, found
                meter.add(2 * meter.run(len(rows), model.layers), f"sequence {rows.stop} of {blocks.sequences}")


def _pass(
    model: StreamedModel,
    blocks: TokenBlocks,
    todo: Sequence[MicroBatch],
    meter: Meter,
    where: str,
    statistics: StatisticsOf,
) -> Iterator[Found]:
    seen: list[Found] = [[] for _ in todo]
    flows = [
        Flow(
            _ids(model, blocks, part.rows),
            tuple({run.layer: run.change} for run in part.suffixes),
            _observers(part, found),
        )
        for part, found in zip(todo, seen, strict=True)
    ]
    _push(model, flows, meter, where, statistics)
    with model.head() as predictor:
        for part, flow, found in zip(todo, flows, seen, strict=True):
            with torch.inference_mode():
                base = Predictions(predictor, flow.last_BND, flow.ids_BN, keep_bytes=0)
                if part.base_nll:
                    found += [(key_of(BASE_NLL), row, value) for row, value in zip(part.rows, base.losses(), strict=True)]
                changed = [
                    (cast(Tensor, state), run.metrics) for state, run in zip(flow.changed, part.suffixes, strict=True)
                ]
                for run, sums in zip(part.suffixes, base.compare_each(changed), strict=True):
                    found += run.found(part.rows, sums)
            yield found
            meter.add((1 + len(part.suffixes)) * meter.run(len(part.rows), model.layers), f"{where}, head")


def _push(
    model: StreamedModel, flows: Sequence[Flow], meter: Meter, where: str, statistics: StatisticsOf = no_statistics
) -> None:
    def done(layer: int) -> None:
        units = sum(flow.running(layer) * len(flow.ids_BN) for flow in flows)
        meter.add(units, f"{where}, layer {layer}")

    push(model, flows, done, statistics=statistics)


def _observers(part: MicroBatch, found: Found) -> dict[int, Any]:
    """By layer, what takes the residual metrics of one micro-batch."""

    def observer(requests: list) -> Any:
        def observe(layer: Any, before_BND: Tensor, after_BND: Tensor, inputs: Any) -> None:
            found.extend(residual_sums(requests, layer, before_BND, after_BND, inputs, part.rows))

        return observe

    asked: dict[int, list] = {}
    for request in part.residuals:
        asked.setdefault(request.layer, []).append(request)
    return {layer: observer(requests) for layer, requests in asked.items()}


def _passes(model: StreamedModel, blocks: TokenBlocks, work: Sequence[MicroBatch], budget: float) -> list[list[MicroBatch]]:
    """Micro-batches in groups whose streams fit; one that does not fit alone does its changes in several passes."""
    parts: list[MicroBatch] = []
    for todo in work:
        stream = _stream_bytes(model, blocks, todo.rows)
        at_once = max(1, int(budget // stream) - 2)
        parts.append(replace(todo, suffixes=todo.suffixes[:at_once]))
        for start in range(at_once, len(todo.suffixes), at_once):
            parts.append(MicroBatch(todo.rows, False, todo.suffixes[start : start + at_once], ()))
    return _grouped(parts, [(2 + len(part.suffixes)) * _stream_bytes(model, blocks, part.rows) for part in parts], budget)


def _grouped(items: Sequence[Any], sizes: Sequence[int], budget: float) -> list[list[Any]]:
    groups: list[list[Any]] = []
    left = -1.0
    for item, size in zip(items, sizes, strict=True):
        if size > left:
            groups.append([])
            left = budget
        groups[-1].append(item)
        left -= size
    return groups


def _stream_bytes(model: StreamedModel, blocks: TokenBlocks, rows: range) -> int:
    """One stream of hidden states of a micro-batch."""
    return len(rows) * blocks.ids.shape[1] * model.hybrid.config.hidden_size * model.hybrid.dtype.itemsize


def _units(meter: Meter, model: StreamedModel, part: MicroBatch) -> float:
    return meter.run(len(part.rows)) + sum(meter.run(len(part.rows), run.layer) for run in part.suffixes)


def _ids(model: StreamedModel, blocks: TokenBlocks, rows: range) -> Tensor:
    return blocks.ids[rows.start : rows.stop].to(model.device)
