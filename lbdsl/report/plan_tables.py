"""The tables in a plan's terminal output: rules, costs before and after, asserts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from pygments.token import Comment, Keyword, Name, Number, Operator, String
from rich.text import Text

from lbdsl.core.units import bytes_text, count_text, plural, ranges_text, tokens_text
from lbdsl.language.highlight import GROUP, STATEMENT, pieces
from lbdsl.layer.difference import window_size
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.plan.words import value_text
from lbdsl.recipe.schema import Phase
from lbdsl.report.console import USUAL, printable

_STATUS_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "undecided": "bold red",
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


def fitted(text: str, width: int, ascii_: bool) -> str:
    """`text`, cut with an ellipsis when it is longer than `width`."""
    if len(text) <= width:
        return text
    dots = "..." if ascii_ else "…"
    return text[: max(0, width - len(dots))] + dots


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


Cells = Mapping[tuple[float | None, str | None], str]
"""Scores with their standard errors, by value and unit."""


def result_lines(results: Sequence[AssertResult], width: int, ascii_: bool, cells: Cells | None = None) -> Iterator[Text]:
    """One line per assert: text, status and value; `cells` are of asserts on the finished model."""
    texts = [fitted(printable(item.text), max(width, USUAL) - 30, ascii_) for item in results]
    column = max((len(text) for text in texts), default=0) if width >= USUAL else 0
    for place, (item, text) in enumerate(zip(results, texts, strict=True)):
        line = Text(f" {'asserts' if place == 0 else '':<8} {text:<{column}}  ")
        line.append(item.status, style=_STATUS_STYLES[item.status])
        of_score = cells if cells is not None and item.phase is Phase.POST else {}
        value = of_score.get((item.value, item.unit), "") if item.value is not None else ""
        value = value or value_text(item)
        value += f" on {printable(item.on)}" if item.on else ""
        if value:
            line.append(f"   {value}", style="dim")
        yield line
