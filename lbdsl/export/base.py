"""Base class of exporters: a format, the engine that reads it, what it can express, and how it is written.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Exporter`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lbdsl.artifact.quantization import FIELD, quantization_config, with_cache
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.progress import Report
from lbdsl.cost.facts import ModelFacts
from lbdsl.export.expresses import Expresses, refusals
from lbdsl.layer.difference import learned_sinks, window_size
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.layout import checked_specs, native_layers
from lbdsl.parts.attention import Attention
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.parts.moe import Moe


@dataclass(frozen=True)
class Subject:
    """A changed model without its weights: from a plan, or from an artifact.

    config: the fields of the base model's config.json, with the base's own `model_type` and no `lbdsl` entry.
    facts: those of the base model. specs: the specification of each layer after the changes. capability: CUDA's of the
    device that it is to be served on, 0 for a CPU, None where that is open.
    """

    config: Mapping[str, Any]
    facts: ModelFacts
    specs: tuple[LayerSpec, ...]
    capability: float | None = None

    @cached_property
    def base(self) -> tuple[LayerSpec, ...]:
        """The layers of an unchanged model of this configuration, which an engine assumes. They may differ from those of
        `facts`, which may describe an artifact that was changed again."""
        return native_layers(self.config)

    def quantization(self, left: Sequence[int] | None = None) -> dict[str, Any]:
        """The field of config.json for packed weights, if there are any. `left`: the layers that remain, renumbered."""
        specs = self.specs if left is None else [self.specs[layer] for layer in left]
        entry = with_cache(quantization_config(specs, self.facts, experts=True), specs)
        return {} if entry is None else {FIELD: entry}

    def has_attention(self, layer: int) -> bool:
        return self.specs[layer].mixer is not None

    def has_mlp(self, layer: int) -> bool:
        return self.specs[layer].ffn is not None

    @cached_property
    def left(self) -> tuple[int, ...]:
        """The layers of which anything is left."""
        return tuple(i for i in range(len(self.specs)) if self.has_attention(i) or self.has_mlp(i))

    @cached_property
    def kv_heads(self) -> tuple[int, ...]:
        """The number of KV heads of each layer, 0 without softmax attention."""
        mixers = (spec.mixer for spec in self.specs)
        return tuple(mixer.kv_heads if isinstance(mixer, Attention) else 0 for mixer in mixers)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The MLP width of each layer, that of an expert where there are experts, 0 without an MLP."""
        return tuple(spec.ffn.width if isinstance(spec.ffn, GatedMLP | Moe) else 0 for spec in self.specs)

    @cached_property
    def fp8_caches(self) -> dict[int, bool]:
        """Of each layer with attention, whether its cache is of 8-bit floats."""
        mixers = {layer: spec.mixer for layer, spec in enumerate(self.specs)}
        return {layer: mixer.cache == "fp8" for layer, mixer in mixers.items() if isinstance(mixer, Attention)}

    @property
    def has_sink_logits(self) -> bool:
        """Whether any layer has learned sinks."""
        return any(map(learned_sinks, self.specs))

    @cached_property
    def windows(self) -> dict[int, int]:
        """The window size in tokens of each layer that has a window."""
        sizes = {layer: window_size(spec) for layer, spec in enumerate(self.specs)}
        return {layer: size for layer, size in sizes.items() if size is not None}


def subject_of(config: Mapping[str, Any], facts: ModelFacts, specs: Sequence[Any]) -> Subject:
    """A Subject from LayerSpecs or their JSON, which alone say how weights are stored. Raises LB402 for invalid
    specifications or a wrong number of layers."""
    return Subject(
        {name: value for name, value in config.items() if name != FIELD}, facts, checked_specs(specs, facts.layers)
    )


class Exporter(ABC):
    """Base of all exporters. The class docstring is the user's page: What / Engine / Limits / Source."""

    kind: ClassVar[str]
    """The value of `--to`."""

    engine: ClassVar[str]
    """The engine, as in `plan --target`, e.g. vllm, llamacpp, transformers."""

    plug_in: ClassVar[bool] = False
    """Whether the engine needs lbdsl's plug-in for it."""

    where: ClassVar[str]
    """The name of the format or its engine in messages."""

    expresses: ClassVar[Expresses]
    """The part kinds, fields and values that the format can express; `refusals` refuses the rest."""

    @classmethod
    def refusals(cls, subject: Subject, *, empty: bool = True) -> tuple[Diagnostic, ...]:
        """Errors that name everything in the model that is not in `expresses`. With `empty=False` empty slots are not
        checked."""
        return refusals(cls.expresses, subject.specs, subject.base, cls.where, empty=empty)

    @classmethod
    def engines(cls, subject: Subject) -> tuple[str, ...]:
        """The engines that load it of such a model."""
        return (cls.engine,)

    @classmethod
    def layers(cls, subject: Subject) -> Sequence[int]:
        """The layers that the export has, in its order, by their number in the model."""
        return subject.left

    @classmethod
    @abstractmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        """Errors for what the format or its engine cannot express, one for each reason, with the layers and a help text;
        warnings and notes that a user should see before the export. Includes the refusals. Pure, and does not import
        torch."""

    @classmethod
    def check_tokenizer(cls, folder: Path, subject: Subject) -> tuple[Diagnostic, ...]:
        """Errors for what the format cannot hold of the tokenizer in `folder`; none where no file of it is there."""
        return ()

    @classmethod
    @abstractmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        """Write the artifact in folder `artifact` in this format into the existing empty folder `output`.

        Called only if `check` finds no error. `output` is temporary; the caller renames it. Raises LbdslError.
        """

    @classmethod
    @abstractmethod
    def how_to_load(cls, output: Path) -> str:
        """The code or command that loads the export in its engine, shown after the export."""
