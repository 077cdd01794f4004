"""Run changed models over a text: measure what is missing in the store, in groups that fit in memory, and store it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.progress import Report, unreported
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.answers import ANSWERED
from lbdsl.measure.branches import shared_tokens
from lbdsl.measure.flow import Changes, Flow, Meter, Observer, Variants, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import Changed, compare, sums_of
from lbdsl.measure.store import MODEL_LAYER, SequenceSum, Store, mean_of
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.metrics import LogitsMetric, ResidualMetric, metrics

BASE_NLL = Request("base_nll", "", MODEL_LAYER)
"""The base's own next-token loss on the same text, in nats per token; measured with everything else."""

BLOCK = "block"
"""`Request.action` of a residual metric that compares the input and output of the whole layer."""

WAIT_SECONDS = 0.2
"""Between two looks at what other processes have measured."""

Found = list[tuple[Request, int, SequenceSum]]
"""Sums by (request, sequence), in the form that `Store.put` takes."""


@dataclass(frozen=True)
class Run:
    """A changed model and the requested metrics on its logits, all measured in one run."""

    changes: Changes
    requests: tuple[Request, ...]

    def found(self, rows: range, sums: Mapping[str, list[SequenceSum]]) -> Found:
        return [pair for request in self.requests for pair in _by_row(request, rows, sums[request.metric])]


@dataclass(frozen=True)
class _MicroBatch:
    """The missing measurements of the sequences `rows`."""

    rows: range
    base_nll: bool
    runs: tuple[Run, ...]
    residuals: tuple[Request, ...]

    @property
    def asked(self) -> list[Request]:
        requests = [*(request for run in self.runs for request in run.requests), *self.residuals]
        return [*requests, BASE_NLL] if self.base_nll else requests

    def is_in(self, store: Store, fingerprint: str) -> bool:
        """Whether another process has measured all of it by now."""
        return all(row in store.get(fingerprint, request) for request in self.asked for row in self.rows)

    @property
    def streams(self) -> int:
        """Hidden states that exist at once: the base's before and after a layer, and one for each run."""
        return 2 + len(self.runs)

    def flow(self, ids_SN: Tensor, counted_SN: Tensor | None, device: Any, found: Found) -> Flow:
        """The flow to push, up to the last token that counts; its observers append residual metrics to `found`."""
        ids_BN, shared = ids_SN[self.rows.start : self.rows.stop], 0
        if counted_SN is not None:
            counted_BN = counted_SN[self.rows.start : self.rows.stop]
            end = 1 + int(counted_BN.any(0).nonzero().max())
            ids_BN = ids_BN[:, :end]
            shared = shared_tokens(ids_BN, counted_BN[:, :end])
        asked = {layer: [r for r in self.residuals if r.layer == layer] for layer in {r.layer for r in self.residuals}}
        return Flow(
            ids_BN.to(device),
            tuple(run.changes for run in self.runs),
            {layer: _observer(requests, self.rows, found) for layer, requests in asked.items()},
            shared,
        )


