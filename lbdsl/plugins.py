"""All that an action, a part, a metric or an exporter of your own imports (docs/actions.md, docs/metrics.md).

Other names may change without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnostic, error, note, warning
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import (
    AnyExpr,
    Concat,
    Factor,
    Init,
    Largest,
    MatMul,
    Mean,
    Ref,
    Slice,
    Stat,
    Sum,
    Take,
    Transpose,
)
from lbdsl.metrics import DerivedMetric, LogitsMetric, ResidualMetric
from lbdsl.metrics.nll import NextTokenLoss
from lbdsl.parts import Mark, ModelShape, Part, Slot, TensorRow, TensorShape, Window
from lbdsl.parts.attention import Attention
from lbdsl.parts.base import Storage
from lbdsl.parts.gated_mlp import GatedMLP

if TYPE_CHECKING:
    from lbdsl.export import Exporter, Subject

__all__ = [
    "Action",
    "AnyExpr",
    "Attention",
    "Concat",
    "DerivedMetric",
    "Diagnostic",
    "Exporter",
    "Factor",
    "GatedMLP",
    "Init",
    "Largest",
    "LayerSpec",
    "LogitsMetric",
    "Mark",
    "MatMul",
    "Mean",
    "Measurement",
    "ModelFacts",
    "ModelShape",
    "NextTokenLoss",
    "Part",
    "Ref",
    "ResidualMetric",
    "Slice",
    "Slot",
    "Stat",
    "Storage",
    "Subject",
    "Sum",
    "Take",
    "TensorRow",
    "TensorShape",
    "Transpose",
    "Unit",
    "Window",
    "error",
    "note",
    "warning",
]


def __getattr__(name: str) -> Any:
    """Exporters load more than recipes need, so they are imported when they are asked for."""
    if name in ("Exporter", "Subject"):
        from lbdsl import export

        return getattr(export, name)
    raise AttributeError(name)
