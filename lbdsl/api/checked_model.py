"""What `check --model` knows of a model besides its facts: what its exports express, and what a recipe names beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lbdsl.api.inspecting import Inspected
from lbdsl.core.diagnostic import Diagnostic, LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.records import read_records
from lbdsl.data.sources import check_source
from lbdsl.evaluate.task_files import check_name
from lbdsl.plan.lengths import tasks_at
from lbdsl.recipe.schema import Choosing, Measure, Recipe
from lbdsl.recipe.schema_blocks import RECALL, HealSettings, OwnQuestions, sources_of
from lbdsl.session.asking import task_of
from lbdsl.session.targets import forms_of
from lbdsl.solve.choose import Forms, engines_of
from lbdsl.solve.evaluate import scores_in


@dataclass(frozen=True)
class CheckedModel:
    """A `ModelAtHand` of `lbdsl.api.checking`. No weights are read, and no hub is asked."""

    inspected: Inspected

    @property
    def facts(self) -> ModelFacts:
        return self.inspected.facts

    def forms(self, recipe: Recipe) -> Forms | None:
        """The formats of the engines that a `choose` asks for; None if it asks for none."""
        choosing = next((rule.selector for rule in recipe.rules if isinstance(rule.selector, Choosing)), None)
        engines = engines_of(choosing) if choosing is not None else ()
        return forms_of(self.inspected.source, self.inspected.facts, engines) if engines else None

    def not_there(self, recipe: Recipe) -> Iterator[Diagnostic]:
        """LB440 and LB441 for texts that are not there, LB456 for tasks; findings of `read_records`. No hub is asked."""
        folder, judging = Path(recipe.path).parent, recipe.eval
        stages = recipe.heal.runs if recipe.heal is not None else ()
        blocks: tuple[Measure | HealSettings, ...] = (recipe.measure, *stages)
        named = [(source, block.set_at.get("data")) for block in blocks for source in sources_of(block.data)]
        asked: dict[Any, Any] = {}
        if judging is not None:
            named += [(source, judging.set_at.get("data")) for source in judging.data]
            asked = dict.fromkeys(judging.tasks, judging.set_at.get("tasks"))
            asked |= dict.fromkeys(judging.own_questions, judging.set_at.get("needle"))
        own = (OwnQuestions(file=source) for source in recipe.measure.recall if source != RECALL)
        asked |= dict.fromkeys(own, recipe.measure.set_at.get("recall"))
        asked |= tasks_at(recipe.asserts)
        scores = (score for rule in recipe.rules for score in scores_in(rule.selector))
        asked |= {task: score.span for score in scores if (task := task_of(score.metric)) is not None}
        checks: list[tuple[Callable[[], object], Any]] = []
        checks += [(partial(check_source, data, base_dir=folder), span) for data, span in named if isinstance(data, str)]
        for one, span in asked.items():
            if isinstance(one, OwnQuestions):
                checks.append((partial(read_records, one.file, folder), span))
            elif isinstance(one, str):
                checks.append((partial(check_name, one, folder), span))
        for check, span in checks:
            try:
                check()
            except LbdslError as problem:
                yield from (replace(found, span=span) for found in problem.diagnostics)