@dataclass(frozen=True)
class Measuring:
    """Measures on the text `blocks` what is missing in the store under `fingerprint`, and stores it.

    Several processes with the same store share the work: each does what no other is at, and waits for the rest.

    As many micro-batches of `batch` sequences as fit in memory run through the model at once, with hidden states for every
    run; for a model in memory usually only one, so that results are stored soon. A kill loses the work in progress: for a
    model in memory, usually one micro-batch at most. A resumed measurement gives the same numbers as an uninterrupted one
    if `batch` is the same.

    model: returns the base, which is not changed; called only when something is missing. progress: called in units of one
    sequence through one layer; the head is weighted by its cost. statistics: used to compute new weights. counted_SN: the
    tokens that count; None: all. groups: of sequences, are micro-batches, instead of `batch`: where those of one share a
    beginning, it is run once.
    """

    model: Callable[[], LayerSource]
    blocks: TokenBlocks
    store: Store
    fingerprint: str
    progress: Report = unreported
    batch: int = 1
    statistics: StatisticsOf = NO_STATISTICS
    counted_SN: Tensor | None = None
    groups: Sequence[range] = ()

    def means(self, runs: Sequence[Run], residuals: Sequence[Request] = ()) -> dict[Request, Measurement]:
        """Every request's mean over the tokens, and BASE_NLL. Raises what `sums` raises."""
        known = self.sums(runs, residuals)
        return {request: _mean(request, sums, self.blocks.sequences) for request, sums in known.items()}

    def sums(self, runs: Sequence[Run], residuals: Sequence[Request] = ()) -> dict[Request, Mapping[int, SequenceSum]]:
        """Of each sequence. Raises LbdslError LB448 if the store cannot be used, LB449 as `variant_of` does, LB451 if the
        base's loss is NaN or infinite."""
        wanted = (*(request for run in runs for request in run.requests), *residuals, BASE_NLL)
        starts = range(0, self.blocks.sequences, self.batch)
        parts = self.groups or [range(start, min(start + self.batch, self.blocks.sequences)) for start in starts]
        while True:
            known = {request: self.store.get(self.fingerprint, request) for request in wanted}
            todo = _missing(runs, residuals, known, parts)
            if not todo:
                return known
            done = 0
            for found in self._measured(self.model(), todo):
                self.store.put(self.fingerprint, found)
                done += len(found)
            if not done:
                self.progress(0.0, 1.0, "another lbdsl is measuring the rest")
                time.sleep(WAIT_SECONDS)

    def _measured(self, source: LayerSource, todo: Sequence[_MicroBatch]) -> Iterator[Found]:
        """Yield the missing sums in portions, but for those that another process is at. The head's progress of a portion is
        reported when the next one is requested, that is when the portion has been written to disk."""
        meter = Meter(self.progress, source)
        kept: Variants | None = {} if _can_keep_variants(source, todo) else None
        groups = _groups(source, self.blocks, todo, kept is not None)
        units = [sum(meter.runs(len(part.rows), [run.changes for run in part.runs]) for part in group) for group in groups]
        meter.expect(sum(units))
        for group, amount in zip(groups, units, strict=True):
            asked = ([part.rows.start, part.rows.stop, *map(str, part.asked)] for part in group)
            with self.store.claimed(digest_of([self.fingerprint, *asked])) as mine:
                if not mine or all(part.is_in(self.store, self.fingerprint) for part in group):
                    meter.expect(-amount)
                    continue
                yield from self._of_group(source, group, meter, kept)

    def _of_group(
        self, source: LayerSource, group: Sequence[_MicroBatch], meter: Meter, kept: Variants | None
    ) -> Iterator[Found]:
        where = f"sequences {group[0].rows.start + 1}-{group[-1].rows.stop} of {self.blocks.sequences}"
        seen: list[Found] = [[] for _ in group]
        pairs = zip(group, seen, strict=True)
        flows = [part.flow(self.blocks.ids, self.counted_SN, source.device, found) for part, found in pairs]
        push(source, flows, meter.layers_of(flows, where), kept=kept, statistics=self.statistics)
        with source.head() as head:
            for part, flow, found in zip(group, flows, seen, strict=True):
                if part.base_nll or part.runs:
                    found += _of_predictions(head, part, flow, self.counted_SN)
                yield found
                meter.add((1 + len(part.runs)) * meter.heads(len(part.rows)), f"{where}, predictions")


def _missing(
    runs: Sequence[Run],
    residuals: Sequence[Request],
    known: Mapping[Request, Mapping[int, SequenceSum]],
    parts: Iterable[range],
) -> list[_MicroBatch]:
    """What is not known, by micro-batches of sequences."""
    todo: list[_MicroBatch] = []
    for rows in parts:
        missing = {request for request, sums in known.items() if not all(row in sums for row in rows)}
        if missing:
            left = (replace(run, requests=tuple(r for r in run.requests if r in missing)) for run in runs)
            todo.append(
                _MicroBatch(
                    rows,
                    BASE_NLL in missing,
                    tuple(run for run in left if run.requests),
                    tuple(request for request in residuals if request in missing),
                )
            )
    return todo


