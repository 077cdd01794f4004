"""Turn a stock transformers model into a hybrid one that shares its weights; nothing else does this."""

from __future__ import annotations

import copy
from typing import Any

import torch

from lbdsl.core.diagnostic import fail
from lbdsl.families import FAMILIES
from lbdsl.model.runtime import hybrid_classes


def to_hybrid(model: Any) -> Any:
    """`model` as an instance of its family's hybrid class, with unchanged layers and the same outputs.

    Parameters and buffers are shared, not copied. An `lbdsl` entry in a stock configuration is ignored.
    Raises LB420 for a family without a hybrid runtime, LB417 if a parameter or buffer is missing.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None or type(model).__name__ != family.architecture:
        raise fail(
            "LB420",
            f"there is no hybrid runtime for {type(model).__name__}",
            help=f"supported: {', '.join(sorted(row.architecture for row in FAMILIES.values()))}",
        )
    classes = hybrid_classes(family.model_type)
    config_class, model_class = classes.config, classes.causal_lm
    values = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in ("model_type", "architectures", "auto_map", "transformers_version", "lbdsl")
    }
    config = config_class(**values)
    # lbdsl.json records the base's origin; libraries that find a name here look for its files, even on the hub.
    config._name_or_path = ""
    config._attn_implementation = model.config._attn_implementation
    config._experts_implementation = model.config._experts_implementation
    with torch.device("meta"):
        hybrid = model_class(config)
    _share_tensors(model, hybrid)
    hybrid.generation_config = copy.deepcopy(model.generation_config)
    return hybrid.train(model.training)


def _share_tensors(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Make `target` use the same parameter and buffer objects as `source`; both have the same names."""
    modules = dict(target.named_modules())
    for name, module in source.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                setattr(modules[name], leaf, parameter)
        for leaf, buffer in module._buffers.items():
            setattr(modules[name], leaf, buffer)
    left = [name for name, tensor in (*target.named_parameters(), *target.named_buffers()) if tensor.is_meta]
    if left:
        raise fail("LB417", f"the model has no {left[0]}, which its hybrid runtime needs")
