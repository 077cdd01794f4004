"""The tables in a plan's terminal output: rules; changed layers, each with its change, what that saves, by which rule and
why; costs before and after; asserts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from pygments.token import Comment, Keyword, Name, Number, Operator, String
from rich.text import Text

from lbdsl.core.printed import printable
from lbdsl.core.units import bytes_text, count_text, plural, ranges_text, tokens_text
from lbdsl.language.highlight import GROUP, STATEMENT, pieces
from lbdsl.layer.difference import changes_text, window_size
from lbdsl.parts import Mark
from lbdsl.plan.schema import BARELY, AssertResult, LayerPlan, Plan
from lbdsl.plan.words import undecided_text, value_text
from lbdsl.report.console import USUAL
from lbdsl.report.strip import STYLES, Scale

OF_EACH_KIND = 2
BAR = 8

_STATUS_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "undecided": "bold red",
    BARELY: "yellow",
    "after healing": "cyan",
    "not measured": "yellow",
}

_ROLE_STYLES = {
    **dict.fromkeys((STATEMENT, Keyword, Operator.Word), "bold"),
    **dict.fromkeys((Name.Function, Name.Builtin), "cyan"),
    **dict.fromkeys((Name.Variable, GROUP), "magenta"),
    **dict.fromkeys((Number, String.Double, String.Regex), "green"),
    Comment.Single: "dim",
}


def _highlighted(text: str) -> Text:
    """The text with syntax highlighting; a console without colours shows it plain."""
    line = Text()
    for piece in pieces(text):
        line.append(piece.text, style=_ROLE_STYLES.get(piece.role, ""))
    return line


def rule_lines(plan: Plan, width: int) -> Iterator[Text]:
    """Each rule with the number of layers it claims, and of layers it matches that an earlier rule had claimed."""
    if not plan.rules:
        return
    digits = len(str(plan.rules[-1].number))
    beside = width - digits - 2 - 8 - 14
    # On a narrow screen counts go below the rule.
    room = beside if beside >= 36 else width - digits - 2
    texts = [
        textwrap.wrap(printable(rule.text), room, subsequent_indent="  ", break_on_hyphens=False) or [""]
        for rule in plan.rules
    ]
    column = max(36, *(len(line) for text in texts for line in text))
    if room == beside:
        yield Text(f" {'rule':<{digits + 1 + column}}  claims  was shadowed", style="dim")
    for rule, (first, *rest) in zip(plan.rules, texts, strict=True):
        line = Text(f" {rule.number:>{digits}} ").append_text(_highlighted(first))
        claims, shadowed = "" if rule.claims else "yellow", "yellow" if rule.shadowed else "dim"
        if room == beside:
            line.append(" " * (column - len(first) + 2))
            line.append(f"{len(rule.claims):>6}", style=claims)
            line.append(f"{len(rule.shadowed):>14}", style=shadowed)
        yield line
        for more in rest:
            yield Text(f" {'':>{digits}} ").append_text(_highlighted(more))
        if room != beside:
            below = Text(f" {'':>{digits}}   claims {len(rule.claims)}", style=claims or "dim")
            yield below.append(f", was shadowed {len(rule.shadowed)}", style=shadowed)
        if rule.modules:
            yield Text(f" {'':>{digits}}   the weights of {plural(rule.modules, 'module')}", style="dim")


def change_lines(plan: Plan, width: int, ascii_: bool, all_layers: bool) -> Iterator[Text]:
    """Two lines per layer; without `all_layers` only the first two layers of each kind of change."""
    changed = list(plan.changed)
    shown = changed if all_layers else _some_of_each(changed)
    if not shown:
        return
    becomes = [_becomes(layer, ascii_) for layer in shown]
    digits = len(str(len(plan.layers) - 1))
    # On a narrow screen what it saves goes below the change.
    narrow = width < USUAL
    column = min(max(len(", ".join(parts)) for parts in becomes), width - (11 + digits if narrow else 46))
    for layer, parts in zip(shown, becomes, strict=True):
        # Of its largest change: a dropped part first, else the first in the order of the rows.
        changes = [mark for mark in layer.marks.values() if mark.style != "same"]
        mark = next((mark for mark in changes if mark.style == "drop"), changes[0] if changes else Mark("", "~", "change"))
        first, *more = _wrapped(parts, column)
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


def _some_of_each(changed: list[LayerPlan]) -> list[LayerPlan]:
    kinds: dict[tuple[str, ...], int] = {}
    shown = []
    for layer in changed:
        kind = tuple(f"{planned.action.text()} {planned.rule}" for planned in layer.acting)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= OF_EACH_KIND:
            shown.append(layer)
    # For a single omitted layer, the line "... 1 more" would save nothing.
    return changed if len(changed) - len(shown) <= 1 else shown


def _wrapped(parts: list[str], column: int) -> list[str]:
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


def cost_lines(plan: Plan, ascii_: bool) -> Iterator[Text]:
    """Parameters, cache and FLOPs before and after, at every context of the plan."""
    yield Text(f" {'':<17}{'before':>12}{'after':>12}{'change' if ascii_ else 'Δ':>9}", style="dim")
    yield _cost("params", plan.before.params, plan.after.params, count_text)
    yield _cost("weights", plan.before.weights, plan.after.weights, bytes_text)
    facts = plan.model.facts
    for title, was, becomes, text in (
        ("KV/seq", plan.before.kv_bytes, plan.after.kv_bytes, bytes_text),
        ("FLOPs/token", plan.before.flops_per_token, plan.after.flops_per_token, count_text),
    ):
        for place, context in enumerate(plan.contexts):
            key = str(context)
            name = f"{title if place == 0 else '':<12}{tokens_text(context):>5}"
            line = _cost(name, was[key], becomes[key], text)
            if context > facts.positions and title == "KV/seq":
                line.append(f"  beyond {tokens_text(facts.positions)} positions", style="dim")
            yield line
    native = [layer.index for layer in plan.layers if window_size(layer.before) is not None and not layer.changed]
    if native:
        yield Text(f" layers {ranges_text(native)} have windows of their own and are counted so", style="dim")


def _cost(name: str, was: int, becomes: int, text: Callable[[int], str]) -> Text:
    change = 100 * (becomes - was) / was if was else 0.0
    shown = "same" if becomes == was else f"{change:+.0f} %" if abs(change) >= 9.95 else f"{change:+.1f} %"
    line = Text(f" {name:<17}{text(was):>12}{text(becomes):>12}")
    line.append(f"{shown:>9}", style="green" if becomes < was else "dim" if becomes == was else "red")
    return line


def result_lines(results: Sequence[AssertResult], width: int, ascii_: bool, heals: bool = True) -> Iterator[Text]:
    """One line per assert: text, status and value; then how many are undecided. `heals`: whether the plan does."""
    room, dots = max(width, USUAL) - 30, "..." if ascii_ else "…"
    whole = (printable(item.text) for item in results)
    texts = [text if len(text) <= room else text[: room - len(dots)] + dots for text in whole]
    column = max((len(text) for text in texts), default=0) if width >= USUAL else 0
    for place, (item, text) in enumerate(zip(results, texts, strict=True)):
        line = Text(f" {'asserts' if place == 0 else '':<8} {text:<{column}}  ")
        unhealed = not heals and item.status == "after healing"
        line.append("when applied" if unhealed else item.status, style=_STATUS_STYLES[item.status])
        value = value_text(item, "+-" if ascii_ else "±")
        value += f" on {printable(item.on)}" if item.on else ""
        if value:
            line.append(f"   {value}", style="dim")
        yield line
    # What failed says what would decide it where it is reported.
    help = dict.fromkeys(said for item in results if not item.failed for said in item.help)
    for said in filter(None, (undecided_text(results), *help)):
        yield from (
            Text(f"{'':10}{line}", style="yellow")
            for line in textwrap.wrap(printable(said), max(width, USUAL) - 10, break_on_hyphens=False)
        )
