"""What a plan was made from: the recipe, the model, and the text that its scores were measured on."""

from __future__ import annotations

import os

from lbdsl.core.digest import digest_of, digest_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.schema import IncludedText
from lbdsl.solve.select import PlanValue

PLUG_IN = "plug-in "
"""Begins the names of plug-ins among `MeasuredOn.versions`."""


class RecipeRef(PlanValue):
    """The recipe as it was when the plan was made, with the texts it includes, and its path."""

    name: str | None
    path: str
    text: str
    sha256: str
    params: dict[str, int | float | str | bool]
    set_params: tuple[str, ...] = ()
    included: tuple[IncludedText, ...] = ()

    @property
    def files(self) -> tuple[IncludedText, ...]:
        """Everything that the recipe's hash covers, by its path, the recipe's own text first."""
        folder = os.path.dirname(self.path)
        own = IncludedText(path=self.path, text=self.text, sha256=digest_text(self.text))
        return own, *(item.model_copy(update={"path": os.path.join(folder, item.path)}) for item in self.included)


class ModelRef(PlanValue):
    """The model the plan is for. `name` is for display."""

    source: str
    name: str = ""
    revision: str | None = None
    family: str
    layers: int
    dtype: str
    digest: str
    facts: ModelFacts


class PatchCheck(PlanValue):
    """The factor of a plan's patches, and the KL to the base in nats per token, with and without them, on the text that
    they are checked on."""

    factor: float
    kl: float
    kl_without: float


class MeasuredOn(PlanValue):
    """The text that scores are measured on, with its digest, and the fingerprint under which they are stored; both None,
    and `tokens` 0, if the recipe needs no score. `joint_digest` is of the text of the joint loss; `check` is the text that
    patches are checked on. `versions`: those that measured numbers depend on, by name, and the sha256 of the files of
    plug-ins. `estimated`: the scores that a screen has estimated."""

    data: str
    digest: str | None
    tokens: int
    seq: int
    fingerprint: str | None
    joint_digest: str | None = None
    check: str | None = None
    patches: PatchCheck | None = None
    check_digest: str | None = None
    versions: dict[str, str] = {}
    estimated: tuple[str, ...] = ()

    @property
    def statistics_key(self) -> str:
        """The fingerprint under which statistics are stored."""
        return digest_of([self.fingerprint, self.check_digest]) if self.check_digest else self.fingerprint or ""
