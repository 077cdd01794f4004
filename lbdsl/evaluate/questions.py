"""The questions of a task whose answers are given, as rows of tokens: a model that is only measured can be asked them.

Source: Gao et al., lm-evaluation-harness (doi 10.5281/zenodo.12608602): its rows, and its judgment of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.split import TextPart
from lbdsl.evaluate.harness import asking, manager_for, preferred, right_share
from lbdsl.recipe.schema_blocks import task_name


@dataclass(frozen=True)
class Questions:
    """`blocks` has a row for each given answer, after its question, filled up at its end; `counted_SN` names the answer's
    tokens. `tokens` are those of all rows; `spare` are the questions that each part of
    the task has besides, at least."""

    blocks: TokenBlocks
    counted_SN: Tensor
    tokens: int
    spare: int
    _task: str
    _asked: Sequence[tuple[Any, Any, Sequence[int]]]
    """(task of the harness, its document, the rows of its answers)."""

    @property
    def count(self) -> int:
        return len(self._asked)

    def right(self, losses: Mapping[int, float], misses: Mapping[int, float]) -> list[float]:
        """How much of each question is right, by each row's loss in nats and its number of tokens that are not the first
        choice."""
        found = []
        for task, document, rows in self._asked:
            judged = task.process_results(document, [(-losses[row], misses[row] == 0) for row in rows])
            found.append(right_share(self._task, judged, preferred(list(task.aggregation()))))
        return found


def questions_of(name: str, path: Path | None, model: Any, tokenizer: Any, count: int, positions: int) -> Questions:
    """The last `count` questions of each part of the task `name`, a YAML file at `path`; rows of at most `positions`
    tokens. `model` says how the harness tokenizes for it; its weights are not used. Raises LB456 for a task that asks the
    model to write."""
    rows: list[tuple[list[int], list[int]]] = []
    asked: list[tuple[Any, Any, Sequence[int]]] = []
    spare = []
    with asking(name, path) as spec:
        encode = _encoder(model, tokenizer)
        for task in manager_for(path).load([spec])["tasks"].values():
            task.build_all_requests(rank=0, world_size=1)
            if any(one.request_type != "loglikelihood" for one in task.instances):
                help = "rank layers by a task with given answers, such as `output_type: multiple_choice`"
                raise fail(
                    "LB456", f"{task_name(name)} asks the model to write, which takes too long for each layer", help=help
                )
            by_document: dict[int, list[Any]] = {}
            for one in task.instances:
                by_document.setdefault(one.doc_id, []).append(one)
            spare.append(max(0, len(by_document) - count))
            for _, ones in sorted(by_document.items())[-count:]:
                ones.sort(key=lambda one: one.idx)
                start = len(rows)
                rows += encode(ones)
                asked.append((task, ones[0].doc, range(start, len(rows))))
    # Rows of one length are measured together.
    order = sorted(range(len(rows)), key=lambda row: sum(map(len, rows[row])))
    place = {row: number for number, row in enumerate(order)}
    asked = [(task, document, [place[row] for row in of]) for task, document, of in asked]
    rows = [rows[row] for row in order]
    rows = [(before[max(0, len(before) + len(answer) - positions) :], answer) for before, answer in rows]
    longest = max(len(before) + len(answer) for before, answer in rows)
    ids_SN, counted_SN = (
        torch.zeros(len(rows), longest, dtype=torch.int64),
        torch.zeros(len(rows), longest, dtype=torch.bool),
    )
    for row, (before, answer) in enumerate(rows):
        end = len(before) + len(answer)
        ids_SN[row, :end] = torch.tensor([*before, *answer])
        counted_SN[row, len(before) : end] = True
    digest = digest_of(["questions", rows])
    blocks = TokenBlocks(ids_SN, digest, task_name(name), TextPart.SCORE, 0, 1, None)
    return Questions(blocks, counted_SN, sum(len(before) + len(answer) for before, answer in rows), min(spare), name, asked)


def _encoder(model: Any, tokenizer: Any) -> Any:
    """A function from requests of the harness to (tokens before, tokens of the answer) of each."""
    from lm_eval.models.huggingface import HFLM

    class Encoder(HFLM):
        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            return [(before, answer) for _, before, answer in requests]

    return partial(Encoder(pretrained=model, tokenizer=tokenizer, backend="causal").loglikelihood, disable_tqdm=True)
