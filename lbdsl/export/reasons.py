"""Refusals that several formats share: one diagnostic for each reason, with the layers it is about and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.export.base import Subject

BUILT_IN = ("full", "swa", "none")
"""What `attn` may be without an action's own mixer."""


def own_mixers(subject: Subject, where: str) -> tuple[Diagnostic, ...]:
    """LB505 for layers with a mixer that an action brought. `where` names the format or its engine."""
    found: dict[str, list[int]] = {}
    for layer in range(len(subject.specs)):
        if subject.attention(layer) not in BUILT_IN:
            found.setdefault(subject.attention(layer), []).append(layer)
    return tuple(
        error(
            "LB505",
            f"{where} has no mixer called `{name}` ({layers_text(layers)})",
            help="serve the artifact with transformers, or use another action on these layers",
        )
        for name, layers in found.items()
    )


def sink_tokens(subject: Subject, where: str) -> tuple[Diagnostic, ...]:
    """LB503 for windowed layers that keep sink tokens."""
    layers = [i for i, spec in enumerate(subject.specs) if subject.attention(i) == "swa" and spec.get("sinks", 0)]
    if not layers:
        return ()
    return (
        error(
            "LB503",
            f"{where} cannot keep sink tokens ({layers_text(layers)})",
            help="write `sinks=0` in the recipe and heal for it; serve this one with transformers",
        ),
    )


def one_window(subject: Subject, where: str) -> tuple[Diagnostic, ...]:
    """LB504 when windowed layers differ in their window."""
    windows: dict[int, list[int]] = {}
    for layer, spec in enumerate(subject.specs):
        if subject.attention(layer) == "swa":
            windows.setdefault(spec["window"], []).append(layer)
    if len(windows) < 2:
        return ()
    named = "; ".join(f"{window} in {layers_text(layers)}" for window, layers in sorted(windows.items()))
    return (
        error(
            "LB504",
            f"{where} has one window for all layers, this model has {len(windows)}: {named}",
            help="give all windowed layers, those with a native window too, the same window",
        ),
    )


def first_attention(subject: Subject, where: str) -> tuple[Diagnostic, ...]:
    """LB502 when the first layer in which anything is left has no attention. Layers without both parts before it are
    passed through."""
    for layer in range(len(subject.specs)):
        if subject.attention(layer) != "none":
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


def layers_text(layers: Iterable[int]) -> str:
    """`layer 3`, `layers 1, 4-6`."""
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
