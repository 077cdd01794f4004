"""Scores of layers and of whole plans by answers to questions: of a task, or of what stands far back in a text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnostic, fail, warning
from lbdsl.core.measurement import Measurement, NoValue, Request
from lbdsl.core.place import Folder
from lbdsl.core.units import amount_text, duration_text, plural, tokens_text
from lbdsl.data.split import TextPart
from lbdsl.measure.taken import Statistics
from lbdsl.plan.estimate import measuring_units, units
from lbdsl.recipe.schema import Evaluate, Measure, Recipe
from lbdsl.recipe.schema_blocks import RECALL, task_name
from lbdsl.session.model import OpenModel
from lbdsl.session.predicting import forward_pace
from lbdsl.session.session import Session
from lbdsl.solve.case import Case

if TYPE_CHECKING:
    from lbdsl.data.records import Question
    from lbdsl.evaluate.questions import Questions
    from lbdsl.measure.answers import Answered
    from lbdsl.measure.flow import Changes
    from lbdsl.measure.recall import RecallQuestions

    Asked = Questions | RecallQuestions
    """Questions that models are asked. `rows` are their answers, `blocks` the tokens of these, `count` how many they are;
    `cost` is what a changed model loses of the base's answers, with its paired error."""


def task_of(metric: str) -> str | None:
    """The name of the task whose right answers a metric counts; None for another metric."""
    return metric[len('task("') : -len('")')] if metric.startswith('task("') else None


def tokens_of_tasks(wanted: Evaluate | None, bench: OpenModel, folder: Folder) -> float:
    """The tokens that one model reads for a user's own questions and all tasks that it is judged by, about."""
    if wanted is None:
        return 0.0
    from lbdsl.session.texts import needles_of

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


def recall_questions_of(
    measure: Measure, bench: OpenModel, folder: Folder, part: TextPart = TextPart.JOINT
) -> RecallQuestions:
    """The questions of recall: those that layers are scored by (SCORE), or others, for whole plans (JOINT). Raises LB361
    for a file of one's own that has none for them, and as `read_questions` does."""
    from lbdsl.data.recall import recall_questions
    from lbdsl.data.records import read_questions
    from lbdsl.measure.recall import RecallQuestions, own_part

    assert measure.recall_seq is not None, "lengths are settled before any text is read"
    asked: list[Question] = []
    with bench.progress.stage("reading the questions of recall"):
        for source in measure.recall:
            if source == RECALL:
                length, count = measure.recall_seq, measure.recall_questions
                found: Sequence[Question] = recall_questions(part, bench.tokenizer, length, count, measure.seed)
            else:
                own = read_questions(source, bench.tokenizer, base_dir=folder, positions=bench.facts.positions)
                found = own_part(own, part)
                if not found:
                    message = f"{source} has one question, and whole plans are asked others than layers"
                    help = "write a second one, about another text if you can"
                    raise fail("LB361", message, measure.set_at.get("recall"), help=help)
            first = 1 + max((one.text for one in asked), default=-1)
            asked += [replace(one, text=first + one.text) for one in found]
        return RecallQuestions.of(asked, bench.facts.positions, bench.options.batch)


def check_own_questions(session: Session) -> None:
    """Raise, before anything is measured, what `recall_questions_of` raises of files of one's own."""
    measure = session.recipe.measure
    own = tuple(source for source in measure.recall if source != RECALL)
    if own and session.model.options.recall:
        recall_questions_of(measure.model_copy(update={"recall": own}), session.model, session.place)


def asked_by(metric: str, session: Session) -> Asked:
    """The questions that layers are scored by."""
    from lbdsl.evaluate.questions import questions_of
    from lbdsl.evaluate.task_files import task_file
    from lbdsl.measure.skeleton import skeleton_of

    bench, measure, task = session.model, session.recipe.measure, task_of(metric)
    if task is None:
        return recall_questions_of(measure, bench, session.place, TextPart.SCORE)
    with bench.progress.stage(f"reading {metric}"):
        model = skeleton_of(bench.weights_folder, bench.facts)
        path, count = task_file(task, session.place), measure.questions
        return questions_of(task, path, model, bench.tokenizer, count, bench.facts.positions, bench.options.batch)


