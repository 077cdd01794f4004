"""Tasks of lm-evaluation-harness, asked of two models.

Source: Gao et al., lm-evaluation-harness (doi 10.5281/zenodo.12608602).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lbdsl.core.diagnostic import LbdslError, fail, first_line
from lbdsl.core.digest import digest_text
from lbdsl.core.extras import check_installed
from lbdsl.core.measurement import cut_short
from lbdsl.core.place import Folder
from lbdsl.core.progress import Progress
from lbdsl.data.chat import decoded, encoded
from lbdsl.data.hub import undecoded
from lbdsl.evaluate.task_files import check_name, keep_templates_in, manager_for, quiet, task_file
from lbdsl.evaluate.tasks import TaskResult, answers_of, summed
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.predictions import base_not_finite
from lbdsl.measure.rows import answer_rows, likelihoods
from lbdsl.model.digest import default_cache_dir
from lbdsl.recipe.schema_blocks import task_name

PREFERRED = ("acc_norm", "acc", "exact_match")
"""The metrics of a task by which it is judged, the first that it has; else its first."""

RULE = "a tie is not right"
"""Part of a task's digest: answers that were judged by another rule are not compared."""

EQUAL = 1e-6
"""Log-likelihoods that differ by less, as a share, are a tie."""


def check_tasks(names: Sequence[str], folder: Folder) -> None:
    """Raise LB485 without lm-evaluation-harness; LB456 for a task that it does not have, or whose data cannot be read;
    LB479 for a file that the recipe may not name, or that may run code."""
    if names:
        check_installed("lm_eval", task_name(names[0]), "lm-evaluation-harness")
    for name in names:
        check_name(name, folder)
    for name in names:
        path = task_file(name, folder)
        with asking(name, path) as spec:
            from lm_eval.api.metrics import mean

            for part in manager_for(path).load([spec])["tasks"].values():
                # The first question, so that its templates are tried.
                part.build_all_requests(limit=1, rank=0, world_size=1)
                metric = preferred(list(part.aggregation()))
                if part.aggregation()[metric] is not mean:
                    raise _no_share(name, metric)


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

    def answered(self, base: LayerSource, artifact: LayerSource | None, progress: Progress) -> TaskResult:
        """Raises LB456 for a task whose data cannot be read or that has no share of right answers, and for a model that
        is not in memory."""
        models = {"base": base} if artifact is None else {"base": base, "result": artifact}
        for source in models.values():
            if not source.in_memory:
                help = "leave the task out, or take a machine with more memory"
                raise fail("LB456", f"{self.name} needs the whole model in memory", help=help)
        with progress.stage(f"asking {self.name}") as report:

            def asked_of(number: int, what: str, source: LayerSource) -> _Asked:
                return self._asked(source, lambda done: report(number + done, len(models), what))

            found = [asked_of(number, *model) for number, model in enumerate(models.items())]
        metric = _metric(self.task, found[0].samples)
        right = [each.right(self.task, metric) for each in found]
        if any(math.isnan(value) for of in right[0].values() for value in of):
            raise base_not_finite(f"in {self.name}")
        answers = {part: answers_of([of[part] for of in right]) for part in right[0]}
        asked = [[one["doc_hash"], one["target_hash"]] for samples in found[0].samples.values() for one in samples]
        sums = {part: summed(of) for part, of in answers.items()}
        cut = max(each.cut for each in found)
        return TaskResult(
            self.name,
            metric,
            digest_text(json.dumps([asked, RULE])),
            tuple(answer for of in answers.values() for answer in of),
            sums if len(sums) > 1 else {},
            cut_short(cut) if cut else None,
        )

    def _asked(self, source: LayerSource, told: Callable[[float], None]) -> _Asked:
        from lm_eval import evaluator

        # It asks git for its version, which complains on standard error where there is none; and pip, which takes a second
        # each time, for what is installed.
        evaluator.get_git_commit_hash = lambda: None
        evaluator.add_env_info = lambda results: None
        path = task_file(self.task, self.folder)
        manager = _Keeping(manager_for(path))
        with asking(self.task, path) as spec:
            model = _model(source, self.tokenizer, self.batch, told)
            found = evaluator.simple_evaluate(
                model=model, tasks=[spec], task_manager=manager, limit=self.limit, bootstrap_iters=0, log_samples=True
            )
        assert found is not None, "this is the first process"
        return _Asked(found["samples"], manager.tasks, model.finite, model.alike, model.cut)


class _Keeping:
    """The harness's manager of tasks, which keeps those that it has loaded."""

    def __init__(self, manager: Any):
        self._manager = manager
        self.tasks: Mapping[str, Any] = {}

    def load(self, specs: Any) -> Any:
        loaded = self._manager.load(specs)
        self.tasks = loaded["tasks"]
        return loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


