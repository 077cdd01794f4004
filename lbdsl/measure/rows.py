"""Answers behind their questions, as rows of tokens, and how likely a model finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from lbdsl.measure.answers import AnswerLoss, AnswerMiss
from lbdsl.measure.branches import SHARED, shared_tokens
from lbdsl.measure.flow import Flow, push
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import answer_sums

TOKENS = 1024
"""Rows are run together up to so many tokens, filled up to the longest; those of a long question always."""

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
    """Rows of at most `positions` tokens, the last of a longer question; answers of one question stand one after another.
    Those of a long question are a group, as they share it; other rows are grouped by their length."""
    order: list[tuple[int, Pair]] = []
    groups: list[range] = []
    short: list[tuple[int, Pair]] = []
    for before, of_one in groupby(enumerate(pairs), key=lambda item: item[1][0]):
        answers = [(at, answer) for at, (_, answer) in of_one]
        # Cut alike, so that they still share it.
        kept = before[max(0, len(before) + max(len(answer) for _, answer in answers) - positions) :]
        rows = [(at, (kept, answer)) for at, answer in answers]
        if len(rows) > 1 and len(kept) > SHARED:
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


@torch.inference_mode()
def likelihoods(source: LayerSource, rows: AnswerRows, told: Callable[[float], None]) -> list[tuple[float, bool]]:
    """The log-likelihood of each answer in nats, in the order given, and whether each of its tokens is the most likely one;
    NaN where it is not finite. `told`: the share of the rows that are done."""
    found: list[tuple[float, bool]] = []
    for group in rows.groups:
        counted_BN = rows.counted_SN[group.start : group.stop]
        end = 1 + int(counted_BN.any(0).nonzero().max())
        ids_BN, counted_BN = rows.ids_SN[group.start : group.stop, :end], counted_BN[:, :end]
        flow = Flow(ids_BN.to(source.device), shared=shared_tokens(ids_BN, counted_BN))
        push(source, [flow])
        with source.head() as head:
            sums = answer_sums(head, flow.base_BND, flow.behind, counted_BN[:, flow.shared :].to(source.device))
        found += [
            (-loss.total, miss.total == 0) for loss, miss in zip(sums[AnswerLoss.kind], sums[AnswerMiss.kind], strict=True)
        ]
        told(len(found) / len(rows.ids_SN))
    return [found[row] for row in rows.row_of]
