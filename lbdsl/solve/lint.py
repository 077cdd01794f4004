"""Warnings and notes on a complete rule table: rules that get nothing, rankings of claimed layers, layers that no rule
claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lbdsl.core.diagnostic import Diagnostic, Label, note, warning
from lbdsl.core.units import Unit, layers_text
from lbdsl.language.tree import LayersSelector
from lbdsl.layer.paths import folded, leaves
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.solve.case import Case, KnownRule, layer_set_of
from lbdsl.solve.layersets import members
from lbdsl.solve.table import Table


def table_findings(
    case: Case, table: Table, specs: Sequence[LayerSpec], acting: Collection[int], changed: Collection[int]
) -> Iterator[Diagnostic]:
    """Warnings and notes on a table, in the order of the rules. `specs` are the resulting layers; `acting` are the numbers
    of the rules that change a layer, `changed` the layers that are changed."""
    for index, known in enumerate(case.rules):
        if not known.is_else:
            yield from _RuleInTable(case, table, index, known).findings(specs, known.rule.number in acting)
    free = [i for i in range(case.facts.layers) if not table.takes[i] and i not in changed]
    if free:
        kept = "it is" if len(free) == 1 else "they are"
        yield note(
            "LB311", f"no rule claims {layers_text(free)}, kept as {kept}", help="write `else keep` to make that explicit"
        )


def lacking_part(known: KnownRule) -> Diagnostic | None:
    """LB310 for a rule if none of the layers that it names has what its actions claim; else None."""
    if not known.fixed or any(known.paths[layer] for layer in known.fixed):
        return None
    paths = "`, `".join(dict.fromkeys(path for item in known.wanted for path in item.action.claims()))
    message = f"rule {known.rule.number} changes nothing: there is no `{paths}` in {layers_text(sorted(known.fixed))}"
    return warning("LB310", message, known.rule.span, help="`lbdsl inspect` lists what the layers of an artifact have")


@dataclass(frozen=True)
class _RuleInTable:
    case: Case
    table: Table
    index: int
    known: KnownRule

    def findings(self, specs: Sequence[LayerSpec], acts: bool) -> Iterator[Diagnostic]:
        (got, lost, size), rule, ranking = self.table.rules[self.index], self.known.rule, self.known.ranking
        number, span = rule.number, rule.span
        if size == 0 and self.known.while_ is not None:
            pass  # It is said how many it could take.
        elif size == 0:
            yield note("LB313", f"rule {number} takes no layer: its `until` is already met", span)
        elif not got and not lost:
            empty = warning("LB310", f"rule {number} matches no layer", span, help=self._why_empty())
            yield lacking_part(self.known) or empty
        elif ranking is not None and not self.known.ranks_rest and lost:
            said, labels = self._shadowed(len(got) + len(lost))
            help = "write `of rest` to rank only the layers that are left"
            yield warning("LB308", f"{said}; rule {number} gets {len(got)}", span, labels=labels, help=help)
        elif not got and not any(self._holds(layer, specs[layer]) for layer in lost):
            said, labels = self._shadowed(len(lost))
            message = f"rule {number} gets no layer: {said}"
            yield warning("LB307", message, span, labels=labels, help="move it up, or remove it")
        bounded = ranking is not None and (ranking.until is not None or ranking.while_ is not None)
        if ranking is not None and ranking.of_rest and not bounded and ranking.amount is not None:
            asked = ranking.amount.of(self.case.facts.layers)
            if got and len(got) < asked:
                left = f"only {len(got)} {'is' if len(got) == 1 else 'are'} left"
                message = f"rule {number} asks for {asked} of the rest, and {left}"
                yield warning("LB309", message, span, help=tuple(self._in_the_way()))
        if got and not acts and not all(action.keeps for action in rule.actions):
            choosing = self.known.choosing
            if choosing is not None and choosing.cost is not None and choosing.bounds:
                bounds = " and ".join(f"`{bound.text}`" for bound in choosing.bounds)
                message = f"rule {number} changes no layer: no plan was found that changes some and keeps {bounds}"
                yield warning(
                    "LB313", message, span, help="raise the bounds, allow what changes less, or give more `tries`"
                )
            elif choosing is not None:
                yield note("LB313", f"rule {number} changes no layer: its budgets are kept already", span)
            else:
                message = f"rule {number} changes nothing: what it claims of {layers_text(got)} is gone, or is so already"
                yield warning("LB310", message, span, help="remove it")

    def _shadowed(self, matched: int) -> tuple[str, tuple[Label, ...]]:
        """`shadowed: 3 of 3 claimed by rule 1`, and labels at the rules that got the layers."""
        lost = self.table.rules[self.index].shadowed
        owners = [(self.case.recipe.rules[i], layers) for i, layers in self.table.owners(self.known, lost).items()]
        numbers = ", ".join(str(rule.number) for rule, _ in owners)
        said = f"shadowed: {len(lost)} of {matched} claimed by {'rule' if len(owners) == 1 else 'rules'} {numbers}"
        return said, tuple(Label(rule.span, f"claims {layers_text(layers)}") for rule, layers in owners)

    def _in_the_way(self) -> Iterator[str]:
        """For the layers that a ranking could not take: which paths are claimed, and by which rules."""
        facts = self.case.facts
        ways: dict[int, tuple[set[str], list[int]]] = {}
        for layer, (paths, takes) in enumerate(zip(self.table.paths, self.table.takes, strict=True)):
            touched = paths.touched_by(self.known.paths[layer])
            for take in takes:
                if take.rule < self.index and touched & take.paths:
                    names, layers = ways.setdefault(take.rule, (set(), []))
                    every = leaves(facts.layer_specs[layer], facts.linear_maps[layer])
                    names.update(folded(paths.named(touched & take.paths), every))
                    layers.append(layer)
        for rule, (names, layers) in sorted(ways.items()):
            number = self.case.recipe.rules[rule].number
            yield f"rule {number} claims `{'`, `'.join(sorted(names))}` of {layers_text(layers)}"

    def _holds(self, layer: int, spec: LayerSpec) -> bool:
        """Whether the rule took something of a layer that still exists: a `keep` that does not get the whole layer still
        keeps the rest of it, and the weights of a dropped part do not count."""
        left = {f"{Slot.WEIGHTS}.{module}" for module in spec.linear_maps(self.case.facts)}
        taken = (take.paths for take in self.table.takes[layer] if take.rule == self.index)
        names = (path for paths in taken for path in self.table.paths[layer].named(paths))
        return any(path in left or not path.startswith(f"{Slot.WEIGHTS}.") for path in names)

    def _why_empty(self) -> str:
        ranking, layers = self.known.ranking, self.case.facts.layers
        if ranking is not None and ranking.amount is not None and ranking.amount.of(layers) == 0:
            if ranking.amount.unit is Unit.RATIO:
                return f"{100 * ranking.amount.value:g} % of {layers} layers, rounded down, is 0"
            return "it asks for 0 layers"
        if ranking is not None or self.known.choosing is not None:
            return "earlier rules claim every layer"
        if self.known.scores:
            return "look at the scores: `lbdsl plan` prints them"
        named = layer_set_of(self.known.rule)
        if isinstance(self.known.rule.selector, LayersSelector) and named is not None and not members(named, layers):
            return "the set is empty"
        return "its condition asks for no score: it is the same for every layer"