def _of_predictions(head: Any, part: _MicroBatch, flow: Flow, counted_SN: Tensor | None) -> Found:
    known = {**metrics(), **ANSWERED}
    changed = [
        Changed(hidden_BND, [cast(type[LogitsMetric], known[r.metric]) for r in run.requests], head)
        for run, hidden_BND in zip(part.runs, flow.ends(), strict=True)
    ]
    counted = None
    if counted_SN is not None:
        ends = flow.shared, flow.ids_BN.shape[1]
        counted = counted_SN[part.rows.start : part.rows.stop, slice(*ends)].to(flow.ids_BN.device)
    losses, sums = compare(head, flow.base_BND, flow.behind, changed, counted)
    found = [pair for run, each in zip(part.runs, sums, strict=True) for pair in run.found(part.rows, each)]
    return found + _by_row(BASE_NLL, part.rows, losses) if part.base_nll else found


def _groups(
    source: LayerSource, blocks: TokenBlocks, todo: Sequence[_MicroBatch], variants_kept: bool
) -> list[list[_MicroBatch]]:
    """Micro-batches in groups that fit in memory; one that does not fit alone is split by runs. A group reads each layer,
    and computes its new weights, once. If neither costs anything, every group is a single part, which is stored soon."""
    room = room_for_streams(source)

    def size(part: _MicroBatch) -> int:
        return part.streams * stream_bytes(source, len(part.rows), blocks.seq)

    parts: list[_MicroBatch] = []
    for part in todo:
        at_once = max(1, int(room // stream_bytes(source, len(part.rows), blocks.seq)) - 2)
        parts.append(replace(part, runs=part.runs[:at_once]))
        for start in range(at_once, len(part.runs), at_once):
            parts.append(_MicroBatch(part.rows, False, part.runs[start : start + at_once], ()))
    makes_weights = any(change.makes_weights for part in parts for run in part.runs for change in run.changes.values())
    alone = variants_kept or (source.in_memory and not makes_weights)
    return grouped(parts, size, 0.0 if alone else room)


def _can_keep_variants(source: LayerSource, todo: Sequence[_MicroBatch]) -> bool:
    """Whether changed layers can be kept for the next group: one changed model, in memory, whose new weights fit."""
    if not source.in_memory or any(len(part.runs) > 1 for part in todo):
        return False
    elements = 0
    for index, change in todo[0].runs[0].changes.items() if todo[0].runs else ():
        old = {name: tuple(parameter.shape) for name, parameter in source.hybrid.model.layers[index].named_parameters()}
        elements += sum(map(math.prod, change.new_shapes(old).values()))
    return elements * source.hybrid.dtype.itemsize <= room_for_streams(source)


def _observer(requests: Iterable[Request], rows: range, found: Found) -> Observer:
    """An observer that measures the residual metrics of one layer, for the sequences `rows`."""

    def observe(layer: Any, before_BND: Tensor, after_BND: Tensor, inputs: Any) -> None:
        attended_BND: Tensor | None = None
        for request in requests:
            metric = cast(type[ResidualMetric], metrics()[request.metric])
            then_BND = after_BND
            if request.action != BLOCK:
                if attended_BND is None:
                    attended_BND = layer.attention_residual(before_BND, inputs)
                then_BND = attended_BND
            values_M = metric.per_token(before_BND.flatten(0, 1).float(), then_BND.flatten(0, 1).float())
            found.extend(_by_row(request, rows, sums_of(values_M.view(before_BND.shape[:2]))))

    return observe


def _by_row(request: Request, rows: range, sums: Sequence[SequenceSum]) -> Found:
    return [(request, row, value) for row, value in zip(rows, sums, strict=True)]


def _mean(request: Request, sums: Mapping[int, SequenceSum], sequences: int) -> Measurement:
    unit = Unit.NATS if request == BASE_NLL else metrics()[request.metric].unit
    return mean_of([sums[row] for row in range(sequences)], unit)
