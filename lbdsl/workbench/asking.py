"""Scores of layers and of whole plans by the questions of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnostic, warning
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.place import Folder
from lbdsl.core.units import Unit, duration_text, plural, tokens_text
from lbdsl.plan.estimate import measuring_units, units
from lbdsl.recipe.schema import Evaluate, Recipe
from lbdsl.workbench.patching import fingerprint_of
from lbdsl.workbench.predicting import forward_pace
from lbdsl.workbench.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.measure.flow import Changes
    from lbdsl.measure.runs import Run
    from lbdsl.measure.statistics import Statistics
    from lbdsl.measure.store import SequenceSum


def task_of(metric: str) -> str | None:
    """The name of the task whose right answers a metric counts; None for another metric."""
    return metric[len('task("') : -len('")')] if metric.startswith('task("') else None


def tokens_of_tasks(wanted: Evaluate | None, bench: Workbench, folder: Folder) -> float:
    """The tokens that one model reads for a user's own questions and all tasks that it is judged by, about."""
    if wanted is None:
        return 0.0
    from lbdsl.workbench.texts import needles_of

    own = wanted.model_copy(update={"needle": wanted.own_questions})
    found = float(sum(test.rows.tokens for test in needles_of(own, bench, folder)))
    if not wanted.tasks:
        return found
    from lbdsl.evaluate.questions import tokens_asked
    from lbdsl.evaluate.task_files import task_file
    from lbdsl.measure.skeleton import skeleton_of

    with bench.progress.stage("counting the tokens of tasks"):
        model = skeleton_of(bench.weights_folder, bench.facts)
        return found + sum(
            tokens_asked(task, task_file(task, folder), model, bench.tokenizer, wanted.limit, bench.facts.positions)
            for task in wanted.tasks
        )


def asked_scores(
    recipe: Recipe, bench: Workbench, requests: Sequence[Request], actions: Mapping[str, Action], statistics: Statistics
) -> tuple[dict[Request, Measurement], tuple[Diagnostic, ...]]:
    """The scores of layers by tasks; and LB337 where a task judges the result by questions that chose its layers."""
    from lbdsl.measure.scores import changes_of, stored_as

    scores: dict[Request, Measurement] = {}
    found = []
    for metric in dict.fromkeys(request.metric for request in requests):
        of_task, task = [request for request in requests if request.metric == metric], task_of(metric) or ""
        asking = Asking(task, recipe, bench)
        stored = stored_as(bench.facts, of_task, actions, statistics)
        models = {stored[r]: changes_of(actions[r.action], bench.facts, r.layer) for r in of_task}
        falls = asking.falls(models, statistics, f"asking {metric}", starts=True)
        scores |= {request: falls[stored[request]] for request in of_task}
        error = median(falls[stored[request]].stderr for request in of_task)
        bench.progress.say(f"{metric}: {plural(asking.questions.count, 'question')}, standard error of a score {error:.1%}")
        judged = recipe.eval if recipe.eval is not None and task in recipe.eval.tasks else None
        spare = asking.questions.spare
        if judged is not None and (judged.limit is None or judged.limit > spare):
            help = f"`limit = {spare}` in the eval block asks the others" if spare > 0 else "take fewer `questions`"
            said = f"{metric} judges the result on questions that also choose its layers"
            found.append(warning("LB337", said, judged.set_at.get("tasks", judged.span), help=help))
    return scores, tuple(found)


class Asking:
    """The last questions of a task, which a model is asked as it is measured."""

    def __init__(self, task: str, recipe: Recipe, bench: Workbench):
        from lbdsl.evaluate.questions import questions_of
        from lbdsl.evaluate.task_files import task_file
        from lbdsl.measure.skeleton import skeleton_of

        self._bench = bench
        folder = bench.place(recipe.path)
        with bench.progress.stage(f'reading task("{task}")'):
            model = skeleton_of(bench.weights_folder, bench.facts)
            path = task_file(task, folder)
            count = recipe.measure.questions
            self.questions = questions_of(
                task, path, model, bench.tokenizer, count, bench.facts.positions, bench.options.batch
            )

    def falls(
        self, models: Mapping[Request, Changes], statistics: Statistics, title: str, starts: bool = False
    ) -> dict[Request, Measurement]:
        """The share of right answers that each changed model loses of the base's, with its paired error. The requests are
        the keys that it is stored under. `starts`: what it will take is said first."""
        from lbdsl.measure.runs import Run, measured_sums
        from lbdsl.measure.store import MODEL_LAYER, open_store

        bench, asked = self._bench, self.questions
        fingerprint = fingerprint_of(bench, asked.blocks.digest)
        base = Request("", "", MODEL_LAYER)
        runs = [Run(changes, _both(request)) for request, changes in {base: {}, **models}.items()]
        with open_store(bench.cache_dir) as store:
            missing = [
                run for run in runs if any(len(store.get(fingerprint, r)) < asked.blocks.sequences for r in run.requests)
            ]
            if missing and starts:
                self._say(missing)
            with bench.progress.stage(title) as report:
                sums = measured_sums(
                    lambda: bench.measured_base,
                    runs,
                    (),
                    asked.blocks,
                    store,
                    fingerprint,
                    progress=report,
                    batch=bench.options.batch,
                    statistics=statistics,
                    counted_SN=asked.rows.counted_SN,
                    groups=asked.rows.groups,
                )
        right = self._right(sums, base)
        return {request: _fall(right, self._right(sums, request)) for request in models}

    def _right(self, sums: Mapping[Request, Mapping[int, SequenceSum]], request: Request) -> list[float]:
        losses, misses = ({row: value.total for row, value in sums[one].items()} for one in _both(request))
        return self.questions.right(losses, misses)

    def _say(self, missing: Sequence[Run]) -> None:
        bench, tokens = self._bench, self.questions.rows.tokens
        passes = measuring_units(bench.facts, (min(run.changes, default=bench.facts.layers) for run in missing), tokens)
        passes /= units(bench.facts, tokens)
        time = duration_text(passes * tokens / forward_pace(bench))
        asked = plural(self.questions.count, "question")
        work = f"{plural(round(passes), 'forward pass', 'es')} of {tokens_text(tokens)} tokens, about {time}"
        bench.progress.say(f"asking {plural(len(missing), 'model')} {asked}: {work}")


def _both(request: Request) -> tuple[Request, Request]:
    from lbdsl.measure.answers import AnswerLoss, AnswerMiss

    return replace(request, metric=AnswerLoss.kind), replace(request, metric=AnswerMiss.kind)


def _fall(before: list[float], after: list[float]) -> Measurement:
    lost = [one - other for one, other in zip(before, after, strict=True)]
    return clustered_mean(lost, [1] * len(lost), Unit.RATIO)
