"""Answers behind their questions, as rows of tokens, and how likely a model finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lbdsl.data.records import common_start
from lbdsl.data.written import generated
from lbdsl.measure.answers import AnswerLoss, AnswerMiss, first_choices
from lbdsl.measure.branches import SHARED, shared_tokens
from lbdsl.measure.flow import Flow, grouped, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import answer_sums
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME

TOKENS = 1024
"""Rows are run together up to so many tokens, filled up to the longest; those of a long question always."""

SAME = 0.5
"""Questions are about one text if they begin with so much of the same."""

BEHIND = 4096
"""The most tokens of questions that are run together behind a text."""

Pair = tuple[list[int], list[int]]
"""Tokens before an answer, and its own."""


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """`ids_SN` has a row for each answer, after its question, filled up at its end; `counted_SN` names the answer's tokens.
    Rows of one of `groups` are run together; `row_of` has the row of each answer in the order given. `tokens` are those of
    one pass over all, a shared beginning counted once. The beginnings of `cut` answers did not fit."""

    ids_SN: Tensor
    counted_SN: Tensor
    groups: tuple[range, ...]
    row_of: tuple[int, ...]
    tokens: int
    cut: int


def answer_rows(pairs: Sequence[Pair], positions: int, batch: int = 1) -> AnswerRows:
    """Rows of at most `positions` tokens, the last of a longer question. Answers of one question stand one after another,
    and so do questions about one text. Those of a long question or text are a group, as they share it; other rows are
    grouped by their length."""
    order: list[tuple[int, Pair]] = []
    groups: list[range] = []
    short: list[tuple[int, Pair]] = []
    for rows in _sharing(_of_questions(pairs, positions)):
        befores = [before for _, (before, _) in rows]
        # What the first and the last in order begin with, all begin with.
        if len(rows) > 1 and common_start(min(befores), max(befores)) > SHARED:
            groups.append(range(len(order), len(order) + len(rows)))
            order += rows
        else:
            short += rows
    short.sort(key=lambda item: sum(map(len, item[1])))
    longest = max((sum(map(len, pair)) for _, pair in short), default=1)
    together = batch * max(1, TOKENS // longest)
    first = len(order)
    order += short
    groups += [range(start, min(start + together, len(order))) for start in range(first, len(order), together)]
    width = max(sum(map(len, pair)) for _, pair in order)
    ids_SN = torch.zeros(len(order), width, dtype=torch.int64)
    counted_SN = torch.zeros(len(order), width, dtype=torch.bool)
    place = {}
    for row, (at, (before, answer)) in enumerate(order):
        place[at] = row
        end = len(before) + len(answer)
        ids_SN[row, :end] = torch.tensor([*before, *answer])
        counted_SN[row, len(before) : end] = True
    shared = [shared_tokens(*(of_SN[rows.start : rows.stop] for of_SN in (ids_SN, counted_SN))) for rows in groups]
    return AnswerRows(
        ids_SN,
        counted_SN,
        tuple(groups),
        tuple(place[at] for at in range(len(pairs))),
        sum(sum(map(len, pair)) for _, pair in order)
        - sum(tokens * (len(rows) - 1) for tokens, rows in zip(shared, groups, strict=True)),
        sum(len(before) + len(answer) > positions for before, answer in pairs),
    )


def _of_questions(pairs: Sequence[Pair], positions: int) -> Iterator[list[tuple[int, Pair]]]:
    """The answers of each question, with their places in `pairs`."""
    for before, of_one in groupby(enumerate(pairs), key=lambda item: item[1][0]):
        answers = [(at, answer) for at, (_, answer) in of_one]
        # Cut alike, so that they still share it.
        kept = before[max(0, len(before) + max(len(answer) for _, answer in answers) - positions) :]
        yield [(at, (kept, answer)) for at, answer in answers]


def _sharing(questions: Iterable[list[tuple[int, Pair]]]) -> Iterator[list[tuple[int, Pair]]]:
    """Questions that begin with the same long text, together: up to `BEHIND` tokens behind it."""
    rows: list[tuple[int, Pair]] = []
    behind = 0
    for of_one in questions:
        before = of_one[0][1][0]
        first = rows[0][1][0] if rows else []
        shared = common_start(first, before)
        behind += sum(len(before) - shared + len(answer) for _, (_, answer) in of_one)
        if rows and (shared <= max(SHARED, SAME * max(len(first), len(before))) or behind > BEHIND):
            yield rows
            rows = []
        if not rows:
            behind = sum(len(answer) for _, (_, answer) in of_one)
        rows = rows + of_one
    if rows:
        yield rows


@torch.inference_mode()
def likelihoods(
    source: LayerSource, rows: AnswerRows, told: Callable[[float], None], writes: Collection[int] = ()
) -> list[tuple[float, bool]]:
    """The log-likelihood of each answer in nats, in the order given, and whether each of its tokens is the most likely one;
    NaN where it is not finite. `told`: the share of the rows that are done. `writes`: the answers, by their place in that
    order, that the model writes itself: each token is the most likely one behind those that it has written. It must be in
    memory for that."""
    found: list[tuple[float, bool]] = []
    writing = {rows.row_of[at] for at in writes}
    room = 0.0 if source.in_memory else room_for_streams(source)
    for groups in grouped(rows.groups, lambda group: 3 * stream_bytes(source, 1, _size(rows, group)), room):
        flows = [_flow(rows, group, source, not writing.isdisjoint(group)) for group in groups]
        done, share = len(found), sum(map(len, groups)) / source.layers

        def passed(layer: int, done: int = done, share: float = share) -> None:
            told((done + share * layer) / len(rows.ids_SN))

        push(source, flows, passed)
        with source.head() as head:
            for group, flow in zip(groups, flows, strict=True):
                counted_BN = rows.counted_SN[group.start : group.stop, : flow.ids_BN.shape[1]]
                sums = answer_sums(head, flow.base_BND, flow.behind, counted_BN[:, flow.shared :].to(source.device))
                for row, loss, miss in zip(group, sums[AnswerLoss.kind], sums[AnswerMiss.kind], strict=True):
                    first = miss.total == 0
                    if row in writing:
                        ids_N, counted_N = flow.ids_BN[row - group.start], counted_BN[row - group.start]
                        first = first_written(
                            source.hybrid, ids_N, counted_N, flow.inputs.beginning() if flow.shared else None
                        )
                    found.append((-loss.total, first))
        told(len(found) / len(rows.ids_SN))
    return [found[row] for row in rows.row_of]


def _size(rows: AnswerRows, group: range) -> int:
    """Tokens that are run of a group."""
    ids_BN, counted_BN = _rows_of(rows, group)
    shared = shared_tokens(ids_BN, counted_BN)
    return shared + len(group) * (ids_BN.shape[1] - shared)


def _flow(rows: AnswerRows, group: range, source: LayerSource, keeps: bool) -> Flow:
    ids_BN, counted_BN = _rows_of(rows, group)
    return Flow(ids_BN.to(source.device), shared=shared_tokens(ids_BN, counted_BN), keeps=keeps)


def _rows_of(rows: AnswerRows, group: range) -> tuple[Tensor, Tensor]:
    """The rows of a group, up to the end of the longest."""
    counted_BN = rows.counted_SN[group.start : group.stop]
    end = 1 + int(counted_BN.any(0).nonzero().max())
    return rows.ids_SN[group.start : group.stop, :end], counted_BN[:, :end]


def first_written(model: Any, ids_N: Tensor, counted_N: Tensor, cache: Any = None) -> bool:
    """Whether a model that writes, greedily, behind the tokens before those that count, writes these. `cache`: of a model
    that has read some of what stands before. Of several tokens that are equally likely none is its choice."""
    answer = counted_N.nonzero().flatten()
    start, end = int(answer[0]), 1 + int(answer[-1])
    inputs = {} if cache is None else {CACHE_NAME: cache}
    said = {"output_logits": True, "return_dict_in_generate": True}
    written = generated(model, ids_N[None, :start], end - start, inputs, **said)
    logits_TV = torch.cat(written.logits)
    return bool(first_choices(torch.log_softmax(logits_TV, dim=-1, dtype=torch.float32), ids_N[start:end]).prod() == 1)
