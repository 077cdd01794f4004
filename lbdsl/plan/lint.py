"""What a user should know of a selection: rules that get nothing, rankings of claimed layers, layers left over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from lbdsl.core.diagnostic import Diagnostic, Label, note, warning
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec, folded, leaves
from lbdsl.parts import Slot
from lbdsl.plan.claims import fixed_layers, scores_of
from lbdsl.plan.layersets import fixed_members
from lbdsl.plan.match import Match, ranks_rest
from lbdsl.plan.paths import Wanted
from lbdsl.plan.table import Table
from lbdsl.plan.words import plural, ranges_text
from lbdsl.recipe.schema import ElseSelector, LayersSelector, RankSelector, Recipe, Rule


def selection_findings(
    recipe: Recipe,
    facts: ModelFacts,
    matches: tuple[Match, ...],
    table: Table,
    specs: Sequence[LayerSpec],
    acting: Collection[int],
) -> tuple[Diagnostic, ...]:
    """Warnings and notes on a resolved table that gives the layers `specs`, in the order of the rules; those numbered
    `acting` change a layer."""
    found: list[Diagnostic] = []
    sizes = dict(table.sizes)
    for index, rule in enumerate(recipe.rules):
        found += _of_rule(recipe, facts, rule, index, matches[index], table, sizes.get(index), specs, acting)
    free = [i for i in range(facts.layers) if not table.takes[i]]
    if free:
        kept = "it is" if len(free) == 1 else "they are"
        found.append(note("LB311", f"no rule claims {_layers(free)}, kept as {kept}", help="say `else keep` to mean it"))
    return tuple(found)


def _of_rule(
    recipe: Recipe,
    facts: ModelFacts,
    rule: Rule,
    index: int,
    match: Match,
    table: Table,
    size: int | None,
    specs: Sequence[LayerSpec],
    acting: Collection[int],
) -> Iterator[Diagnostic]:
    got, lost, selector, span = table.got[index], table.lost[index], rule.selector, recipe.span(rule)
    if isinstance(selector, ElseSelector):
        return
    if size == 0:
        yield note("LB313", f"rule {rule.number} takes no layer: its `until` holds without it", span)
    elif not got and not lost:
        yield lacking_part(recipe, rule, facts, match.wanted) or warning(
            "LB310", f"rule {rule.number} matches no layer", span, help=_empty_help(rule, facts)
        )
    elif isinstance(selector, RankSelector) and not ranks_rest(selector) and lost:
        yield warning(
            "LB308",
            f"{_claimed(recipe, rule, lost, len(got) + len(lost), match, table)}; rule {rule.number} gets {len(got)}",
            span,
            labels=_labels(recipe, lost, match, table),
            help="write `of rest` to rank only the layers that are left",
        )
    elif not got and not any(_holds(facts, table, index, layer, specs[layer]) for layer in lost):
        yield warning(
            "LB307",
            f"rule {rule.number} gets no layer: {_claimed(recipe, rule, lost, len(lost), match, table)}",
            span,
            labels=_labels(recipe, lost, match, table),
            help="move it up, or remove it",
        )
    if isinstance(selector, RankSelector) and selector.of_rest and selector.until is None and selector.amount is not None:
        asked = selector.amount.of(facts.layers)
        if got and len(got) < asked:
            yield warning(
                "LB309",
                f"rule {rule.number} asks for {asked} of the rest, and only {len(got)} "
                f"{'is' if len(got) == 1 else 'are'} left",
                span,
                help=_in_the_way(recipe, facts, index, match, table),
            )
    if got and not all(action.keeps for action in rule.actions) and rule.number not in acting:
        yield warning(
            "LB310",
            f"rule {rule.number} changes nothing: what it claims of {_layers(list(got))} is gone, or is so already",
            span,
            help="remove it",
        )


def lacking_part(recipe: Recipe, rule: Rule, facts: ModelFacts, wanted: Sequence[Wanted]) -> Diagnostic | None:
    """LB310 for a rule that names layers of which none has what its actions claim; None for another rule."""
    layers = fixed_layers(rule, facts)
    if not layers or any(item.paths[layer] for item in wanted for layer in layers):
        return None
    paths = "`, `".join(dict.fromkeys(path for item in wanted for path in item.action.claims()))
    return warning(
        "LB310",
        f"rule {rule.number} changes nothing: there is no `{paths}` in {_layers(sorted(layers))}",
        recipe.span(rule),
        help="`lbdsl inspect` lists what the layers of an artifact have",
    )


def _in_the_way(recipe: Recipe, facts: ModelFacts, index: int, match: Match, table: Table) -> tuple[str, ...]:
    """Which paths of the layers that a ranking could not take are claimed, and by which rules."""
    ways: dict[int, tuple[set[str], list[int]]] = {}
    for layer, takes in enumerate(table.takes):
        paths, wanted = table.paths[layer], _wanted(match, layer)
        for take in takes:
            in_the_way = paths.touched_by(wanted) & take.paths if take.rule < index else 0
            if in_the_way:
                names, layers = ways.setdefault(take.rule, (set(), []))
                names.update(folded(paths.named(in_the_way), leaves(facts.layer_specs[layer], facts.linear_maps[layer])))
                layers.append(layer)
    return tuple(
        f"rule {recipe.rules[rule].number} claims `{'`, `'.join(sorted(names))}` of {_layers(layers)}"
        for rule, (names, layers) in sorted(ways.items())
    )


def _holds(facts: ModelFacts, table: Table, rule: int, layer: int, spec: LayerSpec) -> bool:
    """Whether a rule has something of a layer that is left of it: a `keep` that gets no whole layer still keeps the rest of
    it, and storage of a part that is gone means nothing."""
    left = {f"{Slot.WEIGHTS}.{module}" for module in spec.linear_maps(facts)}
    return any(
        not path.startswith(f"{Slot.WEIGHTS}.") or path in left
        for take in table.takes[layer]
        if take.rule == rule
        for path in table.paths[layer].named(take.paths)
    )


def _claimed(recipe: Recipe, rule: Rule, lost: tuple[int, ...], matched: int, match: Match, table: Table) -> str:
    """`shadowed: 3 of 3 claimed by rule 1`."""
    owners = sorted(_owners(lost, match, table))
    numbers = ", ".join(str(recipe.rules[owner].number) for owner in owners)
    return f"shadowed: {len(lost)} of {matched} claimed by {'rule' if len(owners) == 1 else 'rules'} {numbers}"


def _labels(recipe: Recipe, lost: tuple[int, ...], match: Match, table: Table) -> tuple[Label, ...]:
    labels = []
    for owner, layers in sorted(_owners(lost, match, table).items()):
        span = recipe.span(recipe.rules[owner])
        if span is not None:
            labels.append(Label(span, f"claims {_layers(layers)}"))
    return tuple(labels)


def _owners(lost: tuple[int, ...], match: Match, table: Table) -> dict[int, list[int]]:
    """The rules that the lost layers went to."""
    owners: dict[int, list[int]] = {}
    for layer in lost:
        owner = table.owner(layer, _wanted(match, layer))
        if owner is not None:
            owners.setdefault(owner.rule, []).append(layer)
    return owners


def _wanted(match: Match, layer: int) -> int:
    found = 0
    for item in match.wanted:
        found |= item.paths[layer]
    return found


def _empty_help(rule: Rule, facts: ModelFacts) -> tuple[str, ...]:
    selector = rule.selector
    if isinstance(selector, RankSelector) and selector.amount is not None and selector.amount.of(facts.layers) == 0:
        share = f"{100 * (selector.amount.share or 0):g} % of {facts.layers} layers, rounded down, is 0"
        return (share if selector.amount.share is not None else "it asks for 0 layers",)
    if isinstance(selector, RankSelector):
        return ("earlier rules claim every layer",)
    if scores_of(rule):
        return ("look at the scores: `lbdsl plan` prints them",)
    if isinstance(selector, LayersSelector) and not fixed_members(selector.layers, facts.layers):
        return ("the set is empty",)
    return ("its condition asks for no score: it is the same for every layer",)


def _layers(layers: list[int]) -> str:
    return f"{plural(len(layers), 'layer').split()[1]} {ranges_text(layers)}"
