"""What an exporter is: a format, the engine that reads it, what it cannot express, and how it is written.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Exporter`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.progress import Report
from lbdsl.export.expresses import Expresses, refusals
from lbdsl.layer.difference import window_size
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.layout import checked_specs, native_layers


@dataclass(frozen=True)
class Subject:
    """A changed model as far as it is known without its weights: before the work (a plan), or of an artifact.

    config: the fields of the base model's config.json, with the base's own `model_type` and no `lbdsl` entry.
    facts: of the base model. specs: what each layer becomes.
    """

    config: Mapping[str, Any]
    facts: ModelFacts
    specs: tuple[LayerSpec, ...]

    @cached_property
    def base(self) -> tuple[LayerSpec, ...]:
        """The layers of an unchanged model of this configuration: what an engine takes them for. `facts` may be of an
        artifact that was changed again."""
        return native_layers(self.config)

    def has_attention(self, layer: int) -> bool:
        return self.specs[layer].mixer is not None

    def has_mlp(self, layer: int) -> bool:
        return self.specs[layer].ffn is not None

    @property
    def windows(self) -> dict[int, int]:
        """The size of the window, in tokens, of each layer that has one."""
        sizes = {layer: window_size(spec) for layer, spec in enumerate(self.specs)}
        return {layer: size for layer, size in sizes.items() if size is not None}


def subject_of(config: Mapping[str, Any], facts: ModelFacts, specs: Sequence[Any]) -> Subject:
    """A Subject of LayerSpecs or their JSON. LB402 for specifications that are none, or of another number of layers."""
    return Subject(dict(config), facts, checked_specs(specs, facts.layers))


class Exporter(ABC):
    """Base of all exporters. The class docstring is the user's page: What / Engine / Limits / Source."""

    kind: ClassVar[str]
    """The name after `--to`."""

    engine: ClassVar[str]
    """The engine's name after `plan --target`, e.g. vllm, llamacpp, transformers."""

    where: ClassVar[str]
    """What messages call the format or its engine."""

    expresses: ClassVar[Expresses]
    """The part kinds, fields and values that it can say; `refusals` refuses the rest."""

    @classmethod
    def kind_name(cls) -> str:
        return cls.kind

    @classmethod
    def refusals(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        """Errors for what is not in `expresses`, by name."""
        return refusals(cls.expresses, subject.specs, subject.base, cls.where)

    @classmethod
    @abstractmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        """Errors for what the format or its engine cannot express, one for each reason, with the layers and a help;
        warnings and notes for what a user should know before the work. The refusals are part of it. Pure, and free of
        torch."""

    @classmethod
    @abstractmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        """Write the artifact in folder `artifact` as this format into the existing empty folder `output`.

        Called only when `check` finds no error. The caller writes beside and renames. Raises LbdslError.
        """

    @classmethod
    @abstractmethod
    def how_to_load(cls, output: Path) -> str:
        """The line that loads it in its engine, shown after the export."""
