"""Whether a recipe asks what stands beyond the windows that its layers get. Perplexity is a mean over tokens, and hardly
shows what is lost there."""

from __future__ import annotations

from collections.abc import Collection

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnostic, note
from lbdsl.core.units import tokens_text
from lbdsl.recipe.schema import PostScore, Recipe, Score
from lbdsl.recipe.schema_blocks import JUDGED, SHORTEST_NEEDLE

_SHORTEST = 1024
"""Tokens of the shortest text that a proposed gate asks about, where the model has as many positions."""


def named_context(recipe: Recipe) -> int:
    """Tokens of the longest context that asserts and budgets name; 0 for none."""
    return max((cost.ctx or 0 for cost in recipe.costs_asked), default=0)


def recall_gate(window: int, context: int, positions: int | None = None) -> str | None:
    """The assert that asks for facts beyond `window`: in four times its tokens, or fewer if the recipe is about a shorter
    `context`, but at least twice. None where texts of the context, or of all positions, are too short to hide facts in."""
    length = max(_SHORTEST, min(4 * window, max(context, 2 * window)))
    length = length if positions is None else min(length, positions)
    if min(length, context) < SHORTEST_NEEDLE or length <= window:
        return None
    # Decimal prefixes are not used for lengths.
    return f"assert recovery(needle({length if length % 1024 else tokens_text(length)})) >= 80%"


def missing_gate(recipe: Recipe, windows: Collection[int], positions: int | None = None) -> str | None:
    """The assert to add to a recipe whose layers get windows of these sizes, if nothing in it asks what stands beyond
    them; None too for windows as wide as the longest context that it names, or is judged at. `positions` are the model's,
    if it is known."""
    if not windows:
        return None
    judged = recipe.eval.seq if recipe.eval is not None else None
    context = named_context(recipe) or judged or JUDGED
    context = context if positions is None else min(context, positions)
    narrow = [window for window in windows if window < context]
    if not narrow or _asks_beyond(recipe, min(narrow)):
        return None
    return recall_gate(max(narrow), context, positions)


def nothing_beyond(recipe: Recipe, windows: Collection[int], positions: int | None = None) -> tuple[Diagnostic, ...]:
    """LB360 for the same; LB208 says it of a recipe without any gate."""
    gate = missing_gate(recipe, windows, positions)
    if gate is None or not recipe.asserts:
        return ()
    sizes = " to ".join(tokens_text(size) for size in sorted({min(windows), max(windows)}))
    message = f"windows of {sizes} tokens, and nothing asks what stands beyond them"
    span = next((rule.span for rule in recipe.rules if any(map(_window_of, rule.actions))), None)
    return (note("LB360", message, span, help=f"perplexity hardly shows what is lost there: add `{gate}`"),)


def named_windows(recipe: Recipe) -> frozenset[int]:
    """The sizes in tokens of the windows that its rules name."""
    return frozenset(_window_of(action) for rule in recipe.rules for action in rule.actions) - {0}


def _window_of(action: Action) -> int:
    """Tokens of the window that an action gives attention; 0 for none."""
    size = getattr(action, "window", 0) if "mixer.window" in action.claims() else 0
    return size if isinstance(size, int) else 0


def _asks_beyond(recipe: Recipe, window: int) -> bool:
    """Whether a gate or a budget depends on more than `window` tokens: facts that are found, a task, or `recall`."""
    asked = [part.task for part in recipe.nodes if isinstance(part, PostScore) and part.task is not None]
    recall = any(isinstance(part, Score) and part.joint and part.metric == "recall" for part in recipe.nodes)
    return recall or any(not isinstance(task, int) or task > window for task in asked)
