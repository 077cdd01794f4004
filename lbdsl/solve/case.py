"""A recipe on a model: what is known about its rules before measuring, errors among it, and what must be measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Edit, Fix, LbdslError, error
from lbdsl.core.measurement import Request
from lbdsl.core.nearest import nearest, slip
from lbdsl.core.units import plural, ranges_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import (
    ElseSelector,
    Expr,
    Items,
    LayerSet,
    LayersSelector,
    ModulesSelector,
    Pattern,
    RankSelector,
    String,
    WhereSelector,
)
from lbdsl.layer.paths import Paths, union
from lbdsl.layer.weights import Stat
from lbdsl.recipe.choosing import screened_scores
from lbdsl.recipe.schema import Choosing, Recipe, ResolvedAssertion, Rule, Score
from lbdsl.solve.claims import Module, Wanted, claimable, layer_modules, matched
from lbdsl.solve.evaluate import World, deciding, evaluate, facts_only, scores_in
from lbdsl.solve.layersets import members, ranked_sets, set_problems


def layer_set_of(rule: Rule) -> LayerSet | None:
    """The set that a `layers` or `modules` rule, or `choose`, names."""
    return rule.selector.layers if isinstance(rule.selector, LayersSelector | ModulesSelector | Choosing) else None


def condition_of(rule: Rule) -> Expr | None:
    """What follows `where`."""
    return rule.selector.where if isinstance(rule.selector, LayersSelector | ModulesSelector | WhereSelector) else None


@dataclass(frozen=True)
class KnownRule:
    """What is certain about a rule before measuring.

    wanted: its actions, with the paths that each claims
    paths:  all paths that it claims, by layer
    named:  the layers of its set; None if scores decide them, or if the rule has no set
    domain: the layers on which its condition or ranking is evaluated; earlier rules claim the others, whatever the scores
            are. A ranking without `of rest` is evaluated on all layers
    open:   the layers of the domain in which it may take something
    """

    rule: Rule
    wanted: tuple[Wanted, ...]
    paths: tuple[int, ...]
    named: frozenset[int] | None
    domain: tuple[int, ...] = ()
    open: tuple[int, ...] = ()

    @property
    def is_else(self) -> bool:
        return isinstance(self.rule.selector, ElseSelector)

    @property
    def fixed(self) -> frozenset[int] | None:
        """The layers that a `layers` rule matches for certain."""
        return self.named if isinstance(self.rule.selector, LayersSelector) and condition_of(self.rule) is None else None

    @property
    def ranking(self) -> RankSelector | None:
        return self.rule.selector if isinstance(self.rule.selector, RankSelector) else None

    @property
    def choosing(self) -> Choosing | None:
        return self.rule.selector if isinstance(self.rule.selector, Choosing) else None

    @property
    def until(self) -> Expr | None:
        return self.ranking.until if self.ranking is not None else None

    @property
    def while_(self) -> Expr | None:
        return self.ranking.while_ if self.ranking is not None else None

    @property
    def ranks_rest(self) -> bool:
        """True for a ranking of the layers not yet claimed: `of rest`, and always with `until` or `while`."""
        bounded = self.until is not None or self.while_ is not None
        return self.ranking is not None and (self.ranking.of_rest or bounded)

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        return scores_in(self.rule.selector)

    def asks(self, touched: int, free: int) -> bool:
        """Whether it is evaluated on a layer. Of its claimed paths, `touched` are certainly touched, `free` are not."""
        if self.choosing is not None:
            return not touched
        if self.ranking is None:
            return bool(free) or not self.scores
        return not touched or not self.ranks_rest


@dataclass(frozen=True)
class Case:
    """A recipe and its model. What follows from these alone is computed once, on first use; layers, patterns and actions
    must fit the model (see `problems`)."""

    recipe: Recipe
    facts: ModelFacts

    @cached_property
    def _claimable(self) -> tuple[tuple[Paths, ...], tuple[tuple[Wanted, ...], ...]]:
        return claimable(self.recipe, self.facts)

    @property
    def paths(self) -> tuple[Paths, ...]:
        """The paths of each layer."""
        return self._claimable[0]

    @cached_property
    def rules(self) -> tuple[KnownRule, ...]:
        """The rules in order. Only rules whose layers are known narrow the domains of later ones, so the domains do not
        depend on scores."""
        # By layer: paths that are certainly touched, and those that may have been taken.
        sure, maybe = [0] * self.facts.layers, [0] * self.facts.layers
        found = []
        for rule, wanted in zip(self.recipe.rules, self._claimable[1], strict=True):
            # A `keep` among alternatives claims what the others would change, and nothing of its own.
            claiming = [item for item in wanted if not (isinstance(rule.selector, Choosing) and item.action.keeps)]
            paths = tuple(union(item.paths[i] for item in claiming) for i in range(self.facts.layers))
            known = KnownRule(rule, wanted, paths, self._named(rule))
            may_claim = (i for i in (range(self.facts.layers) if known.named is None else known.named) if paths[i])
            domain = tuple(i for i in sorted(may_claim) if known.asks(paths[i] & sure[i], paths[i] & ~sure[i]))
            opened = tuple(i for i in domain if any(item.takes(i, sure[i]) for item in wanted))
            found.append(replace(known, domain=domain, open=opened))
            decided = known.choosing is None and condition_of(rule) is None
            certain = known.is_else or (known.named is not None and decided)
            for i in domain:
                for item in wanted:
                    taken = item.takes(i, sure[i])
                    if certain:
                        sure[i] |= self._surely_touched(i, item.action, taken, maybe[i])
                    maybe[i] |= taken
        return tuple(found)

    def _named(self, rule: Rule) -> frozenset[int] | None:
        layer_set = layer_set_of(rule)
        if layer_set is None:
            return frozenset(range(self.facts.layers)) if isinstance(rule.selector, ModulesSelector) else None
        return None if ranked_sets(layer_set) else members(layer_set, self.facts.layers)

    def _surely_touched(self, layer: int, action: Action, taken: int, maybe: int) -> int:
        """The paths that are certainly touched if each path of `taken` is taken now, or was lost to any earlier claim in
        `maybe`."""
        paths = self.paths[layer]
        if not action.divisible and taken.bit_count() != 1:
            touched = paths.touched_by(taken)
            return touched if not touched & maybe else 0
        found = 0
        for number in paths.numbers(taken):
            touched = paths.touching[number]
            for other in paths.numbers(maybe & touched):
                touched &= paths.touching[other]
            found |= touched
        return found

    @cached_property
    def scores(self) -> tuple[tuple[Score, tuple[int, ...]], ...]:
        """Every score that a rule may need, and on which layers. A layer that earlier rules certainly claim needs no score
        for a later condition or ranking of the rest; a ranked set and a ranking without `of rest` need all layers."""
        found: list[tuple[Score, tuple[int, ...]]] = []
        for known in self.rules:
            ranked = ranked_sets(layer_set_of(known.rule))
            of_sets = [score for item in ranked for score in scores_in(item.by)]
            found += [(score, tuple(range(self.facts.layers))) for score in of_sets]
            if known.choosing is None:
                found += [(score, known.domain) for score in known.scores[len(of_sets) :]]
            else:
                found += self.alternatives
        return tuple(found)

    @cached_property
    def choose(self) -> KnownRule | None:
        """The `choose` of the recipe."""
        return next((known for known in self.rules if known.choosing is not None), None)

    @property
    def choosing(self) -> Choosing | None:
        """Its selector."""
        return self.choose.choosing if self.choose is not None else None

    @cached_property
    def possible(self) -> tuple[frozenset[int], ...]:
        """For each alternative of the `choose`, the layers that have what it changes."""
        if self.choose is None or self.choosing is None:
            return ()
        return tuple(frozenset(self._possible(self.choose.domain, by)) for by in self.choosing.scores)

    def _possible(self, domain: Iterable[int], by: Items | None) -> Iterable[int]:
        score = None if by is None else scores_in(by)[0]
        if score is None or score.action is None:
            return domain
        try:
            return [layer for layer in domain if score.action.under(self.facts, layer) is not None]
        except LbdslError as problem:
            raise problem.placed(f"`{score.action_text}`", score.span) from None

    @property
    def alternatives(self) -> Iterator[tuple[Score, tuple[int, ...]]]:
        """The scores of the alternatives that change something, and the layers that have what each changes."""
        scores = self.choosing.scores if self.choosing is not None else ()
        for by, layers in zip(scores, self.possible, strict=True):
            for score in scores_in(by) if by is not None else ():
                yield score, tuple(sorted(layers))

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """The (metric, action, layer) of all scores, without duplicates."""
        found = (Request(score.metric, score.action_text, layer) for score, layers in self.scores for layer in layers)
        return tuple(dict.fromkeys(found))

    @cached_property
    def screens(self) -> frozenset[tuple[str, str]]:
        """The metrics and actions of scores that a screen estimates: none that a condition needs, for that is about a layer
        alone."""
        if self.recipe.measure.strategy != "screen":
            return frozenset()
        found, exact = set[tuple[str, str]](), set[tuple[str, str]]()
        for rule in self.recipe.rules:
            ranking = screened_scores(rule)
            found |= {(score.metric, score.action_text) for score in ranking}
            others = [score for score in scores_in(rule.selector) if not any(score is one for one in ranking)]
            exact |= {(score.metric, score.action_text) for score in others}
        return frozenset(found - exact)

    @cached_property
    def screened(self) -> frozenset[Request]:
        """Those requests that a screen estimates."""
        return frozenset(request for request in self.requests if (request.metric, request.action) in self.screens)

    @cached_property
    def problems(self) -> tuple[Diagnostic, ...]:
        """Errors only: `requires` that do not hold, layers and modules that do not exist, actions that the model cannot
        express."""
        required = (item for item in self.recipe.requires if facts_only(item.expr))
        of_model = (problem for item in required for problem in requirement_problems(item, World(self.facts)))
        rules, layers = self.recipe.rules, self.facts.layers
        of_sets = (problem for rule in rules for problem in set_problems(rule.selector, layers))
        patterns = (p for rule in rules if isinstance(rule.selector, ModulesSelector) for p in rule.selector.patterns)
        of_patterns = (_unmatched(p, layer_modules(self.facts)) for p in patterns if not matched((p,), self.facts))
        # A group of layers stands in each rule that uses it.
        return tuple(dict.fromkeys([*of_model, *of_sets, *of_patterns] or _impossible_actions(self)))

    def settled(self, recipe: Recipe) -> Case:
        """The same with other settings of its blocks: the rules, and what follows from them, are the same."""
        found = Case(recipe, self.facts)
        found.__dict__.update(
            {name: value for name, value in self.__dict__.items() if name not in ("recipe", "screens", "screened")}
        )
        return found

    def measurable(self) -> Diagnosed[Case]:
        """Itself; errors are `problems`, and scores that cannot be measured: a recipe that does not fit the model is not
        worth measuring."""
        problems = self.problems or tuple(_not_there(self))
        return Diagnosed(None, problems) if problems else Diagnosed(self)

    @property
    def score_actions(self) -> Mapping[str, Action]:
        """The actions of all scores, by text."""
        return {score.action_text: score.action for score, _ in self.scores if score.action is not None}

    def statistics(self, *, planned: bool = True) -> dict[int, tuple[Stat, ...]]:
        """The statistics, by layer, that scores may need to compute new weights; with `planned`, also those for rules."""
        asked = [(score.action, layer) for score, layers in self.scores for layer in layers if score.action is not None]
        if planned:
            asked += [(action, layer) for known in self.rules for action in known.rule.actions for layer in known.open]
        found: dict[int, tuple[Stat, ...]] = {}
        for action, layer in dict.fromkeys(asked):
            change = action.under(self.facts, layer)
            if change is not None and change.stats:
                found[layer] = tuple(dict.fromkeys((*found.get(layer, ()), *change.stats)))
        return found


def action_findings(case: Case) -> Iterator[Diagnostic]:
    """The findings of actions on the layers that their rule may get, each once per rule."""
    for known in case.rules:
        said: dict[str, list[Diagnostic]] = {}
        chosen = known.choosing
        pairs = zip(chosen.alternatives, chosen.scores, strict=True) if chosen is not None else ()
        spans = {action: score.span for actions, score in pairs if score is not None for action in actions}
        for layer in known.domain:
            for action in known.rule.actions:
                for d in action.check(case.facts, layer):
                    said.setdefault(d.message, []).append(replace(d, span=d.span or spans.get(action)))
        for message, (d, *more) in said.items():
            count = 1 + len(more)
            where = "" if count == case.facts.layers else f" ({plural(count, 'layer')})"
            yield replace(d, message=f"rule {known.rule.number}: {message}{where}", span=d.span or known.rule.span)


def requirement_problems(requirement: ResolvedAssertion, world: World) -> tuple[Diagnostic, ...]:
    """The errors of one `requires`; empty when it holds."""
    truth, found = evaluate(requirement.expr, world)
    if truth is None or truth:
        return found
    facts = world.facts
    shown = None if facts_only(requirement.expr) else deciding(requirement.expr, world)
    message = f"the recipe requires `{requirement.text}`" + (f", and {shown}" if shown is not None else "")
    help = f"this model: family {facts.family}, {facts.layers} layers, hidden {facts.hidden}"
    return (error("LB320", message, requirement.span, help=help),)


def _unmatched(pattern: Pattern | String, modules: tuple[Module, ...]) -> Diagnostic:
    """LB218 for a pattern that no module of this model matches."""
    parts = list(dict.fromkeys(module.part for module in modules))
    known = [f"*.{part.rpartition('.')[2]}" for part in parts] + [f"*.{part}" for part in parts]
    known = list(dict.fromkeys([*known, *(module.name for module in modules)]))
    near = meant = None
    if isinstance(pattern, String):
        near, meant = nearest(pattern.value, known), slip(pattern.value, known)
    fix = None if meant is None else Fix(f"write `{meant}`", (Edit(pattern.span, f'"{meant}"'),))
    example = f"a name is like `{modules[0].name}`; " if modules else ""
    listed = f"{example}modules of a layer: {', '.join(f'`{part}`' for part in parts)}"
    message = f"`{pattern.value}` matches 0 of {len(modules)} modules"
    return error("LB218", message, pattern.span, help=(*([f"nearest `{near}`"] if near else []), listed), fix=fix)


def _impossible_actions(case: Case) -> Iterator[Diagnostic]:
    """Errors of actions, including those of scores, on the layers they may be used on. Sets and patterns must be right
    first."""
    found = [d for d in action_findings(case) if d.is_error]
    for known in case.rules:
        for score in known.scores:
            checked = (d for i in known.domain for d in (score.action.check(case.facts, i) if score.action else ()))
            said = next((d for d in checked if d.is_error), None)
            if said is not None and not any(d.code == said.code and said.message in d.message for d in found):
                found.append(replace(said, message=f"`{score.text}`: {said.message}", span=score.span))
    yield from found


def _not_there(case: Case) -> Iterator[Diagnostic]:
    """LB449 for scores of an action on a part that some of the layers do not have, LB217 for one whose storage cannot hold
    their matrices."""
    for score, layers in case.scores:
        action = score.action
        under = {i: action.under(case.facts, i) for i in layers} if action is not None else {}
        lacking = [i for i, change in under.items() if change is None]
        matrices = (pair for change in under.values() if change is not None for pair in change.spec.matrices(case.facts))
        misfit = next((found for tensor, stored in matrices if (found := stored.misfit(tensor))), None)
        if misfit is not None:
            yield error("LB217", f"`{score.text}` cannot be measured: {misfit[0]}", score.span, help=misfit[1])
        if action is not None and lacking:
            paths, where = "`, `".join(action.claims()), f"{plural(len(lacking), 'layer')} {ranges_text(lacking)}"
            message = f"`{score.text}` cannot be measured: there is no `{paths}` in {where}"
            help = "claim those layers by an earlier rule, or choose among the others"
            yield error("LB449", message, score.span, help=help)
