"""Which layers each rule matches, as far as scores alone decide it. The table decides what depends on earlier claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import ordinal
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import AllLayers, Expr, RankedSet, RankSelector, WhereSelector
from lbdsl.recipe.schema import sum_text
from lbdsl.solve.case import Case, KnownRule, condition_of, layer_set_of
from lbdsl.solve.evaluate import World, evaluate, scores_in
from lbdsl.solve.layersets import members


@dataclass(frozen=True)
class Match:
    """The layers of one rule: final for `layers`, `where` and a ranking over all layers. For a ranking of the rest: every
    layer of its domain in the order of the ranking; only the free ones count. For `else`: every layer. `reasons` has why
    a layer matches; for a ranking of the rest without the rank, which depends on earlier claims."""

    layers: tuple[int, ...]
    reasons: Mapping[int, str] = field(default_factory=dict)


def match_rules(case: Case, measurements: Mapping[Request, Measurement]) -> Diagnosed[tuple[Match, ...]]:
    """A `Match` for every rule; every missing or NaN score of the recipe is an error, each reported once."""
    matcher = _Matcher(case, World(case.facts, measurements=measurements))
    matches = tuple(matcher.match(known) for known in case.rules)
    # Several rules may use the same score; a missing one is reported once.
    once: dict[tuple[str, str], Diagnostic] = {}
    for problem in matcher.found:
        once.setdefault((problem.code, problem.message), problem)
    return Diagnosed(None if once else matches, tuple(once.values()))


@dataclass
class _Matcher:
    """Collects errors in `found`. After an error the matches are invalid, but the other rules are still checked."""

    case: Case
    world: World
    found: list[Diagnostic] = field(default_factory=list)

    def match(self, known: KnownRule) -> Match:
        if known.is_else:
            return Match(tuple(range(self.case.facts.layers)))
        if known.choosing is not None:
            for score, layers in self.case.alternatives:
                for layer in layers:
                    self._value(score, layer)
            return Match(known.domain)
        return self._rank(known, known.ranking) if known.ranking is not None else self._filter(known)

    def _filter(self, known: KnownRule) -> Match:
        """The layers of the rule's set at which its condition holds."""
        selector, condition, before = known.rule.selector, condition_of(known.rule), len(self.found)
        in_set = members(layer_set_of(known.rule) or AllLayers(selector.span), self.case.facts.layers, self._ranked)
        said = one_line((selector.where if isinstance(selector, WhereSelector) else selector).span.text)
        if condition is None:
            layers = tuple(i for i in sorted(in_set) if known.paths[i])
            return Match(layers, dict.fromkeys(layers, said))
        reasons = {}
        # If a missing score leaves the set unknown, nothing more is reported.
        for layer in known.domain if len(self.found) == before else ():
            if layer in in_set:
                truth, found = evaluate(condition, replace(self.world, layer=layer))
                self.found += found
                if truth:
                    values = {score.text: self._value(score, layer) for score in scores_in(condition)}
                    shown = ", ".join(f"{name} {score_text(value)}" for name, value in values.items())
                    reasons[layer] = f"{shown}: {said}" if shown else said
        return Match(tuple(reasons), reasons)

    def _rank(self, known: KnownRule, selector: RankSelector) -> Match:
        order = self._order(selector.by, selector.direction, known.domain)
        reasons = {i: f"{sum_text(selector.by)} {score_text(self._value(selector.by, i))}" for i in order}
        if known.ranks_rest:
            return Match(order, reasons)
        assert selector.amount is not None, "a ranking has an amount or an `until`"
        places = {i: f"{ordinal(place)} {selector.direction} of {len(order)}" for place, i in enumerate(order, start=1)}
        first = tuple(sorted(order[: selector.amount.of(self.case.facts.layers)]))
        return Match(first, {i: f"{reasons[i]}: {places[i]}" for i in order})

    def _ranked(self, ranked: RankedSet) -> frozenset[int]:
        layers = self.case.facts.layers
        return frozenset(self._order(ranked.by, ranked.direction, range(layers))[: ranked.amount.of(layers)])

    def _order(self, by: Expr, direction: str, layers: Iterable[int]) -> tuple[int, ...]:
        """`layers` sorted from the lowest (or highest) score; ties go to the lower index."""
        sign = 1 if direction == "lowest" else -1
        values = {layer: self._value(by, layer) for layer in layers}
        return tuple(sorted(values, key=lambda layer: (sign * values[layer], layer)))

    def _value(self, by: Expr, layer: int) -> float:
        value, found = evaluate(by, replace(self.world, layer=layer))
        self.found += found
        return 0.0 if value is None else value


def score_text(value: float) -> str:
    """A score with its sign, to three significant digits: `+0.016`."""
    return f"{value:+.3g}"
