"""Tasks of lm-evaluation-harness, asked of two models.

Source: Gao et al., lm-evaluation-harness (doi 10.5281/zenodo.12608602).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lbdsl.core.diagnostic import LbdslError, fail, first_line
from lbdsl.core.extras import check_installed
from lbdsl.core.place import Folder, file_at
from lbdsl.core.progress import Progress
from lbdsl.data.sources import is_there
from lbdsl.evaluate.task_files import check_file, keep_templates_in
from lbdsl.evaluate.tasks import Answers, TaskResult
from lbdsl.measure.layer_source import LayerSource
from lbdsl.recipe.schema_blocks import task_name

PREFERRED = ("acc_norm", "acc", "exact_match")
"""The metrics of a task by which it is judged, the first that it has; else its first."""


def check_tasks(names: Sequence[str], folder: Folder) -> None:
    """Raise LB485 without lm-evaluation-harness; LB456 for a task that it does not have, or whose data cannot be read;
    LB479 for a file that the recipe may not name, or that may run code."""
    if names:
        check_installed("lm_eval", task_name(names[0]), "lm-evaluation-harness")
    for name in names:
        if name.endswith((".yaml", ".yml")) and task_file(name, folder) is None:
            raise fail("LB456", f"there is no file {file_at(name, folder)}", help="a path is relative to the recipe")
    for name in names:
        path = task_file(name, folder)
        if path is None and name not in manager_for(None).all_tasks:
            raise _unknown(name, manager_for(None).all_tasks)
        with asking(name, path) as spec:
            from lm_eval.api.metrics import mean

            for part in manager_for(path).load([spec])["tasks"].values():
                # The first question, so that its templates are tried.
                part.build_all_requests(limit=1, rank=0, world_size=1)
                metric = preferred(list(part.aggregation()))
                if part.aggregation()[metric] is not mean:
                    raise _no_share(name, metric)


def manager_for(path: Path | None) -> Any:
    """The harness's `TaskManager`. To find the tasks that come with it takes seconds: a file does without, unless it names
    some."""
    named = path is None or re.search(r"^(group:|task:\s*(\[|$))", path.read_text(encoding="utf-8"), re.MULTILINE)
    return _manager(named is not None)


@cache
def _manager(all_tasks: bool) -> Any:
    with _quiet():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_defaults=all_tasks)


def _unknown(name: str, known: Sequence[str]) -> Exception:
    from lbdsl.core.nearest import nearest

    near = nearest(name, known)
    hints = ((f"did you mean `{near}`?",) if near else ()) + ("`lm-eval ls tasks` lists them; a YAML file is one, too",)
    return fail("LB456", f"lm-evaluation-harness has no task `{name}`", help=hints)


def task_file(name: str, folder: Folder) -> Path | None:
    """The YAML file that a task's name stands for, if it does. Raises LB479 as `check_tasks` does."""
    if not is_there(name, folder):
        return None
    path = file_at(name, folder).absolute()
    if not path.is_file():
        return None
    check_file(name, path, folder)
    return path


@dataclass(frozen=True)
class HarnessTask:
    """A task by its name, or a YAML file in `folder`; at most `limit` questions of each of its parts. Paths of data in a
    YAML file are relative to it."""

    task: str
    limit: int | None
    folder: Folder
    tokenizer: Any
    batch: int = 1

    @property
    def name(self) -> str:
        return task_name(self.task)

    def answered(self, base: LayerSource, artifact: LayerSource, progress: Progress) -> TaskResult:
        """Raises LB456 for a task whose data cannot be read or that has no share of right answers, and for a model that
        is not in memory."""
        for source in (base, artifact):
            if not source.in_memory:
                help = "leave the task out, or take a machine with more memory"
                raise fail("LB456", f"{self.name} needs the whole model in memory", help=help)
        with progress.stage(f"asking {self.name}") as report:
            before = self._samples(base, lambda done, total: report(done, 2 * total, "base"))
            after = self._samples(artifact, lambda done, total: report(total + done, 2 * total, "result"))
        metric = _metric(self.task, before)
        answers = {
            part: [
                Answers(1, right_share(self.task, one, metric), right_share(self.task, other, metric))
                for one, other in zip(_first_filter(before[part]), _first_filter(after[part]), strict=True)
            ]
            for part in before
        }
        asked = [[sample["doc_hash"], sample["target_hash"]] for samples in before.values() for sample in samples]
        sums = {
            part: Answers(len(of), sum(a.base for a in of), sum(a.artifact for a in of)) for part, of in answers.items()
        }
        return TaskResult(
            self.name,
            metric,
            hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            tuple(answer for of in answers.values() for answer in of),
            sums if len(sums) > 1 else {},
        )

    def _samples(self, source: LayerSource, told: Callable[[float, float], None]) -> Mapping[str, Any]:
        """The answers to each question, by the name of the part."""
        from lm_eval import evaluator

        # It asks git for its version, which complains on standard error where there is none.
        evaluator.get_git_commit_hash = lambda: None
        path = task_file(self.task, self.folder)
        with asking(self.task, path) as spec:
            found = evaluator.simple_evaluate(
                model=_asked(source.hybrid, self.tokenizer, self.batch, told),
                tasks=[spec],
                task_manager=manager_for(path),
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=True,
            )
        assert found is not None, "this is the first process"
        return found["samples"]


