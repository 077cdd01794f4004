"""The changed layers of a plan's picture, one entry each: what it becomes, what that saves, by which rule and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.text import Text

from lbdsl.core.units import bytes_text, count_text, tokens_text
from lbdsl.plan.schema import LayerPlan, Plan
from lbdsl.view.console import printable
from lbdsl.view.plan_tables import fitted
from lbdsl.view.strip import MARKS, STYLES, Scale

OF_EACH_KIND = 2
BAR = 8


def change_lines(plan: Plan, width: int, ascii_: bool, all_layers: bool) -> Iterator[Text]:
    """Two lines a layer; without `all_layers` the first two of each kind of change."""
    changed = [layer for layer in plan.layers if layer.changed]
    shown = changed if all_layers else _some(changed)
    if not shown:
        return
    scales = {
        key: Scale.of([layer.scores[key].value for layer in plan.layers if key in layer.scores], "")
        for key in {key for layer in plan.layers for key in layer.scores}
    }
    becomes = [_becomes(plan, layer, ascii_) for layer in shown]
    column = min(max(len(text) for text in becomes), width - 46)
    digits = len(str(len(plan.layers) - 1))
    for layer, text in zip(shown, becomes, strict=True):
        style = STYLES[layer.mark]
        line = Text(
            f" {MARKS[layer.mark]} layer {layer.index:>{digits}}  {fitted(text, column, ascii_):<{column}}", style=style
        )
        line.append(f"  {_savings(plan, layer, ascii_)}")
        line.rstrip()
        yield line
        yield from _why(layer, scales, width, 11 + digits, ascii_)
    if len(changed) > len(shown):
        yield Text(f"   ... {len(changed) - len(shown)} more (--all)", style="dim")


def _some(changed: list[LayerPlan]) -> list[LayerPlan]:
    kinds: dict[tuple[str, ...], int] = {}
    shown = []
    for layer in changed:
        kind = tuple(f"{planned.action.text()} {planned.rule}" for planned in layer.actions if not planned.action.keeps)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= OF_EACH_KIND:
            shown.append(layer)
    # One or two left out would cost a line to say so.
    return changed if len(changed) - len(shown) <= 1 else shown


def _becomes(plan: Plan, layer: LayerPlan, ascii_: bool) -> str:
    gone = [name for part, name in (("attn", "attention"), ("mlp", "MLP")) if layer.spec.get(part) == "none"]
    rest = [planned.action.text() for planned in layer.actions if not planned.action.keeps]
    saved = layer.params_after - layer.params_before
    params = f", {'+' if saved > 0 else '-'}{count_text(abs(saved))} params" if saved else ""
    if gone:
        return f"{' and '.join(gone)} dropped{params}"
    windows = plan.model.facts.get("native_window") or ()
    own = windows[layer.index] if layer.index < len(windows) else None
    was = "full" if own is None else f"window {own}"
    return f"{was} {'->' if ascii_ else '→'} {' + '.join(dict.fromkeys(rest))}{params}"


def _savings(plan: Plan, layer: LayerPlan, ascii_: bool) -> str:
    """`KV@8Ki 6.00 MiB -> 195.0 KiB`; nothing where the cache stays as it is."""
    if not plan.contexts:
        return ""
    context = 8192 if 8192 in plan.contexts else plan.contexts[-1]
    was, becomes = layer.kv_bytes_before[str(context)], layer.kv_bytes_after[str(context)]
    if was == becomes:
        return ""
    left = bytes_text(becomes) if becomes else "0"
    return f"KV@{tokens_text(context)} {bytes_text(was)} {'->' if ascii_ else '→'} {left}"


def _why(layer: LayerPlan, scales: dict[str, Scale | None], width: int, indent: int, ascii_: bool) -> Iterator[Text]:
    rules = sorted({planned.rule for planned in layer.actions if planned.rule is not None and not planned.action.keeps})
    number = f"rule {', '.join(map(str, rules))}: " if rules else ""
    key = next((key for key in layer.scores if layer.reason.startswith(f"{key} ")), None)
    scale = scales.get(key) if key is not None else None
    bar = ""
    if key is not None and scale is not None:
        filled = 1 + round(scale.fraction(layer.scores[key].value) * (BAR - 1))
        bar = ("#" if ascii_ else "▪") * filled + "  "
    text = f"{number}{bar}{printable(layer.reason)}"
    for line in textwrap.wrap(text, width - indent, break_on_hyphens=False):
        yield Text(" " * indent + line, style="dim")
