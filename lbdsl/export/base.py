"""What an exporter is: a format, the engine that reads it, what it cannot express, and how it is written.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Exporter`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.layer.facts import ModelFacts
from lbdsl.core.progress import Report
from lbdsl.model.layout import checked_specs


@dataclass(frozen=True)
class Subject:
    """A changed model as far as it is known without its weights: before the work (a plan), or of an artifact.

    config: the fields of the base model's config.json, with the base's own `model_type` and no `lbdsl` entry.
    facts: of the base model. specs: what each layer becomes, as in `config.json`'s `lbdsl.layers`; a layer that is kept
    and has a native window is {"attn": "swa", "window": its window, "sinks": 0}.
    """

    config: Mapping[str, Any]
    facts: ModelFacts
    specs: tuple[Mapping[str, Any], ...]

    def attention(self, layer: int) -> str:
        """`full`, `swa`, `none`, or the name of an action's own mixer."""
        return str(self.specs[layer].get("attn", "full"))

    def has_mlp(self, layer: int) -> bool:
        return self.specs[layer].get("mlp", "full") != "none"


def subject_of(config: Mapping[str, Any], facts: ModelFacts, specs: Sequence[Mapping[str, Any]]) -> Subject:
    """A Subject in which every window is said: a kept layer sees its native window, where it has one. LB402 for
    specifications that are none, or of another number of layers."""
    said = []
    for spec, native in zip(checked_specs(specs, len(facts.native_window)), facts.native_window, strict=True):
        full = {"attn": "full", **spec}
        if full["attn"] == "full" and native:
            full = {**full, "attn": "swa", "window": native, "sinks": 0}
        said.append(full)
    return Subject(dict(config), facts, tuple(said))


class Exporter(ABC):
    """Base of all exporters. The class docstring is the user's page: What / Engine / Limits / Source."""

    kind: ClassVar[str]
    """The name after `--to`."""

    engine: ClassVar[str]
    """The engine's name after `plan --target`, e.g. vllm, llamacpp, transformers."""

    @classmethod
    def kind_name(cls) -> str:
        return cls.kind

    @classmethod
    @abstractmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        """Errors for what the format or its engine cannot express, one for each reason, with the layers and a help;
        warnings and notes for what a user should know before the work. Pure, and free of torch."""

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
