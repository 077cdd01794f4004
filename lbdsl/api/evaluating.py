"""`evaluate_artifact`: evaluate a saved artifact against its base model; `evaluate_model`: look at a base alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lbdsl.api.notebook import NotebookResult
from lbdsl.artifact.record import Record, facts_of
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.place import FileScope
from lbdsl.core.progress import AnyProgress
from lbdsl.data.sources import WIKITEXT, path_of
from lbdsl.plan.gates import failures, gate_of
from lbdsl.plan.lengths import judged_lengths, judging_findings, tasks_at
from lbdsl.plan.schema import AssertResult
from lbdsl.recipe.schema import Evaluate, Measure
from lbdsl.recipe.schema_blocks import Needle, OwnQuestions
from lbdsl.session.model import OpenModel, opened
from lbdsl.session.options import RunOptions
from lbdsl.session.saved_recipe import came_from, planned_recipe
from lbdsl.session.texts import check_asked, eval_blocks, eval_tests, seen_by_artifact, unwritten


@dataclass(frozen=True, repr=False)
class Judged(NotebookResult):
    """The quality of an artifact, as JSON fields, and the results of its asserts on these numbers; or of a base alone,
    without a record and asserts."""

    model: str
    record: Record | None
    quality: dict[str, Any]
    asserts: tuple[AssertResult, ...]
    diagnostics: tuple[Diagnostic, ...]

    def in_short(self) -> str:
        return f"{self.model} on {', '.join(source['data'] for source in self.quality['sources'])}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `eval --json`."""
        return {"format_version": 1, **self.quality, "asserts": [item.model_dump() for item in self.asserts]}


