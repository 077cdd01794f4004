"""Checks of rules without a model: actions that cannot be combined, and rules that earlier rules shadow. The planner
reports findings that need a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations, islice
from operator import or_

from lbdsl.actions import Action
from lbdsl.actions.base import acts_on_weights, touching
from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error, note, warning
from lbdsl.core.span import Span
from lbdsl.core.units import layers_text
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import AllLayers, ElseSelector, LayerSet, LayersSelector, Range, UnionSet, walk
from lbdsl.layer.paths import touch
from lbdsl.parts import Slot
from lbdsl.recipe.schema import Choosing, Rule, Score, ends
from lbdsl.recipe.scope import Scope

_SEPARATOR = re.compile(r"(?P<comment>)[ \t]*(;[ \t]*\n?|\n)")
_WITH_COMMENT = re.compile(r"(?P<comment>[ \t]*#[^\n]*)?[ \t]*(;[ \t]*\n?|\n)")
_LINE_END = re.compile(r"[ \t]*(#[^\n]*)?(?=\n|$)")


def check_actions(
    scope: Scope, calls: Sequence[tree.Call], actions: Sequence[Action], selector: tree.Selector | None = None
) -> bool:
    """Whether the actions of a rule are compatible with its selector and with each other; errors otherwise."""
    written = tuple(zip(actions, calls, strict=True))
    wrong = [pair for pair in written if isinstance(selector, tree.ModulesSelector) and not acts_on_weights(pair[0])]
    for action, call in wrong:
        hint = "choose whole layers: `layers SET` or `where CONDITION`"
        labels = Label(selector.span, "chooses modules") if selector else ()
        scope.error("LB216", f"`{action.kind}` is not about the weights of modules", call.span, labels=labels, help=hint)
    return not wrong and all(_go_together(scope, *pair, calls) for pair in combinations(written, 2))


def _go_together(
    scope: Scope, earlier: tuple[Action, tree.Call], later: tuple[Action, tree.Call], calls: Sequence[tree.Call]
) -> bool:
    (first, first_call), (second, second_call) = earlier, later
    path = touching(first, second)
    if path is None:
        return True
    keep = next((action for action in (first, second) if action.keeps and len(action.claims()) > 1), None)
    if keep is not None:
        whole = calls[0].span.to(calls[-1].span)
        others = [one_line(call.span.text) for call in calls if call.name.name != keep.kind]
        help = f"write `{keep.text()}`" + (f" or `{' + '.join(others)}`" if others else "")
        write = None if others else keep.text()
        scope.error("LB204", f"`{keep.text()}` combines with nothing", whole, help=help, write=write)
        return False
    keeps = first.keeps or second.keeps
    one, other = (first.text(), second.text()) if keeps or first.kind == second.kind else (first.kind, second.kind)
    does = "claim" if keeps else "change"
    message = f"`{one}` and `{other}` both {does} the {path} of a layer"
    label = Label(first_call.span, f"{does}s it first")
    scope.error("LB203", message, second_call.span, labels=label, help="use one of them")
    return False


def lint_scores(rule: Rule, calls: Sequence[tree.Call]) -> Iterator[Diagnostic]:
    """LB219 for a rule that chooses layers by scores of other kinds of actions than its own, which `calls` write."""
    changing = [(action, call) for action, call in zip(rule.actions, calls, strict=True) if not action.keeps]
    if not changing:
        return
    wanted = {action.kind for action, _ in changing}

    def fits(score: Score) -> bool:
        return score.action is not None and bool(wanted & {action.kind for action in score.action.each})

    def scores_in(node: tree.Node) -> list[Score]:
        return [part for part in walk(node) if isinstance(part, Score) and part.action is not None]

    sums = [scores_in(part.by) for part in walk(rule.selector) if isinstance(part, tree.RankSelector | tree.RankedSet)]
    scores = scores_in(rule.selector)
    if any(map(fits, scores)):
        # Each term of a sum is about what the rule does; of conditions one may be about something else.
        scores = [score for terms in sums if any(map(fits, terms)) for score in terms if not fits(score)]
    kinds = " + ".join(action.kind for action, _ in changing)
    written = one_line(changing[0][1].span.text)
    for score in scores:
        ranked = any(one is score for terms in sums for one in terms)
        # `kl` ranks better than the rise of the loss, which a bound is about.
        metric = "kl" if ranked and score.metric == "nll" else score.metric
        fitting = f"{metric[:-1]}, {written})" if metric.endswith(")") else f"{metric}({written})"
        measured = score.action_text
        said = (
            f"`{score.name}` is `{score.text}`" if score.name == "sensitivity" else f"`{score.text}` measures `{measured}`"
        )
        message = f"{said}, and rule {rule.number} uses `{kinds}`: what `{measured}` harms little, `{kinds}` may harm much"
        # A named expression or group may be used in other rules, too.
        inside = score.span.source is rule.span.source and rule.span.start <= score.span.start < rule.span.end
        help = f"rank by `{fitting}`" if ranked else f"compare `{fitting}`, for which another bound may be right"
        yield note("LB219", message, score.span if inside else rule.span, help=help, write=fitting if inside else None)


def lint_rules(
    rules: Sequence[Rule], *, healed: bool, gated: bool, first_else: tuple[int, Span] | None, recall: str | None = None
) -> list[Diagnostic]:
    """Unreachable and shadowed rules, a missing `else`, and changes without healing or gate.

    `first_else` is the number and place of the first `else`, which may have an error and then is not in `rules`. `recall`
    is the assert that asks what stands beyond the windows that rules set.
    """
    if not rules:
        return [warning("LB209", "the recipe has no rules", help="it changes nothing; add `layers SET ACTION`")]
    found = [*_after_else(rules, first_else), *_shadowed(rules)]
    named = [_layers(rule.selector.layers) for rule in rules if isinstance(rule.selector, LayersSelector | Choosing)]
    if first_else is None and -1 not in named:
        message = "no `else`: layers that no rule claims are kept"
        found.append(note("LB206", message, rules[-1].span, help="write `else keep` to make that explicit"))
    changing = [(rule, action) for rule in rules for action in rule.actions if not action.keeps]
    place = changing[0][0].span if changing else None
    # What only rounds is not healed.
    rounded = all({*action.claims()} <= {Slot.WEIGHTS, "mixer.cache"} for _, action in changing)
    if changing and not healed and not rounded:
        message = "layers are changed and nothing heals them"
        found.append(warning("LB207", message, place, help="add a `heal` block, as in `heal { tokens = 200k }`"))
    if changing and not gated:
        beyond = [f"and for what stands beyond the windows `{recall}`"] if recall is not None else []
        help = ("add a gate, as in `assert ppl_increase < 5%`", *beyond)
        found.append(warning("LB208", "layers are changed and nothing gates the result", place, help=help))
    return found


def _after_else(rules: Sequence[Rule], first_else: tuple[int, Span] | None) -> Iterator[Diagnostic]:
    if first_else is None:
        return
    first, whole = first_else
    after = [rule for rule in rules if rule.number > first]
    movable = all(rule.span.source is whole.source and not isinstance(rule.selector, ElseSelector) for rule in after)
    fix = _else_last(whole, [rule.span for rule in after]) if movable and after else None
    for rule in after:
        message, labels = "unreachable rule: `else` claims all remaining layers", Label(whole, "`else` is here")
        help = "remove one of the two" if isinstance(rule.selector, ElseSelector) else "move this rule above `else`"
        yield error("LB201", message, rule.span, labels=labels, fix=fix, help=help)


def _else_last(whole: Span, after: Sequence[Span]) -> Fix:
    """The fix that moves `else` after the rules that follow it; they keep their order and their comments."""
    source, last = whole.source, after[-1].end
    line = _LINE_END.match(source.text, last)
    own = (_WITH_COMMENT if line else _SEPARATOR).match(source.text, whole.end)
    comment, gone = ("", whole.end) if own is None else (own["comment"] or "", own.end())
    at, between = (line.end(), "\n") if line else (last, "; ")
    title = "swap the two" if len(after) == 1 else "move `else` behind them"
    moved = f"{between}{whole.text}{comment}"
    return Fix(title, (Edit(source.span(whole.start, gone), ""), Edit(source.span(at, at), moved)))


# Sets of layers as bit masks, layer 0 is the lowest bit; -1 is all layers.

_MOST_LAYERS = 2**16
"""No model has more; the planner reports rules that name higher layers."""


def _shadowed(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """Rules whose sets are covered by earlier rules that claim the same parts of a layer without a condition, in whole or
    in part."""
    weights = any(touch(root, Slot.WEIGHTS) for rule in rules for a in rule.actions if not a.keeps for root in a.claims())
    mixer = (Slot.MIXER.value,)
    claimed: dict[str, int] = {}
    owners: list[tuple[Rule, int, tuple[str, ...]]] = []

    def owners_of(layers: int, roots: Sequence[str]) -> list[Rule]:
        found = (owner for owner, theirs, paths in owners if theirs & layers and _touch(paths, roots))
        return list(islice(found, 6))

    for rule in rules:
        selector = rule.selector
        if isinstance(selector, ElseSelector):
            return
        if not isinstance(selector, LayersSelector):
            continue
        layers = _layers(selector.layers)
        if layers is None:
            continue
        # `keep` claims weights only if the recipe has rules on weights.
        roots = {
            action: tuple(root for root in action.claims() if weights or not action.keeps or not touch(root, Slot.WEIGHTS))
            for action in rule.actions
        }
        every = tuple(dict.fromkeys(root for of_action in roots.values() for root in of_action))
        left = reduce(or_, (_left(action, of_action, layers, claimed) for action, of_action in roots.items()), 0)
        if not left:
            count = f"{layers.bit_count()} of {layers.bit_count()} claimed" if layers >= 0 else "all layers claimed"
            yield _shadow(rule, owners_of(layers, every), f"shadowed: {count} by {{}}", "them", "move it up, or remove it")
            continue
        whole = any(action.keeps and {Slot.MIXER, Slot.FFN} <= set(of_action) for action, of_action in roots.items())
        if whole and not layers & ~_taken(mixer, claimed):
            # It keeps only the rest of these layers.
            message = "shadowed: the attention of these layers is claimed by {}; only their MLPs are kept"
            yield _shadow(rule, owners_of(layers, mixer), message, "it", "move it up to keep them whole")
        if selector.where is None:
            yield from _crossed(rule, layers, left, owners, every)
            taken = {a: layers if a.divisible else layers & ~_taken(of_action, claimed) for a, of_action in roots.items()}
            for action, of_action in roots.items():
                for root in of_action:
                    claimed[root] = claimed.get(root, 0) | taken[action]
            owners.append((rule, layers, every))


def _touch(some: Sequence[str], others: Sequence[str]) -> bool:
    return any(touch(a, b) for a in some for b in others)


def _taken(roots: Sequence[str], claimed: Mapping[str, int]) -> int:
    """The layers in which something that touches one of `roots` is claimed."""
    return reduce(or_, (layers for path, layers in claimed.items() if _touch((path,), roots)), 0)


def _left(action: Action, roots: Sequence[str], layers: int, claimed: Mapping[str, int]) -> int:
    """Those of `layers` where something is left for an action: for a divisible one, something of what it claims is not
    claimed already; for another one, nothing is."""
    if not action.divisible:
        return layers & ~_taken(roots, claimed)

    def covered(root: str) -> int:
        return reduce(or_, (there for path, there in claimed.items() if f"{root}.".startswith(f"{path}.")), 0)

    return reduce(or_, (layers & ~covered(root) for root in roots), 0)


def _crossed(
    rule: Rule, layers: int, left: int, owners: Sequence[tuple[Rule, int, tuple[str, ...]]], roots: Sequence[str]
) -> Iterator[Diagnostic]:
    """LB373 for a rule that loses some of its layers to one about other layers, too. An exception stands before its
    rule, as `layers 3 keep` before `layers 0-9 drop`, and is none."""
    for owner, theirs, paths in owners:
        lost = theirs & layers & ~left
        if layers >= 0 and lost and theirs & ~layers and _touch(paths, roots):
            message = f"rule {owner.number} claims {layers_text(_members(lost))} of this rule"
            help = f"it gets {layers_text(_members(left))}; move it up to have all of its own"
            yield note("LB373", message, rule.span, help=help, labels=Label(owner.span, "claims them first"))
            return


def _members(layers: int) -> list[int]:
    return [layer for layer, bit in enumerate(reversed(f"{layers:b}")) if bit == "1"]


def _shadow(rule: Rule, owners: Sequence[Rule], message: str, it: str, help: str) -> Diagnostic:
    labels = tuple(Label(owner.span, f"claims {it} first") for owner in owners[:5])
    numbers = ", ".join(str(owner.number) for owner in owners[:5]) + (", ..." if len(owners) > 5 else "")
    named = f"rule{'' if len(owners) == 1 else 's'} {numbers}"
    return warning("LB202", message.format(named), rule.span, help=help, labels=labels)


def _layers(layers: LayerSet) -> int | None:
    """The set as a bit mask; None when it depends on the model."""
    match layers:
        case AllLayers():
            return -1
        case Range():
            first, last = ends(layers)
            return (1 << last + 1) - (1 << first) if last < _MOST_LAYERS else None
        case UnionSet():
            parts = [_layers(part) for part in layers.sets]
            return None if None in parts else reduce(or_, (part for part in parts if part is not None))
        case _:
            return None
