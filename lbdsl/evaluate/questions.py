"""The questions of a task whose answers are given, as rows of tokens: a model that is only measured can be asked them.

Source: Gao et al., lm-evaluation-harness (doi 10.5281/zenodo.12608602): its rows, and its judgment of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, clustered_mean
from lbdsl.core.units import Unit
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.chat import tokenized
from lbdsl.evaluate.harness import asking, bounded_model, preferred, right_of_given
from lbdsl.evaluate.task_files import manager_for
from lbdsl.measure.answers import Answered
from lbdsl.measure.rows import AnswerRows, Pair, answer_rows
from lbdsl.recipe.schema_blocks import task_name

SAMPLED, WRITTEN = 20, 16


@dataclass(frozen=True)
class Questions:
    """The questions of a task, whose answers are `rows`; `blocks` are their tokens. `spare` are the questions that each
    part of the task has besides, at least."""

    blocks: TokenBlocks
    rows: AnswerRows
    spare: int
    _task: str
    _asked: Sequence[tuple[Any, Any, Sequence[int]]]
    """(task of the harness, its document, the rows of its answers)."""

    @property
    def count(self) -> int:
        return len(self._asked)

    def cost(self, base: Answered, changed: Answered) -> Measurement:
        """The share of right answers that the changed model loses of the base's, with its paired error."""
        lost = [before - after for before, after in zip(self._right(base), self._right(changed), strict=True)]
        return clustered_mean(lost, [1] * len(lost), Unit.RATIO)

    def _right(self, answered: Answered) -> list[float]:
        """How much of each question is right; NaN where a loss is not finite."""
        return [
            right_of_given(
                self._task,
                task,
                document,
                [(-answered.losses[row], answered.misses[row] == 0) for row in rows],
                preferred(list(task.aggregation())),
            )
            for task, document, rows in self._asked
        ]


def questions_of(
    name: str, path: Path | None, model: Any, tokenizer: Any, count: int, positions: int, batch: int = 1
) -> Questions:
    """The last `count` questions of each part of the task `name`, a YAML file at `path`; rows of at most `positions`
    tokens, grouped by `batch`. `model` says how the harness tokenizes for it; its weights are not used. Raises LB456 for a
    task that asks the model to write."""
    pairs: list[Pair] = []
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
                start = len(pairs)
                pairs += encode(ones)
                asked.append((task, ones[0].doc, range(start, len(pairs))))
    rows = answer_rows(pairs, positions, batch)
    asked = [(task, document, [rows.row_of[pair] for pair in of]) for task, document, of in asked]
    digest = digest_of(["questions", 3, pairs, positions])
    blocks = TokenBlocks(rows.ids_SN, digest, task_name(name))
    return Questions(blocks, rows, min(spare), name, asked)


def tokens_asked(name: str, path: Path | None, model: Any, tokenizer: Any, limit: int | None, positions: int) -> float:
    """The tokens that one model reads where it is judged by the task, from the first `SAMPLED` questions of each part. One
    that it writes takes as long as `WRITTEN` that it reads."""
    found = 0.0
    with asking(name, path) as spec:
        encode = _encoder(model, tokenizer)
        for task in manager_for(path).load([spec])["tasks"].values():
            count = min(len(task.eval_docs), limit or len(task.eval_docs))
            task.build_all_requests(limit=min(count, SAMPLED), rank=0, world_size=1)
            given = [one for one in task.instances if one.request_type == "loglikelihood"]
            tokens = answer_rows(encode(given), positions).tokens if given else 0
            for one in task.instances:
                if one.request_type == "generate_until":
                    before, how = one.args
                    tokens += len(tokenized(tokenizer, [before], special=True)[0]) + WRITTEN * how.get("max_gen_toks", 256)
            found += tokens * count / len({one.doc_id for one in task.instances})
    return found


def _encoder(model: Any, tokenizer: Any) -> Any:
    """A function from requests of the harness to (tokens before, tokens of the answer) of each."""

    class Encoder(bounded_model()):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            return [(before, answer) for _, before, answer in requests]

    return partial(Encoder(pretrained=model, tokenizer=tokenizer, backend="causal").loglikelihood, disable_tqdm=True)
