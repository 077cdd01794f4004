"""`change_layer`: change one layer of a plan by hand."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from lbdsl.api.planning import Planned, plan_text
from lbdsl.core.diagnostic import fail
from lbdsl.core.span import Source
from lbdsl.core.units import ranges_text
from lbdsl.language.parse import parse
from lbdsl.language.tree import ModulesSelector
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.reading import FolderReader
from lbdsl.recipe.schema import Recipe
from lbdsl.session.saved_recipe import set_values

SUFFIX = ", changed by hand"

UNUSED = "LB210"


def change_layer(planned: Planned, layer: int, action: str) -> Planned:
    """The same plan except for one layer, which gets `action`, written as in a recipe: `"keep"`, `"drop"`,
    `"swa(window=256)"`, `"swa(window=256) + drop(mlp)"`.

    The result has a new recipe that names every layer, in the order of the old rules, and ends with `else keep`: nothing is
    selected again, and only the loss of the whole plan is measured. Names that only old rules used are left out. Raises
    LbdslError for a layer or an action that does not exist, for rules on modules, and for rules or a `strategy` in an
    included file.
    """
    recipe, plan = planned.recipe, planned.plan
    if not 0 <= layer < len(plan.layers):
        raise fail("LB300", f"layer {layer} does not exist", help=f"the model has layers 0-{len(plan.layers) - 1}")
    if any(isinstance(rule.selector, ModulesSelector) for rule in recipe.rules):
        raise fail("LB345", "this plan has rules on modules, which cannot be changed by hand")
    last = len(recipe.rules) + 1
    # By the number of the rule that came first to a layer: a patch of a drop is not what an earlier rule keeps.
    texts = {
        entry.index: (
            min((item.rule for item in entry.actions), default=last),
            " + ".join(dict.fromkeys(item.action.text() for item in entry.acting)) or "keep",
        )
        for entry in plan.layers
    }
    text = _with_rules(recipe, {**texts, layer: (texts[layer][0], action)})
    path = recipe.path if recipe.path.endswith(SUFFIX) else recipe.path + SUFFIX
    unused = {found.message for found in planned.diagnostics if found.code == UNUSED}
    text, values = _without_unused(text, path, set_values(plan), unused)
    return plan_text(text, path, planned.bench, set_params=values, contexts=plan.contexts)


def _with_rules(recipe: Recipe, actions: Mapping[int, tuple[int, str]]) -> str:
    """The recipe's text with each of its rules replaced by one rule for each action of the layers that have its number, and
    `else keep` at the end. Layers of a higher number follow the last rule."""
    spans = {rule.number: rule.span for rule in recipe.rules}
    strategy = recipe.measure.set_at.get("strategy")
    if any(span is None or span.source.base for span in spans.values()) or (strategy is not None and strategy.source.base):
        message = "rules and `strategy` of an included file cannot be changed by hand"
        raise fail("LB345", message, help="write them in the recipe")
    last = max(spans, default=1)
    layers: dict[tuple[int, str], list[int]] = {}
    for index, said in actions.items():
        layers.setdefault(said, []).append(index)
    lines: dict[int, list[str]] = {number: [] for number in (*spans, last)}
    # What nothing claims is kept: that is `else keep`, as what the last rule keeps is.
    final = max(layers)
    for (number, action), members in sorted(layers.items()):
        if (number, action) != final or action != "keep":
            lines[min(number, last)].append(f"layers {ranges_text(members)} {action}")
    lines[last].append("else keep")
    edits = [(span.start, span.end, lines[number]) for number, span in spans.items() if span is not None]
    if strategy is not None:
        # Any other is for a `choose`, which becomes rules.
        edits.append((strategy.start, strategy.end, ["independent"]))
    text = recipe.text
    for start, end, new in sorted(edits, reverse=True):
        # A rule that no layer has is left out with its line.
        end = end if new else _line_end(text, start, end)
        text = text[:start] + "\n".join(new) + text[end:]
    return text if spans else "\n".join((text, *lines[last], ""))


def _line_end(text: str, start: int, end: int) -> int:
    """The end of the line of a statement that stands on it alone, with a comment; else its own."""
    rest = re.compile(r"[ \t;]*(#[^\n]*)?(\n|\Z)").match(text, end)
    return rest.end() if rest is not None and text[:start].rpartition("\n")[2].strip() == "" else end


def _without_unused(
    text: str, path: str, values: Mapping[str, object], before: Collection[str]
) -> tuple[str, dict[str, object]]:
    """The text, and the values of parameters, without definitions that nothing uses now; `before` says what nothing used
    before."""
    left = dict(values)
    while True:
        found = recipe_from_text(text, path, left, reader=FolderReader(Path(path))).diagnostics
        unused = (d for d in found if d.code == UNUSED and d.message not in before)
        spans = [d.span for d in unused if d.span and not d.span.source.base]
        if not spans:
            return text, left
        tree = parse(Source(path, text)).value
        for statement in reversed(tree.statements if tree is not None else ()):
            here = statement.span
            name = next((s.text for s in spans if here and here.start <= s.start < here.end), "")
            if name and here:
                text = text[: here.start] + text[_line_end(text, here.start, here.end) :]
                left.pop(name.lstrip("$"), None)
