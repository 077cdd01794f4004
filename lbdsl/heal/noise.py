"""What a configuration adds at random in training alone: dropout, and noise on the inputs of routers.

Healing leaves it out. The student is compared with its base token by token, few tokens are read more than once, and a run
that is resumed could not repeat what it drew.
"""

from __future__ import annotations

from typing import Any

from torch import nn

NAMES = ("attention_dropout", "jitter_noise", "router_jitter_noise")
"""Attributes of transformers' modules and configurations; besides, the `p` of each `nn.Dropout`."""


def noise_of(model: Any) -> dict[tuple[str, str], float]:
    """What is not 0, by module ("config" for the configuration) and attribute."""
    places: list[tuple[str, Any]] = [("config", model.config), *model.named_modules()]
    return {
        (place, name): float(value)
        for place, owner in places
        for name in (*NAMES, *(("p",) if isinstance(owner, nn.Dropout) else ()))
        if isinstance(value := getattr(owner, name, None), int | float) and value
    }


def set_noise(model: Any, values: dict[tuple[str, str], float]) -> None:
    """Set attributes as `noise_of` returns them."""
    for (place, name), value in values.items():
        setattr(model.config if place == "config" else model.get_submodule(place), name, value)
