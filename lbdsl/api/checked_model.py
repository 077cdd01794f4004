"""What `check --model` knows of a model besides its facts: what its exports express, and what a recipe names beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lbdsl.api.inspecting import Inspected
from lbdsl.core.diagnostic import Diagnostic, LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.records import check_questions_file
from lbdsl.data.sources import check_source
from lbdsl.plan.lengths import tasks_at
from lbdsl.recipe.schema import Choosing, Measure, Recipe
from lbdsl.recipe.schema_blocks import HealSettings, OwnQuestions, sources_of
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
        return forms_of(self.inspected, engines) if engines else None

    def not_there(self, recipe: Recipe) -> Iterator[Diagnostic]:
        """LB440 and LB441 for texts and questions, LB456 for tasks that are not there. No hub is asked."""
        folder = Path(recipe.path).parent
        runs = recipe.heal.runs if recipe.heal is not None else ()
        blocks: tuple[Measure | HealSettings, ...] = (recipe.measure, *runs)
        named = [(source, block.set_at.get("data")) for block in blocks for source in sources_of(block.data)]
        if recipe.eval is not None:
            named += [(source, recipe.eval.set_at.get("data")) for source in recipe.eval.data]
        checks = [(partial(check_source, data, base_dir=folder), span) for data, span in named if isinstance(data, str)]
        tasks = dict.fromkeys(recipe.eval.tasks, recipe.eval.set_at.get("tasks")) if recipe.eval is not None else {}
        asked = dict(tasks_at(recipe.asserts))
        tasks |= {task: span for task, span in asked.items() if isinstance(task, str)}
        own = dict.fromkeys(recipe.eval.own_questions, recipe.eval.set_at.get("needle")) if recipe.eval is not None else {}
        own |= {needle: span for needle, span in asked.items() if isinstance(needle, OwnQuestions)}
        checks += [(partial(check_questions_file, needle.file, folder), span) for needle, span in own.items()]
        scores = (score for rule in recipe.rules for score in scores_in(rule.selector))
        tasks |= {task: score.span for score in scores if (task := task_of(score.metric)) is not None}
        if tasks:
            from lbdsl.evaluate.task_files import check_name

            checks += [(partial(check_name, task, folder), span) for task, span in tasks.items()]
        for check, span in checks:
            try:
                check()
            except LbdslError as problem:
                yield from (replace(found, span=span) for found in problem.diagnostics)
