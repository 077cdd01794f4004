"""`evaluate_artifact`: evaluate a saved artifact against its base model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lbdsl.artifact.record import Record, facts_of
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.progress import AnyProgress
from lbdsl.data.sources import WIKITEXT, path_of
from lbdsl.plan.gates import gate_of
from lbdsl.plan.lengths import judged_lengths, judging_findings, tasks_asked
from lbdsl.plan.schema import AssertResult
from lbdsl.recipe.schema import Evaluate
from lbdsl.verbs.notebook import NotebookResult
from lbdsl.verbs.saved_recipe import came_from, planned_recipe
from lbdsl.workbench.options import RunOptions
from lbdsl.workbench.workbench import opened


@dataclass(frozen=True, repr=False)
class Judged(NotebookResult):
    """The quality of an artifact, as JSON fields, and the results of its asserts on these numbers."""

    record: Record
    quality: dict[str, Any]
    asserts: tuple[AssertResult, ...]
    diagnostics: tuple[Diagnostic, ...]

    def in_short(self) -> str:
        return f"{self.record.plan.model.name} on {', '.join(source['data'] for source in self.quality['sources'])}"

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
    needle: Sequence[int] = (),
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Judged:
    """Perplexity, KL to the base and top-1 agreement of an artifact's folder, on the texts of its `eval` block.

    `against` is the base model, needed when it is not at the path in the record; `data` (one text or several), `tokens`
    (in tokens), `seq`, `tasks`, `limit` and `needle` (contexts in tokens) replace the block's settings. Raises LbdslError
    when the folder is not an artifact or was edited, or the base at the path in the record is another one now; a base that
    is named may be another, with the same vocabulary.
    """
    from lbdsl.artifact.restore import artifact_beside
    from lbdsl.evaluate.quality import evaluation_json, judge_on
    from lbdsl.evaluate.tasks import ask
    from lbdsl.verbs.seen import seen_by_artifact
    from lbdsl.workbench.texts import check_asked, eval_blocks, eval_tests

    folder = Path(artifact)
    record, bench, found = opened(folder, against, options, progress)
    plan, facts = record.plan, facts_of(record)
    bench.came_from = came_from(plan, folder)
    block, place = plan.eval or Evaluate(), bench.place(plan.recipe.path)
    named = (data,) if isinstance(data, str) else tuple(data or ())
    known = (*block.data, *(plan.heal.sources if plan.heal is not None else ()))
    given = tuple(_named(text, known, place.folder) for text in named)
    own_tasks = tuple(_named(task, block.tasks, place.folder) for task in tasks)
    place = replace(place, given=frozenset({*given, *own_tasks}))
    asked = {
        "data": given or block.data,
        "tokens": tokens or block.tokens,
        "seq": seq or block.seq,
        "tasks": own_tasks or block.tasks,
        "limit": limit or block.limit,
        "needle": tuple(needle) or block.needle,
    }
    recipe = planned_recipe(plan)
    asked_of = block.model_copy(update=asked).with_tasks(tasks_asked(recipe))
    both = replace(facts, positions=min(facts.positions, bench.facts.positions))
    wanted = judged_lengths(asked_of, plan.specs, both).unwrap()
    check_asked(wanted.tasks, bench, place)
    texts = eval_blocks(wanted, plan.measure, plan.heal, bench, place, finished=True)
    base = bench.judged_base
    changed = artifact_beside(base, folder, plan, dtype=bench.facts.dtype, compute=bench.computed.dtype)
    judged = judge_on(base, changed, texts, "judging", bench.progress, bench.options.batch)
    answers = ask(base, changed, eval_tests(wanted, bench, place), bench.progress)
    found += judging_findings(recipe, wanted, facts)
    asserts = gate_of(plan, recipe, facts)(
        {quality.data: quality.post_scores() for quality in judged}, {task.name: task.post_scores() for task in answers}
    )
    found += [error("LB468", f"assert {item.text} fails on this text") for item in asserts if item.status == "fail"]
    sources = record.evaluation["sources"] if record.evaluation else ()
    first = {source["data_digest"]: source["seen"] for source in sources if "seen" in source}
    seen, said = seen_by_artifact(plan, record.no_heal, first, texts, bench, place)
    found += said
    quality = evaluation_json(judged, tasks=answers)
    for source in quality["sources"]:
        if source["data_digest"] in seen:
            source["seen"] = seen[source["data_digest"]]
    return Judged(record, quality, asserts, tuple(found))


def _named(given: str, known: Iterable[Any], folder: Path) -> str:
    """A text or task of the command line, where paths are relative to the working directory: as the recipe in `folder`
    names it, if it does."""
    path, form = os.path.abspath(path_of(given)), WIKITEXT if given.startswith(WIKITEXT) else ""
    if not os.path.isfile(path):
        return given
    names = (name for name in known if isinstance(name, str) and name.startswith(WIKITEXT) == bool(form))
    return next((name for name in names if os.path.abspath(path_of(name, folder)) == path), form + path)
