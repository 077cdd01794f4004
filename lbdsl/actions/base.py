"""What an action is: a frozen value that knows what it costs, what it changes and how to do it.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Action`, and
for a mixer of its own one flat runtime file (see `lbdsl.model.hybrid`). Nothing else is edited.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lbdsl.core.costs import SubBlockCost
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.facts import ModelFacts


class Aspect(StrEnum):
    """The part of a layer that an action claims. `BLOCK` is mixer and ffn together."""

    MIXER = "mixer"
    FFN = "ffn"
    BLOCK = "block"
    WEIGHTS = "weights"


@dataclass(frozen=True)
class Change:
    """One layer's change, as a value: the entries of its specification in the saved config, and what it removes.

    `spec` merges into `config.json`'s `lbdsl.layers[layer]`, e.g. {"attn": "swa", "window": 512, "sinks": 4}.
    `removes` are parameter-name prefixes below the layer, e.g. ("self_attn.", "input_layernorm.").
    """

    layer: int
    aspect: Aspect
    spec: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    removes: tuple[str, ...] = ()


class Action(BaseModel):
    """Base of all actions. Fields are the action's parameters, in the order they may be given without a name.

    The class docstring is the user's page: What / Why / Example / Source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    kind: str
    """The tag, a `Literal` of the action's name with that name as default."""

    example: ClassVar[str]
    """An action call that parses, for the reference page and the conformance test."""

    examples: ClassVar[tuple[str, ...]] = ()
    """More calls, where the arguments make another kind of change."""

    carried_out: ClassVar[bool] = True
    """False for an action that is only planned: a plan with it says so with LB215 and cannot be applied."""

    runtime: ClassVar[Path | None] = None
    """The flat runtime file of a mixer that the action brings; copied beside saved weights."""

    @classmethod
    def kind_name(cls) -> str:
        return str(cls.model_fields["kind"].default)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Parameter names in order."""
        return tuple(name for name in cls.model_fields if name != "kind")

    def text(self) -> str:
        """The canonical call: every parameter that has no default, and those that differ from it."""
        parts = []
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "kind" and (info.is_required() or value != info.default):
                parts.append(f"{name}={value}")
        return f"{self.kind}({', '.join(parts)})" if parts else self.kind

    @property
    def keeps(self) -> bool:
        """True when a layer under this action is the base model's layer, unchanged."""
        return False

    @abstractmethod
    def aspects(self) -> frozenset[Aspect]:
        """What it claims; may depend on the arguments."""

    @abstractmethod
    def cost(self, facts: ModelFacts, layer: int) -> Mapping[Aspect, SubBlockCost]:
        """Cost of the MIXER and/or FFN sub-blocks it changes; a sub-block not named costs what it did."""

    @abstractmethod
    def changes(self, facts: ModelFacts, layer: int) -> tuple[Change, ...]:
        """What is done to the layer. Pure."""

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        """What this model cannot express, or what a user should know. Pure."""
        return ()

    def apply(self, model: Any, change: Change) -> dict[str, Any]:
        """Do one change on a hybrid model (`lbdsl.model.hybrid`); returns the record that the artifact keeps."""
        model.set_layer(change.layer, dict(change.spec))
        return {"layer": change.layer, "aspect": change.aspect.value, "action": self.text()}
