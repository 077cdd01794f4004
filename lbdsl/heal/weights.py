"""Which weights are trained, and the model without adapters afterwards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from lbdsl.core.diagnostic import fail
from lbdsl.model.computing import cast_weights
from lbdsl.parts import parts
from lbdsl.recipe.schema_blocks import HealSettings, LearnedSinks, Lora


def with_trainable_weights(student: nn.Module, heal: HealSettings, layers: Collection[int]) -> Any:
    """Make what parts of `layers` always train (learned sinks) trainable, and LoRA adapters on their linear maps with
    their norms and routers and the final norm, or all their weights, unless sinks are trained alone; all in fp32. Freeze
    all else. LoRA skips maps that compute in another way than by their matrix: merging an adapter would not give the output
    that was trained. Packed maps are rounded later, when they are saved; where inputs are rounded, the adapter's own are
    not. Raises LB484 if no maps are left."""
    from lbdsl.heal.loop import always_trained

    for parameter in student.parameters():
        parameter.requires_grad_(False)
    places = tuple(f".layers.{layer}." for layer in layers)

    def chosen(name: str) -> bool:
        return any(place in f".{name}." for place in places)

    own = [student.get_parameter(name) for name in always_trained(student) if chosen(name)]
    for parameter in own:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if isinstance(heal.method, LearnedSinks):
        return student
    if isinstance(heal.method, Lora):
        from peft import LoraConfig, get_peft_model

        maps = [name for name, module in student.named_modules() if isinstance(module, nn.Linear) and chosen(name)]
        stored = tuple(
            f"{name}.{module}."
            for name, layer in student.named_modules()
            for module, storage in getattr(layer, "spec", {}).get("weights", {}).items()
            if not parts()[storage["kind"]].model_validate(storage).packs  # type: ignore[attr-defined]
        )
        targets = [name for name in maps if not f"{name}.".startswith(stored)]
        if not targets:
            why, other = "the layers have no linear maps", "leave the attention of some of them"
            if maps:
                why, other = "every linear map of the layers is stored in a way of its own", "leave some maps as they are"
            help = f"use `method = full` in the heal block, or {other}"
            raise fail("LB484", f"LoRA has nothing to train: {why}", help=help)
        config = LoraConfig(
            r=heal.method.rank,
            lora_alpha=heal.method.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        beside = ("norm.weight", *(f".{name}" for part in parts().values() for name in part.healed))
        own += [p for name, p in student.named_parameters() if name.endswith(beside) and (chosen(name) or _last(name))]
        trained = get_peft_model(student, config)
        for parameter in own:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        return trained
    # Updates at lr 1e-4 are lost to rounding in bf16 weights: train in fp32, with autocast for fast matrix products.
    cast_weights(student, "float32")
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(chosen(name) or _last(name))
    return student


def _last(name: str) -> bool:
    """Whether a parameter is the norm before the head."""
    return name.endswith("model.norm.weight")


def merged(trained: Any, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`, with adapters merged into the weights in fp32, one map at a time."""
    if hasattr(trained, "unload"):
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in trained.modules():
            if isinstance(module, BaseTunerLayer):
                weight = module.get_base_layer().weight
                weight.data = weight.data.float()
                module.merge()
                weight.data = weight.data.to(dtype)
        trained = trained.unload()
    for parameter in trained.parameters():
        parameter.requires_grad_(False)
    cast_weights(trained, str(dtype).removeprefix("torch."))
    return trained.eval()