def asked_scores(
    session: Session, requests: Sequence[Request], actions: Mapping[str, Action], statistics: Statistics
) -> tuple[dict[Request, Measurement], tuple[Diagnostic, ...]]:
    """The scores of layers by answers; and LB337 where questions that chose layers also judge the result. Raises LB361 if
    the base finds too few answers for any score."""
    from lbdsl.measure.scores import changes_of, stored_as

    scores: dict[Request, Measurement] = {}
    found: list[Diagnostic] = []
    for metric in dict.fromkeys(request.metric for request in requests):
        of_metric = [request for request in requests if request.metric == metric]
        questions = asked_by(metric, session)
        asking = Asking(questions, session.model)
        missing = asking.missing(statistics) if task_of(metric) is None else None
        if missing is not None:
            raise fail("LB361", f"`recall` {missing.reason}", help=missing.help)
        changes = {r: changes_of(actions[r.action], session.facts, r.layer) for r in of_metric}
        exact = [request for request in of_metric if request not in session.case.screened]
        if exact:
            stored = stored_as(session.facts, exact, actions, statistics)
            models = {stored[request]: changes[request] for request in exact}
            costs = asking.costs(models, statistics, f"asking {metric}", _hint(exact, session))
            scores |= {request: costs[stored[request]] for request in exact}
        for action in dict.fromkeys(request.action for request in of_metric if request not in exact):
            screened = {r.layer: changes[r][r.layer] for r in of_metric if r.action == action}
            slopes = asking.slopes(screened, statistics, f"screening {metric} of {action}")
            scores |= {request: slopes[request.layer] for request in of_metric if request.action == action}
        some = scores[of_metric[0]]
        error = median(scores[request].stderr for request in of_metric)
        said = f"{metric}: {plural(questions.count, 'question')}"
        if math.isfinite(error):
            said += f", standard error of a score {amount_text(error, some.unit)}"
        else:
            message = f"layers are chosen by {plural(questions.count, 'question')} about one text: no error is known"
            found.append(warning("LB361", message, help="ask about several texts: a long one may be split into some"))
        session.progress.say(said)
        found += _judged_again(metric, questions, session.recipe)
    return scores, tuple(found)


def _hint(requests: Sequence[Request], session: Session) -> str:
    """What to write where a screen can estimate all these scores."""
    recipe, asked = session.recipe, {(request.metric, request.action) for request in requests}
    screening = replace(recipe, measure=recipe.measure.model_copy(update={"strategy": "screen"}))
    if session.model.streamed or not asked <= Case(screening, session.facts).screens:
        return ""
    return f"; `measure {{ strategy = screen }}` estimates them in about {3 * len(asked)} passes"


def _judged_again(metric: str, questions: Asked, recipe: Recipe) -> Iterator[Diagnostic]:
    """LB337 for questions that choose layers and judge the result."""
    judged, task = recipe.eval, task_of(metric)
    if judged is not None and task is None:
        for own in judged.own_questions:
            if str(own.file) in recipe.measure.recall:
                said = f"{task_name(own)} judges the result on questions that also choose its layers"
                help = "keep some questions in a file that only judges"
                yield warning("LB337", said, judged.set_at.get("needle", judged.span), help=help)
    if judged is None or task not in judged.tasks:
        return
    spare = getattr(questions, "spare", 0)
    if judged.limit is None or judged.limit > spare:
        help = f"`limit = {spare}` in the eval block asks the others" if spare > 0 else "take fewer `questions`"
        said = f"{metric} judges the result on questions that also choose its layers"
        yield warning("LB337", said, judged.set_at.get("tasks", judged.span), help=help)


