"""The sequence lengths on which a plan is measured and evaluated. Pure functions.

A window that is not smaller than the sequence has no effect, and damage shows only on tokens beyond the window. So scores,
the joint loss and the gates need several sequences of at least twice the widest window. A gate uses the context that the
recipe's asserts and budgets name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Edit, Fix, error, note, warning
from lbdsl.core.measurement import NoValue
from lbdsl.core.span import Span
from lbdsl.core.units import tokens_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import walk
from lbdsl.layer.difference import given_windows
from lbdsl.layer.spec import LayerSpec
from lbdsl.recipe.beyond import named_context
from lbdsl.recipe.schema import Evaluate, Measure, Phase, PostScore, Recipe, ResolvedAssertion
from lbdsl.recipe.schema_blocks import (
    JUDGED,
    RECALL,
    RECALL_HAY,
    SEQUENCES,
    SHORTEST_NEEDLE,
    Asked,
    HealSettings,
    sources_of,
)
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import scores_in

MEASURED = 1024
"""Tokens of the sequences that scores are measured on, if no window needs more."""

RECALLED = 4
"""Windows in a text that asks what it said, at least: facts stand one window back and more."""

Block = TypeVar("Block", Measure, Evaluate)
Settings = TypeVar("Settings", bound=HealSettings)


def with_lengths(case: Case) -> Diagnosed[Case]:
    """The case with `seq` and `tokens` of its `measure` and `eval` blocks set for this model; if the finished model is
    evaluated, an `eval` block is added where it is missing.

    Errors: LB328 for sequences too short for a window, LB336 for sequences beyond the model's positions.
    """
    recipe, facts = case.recipe, case.facts
    scored = (score.action for rule in recipe.rules for score in scores_in(rule.selector) if score.action is not None)
    window = max(windows_of((*(action for rule in recipe.rules for action in rule.actions), *scored), facts), default=0)
    blocks: dict[str, Any] = {"measure": _settled(recipe.measure, MEASURED, window, facts)}
    found = list(_length_findings("measure", recipe.measure, blocks["measure"], window, facts))
    # Four windows, so that facts stand in and beyond the window.
    length = recipe.measure.recall_seq or min(max(MEASURED, 4 * window), facts.positions)
    blocks["measure"] = blocks["measure"].model_copy(update={"recall_seq": length})
    found += _recall_findings(recipe, blocks["measure"], window, facts)
    judged = recipe.eval or (Evaluate() if any(item.phase is Phase.POST for item in recipe.asserts) else None)
    if judged is not None:
        judged = judged.with_tasks(dict(tasks_at(recipe.asserts)))
        found += _needle_findings(judged, recipe.asserts, facts)
        blocks["eval"] = _settled(judged, min(named_context(recipe), facts.positions) or JUDGED, window, facts)
        found += _length_findings("eval", judged, blocks["eval"], window, facts)
        found += judging_findings(recipe, blocks["eval"], facts)
        found += _scoring_findings(recipe, blocks["measure"], blocks["eval"])
    if recipe.heal is not None:
        runs = [_within(run, facts) for run in recipe.heal.runs]
        stages = tuple(run for run in runs if recipe.heal.stages)
        blocks["heal"] = _within(recipe.heal, facts).model_copy(update={"stages": stages})
        found += [finding for run in runs for finding in _heal_findings(run, window, facts)]
    settled = case.settled(replace(recipe, **blocks))
    return Diagnosed(None if any(d.is_error for d in found) else settled, tuple(found))


def too_short(length: int, window: int) -> NoValue:
    """Why there is no recall in texts of `length` tokens, which hold no fact beyond the window, or none at all."""
    least = max(SHORTEST_NEEDLE, 2 * window)
    behind = f", twice the widest window of {tokens_text(window)}" if least > SHORTEST_NEEDLE else ""
    said = f"needs texts of {tokens_text(least)} tokens{behind}, and these have {tokens_text(length)}"
    return NoValue(said, "take smaller windows, or rank by `kl`")


def _recall_findings(recipe: Recipe, measure: Measure, window: int, facts: ModelFacts) -> Iterator[Diagnostic]:
    """LB336 for texts beyond the model's positions; LB328 for texts that are too short for a window, where a rule or an
    assert needs a value, or the recipe says how long they are."""
    length, given = measure.recall_seq or 0, recipe.measure.recall_seq is not None
    span = _setting(recipe.measure, "recall_seq")
    if length > facts.positions:
        positions = tokens_text(facts.positions)
        message = f"`recall_seq` is {tokens_text(length)}, and the model has {positions} positions"
        yield error("LB336", message, span, help=f"give at most {positions}, or leave `recall_seq` out")
        return
    needed = RECALL in measure.recall and (given or "recall" in recipe.metrics_asked)
    least = max(SHORTEST_NEEDLE, 2 * window)
    if needed and length < least:
        missing, enough = too_short(length, window), tokens_text(least)
        help, fix = missing.help, None
        if given and least <= facts.positions:
            help, fix = f"give at least {enough}, or no `recall_seq`", _fix(recipe.measure, "recall_seq", enough)
        yield error("LB328", f"`recall` {missing.reason}", span, help=help, fix=fix)


def tasks_at(asserts: Iterable[ResolvedAssertion]) -> Iterator[tuple[Asked, Span]]:
    """The needles and the tasks that asserts name, and where they stand."""
    for item in asserts:
        for part in walk(item.expr):
            if isinstance(part, PostScore) and part.task is not None:
                yield part.task, part.span


def _needle_findings(judged: Evaluate, asserts: Iterable[ResolvedAssertion], facts: ModelFacts) -> Iterator[Diagnostic]:
    """LB336 for texts beyond the model's positions, and for too short ones."""
    places = dict(tasks_at(asserts))
    for context in judged.contexts:
        if context < SHORTEST_NEEDLE:
            message = f"a text of {context} tokens is too short to hide facts in"
            yield error("LB336", message, help=f"take at least {SHORTEST_NEEDLE}")
        if context > facts.positions:
            span = places.get(context, _setting(judged, "needle"))
            positions = tokens_text(facts.positions)
            message = f"`needle({tokens_text(context)})` is longer than the model's {positions} positions"
            yield error("LB336", message, span, help=f"ask at {positions} or less")


