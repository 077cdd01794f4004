"""Configurations of artifacts for vLLM's processes: the base family's own, with one more entry, `lbdsl`.

They are defined here instead of loaded from the runtime beside the weights, so that no remote code has to be trusted. They
are module attributes because vLLM pickles them between its processes. Each defines its own `__init__`, because transformers
generates one for a class without it.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig

from lbdsl.families import ARTIFACT_PREFIX, FAMILIES
from lbdsl.vllm.layers import checked
from lbdsl.vllm.served import served


def _configuration(family: str) -> Any:
    base: Any = getattr(transformers, FAMILIES[family].classes.config)

    def init(self: Any, lbdsl: dict[str, Any] | None = None, **kwargs: Any) -> None:
        base.__init__(self, **kwargs)
        self.lbdsl = checked(lbdsl, family, self)

    name = f"Lbdsl{FAMILIES[family].classes.stem}VllmConfig"
    fields = {"__module__": __name__, "__init__": init, "model_type": ARTIFACT_PREFIX + family}
    return type(name, (base,), fields)


CONFIGURATIONS = tuple(_configuration(family) for family in served())
globals().update({cls.__name__: cls for cls in CONFIGURATIONS})


def register_configurations() -> None:
    """Register `model_type` lbdsl_llama and the like with AutoConfig. Idempotent."""
    for configuration in CONFIGURATIONS:
        AutoConfig.register(configuration.model_type, configuration, exist_ok=True)
