"""The changed layers in a plan's terminal output: each with its change, what that saves, by which rule and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.text import Text

from lbdsl.core.units import bytes_text, count_text, tokens_text
from lbdsl.layer.difference import changes_text
from lbdsl.parts import Mark
from lbdsl.plan.schema import LayerPlan, Plan
from lbdsl.report.console import USUAL, printable
from lbdsl.report.strip import STYLES, Scale

OF_EACH_KIND = 2
BAR = 8


def change_lines(plan: Plan, width: int, ascii_: bool, all_layers: bool) -> Iterator[Text]:
    """Two lines per layer; without `all_layers` only the first two layers of each kind of change."""
    changed = list(plan.changed)
    shown = changed if all_layers else _some(changed)
    if not shown:
        return
    becomes = [_becomes(layer, ascii_) for layer in shown]
    digits = len(str(len(plan.layers) - 1))
    # On a narrow screen what it saves goes below the change.
    narrow = width < USUAL
    column = min(max(len(", ".join(parts)) for parts in becomes), width - (11 + digits if narrow else 46))
    for layer, parts in zip(shown, becomes, strict=True):
        mark = _mark(layer)
        first, *more = _lines(parts, column)
        # A digit (number of KV heads) would look like part of the layer number.
        sign = "~" if mark.sign.isdigit() else mark.sign
        line = Text(f" {sign} layer {layer.index:>{digits}}  {first:<{column}}", style=STYLES[mark.style])
        saved = _savings(plan, layer, ascii_)
        line.append("" if narrow else f"  {saved}")
        line.rstrip()
        yield line
        for part in more:
            yield Text(" " * (11 + digits) + part, style=STYLES[mark.style])
        if narrow and saved:
            yield Text(" " * (11 + digits) + saved)
        yield from _why(plan, layer, width, 11 + digits, ascii_)
    if len(changed) > len(shown):
        yield Text(f"   ... {len(changed) - len(shown)} more (--all)", style="dim")


def _some(changed: list[LayerPlan]) -> list[LayerPlan]:
    kinds: dict[tuple[str, ...], int] = {}
    shown = []
    for layer in changed:
        kind = tuple(f"{planned.action.text()} {planned.rule}" for planned in layer.acting)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= OF_EACH_KIND:
            shown.append(layer)
    # For a single omitted layer, the line "... 1 more" would save nothing.
    return changed if len(changed) - len(shown) <= 1 else shown


def _mark(layer: LayerPlan) -> Mark:
    """The mark of the layer's largest change: a dropped part first, else the first in the order of the rows."""
    changes = [mark for mark in layer.marks.values() if mark.style != "same"]
    return next((mark for mark in changes if mark.style == "drop"), changes[0] if changes else Mark("", "~", "change"))


def _lines(parts: list[str], column: int) -> list[str]:
    """The parts joined by commas in lines of at most `column` characters; no line break within a part if it fits."""
    kept = [part.replace(" ", "\xa0") if len(part) < column else part for part in parts]
    return [line.replace("\xa0", " ") for line in textwrap.wrap(", ".join(kept), column, break_on_hyphens=False)] or [""]


def _becomes(layer: LayerPlan, ascii_: bool) -> list[str]:
    """The changes of a layer, then the change of its number of parameters."""
    saved = layer.params_after - layer.params_before
    params = [f"{'+' if saved > 0 else '-'}{count_text(abs(saved))} params"] if saved else []
    changes = changes_text(layer.before, layer.after, "->" if ascii_ else "→")
    changes += dict.fromkeys(planned.action.chosen for planned in layer.acting if planned.action.chosen)
    if not changes:
        # With another shape, new weights are implied by the change; here they are the only change.
        changes = [f"new weights of {name.removesuffix('.weight')}" for name in sorted(layer.weights)]
    return [*changes, *params]


def _savings(plan: Plan, layer: LayerPlan, ascii_: bool) -> str:
    """`KV@8Ki 6.00 MiB -> 195.0 KiB`; empty when the cache size does not change."""
    if not plan.contexts:
        return ""
    context = 8192 if 8192 in plan.contexts else plan.contexts[-1]
    was, becomes = layer.kv_bytes_before[str(context)], layer.kv_bytes_after[str(context)]
    if was == becomes:
        return ""
    left = bytes_text(becomes) if becomes else "0"
    return f"KV@{tokens_text(context)} {bytes_text(was)} {'->' if ascii_ else '→'} {left}"


def _why(plan: Plan, layer: LayerPlan, width: int, indent: int, ascii_: bool) -> Iterator[Text]:
    rules = sorted({planned.rule for planned in layer.acting})
    number = f"rule{'' if len(rules) == 1 else 's'} {', '.join(map(str, rules))}: " if rules else ""
    bar, key = "", next((key for key in layer.scores if layer.reason.startswith(f"{key} ")), "")
    if scale := Scale.of([other.scores[key].value for other in plan.layers if key in other.scores], ""):
        bar = ("#" if ascii_ else "▪") * (1 + round(scale.fraction(layer.scores[key].value) * (BAR - 1))) + "  "
    text = f"{number}{bar}{printable(layer.reason)}"
    for line in textwrap.wrap(text, width - indent, break_on_hyphens=False):
        yield Text(" " * indent + line, style="dim")
