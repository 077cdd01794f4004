"""Modules of a model's layers, and those that the patterns of a `modules` rule match."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, error
from lbdsl.core.nearest import nearest, slip
from lbdsl.layer.facts import ModelFacts
from lbdsl.recipe.patterns import matcher
from lbdsl.recipe.schema import ModulesSelector, Pattern, Recipe, String

_IN_LAYER = re.compile(r"(?:.*?\.)?(\d+)\.(.+)")


class Module(NamedTuple):
    """A module with a weight matrix: `model.layers.3.self_attn.k_proj` is `self_attn.k_proj` of layer 3."""

    name: str
    layer: int
    part: str


@lru_cache(maxsize=8)
def layer_modules(names: tuple[str, ...]) -> tuple[Module, ...]:
    """Those of `facts.modules` that belong to a layer."""
    found = []
    for name in names:
        match = _IN_LAYER.fullmatch(name)
        if match is not None:
            found.append(Module(name, int(match[1]), match[2]))
    return tuple(found)


def matched(selector: ModulesSelector, facts: ModelFacts) -> tuple[Module, ...]:
    """The modules whose full name matches one of the rule's patterns, in whatever layer."""
    tests = [matcher(pattern.value, glob=isinstance(pattern, String)) for pattern in selector.patterns]
    return tuple(module for module in layer_modules(facts.modules) if any(test(module.name) for test in tests))


def chosen_modules(selector: ModulesSelector, facts: ModelFacts) -> tuple[tuple[str, ...], ...]:
    """Of each layer, the modules that the rule's patterns match, by name below the layer."""
    rows: list[list[str]] = [[] for _ in range(facts.layers)]
    for module in matched(selector, facts):
        rows[module.layer].append(module.part)
    return tuple(tuple(row) for row in rows)


def pattern_problems(recipe: Recipe, facts: ModelFacts) -> Iterator[Diagnostic]:
    """LB218 for each pattern that no module of this model matches."""
    modules = layer_modules(facts.modules)
    for rule in recipe.rules:
        if not isinstance(rule.selector, ModulesSelector):
            continue
        for pattern in rule.selector.patterns:
            test = matcher(pattern.value, glob=isinstance(pattern, String))
            if not any(test(module.name) for module in modules):
                yield _unmatched(recipe, pattern, modules)


def _unmatched(recipe: Recipe, pattern: Pattern | String, modules: tuple[Module, ...]) -> Diagnostic:
    parts = list(dict.fromkeys(module.part for module in modules))
    known = [f"*.{part.rpartition('.')[2]}" for part in parts] + [f"*.{part}" for part in parts]
    known = list(dict.fromkeys([*known, *(module.name for module in modules)]))
    glob = isinstance(pattern, String)
    near = nearest(pattern.value, known) if glob else None
    span = recipe.span(pattern)
    typed = slip(pattern.value, known) if glob else None
    fix = None if typed is None or span is None else Fix(f"write `{typed}`", (Edit(span, f'"{typed}"'),))
    example = f"a name is like `{modules[0].name}`; " if modules else ""
    listed = f"{example}modules of a layer: {', '.join(f'`{part}`' for part in parts)}"
    return error(
        "LB218",
        f"`{pattern.value}` matches 0 of {len(modules)} modules",
        span,
        help=(*([f"nearest `{near}`"] if near else []), listed),
        fix=fix,
    )