@dataclass(frozen=True)
class _Asked:
    """The samples of each part, and its task; whether all that the model wrote is of finite likelihoods, whether all
    tokens were `alike` to it somewhere, and how many questions were cut short."""

    samples: Mapping[str, Any]
    tasks: Mapping[str, Any]
    finite: bool
    alike: bool
    cut: int

    def right(self, name: str, metric: str) -> dict[str, list[float]]:
        """How much of each question is right, by part; NaN where likelihoods are not finite."""
        found = {}
        for part, samples in self.samples.items():
            # Those of the first of a task's ways to read an answer, in the order of the questions.
            first = [one for one in samples if one["filter"] == samples[0]["filter"]]
            first.sort(key=lambda one: one["doc_id"])
            found[part] = [self._share(name, self.tasks[part], one, metric) for one in first]
        return found

    def _share(self, name: str, task: Any, sample: Mapping[str, Any], metric: str) -> float:
        if not self.finite:
            return math.nan
        given = sample["filtered_resps"]
        if not all(isinstance(one, tuple | list) and len(one) == 2 for one in given):
            # What a model writes to which all tokens are alike is the first of them, and no answer.
            return 0.0 if self.alike else right_share(name, sample, metric)
        return right_of_given(name, task, sample["doc"], [(one[0], bool(one[1])) for one in given], metric)


def right_of_given(name: str, task: Any, document: Any, given: Sequence[tuple[float, bool]], metric: str) -> float:
    """How much of a question is right, by the log-likelihood of each of its answers and whether all of its tokens are first
    choices. NaN if one is not finite. Of answers that are equally likely the harness takes the first: here it must be
    right whichever is taken."""
    if not all(math.isfinite(likelihood) for likelihood, _ in given):
        return math.nan
    ways = [list(given)]
    for at, (likelihood, first) in enumerate(given if len(given) > 1 else ()):
        ways.append([*given[:at], (likelihood + EQUAL * abs(likelihood), first), *given[at + 1 :]])
    return min(right_share(name, task.process_results(document, way), metric) for way in ways)


@cache
def bounded_model() -> Any:
    """The harness's class of models, with the tokenizer in its bounds."""
    from lm_eval.models.huggingface import HFLM

    class Bounded(HFLM):
        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> Any:
            own = super().tok_encode
            return encoded(self.tokenizer, [string], lambda texts: own(*texts, *args, **kwargs))

        def tok_batch_encode(self, strings: Any, *args: Any, **kwargs: Any) -> Any:
            own = super().tok_batch_encode
            return encoded(self.tokenizer, strings, lambda texts: own(texts, *args, **kwargs))

        def tok_decode(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
            own = super().tok_decode
            return decoded(self.tokenizer, lambda: own(tokens, *args, **kwargs))

    return Bounded


def _model(source: LayerSource, tokenizer: Any, batch: int, told: Callable[[float], None]) -> Any:
    """The harness's model, which tells what share of the given answers it has looked at, whether its likelihoods are
    `finite` where it writes, and all tokens `alike` somewhere; and how many questions were `cut` to its positions."""

    class Model(bounded_model()):  # type: ignore[misc]
        finite, alike, cut = True, False, 0

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            rows = answer_rows([(before, answer) for _, before, answer in requests], self.max_length, batch)
            self.cut += rows.cut
            return likelihoods(source, rows, told)

        def tok_batch_encode(self, strings: Any, *args: Any, **kwargs: Any) -> Any:
            most = kwargs.get("left_truncate_len")
            self.cut += sum(len(self.tok_encode(text)) > most for text in strings) if most else 0
            return super().tok_batch_encode(strings, *args, **kwargs)

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            def look(module: Any, given: Any, output: Any) -> None:
                least_B, most_B = output.logits[:, -1].aminmax(dim=-1)
                self.finite &= bool((most_B - least_B).isfinite().all())
                self.alike |= bool((most_B == least_B).any())

            hook = self.model.register_forward_hook(look)
            try:
                return super()._model_generate(*args, **kwargs)
            finally:
                hook.remove()

    return Model(pretrained=source.hybrid, tokenizer=tokenizer, batch_size=batch, backend="causal")


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


def right_share(name: str, sample: Mapping[str, Any], metric: str) -> float:
    """How much of a question is right. Raises LB456 if the metric is no share."""
    value = sample[metric]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _no_share(name, metric)
    return float(value)


@contextlib.contextmanager
def _prepared_in(cache: Path | None) -> Iterator[None]:
    """What `datasets` makes of the data of a task in a file is kept in a folder `datasets` of lbdsl's cache."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    if cache is not None:
        datasets.config.HF_DATASETS_CACHE = cache / "datasets"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


@contextlib.contextmanager
def asking(name: str, path: Path | None) -> Iterator[str]:
    """What the harness calls the task, in the folder that its paths are relative to."""
    keep_templates_in()
    try:
        prepared = _prepared_in(default_cache_dir() if path else None)
        with quiet(), undecoded(), prepared, contextlib.chdir(path.parent if path else "."):
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