def judged_lengths(wanted: Evaluate, specs: Sequence[LayerSpec], facts: ModelFacts) -> Diagnosed[Evaluate]:
    """The same for the `eval` block of a finished model; `specs` are its layers."""
    window = max(given_windows(facts.layer_specs, specs), default=0)
    settled = _settled(wanted, JUDGED, window, facts)
    found = (*_length_findings("eval", wanted, settled, window, facts), *_needle_findings(wanted, (), facts))
    return Diagnosed(None if any(d.is_error for d in found) else settled, found)


def joint_tokens(measure: Measure) -> int:
    """Tokens of the joint loss: half of the scores', and never fewer than `SEQUENCES` sequences."""
    assert measure.seq is not None, "lengths are settled before anything is measured"
    return max(measure.tokens // 2, SEQUENCES * measure.seq)


def judging_findings(recipe: Recipe, judged: Evaluate, facts: ModelFacts) -> Iterator[Diagnostic]:
    """Evaluation settings that make a result look too good: LB329 for sequences shorter than the recipe's contexts, LB337
    for evaluating on the healing text."""
    context = min(named_context(recipe), facts.positions)
    if judged.seq is not None and judged.seq < context:
        seq, named = tokens_text(judged.seq), tokens_text(context)
        message = f"judged on sequences of {seq} tokens; asserts and budgets are about {named}"
        help = "leave `seq` out of `eval`: then it is judged at that context"
        yield warning("LB329", message, _setting(judged, "seq"), help=help)
    healed = set(recipe.heal.sources) if recipe.heal is not None else set()
    if recipe.heal is not None and set(judged.data) <= healed.union(RECALL_HAY if RECALL in healed else ()):
        message = (
            f"judged on the healing source, {', '.join(map(str, recipe.heal.sources))}: other text is likely to lose more"
        )
        help = 'judge on another text as well: `eval { data = ["builtin:wikitext", ...] }`'
        yield warning("LB337", message, _setting(judged, "data"), help=help)


def _scoring_findings(recipe: Recipe, measure: Measure, judged: Evaluate) -> Iterator[Diagnostic]:
    """LB359 for layers that are chosen on shorter sequences, by the recipe's own `seq`, than a gate judges."""
    seq, long = measure.seq or 0, judged.seq or 0
    gated = any(item.phase is Phase.POST for item in recipe.asserts)
    if "seq" in measure.set_at and seq < long and gated and any(scores_in(rule.selector) for rule in recipe.rules):
        message = (
            f"layers are chosen on sequences of {tokens_text(seq)} tokens, and the result is judged on {tokens_text(long)}"
        )
        tokens = tokens_text(max(measure.tokens, SEQUENCES * long))
        help = (
            f"what is chosen on short text may fail on longer text; `seq = {tokens_text(long)}` measures on {tokens} tokens"
        )
        yield warning("LB359", message, _setting(measure, "seq"), help=help, fix=_fix(measure, "seq", tokens_text(long)))


def windows_of(actions: Iterable[Action], facts: ModelFacts) -> frozenset[int]:
    """Tokens of the windows that actions give layers without that window."""
    alike = {spec: layer for layer, spec in enumerate(facts.layer_specs)}
    changes = ((spec, action.under(facts, layer)) for action in dict.fromkeys(actions) for spec, layer in alike.items())
    windows = (given_windows((spec,), (change.spec,)) for spec, change in changes if change is not None)
    return frozenset(size for sizes in windows for size in sizes)


def _settled(block: Block, wanted: int, window: int, facts: ModelFacts) -> Block:
    """The block with `seq` and `tokens` set."""
    seq = block.seq if block.seq is not None else min(max(wanted, 2 * window), facts.positions)
    return block.model_copy(update={"seq": seq, "tokens": max(block.tokens, SEQUENCES * seq)})


def _length_findings(name: str, block: Block, settled: Block, window: int, facts: ModelFacts) -> Iterator[Diagnostic]:
    """Findings about the lengths that a block sets; `settled` has the final ones."""
    seq = block.seq
    if seq is not None and seq < 2 * window:
        help = "a window that covers the sequence changes nothing there; give at least twice the window, or no `seq`"
        fix = _fix(block, "seq", tokens_text(2 * window))
        yield error("LB328", _short(name, seq, window), _setting(block, "seq"), help=help, fix=fix)
    else:
        yield from _beyond(name, block, facts)
    if settled.tokens > block.tokens and "tokens" in block.set_at:
        takes = f"`{name}` takes {tokens_text(settled.tokens)} tokens, not {tokens_text(block.tokens)}"
        fewest = f"{SEQUENCES} sequences of {tokens_text(settled.seq or 0)} are the fewest"
        open_seq = "`seq` is open: it follows the contexts in asserts and budgets, and the windows in rules"
        yield note("LB338", f"{takes}: {fewest}", _setting(block, "tokens"), help=() if block.seq else open_seq)


def _beyond(name: str, block: Block | HealSettings, facts: ModelFacts) -> Iterator[Diagnostic]:
    """LB336 for sequences longer than the model's positions."""
    if block.seq is not None and block.seq > facts.positions:
        positions = tokens_text(facts.positions)
        message = f"`{name}` takes sequences of {tokens_text(block.seq)} tokens, and the model has {positions} positions"
        help, fix = f"give at most `seq = {positions}`, or leave `seq` out", _fix(block, "seq", positions)
        yield error("LB336", message, _setting(block, "seq"), help=help, fix=fix)


def _within(heal: Settings, facts: ModelFacts) -> Settings:
    """Sequences that the recipe leaves open are not longer than the model's positions."""
    return heal if "seq" in heal.set_at else heal.model_copy(update={"seq": min(heal.seq, facts.positions)})


def _heal_findings(heal: HealSettings, window: int, facts: ModelFacts) -> Iterator[Diagnostic]:
    yield from _beyond("heal", heal, facts)
    if RECALL in sources_of(heal.data) and heal.seq < RECALLED * window:
        help = f"most of what they ask for would lie within the window; give at least {RECALLED} times the window"
        fix = _fix(heal, "seq", tokens_text(RECALLED * window)) if RECALLED * window <= facts.positions else None
        yield warning(
            "LB328", f"{_short('heal', heal.seq, window)}: short for `{RECALL}`", _setting(heal, "seq"), help=help, fix=fix
        )
    elif heal.seq < 2 * window:
        help = "tokens that lie within the window heal nothing that it took away; give at least twice the window"
        yield warning("LB328", _short("heal", heal.seq, window), _setting(heal, "seq"), help=help)


def _short(name: str, seq: int, window: int) -> str:
    return f"`{name}` takes sequences of {tokens_text(seq)} tokens, and a rule sets a window of {tokens_text(window)}"


def _setting(block: Any, name: str) -> Span | None:
    """The span of a setting's value, else of its block, if the recipe has one."""
    return block.set_at.get(name, block.span)


def _fix(block: Any, name: str, text: str) -> Fix | None:
    """The fix that writes another value; None for a variable, which may be used in other places, too."""
    span = _setting(block, name) if name in block.set_at else None
    return None if span is None or span.text.startswith("$") else Fix(f"write `{text}`", (Edit(span, text),))
