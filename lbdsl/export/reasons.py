"""Errors that several formats share: one diagnostic for each reason, with the affected layers and a help text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.layer.difference import window_size

if TYPE_CHECKING:
    from lbdsl.export.base import Subject


def first_attention(subject: Subject, where: str) -> tuple[Diagnostic, ...]:
    """LB502 if the first layer that is not empty has no attention. Layers before it without attention and MLP are
    no-ops."""
    for layer in range(len(subject.specs)):
        if subject.has_attention(layer):
            return ()
        if subject.has_mlp(layer):
            return (
                error(
                    "LB502",
                    f"{where} needs attention in the first layer that has anything, and layer {layer} has only its MLP",
                    help=f"keep or window layer {layer}: `layers {layer} keep`",
                ),
            )
    return (error("LB502", f"{where} needs at least one layer with attention"),)


def retyped_layers(subject: Subject, left: Iterable[int], windows: Iterable[int]) -> list[int]:
    """The remaining layers that gained or lost a window compared to the base."""
    return [i for i in left if (i in set(windows)) != (window_size(subject.base[i]) is not None)]


def layers_text(layers: Iterable[int]) -> str:
    """Layers as text: `layer 3`, `layers 1, 4-6`."""
    numbers = sorted(set(layers))
    parts, start = [], 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            parts.append(_run(numbers[start:end]))
            start = end
    return ("layer " if len(numbers) == 1 else "layers ") + ", ".join(parts)


def _run(numbers: Sequence[int]) -> str:
    if len(numbers) < 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}-{numbers[-1]}"
