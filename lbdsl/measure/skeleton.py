"""A hybrid model without its weights, for everything that needs only its configuration, shapes and buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.initialization import no_init_weights

from lbdsl.cost.facts import ModelFacts
from lbdsl.families import ARTIFACT_PREFIX
from lbdsl.model.load import stock_class, stock_config
from lbdsl.model.load_check import loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.model.runtime import hybrid_classes
from lbdsl.model.surgery import to_hybrid
from lbdsl.model.tensor_names import model_config


def skeleton_of(folder: Path, facts: ModelFacts, device: Any = "cpu") -> Any:
    """The hybrid model of the checkpoint in `folder`, in eval mode on `device`, with a placeholder for every parameter.

    A placeholder has its parameter's shape and dtype but stores one element. Buffers are real. The checkpoint may be a
    stock model or an artifact; `facts` come from its inspection. Raises LB417 if transformers cannot build the model.
    """
    dtype = getattr(torch, facts.dtype)
    with loading("LB417", f"{folder} cannot be loaded"), quiet_transformers():
        model = _without_weights(folder, dtype, facts)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    made: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                # A tied parameter is one object under two names and must stay one.
                if parameter not in made:
                    made[parameter] = stand_in(parameter.shape, dtype, device)
                setattr(module, leaf, made[parameter])
        for leaf, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[leaf] = buffer.to(device)
    model.eval()
    return model if model.config.model_type.startswith(ARTIFACT_PREFIX) else to_hybrid(model)


def stand_in(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, device: Any = "cpu") -> nn.Parameter:
    """A placeholder parameter of any shape that takes the memory of one element; its values are meaningless."""
    return nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(shape), requires_grad=False)


def _without_weights(folder: Path, dtype: torch.dtype, facts: ModelFacts) -> Any:
    model_type = model_config(folder)["model_type"]
    options = {"dtype": dtype, "attn_implementation": facts.family_data.attention_implementation}
    # Only parameters are left empty: buffers such as rotary frequencies are not in a checkpoint and are computed here.
    with init_empty_weights(include_buffers=False), no_init_weights():
        if model_type.startswith(ARTIFACT_PREFIX):
            classes = hybrid_classes(model_type.removeprefix(ARTIFACT_PREFIX))
            config = classes.config.from_pretrained(folder)
            # Here all weights are read as matrices.
            config.lbdsl.pop("packed", None)
            model = classes.causal_lm._from_config(config, **options)
        else:
            model = stock_class(facts)._from_config(stock_config(folder, facts), **options)
    model.tie_weights()
    return model
