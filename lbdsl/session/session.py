"""A recipe on a model that is at hand, for one command: what its stages share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lbdsl.core.place import FileScope
from lbdsl.core.progress import Progress
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.schema import Recipe
from lbdsl.session.model import OpenModel
from lbdsl.solve.case import Case

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks


@dataclass(frozen=True)
class Session:
    """Nothing in it changes; texts are read on first use, once."""

    case: Case
    model: OpenModel

    @property
    def recipe(self) -> Recipe:
        return self.case.recipe

    @property
    def facts(self) -> ModelFacts:
        return self.case.facts

    @property
    def progress(self) -> Progress:
        return self.model.progress

    @cached_property
    def place(self) -> FileScope:
        """Which files the recipe's names may mean."""
        return self.model.place(self.recipe.path)

    @cached_property
    def text(self) -> TokenBlocks:
        """The text that layers are scored on."""
        from lbdsl.session.texts import score_blocks

        return score_blocks(self.recipe.measure, self.model, self.place)

    @cached_property
    def joint_text(self) -> TokenBlocks:
        """The text that whole plans are measured on: no score was."""
        from lbdsl.session.texts import joint_blocks

        return joint_blocks(self.recipe.measure, self.model, self.place)

    @cached_property
    def patches(self) -> bool:
        """Whether an action of a rule or a score patches the layers before."""
        of_rules = (action for rule in self.recipe.rules for action in rule.actions)
        return any(action.patched for action in (*self.case.score_actions.values(), *of_rules))

    @cached_property
    def check_text(self) -> TokenBlocks | None:
        """The text that patches are checked on; None without any."""
        from lbdsl.session.texts import check_blocks

        return check_blocks(self.recipe.measure, self.model, self.place) if self.patches else None