class Asking:
    """Models are asked as they are measured: what each has answered is kept."""

    def __init__(self, questions: Asked, bench: OpenModel):
        self._bench, self.questions = bench, questions

    def missing(self, statistics: Statistics) -> NoValue | None:
        """Why there is no value, if the base finds too few answers."""
        base, _ = self.answers({}, statistics, "asking the base")
        return self.questions.cost(base, base).missing

    def costs(
        self, models: Mapping[Request, Changes], statistics: Statistics, title: str, hint: str | None = None
    ) -> dict[Request, Measurement]:
        """What each changed model loses. The requests are the keys that it is stored under. `hint`: what it will take is
        said first, and this behind it."""
        base, changed = self.answers(models, statistics, title, hint)
        return {request: self.questions.cost(base, answered) for request, answered in changed.items()}

    def slopes(self, changes: Changes, statistics: Statistics, title: str) -> dict[int, Measurement]:
        """What each changed layer costs, estimated: see `lbdsl.measure.gates`."""
        import torch

        from lbdsl.measure.gates import answer_slopes
        from lbdsl.measure.recall import RecallQuestions

        bench, asked = self._bench, self.questions
        assert isinstance(asked, RecallQuestions), "tasks are not screened"
        base, _ = self.answers({}, statistics, title)
        weights_S = torch.zeros(len(asked.rows.ids_SN), dtype=torch.float32)
        for row, weight in asked.weights(base).items():
            weights_S[row] = weight
        with bench.progress.stage(title) as report:
            slopes_GL = answer_slopes(
                lambda: bench.measured_base,
                changes,
                asked.rows,
                weights_S,
                bench.cache_dir,
                bench.fingerprint(asked.blocks.digest),
                progress=report,
                statistics=statistics,
                statistics_digests=statistics.digests({layer: change.stats for layer, change in changes.items()}),
            )
        columns = zip(sorted(changes), slopes_GL.T.tolist(), strict=True)
        return {layer: asked.slope(base, slopes) for layer, slopes in columns}

    def answers(
        self, models: Mapping[Request, Changes], statistics: Statistics, title: str, hint: str | None = None
    ) -> tuple[Answered, dict[Request, Answered]]:
        """Of the base, and of each changed model."""
        from lbdsl.measure.answers import Answered
        from lbdsl.measure.runs import Run
        from lbdsl.measure.store import MODEL_LAYER, open_store

        bench, asked = self._bench, self.questions
        fingerprint = bench.fingerprint(asked.blocks.digest)
        base = Request("", "", MODEL_LAYER)
        runs = [Run(changes, _both(request)) for request, changes in {base: {}, **models}.items()]
        with open_store(bench.cache_dir) as store:
            missing = [
                run for run in runs if any(len(store.get(fingerprint, r)) < asked.blocks.sequences for r in run.requests)
            ]
        if missing and hint is not None:
            tokens, first = asked.rows.tokens, (min(run.changes, default=bench.facts.layers) for run in missing)
            passes = measuring_units(bench.facts, first, tokens) / units(bench.facts, tokens)
            time = duration_text(passes * tokens / forward_pace(bench))
            work = f"{plural(round(passes), 'forward pass', 'es')} of {tokens_text(tokens)} tokens, about {time}"
            bench.progress.say(f"asking {plural(len(missing), 'model')} {plural(asked.count, 'question')}: {work}{hint}")
        with bench.measuring(asked.blocks, title, statistics) as measuring:
            rows = asked.rows
            sums = replace(measuring, counted_SN=rows.counted_SN, groups=rows.groups).sums(runs)

        def answered(request: Request) -> Answered:
            return Answered(*({row: value.total for row, value in sums[one].items()} for one in _both(request)))

        return answered(base), {request: answered(request) for request in models}


def _both(request: Request) -> tuple[Request, Request]:
    from lbdsl.measure.answers import AnswerLoss, AnswerMiss

    return replace(request, metric=AnswerLoss.kind), replace(request, metric=AnswerMiss.kind)
