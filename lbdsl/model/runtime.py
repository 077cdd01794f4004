"""The classes of the hybrid runtime, by family."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from lbdsl.families import FAMILIES
from lbdsl.model import hybrid
from lbdsl.model.hybrid.rendered import configuration_module, modeling_module


@dataclass(frozen=True)
class HybridClasses:
    """Configuration, body and causal language model of one family's hybrid runtime."""

    config: Any
    body: Any
    causal_lm: Any


def hybrid_classes(model_type: str) -> HybridClasses:
    """The classes of the family called `model_type` (without prefix); its files are imported on the first call."""
    stem = f"Lbdsl{FAMILIES[model_type].classes.stem}"
    modeling = importlib.import_module(f"{hybrid.__name__}.{modeling_module(model_type)}")
    configuration = importlib.import_module(f"{hybrid.__name__}.{configuration_module(model_type)}")
    return HybridClasses(
        getattr(configuration, f"{stem}Config"), getattr(modeling, f"{stem}Model"), getattr(modeling, f"{stem}ForCausalLM")
    )