def evaluate_artifact(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Sequence[str] | None = None,
    tokens: int | None = None,
    seq: int | None = None,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    needle: Sequence[int | str] = (),
    needle_texts: int | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Judged:
    """Perplexity, KL to the base and top-1 agreement of an artifact's folder, on the texts of its `eval` block.

    `against` is the base model, needed when it is not at the path in the record; `data` (one text or several), `tokens`
    (in tokens), `seq`, `tasks`, `limit`, `needle` (contexts in tokens, and files of questions) and `needle_texts` replace
    the block's settings. Raises LbdslError when the folder is not an artifact or was edited, or the base at the path in the
    record is another one now; a base that is named may be another, with the same vocabulary.
    """
    from lbdsl.artifact.restore import artifact_beside

    folder = Path(artifact)
    record, bench, found = opened(folder, against, options, progress)
    plan, facts = record.plan, facts_of(record)
    bench.came_from = came_from(plan, folder)
    block, place = plan.eval or Evaluate(), bench.place(plan.recipe.path)
    known = (*block.data, *(plan.heal.sources if plan.heal is not None else ()))
    texts = tuple(_named(text, known, place.folder) for text in _texts(data))
    own_tasks = tuple(_named(task, block.tasks, place.folder) for task in tasks)
    needles = _needles(needle, [questions.file for questions in block.own_questions], place.folder)
    given = {"data": texts, "tokens": tokens, "seq": seq, "tasks": own_tasks, "limit": limit, "needle": needles}
    asked, place = _asked(block, place, {**given, "needle_texts": needle_texts})
    recipe = planned_recipe(plan)
    both = replace(facts, positions=min(facts.positions, bench.facts.positions))
    wanted = judged_lengths(asked.with_tasks(dict(tasks_at(recipe.asserts))), plan.specs, both).unwrap()
    check_asked(wanted.tasks, bench, place)
    blocks = eval_blocks(wanted, plan.measure, plan.heal, bench, place, finished=True)
    tests = eval_tests(wanted, bench, place)
    base = bench.judged_base
    changed = artifact_beside(base, folder, plan, dtype=bench.facts.dtype, compute=bench.computed.dtype)
    judged, answers, quality = _judged(bench, changed, blocks, tests)
    found += (*judging_findings(recipe, wanted, facts), *unwritten(wanted, bench))
    asserts = gate_of(plan.model_copy(update={"eval": wanted}), recipe, facts, no_heal=record.no_heal)(
        {on.data: on.scores for on in judged}, {task.name: task.post_scores() for task in answers}
    )
    found += failures(asserts)
    sources = record.evaluation.get("sources", ()) if record.evaluation else ()
    first = {source.get("data_digest", ""): source["seen"] for source in sources if "seen" in source}
    seen, said = seen_by_artifact(plan, record.no_heal, first, blocks, bench, place)
    for source in quality["sources"]:
        if source["data_digest"] in seen:
            source["seen"] = seen[source["data_digest"]]
    return Judged(plan.model.name, record, quality, asserts, (*found, *said))


def evaluate_model(
    model: str | Path,
    *,
    data: str | Sequence[str] | None = None,
    tokens: int | None = None,
    seq: int | None = None,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    needle: Sequence[int | str] = (),
    needle_texts: int | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Judged:
    """A base alone: its perplexity on texts (`builtin:wikitext`), and its shares of right answers. What it cannot do itself
    no artifact of it can. Settings as in `evaluate_artifact`; raises LbdslError for what is wrong with them or the model,
    LB451 where it computes NaN or infinity."""
    bench, texts = OpenModel(model, options, progress), _texts(data)
    needles = _needles(needle, (), Path.cwd())
    place = bench.place("eval")  # Names mean files of the folder that it runs in.
    given = {"data": texts, "tokens": tokens, "seq": seq, "tasks": tuple(tasks), "limit": limit, "needle": needles}
    asked, place = _asked(Evaluate(), place, {**given, "needle_texts": needle_texts})
    wanted = judged_lengths(asked, bench.facts.layer_specs, bench.facts).unwrap()
    check_asked(wanted.tasks, bench, place)
    blocks, tests = eval_blocks(wanted, Measure(), None, bench, place), eval_tests(wanted, bench, place)
    quality = _judged(bench, None, blocks, tests)[2]
    return Judged(bench.source.short_name, None, quality, (), unwritten(wanted, bench))


def _judged(bench: OpenModel, changed: Any, blocks: Any, tests: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The quality on each text, the answers to the tests, and both as JSON."""
    from lbdsl.evaluate.quality import evaluation_json, judge_on
    from lbdsl.evaluate.tasks import ask

    judged = judge_on(bench.judged_base, changed, blocks, "judging", bench.progress, bench.options.batch)
    answers = ask(bench.judged_base, changed, tests, bench.progress)
    return judged, answers, evaluation_json(judged, tasks=answers)


def _texts(data: str | Sequence[str] | None) -> tuple[str, ...]:
    return (data,) if isinstance(data, str) else tuple(data or ())


def _asked(block: Evaluate, place: FileScope, given: Mapping[str, Any]) -> tuple[Evaluate, FileScope]:
    """The block with the settings that are given, and the place where the user gave the files in them."""
    files = (needle.file for needle in given["needle"] if isinstance(needle, OwnQuestions))
    names = frozenset(name.removeprefix(WIKITEXT) for name in (*given["data"], *given["tasks"], *files))
    settings = {name: value for name, value in given.items() if value}
    return block.model_copy(update=settings), replace(place, given=names)


def _needles(given: Iterable[int | str], known: Sequence[str], folder: Path) -> tuple[Needle, ...]:
    return tuple(one if isinstance(one, int) else OwnQuestions(file=_named(one, known, folder)) for one in given)


def _named(given: str, known: Iterable[Any], folder: Path) -> str:
    """A text, task or file of questions of the command line, where paths are relative to the working directory: as the
    recipe in `folder` names it, if it does."""
    path, form = os.path.abspath(path_of(given)), WIKITEXT if given.startswith(WIKITEXT) else ""
    if not os.path.isfile(path):
        return given
    names = (name for name in known if isinstance(name, str) and name.startswith(WIKITEXT) == bool(form))
    return next((name for name in names if os.path.abspath(path_of(name, folder)) == path), form + path)