def _asked(model: Any, tokenizer: Any, batch: int, told: Callable[[float, float], None]) -> Any:
    """The harness's model, which tells how many requests it has answered."""
    from lm_eval.models.huggingface import HFLM

    class Asked(HFLM):
        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            self.requests, self.answered = len(requests), 0
            return super()._loglikelihood_tokens(requests, *args, **{**kwargs, "disable_tqdm": True})

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            self.answered += len(inps)
            told(min(self.answered, self.requests), self.requests)
            return super()._model_call(inps, *args, **kwargs)

    return Asked(pretrained=model, tokenizer=tokenizer, batch_size=batch, backend="causal")


def preferred(metrics: Sequence[str]) -> str:
    """The metric of a task by which it is judged."""
    return next(metric for metric in (*PREFERRED, *metrics) if metric in metrics)


def _no_share(name: str, metric: str) -> Exception:
    message = f"{task_name(name)} has no share of right answers: `{metric}` is not one"
    return fail("LB456", message, help="name a task with `acc`, `acc_norm` or `exact_match`")


def _metric(name: str, samples: Mapping[str, Any]) -> str:
    parts = [set(of[0]["metrics"]) for of in samples.values()]
    shared = [metric for metric in next(iter(samples.values()))[0]["metrics"] if all(metric in part for part in parts)]
    if not shared:
        raise fail("LB456", f"{task_name(name)} has parts with different metrics", help="name one of its parts")
    return preferred(shared)


def _first_filter(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The samples of the first of a task's ways to read an answer, in the order of the questions."""
    return sorted((one for one in samples if one["filter"] == samples[0]["filter"]), key=lambda one: one["doc_id"])


def right_share(name: str, sample: Mapping[str, Any], metric: str) -> float:
    """How much of a question is right. Raises LB456 if the metric is no share."""
    value = sample[metric]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _no_share(name, metric)
    return float(value)


@contextlib.contextmanager
def asking(name: str, path: Path | None) -> Iterator[str]:
    """What the harness calls the task, in the folder that its paths are relative to."""
    keep_templates_in()
    try:
        with _quiet(), contextlib.chdir(path.parent if path else "."):
            yield str(path) if path else name
    except (LbdslError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as problem:
        # A task is code and templates of others: whatever is wrong with it is said as that.
        kind, said = type(problem).__name__, first_line(problem)
        said = kind if said in (kind, "None") else f"{kind}: {said}"
        help = "the harness's guide to tasks in YAML says what a field means; paths are relative to the file"
        if isinstance(problem, OSError):
            help = "data of a hub need a network once; a YAML file may name data of your own, relative to it"
        raise fail("LB456", f"{task_name(name)} cannot be asked: {said}", help=help) from problem


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own bars and messages."""
    from tqdm import tqdm

    made, level = tqdm.__init__, logging.root.manager.disable

    def disabled(bar: Any, *args: Any, **options: Any) -> None:
        # Whatever the harness asks for.
        made(bar, *args, **{**options, "disable": True})

    tqdm.__init__ = disabled
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        tqdm.__init__ = made
