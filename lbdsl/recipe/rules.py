"""What is wrong with rules before any model is known: actions that do not go together, and rules that leave each other
nothing. Findings that need a model are the planner's."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from lbdsl.actions import Action
from lbdsl.actions.base import acts_on_weights, touching
from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error, note, warning
from lbdsl.core.span import Span
from lbdsl.layer.spec import touch
from lbdsl.parts import Slot
from lbdsl.recipe.schema import AllLayers, ElseSelector, LayerSet, LayersSelector, Range, Rule, UnionSet, ends
from lbdsl.recipe.scope import Scope, replace
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

_Ranges = list[tuple[int, int]]

_SEPARATOR = re.compile(r"(?P<comment>)[ \t]*(;[ \t]*\n?|\n)")
_WITH_COMMENT = re.compile(r"(?P<comment>[ \t]*#[^\n]*)?[ \t]*(;[ \t]*\n?|\n)")
_LINE_END = re.compile(r"[ \t]*(#[^\n]*)?(?=\n|$)")


def check_actions(scope: Scope, rule: tree.RuleStatement, actions: Sequence[Action]) -> bool:
    """Whether the actions of a rule go with its selector and with each other; errors otherwise."""
    good = True
    if isinstance(rule.selector, tree.ModulesSelector):
        for action, call in zip(actions, rule.actions, strict=True):
            if not acts_on_weights(action):
                scope.error(
                    "LB216",
                    f"`{action.kind}` is not about the weights of modules",
                    call.span,
                    labels=(Label(rule.selector.span, "chooses modules"),),
                    help="choose whole layers: `layers SET` or `where CONDITION`",
                )
                good = False
    written = tuple(zip(actions, rule.actions, strict=True))
    return good and all(
        _go_together(scope, earlier, later, rule) for index, later in enumerate(written) for earlier in written[:index]
    )


def _go_together(
    scope: Scope, earlier: tuple[Action, tree.Call], later: tuple[Action, tree.Call], rule: tree.RuleStatement
) -> bool:
    (first, first_call), (second, second_call) = earlier, later
    path = touching(first, second)
    if path is None:
        return True
    keep = next((action for action in (first, second) if action.keeps and len(action.claims()) > 1), None)
    if keep is not None:
        whole = rule.actions[0].span.to(rule.actions[-1].span)
        others = [one_line(call.span.text) for call in rule.actions if call.name.name != keep.kind]
        scope.error(
            "LB204",
            f"`{keep.text()}` combines with nothing",
            whole,
            help=f"write `{keep.text()}`" + (f" or `{' + '.join(others)}`" if others else ""),
            fix=None if others else replace(whole, keep.text()),
        )
        return False
    keeps = first.keeps or second.keeps
    one, other = (first.text(), second.text()) if keeps or first.kind == second.kind else (first.kind, second.kind)
    scope.error(
        "LB203",
        f"`{one}` and `{other}` both {'claim' if keeps else 'change'} the {path} of a layer",
        second_call.span,
        labels=(Label(first_call.span, "claims it first" if keeps else "changes it first"),),
        help="use one of them",
    )
    return False


def lint_rules(
    rules: Sequence[Rule], *, healed: bool, gated: bool, first_else: tuple[int, Span] | None
) -> list[Diagnostic]:
    """Unreachable and shadowed rules, a missing `else`, and changes without healing or gate.

    `first_else` is the number and place of the first `else`, which may have an error and then is not among the rules.
    """
    if not rules:
        return (
            []
            if first_else
            else [warning("LB209", "the recipe has no rules", help="it changes nothing; add `layers SET ACTION`")]
        )
    found = [*_after_else(rules, first_else), *_shadowed(rules)]
    if first_else is None:
        found.append(
            note(
                "LB206",
                "no `else`: layers that no rule claims are kept",
                rules[-1].span,
                help="say `else keep` to mean it",
            )
        )
    changing = next((rule for rule in rules if any(not action.keeps for action in rule.actions)), None)
    if changing is not None and not healed:
        found.append(
            warning(
                "LB207",
                "layers are changed and nothing heals them",
                changing.span,
                help="add a `heal` block, as in `heal { tokens = 200k }`",
            )
        )
    if changing is not None and not gated:
        found.append(
            warning(
                "LB208",
                "layers are changed and nothing gates the result",
                changing.span,
                help="add a gate, as in `assert ppl_increase < 5%`",
            )
        )
    return found


def _after_else(rules: Sequence[Rule], first_else: tuple[int, Span] | None) -> Iterator[Diagnostic]:
    if first_else is None:
        return
    first, whole = first_else
    after = [rule for rule in rules if rule.number > first]
    spans = [rule.span for rule in after]
    movable = not any(isinstance(rule.selector, ElseSelector) for rule in after) and all(
        span.source is whole.source for span in spans
    )
    fix = _else_last(whole, spans) if movable and spans else None
    for rule, span in zip(after, spans, strict=True):
        twice = isinstance(rule.selector, ElseSelector)
        yield error(
            "LB201",
            "unreachable rule: `else` claims every layer that is left",
            span,
            labels=(Label(whole, "`else` stands here"),),
            fix=fix,
            help="remove one of the two" if twice else "move it above `else`",
        )


def _else_last(whole: Span, after: Sequence[Span]) -> Fix:
    """`else` behind the rules after it; their order stays, and comments stay with their rules."""
    source, last = whole.source, after[-1].end
    title = "swap the two" if len(after) == 1 else "move `else` behind them"
    line = _LINE_END.match(source.text, last)
    own = (_WITH_COMMENT if line else _SEPARATOR).match(source.text, whole.end)
    comment, gone = ("", whole.end) if own is None else (own["comment"] or "", own.end())
    at, between = (line.end(), "\n") if line else (last, "; ")
    return Fix(
        title, (Edit(source.span(whole.start, gone), ""), Edit(source.span(at, at), f"{between}{whole.text}{comment}"))
    )


def _shadowed(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """Ranges wholly inside those of earlier rules that claim the same parts of a layer without a condition."""
    weights = any(touch(root, Slot.WEIGHTS) for rule in rules for a in rule.actions if not a.keeps for root in a.claims())
    claimed: dict[str, _Ranges] = {}
    owners: list[tuple[Rule, _Ranges, tuple[str, ...]]] = []
    for rule in rules:
        if isinstance(rule.selector, ElseSelector):
            return
        if not isinstance(rule.selector, LayersSelector):
            continue
        ranges = _ranges(rule.selector.layers)
        if ranges is None:
            continue
        roots = {action: _roots(action, weights) for action in rule.actions}
        every = tuple(dict.fromkeys(root for of_action in roots.values() for root in of_action))
        if all(_shadows(action, of_action, ranges, claimed) for action, of_action in roots.items()):
            by = [owner for owner, theirs, paths in owners if _touch(paths, every) and _overlap(theirs, ranges)]
            total = sum(last - first + 1 for first, last in ranges)
            count = f"{total} of {total} claimed" if total < _ALL else "all layers claimed"
            yield warning(
                "LB202",
                f"shadowed: {count} by {_named(by)}",
                rule.span,
                help="move it up, or remove it",
                labels=tuple(Label(owner.span, "claims them first") for owner in by[:5]),
            )
            continue
        mixer = (Slot.MIXER.value,)
        whole = any(action.keeps and {Slot.MIXER, Slot.FFN} <= set(of_action) for action, of_action in roots.items())
        if whole and _inside(ranges, _taken(mixer, claimed)):
            by = [owner for owner, theirs, paths in owners if _touch(paths, mixer) and _overlap(theirs, ranges)]
            yield _kept_late(rule, by)
        if rule.selector.where is None:
            taken = [
                (root, ranges if action.divisible else _without(ranges, _taken(of_action, claimed)))
                for action, of_action in roots.items()
                for root in of_action
            ]
            for root, left in taken:
                _add(claimed.setdefault(root, []), left)
            owners.append((rule, ranges, every))


def _roots(action: Action, weights: bool) -> tuple[str, ...]:
    """What an action claims; `keep` claims weights where the recipe has rules on them, else nobody asks."""
    return tuple(root for root in action.claims() if weights or not action.keeps or not touch(root, Slot.WEIGHTS))


def _touch(some: Sequence[str], others: Sequence[str]) -> bool:
    return any(touch(a, b) for a in some for b in others)


def _taken(roots: Sequence[str], claimed: Mapping[str, _Ranges]) -> _Ranges:
    """Where something that touches one of `roots` is claimed."""
    return _merged([pair for path, ranges in claimed.items() if _touch((path,), roots) for pair in ranges])


def _shadows(action: Action, roots: Sequence[str], ranges: _Ranges, claimed: Mapping[str, _Ranges]) -> bool:
    """Whether nothing is left for an action in `ranges`: of a divisible one all that it claims is claimed, of another one
    something is everywhere."""
    if not action.divisible:
        return _inside(ranges, _taken(roots, claimed))

    def covered(root: str) -> _Ranges:
        return _merged([pair for path, there in claimed.items() if f"{root}.".startswith(f"{path}.") for pair in there])

    return all(_inside(ranges, covered(root)) for root in roots)


def _kept_late(rule: Rule, by: Sequence[Rule]) -> Diagnostic:
    """A `keep` of layers whose attention is gone to earlier rules: it keeps only the rest of them."""
    return warning(
        "LB202",
        f"shadowed: the attention of these layers is claimed by {_named(by)}; only their MLPs are kept",
        rule.span,
        help="move it up to keep them whole",
        labels=tuple(Label(owner.span, "claims it first") for owner in by[:5]),
    )


def _named(rules: Sequence[Rule]) -> str:
    """`rules 1, 2`."""
    numbers = ", ".join(str(rule.number) for rule in rules[:5]) + (", ..." if len(rules) > 5 else "")
    return f"rule{'' if len(rules) == 1 else 's'} {numbers}"


_ALL = 2**62


def _ranges(layers: LayerSet) -> _Ranges | None:
    """The set as sorted, disjoint ranges; None when that depends on the model."""
    match layers:
        case AllLayers():
            return [(0, _ALL - 1)]
        case Range():
            return [ends(layers)]
        case UnionSet():
            parts = [_ranges(part) for part in layers.sets]
            known = [part for part in parts if part is not None]
            return _merged([item for part in known for item in part]) if len(known) == len(parts) else None
        case _:
            return None


def _merged(ranges: _Ranges) -> _Ranges:
    out: _Ranges = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def _add(ranges: _Ranges, more: _Ranges) -> None:
    """Add ranges to sorted, disjoint ones, in place: a recipe of thousands of rules takes no quadratic time."""
    for first, last in more:
        start = bisect_left(ranges, first, key=lambda known: known[1] + 1)
        end = bisect_right(ranges, last + 1, key=_first)
        if start < end:
            first, last = min(first, ranges[start][0]), max(last, ranges[end - 1][1])
        ranges[start:end] = [(first, last)]


def _without(ranges: _Ranges, taken: _Ranges) -> _Ranges:
    """What is left of some ranges; both are sorted and disjoint."""
    out: _Ranges = []
    for first, last in ranges:
        index = bisect_left(taken, first, key=lambda known: known[1])
        while index < len(taken) and taken[index][0] <= last:
            if first < taken[index][0]:
                out.append((first, taken[index][0] - 1))
            first = taken[index][1] + 1
            index += 1
        if first <= last:
            out.append((first, last))
    return out


def _first(known: tuple[int, int]) -> int:
    return known[0]


def _inside(inner: _Ranges, outer: _Ranges) -> bool:
    for first, last in inner:
        index = bisect_right(outer, first, key=_first) - 1
        if index < 0 or outer[index][1] < last:
            return False
    return True


def _overlap(one: _Ranges, other: _Ranges) -> bool:
    for first, last in one:
        index = bisect_left(other, last + 1, key=_first) - 1
        if index >= 0 and other[index][1] >= first:
            return True
    return False
