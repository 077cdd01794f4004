"""The differences between two specifications of a layer: by field, as marks in a plan's layer strip, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lbdsl.core.units import plural
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Mark, Part, Slot
from lbdsl.parts.base import ROWS, WORDS

SUB_BLOCKS = (Slot.MIXER, Slot.FFN)


def differences(before: LayerSpec, after: LayerSpec) -> dict[str, tuple[Any, Any]]:
    """The changes by path: (before, after) as JSON values; a part of another kind, or a dropped part, is one change."""
    found: dict[str, tuple[Any, Any]] = {}
    for slot in SUB_BLOCKS:
        was, becomes = before.part(slot), after.part(slot)
        if was is None or becomes is None or type(was) is not type(becomes):
            if was != becomes:
                found[slot.value] = (_json(was), _json(becomes))
        else:
            found |= {
                f"{slot}.{name}": (_json(getattr(was, name)), _json(getattr(becomes, name)))
                for name in _changed(was, becomes)
            }
    for module, stored in _storage_changes(before, after).items():
        found[f"{Slot.WEIGHTS}.{module}"] = (_json(before.storage(module)), _json(stored))
    return found


def marks_of(before: LayerSpec, after: LayerSpec) -> dict[str, Mark]:
    """The marks of a layer by row."""
    found: dict[str, Mark] = {}
    for slot in SUB_BLOCKS:
        was, becomes, row = before.part(slot), after.part(slot), ROWS[slot]
        if becomes is not None:
            found |= {mark.row: mark for mark in becomes.marks(was)}
        else:
            gone = Mark(row, "-", "drop", "none", f"without {WORDS[slot]}")
            found[row] = Mark(row, "=", "same") if was is None else gone
    row = ROWS[Slot.WEIGHTS]
    found[row] = Mark(row, ".", "same")
    changed = _storage_changes(before, after)
    marks = {m for module, stored in changed.items() if stored is not None for m in stored.marks(before.storage(module))}
    for mark in sorted(marks, key=lambda mark: mark.sign):
        different = mark.row in {other.row for other in marks if other != mark}
        found[mark.row] = replace(mark, sign="m", legend="mixed") if different else mark
    return found


def changes_text(before: LayerSpec, after: LayerSpec, arrow: str) -> list[str]:
    """The changes as text, dropped parts first: `attention dropped`, `window full -> 256`, `7 modules -> int(bits=4)`."""
    gone = [WORDS[slot] for slot in SUB_BLOCKS if before.part(slot) is not None and after.part(slot) is None]
    found = [f"{' and '.join(gone)} dropped"] if gone else []
    for slot in SUB_BLOCKS:
        was, becomes = before.part(slot), after.part(slot)
        if becomes is None or was == becomes:
            continue
        if was is None:
            found.append(f"{WORDS[slot]} none {arrow} {becomes.text()}")
        elif type(was) is not type(becomes):
            found.append(f"{WORDS[slot]} {arrow} {becomes.text()}")
        else:
            found += [
                f"{name.replace('_', ' ')} {was.field_text(name)} {arrow} {becomes.field_text(name)}"
                for name in _changed(was, becomes)
            ]
    stored: dict[str, int] = {}
    for part in _storage_changes(before, after).values():
        text = "as in the base" if part is None else part.text()
        stored[text] = stored.get(text, 0) + 1
    return [*found, *(f"{plural(count, 'module')} {arrow} {text}" for text, count in stored.items())]


def learned_sinks(spec: LayerSpec) -> bool:
    """Whether the layer's window has learned sinks."""
    window = spec.mixer.sees if spec.mixer is not None else None
    return window is not None and window.sink_logits


def given_windows(before: Sequence[LayerSpec], after: Sequence[LayerSpec]) -> tuple[int, ...]:
    """The sizes in tokens of the windows in `after` that are new or differ from those in `before`."""
    sizes = ((window_size(was), window_size(becomes)) for was, becomes in zip(before, after, strict=True))
    return tuple(size for own, size in sizes if size is not None and size != own)


def window_size(spec: LayerSpec) -> int | None:
    """The size of the layer's window in tokens; None if it has no window."""
    window = spec.mixer.sees if spec.mixer is not None else None
    return None if window is None else window.size


def _changed(was: Part, becomes: Part) -> list[str]:
    return [name for name in becomes.field_names() if getattr(was, name) != getattr(becomes, name)]


def _storage_changes(before: LayerSpec, after: LayerSpec) -> dict[str, Part | None]:
    """The new storage of each module whose storage changed."""
    return {
        module: after.storage(module)
        for module in sorted({name for name, _ in (*before.weights, *after.weights)})
        if before.storage(module) != after.storage(module)
    }


def _json(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
