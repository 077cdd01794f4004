"""Which layers healing trains: those that differ from the base's, and for distilling all behind the first of them."""

from __future__ import annotations

from typing import Any

import torch


def changed_layers(student: Any, base: Any) -> tuple[int, ...]:
    """The layers whose specification or weights differ from the base's."""
    return tuple(
        index
        for index, (ours, theirs) in enumerate(zip(student.model.layers, base.model.layers, strict=True))
        if ours.spec != theirs.spec or not _same_weights(ours, theirs)
    )


def segments(student: Any, base: Any) -> tuple[range, ...]:
    """The layers that learn together what the base's same layers give: each changed layer alone, but one whose weights make
    up for the next ones (a patch) with them, and one without weights with the one before it."""
    found: list[range] = []
    joined = False
    for index in changed_layers(student, base):
        layer = student.model.layers[index]
        bare = not any(True for _ in layer.parameters())
        if found and (joined or (bare and found[-1].stop == index)):
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(max(0, index - 1) if bare else index, index + 1))
        joined = layer.spec == base.model.layers[index].spec
    return tuple(found)


def _same_weights(ours: Any, theirs: Any) -> bool:
    before = dict(theirs.named_parameters())
    return all(
        parameter is before[name] or torch.equal(parameter, before[name]) for name, parameter in ours.named_parameters()
    )
