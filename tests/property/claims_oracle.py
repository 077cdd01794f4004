"""What claims by path mean, read from the language's description alone: brute force over layers, paths and counts.

Nothing here is the planner's. Where the description leaves something open, it is read so:

1. The actions of a rule claim one by one: of `drop + quantize(...)` on a layer whose attention is claimed, `quantize` still
   takes what it can. An action that is not divisible takes all of its paths or none, under `else`, too: `else drop(block)`
   leaves a layer whose MLP is claimed.
2. `keep`, `keep(attention)`, `keep(mlp)` and `quantize` claim leaves: `keep` all of a base layer's, `quantize` the weights
   of the base's linear maps, also where the sub-block is gone. Storage of a part that is gone is then no storage.
3. `rest` is the same for divisible actions: a layer on which *any* path of *any* action of the rule touches a claimed one
   is not in it, though `keep` or `quantize` could still take others of its paths there.
4. `until` always ranks the rest; an amount beside it is the most layers that it may take. Later rules are resolved for each
   count, their own `until` too; a count at which a later `until` cannot be met does not work.
5. A score belongs to the base's layer and does not change with claims. Without `of rest` a ranking chooses among all
   layers, and what is claimed of them is lost.
6. In the law of neighbouring rules "on any layer" is any layer that both may match: a ranking of the rest may match every
   one, whatever it takes in the end. Read with the layers that the rules took, the law is false: see
   `test_the_law_needs_what_a_ranking_of_the_rest_may_match`.

A rule is `(selector, actions)`: a selector `(kind, *arguments)`, actions as their texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from hypothesis import strategies as st

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.measurement import Measurement, Request
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import Recipe
from tests.plan_cases import llama_facts

METRICS = ("nll", "kl(swa(window=64))", "influence(block)", "nll(drop(mlp))")
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB = 64, 4, 2, 16, 128, 256
"""The Llama of `llama_facts`, with a tied head."""

MODULES = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
WEIGHTS = tuple(f"weights.{module}" for module in MODULES)
LEAVES = ("mixer.heads", "mixer.kv_heads", "mixer.head_dim", "mixer.window", "mixer.cache", "ffn.width", *WEIGHTS)

FOUR, EIGHT = "quantize(bits=4, group=64)", "quantize(bits=8, group=32)"
STORAGE = {FOUR: (4, 64), EIGHT: (8, 32)}

PATHS = {
    "keep": LEAVES,
    "keep(attention)": tuple(leaf for leaf in LEAVES if leaf.startswith("mixer.")),
    "keep(mlp)": tuple(leaf for leaf in LEAVES if leaf.startswith("ffn.")),
    "drop": ("mixer",),
    "drop(mlp)": ("ffn",),
    "drop(block)": ("mixer", "ffn"),
    "swa(window=64)": ("mixer.window",),
    FOUR: WEIGHTS,
    EIGHT: WEIGHTS,
    "test_kv_heads(1)": ("mixer.kv_heads",),
    "test_width(64)": ("ffn.width",),
}
"""What each action claims of a layer."""

ACTIONS = tuple(PATHS)
DIVISIBLE = frozenset({"keep", "keep(attention)", "keep(mlp)", FOUR, EIGHT})

Rule = tuple[tuple[Any, ...], tuple[str, ...]]
Scores = Mapping[str, Sequence[float]]
Claims = Mapping[str, tuple[int, str]]
"""Of one layer: each path taken, and the number of the rule and the action that took it."""


# Paths -----------------------------------------------------------------------------------------------------------------


@cache
def touch(one: str, other: str) -> bool:
    """Equal, or one is a prefix of the other."""
    first, second = one.split("."), other.split(".")
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]


def leaves(path: str) -> tuple[str, ...]:
    return tuple(leaf for leaf in LEAVES if touch(leaf, path))


def fits(pattern: str, name: str) -> bool:
    """A glob, or after `~` a regular expression, of a full name."""
    return bool(re.fullmatch(pattern[1:], name)) if pattern[0] == "~" else fnmatchcase(name, pattern)


def paths_of(selector: tuple[Any, ...], action: str, layer: int) -> tuple[str, ...]:
    """The paths of an action of a rule on a layer that the rule matches."""
    if selector[0] != "modules":
        return PATHS[action]
    named = [
        module for module in MODULES if any(fits(pattern, f"model.layers.{layer}.{module}") for pattern in selector[1])
    ]
    return tuple(f"weights.{module}" for module in named)


def together(actions: Sequence[str]) -> bool:
    """Whether one rule may have them all: no path of one touches a path of another."""
    return not any(
        touch(path, other)
        for index, action in enumerate(actions)
        for before in actions[:index]
        for path in PATHS[action]
        for other in PATHS[before]
    )


# Layers and their costs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixer:
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    head_dim: int = HEAD_DIM
    window: tuple[int, int] | None = None
    """Tokens, and sink tokens."""


@dataclass(frozen=True)
class Layer:
    mixer: Mixer | None = Mixer()
    ffn: int | None = WIDTH
    weights: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bits and group by module."""


BASE = Layer()


def become(claims: Claims) -> Layer:
    """The base's layer with the claimed fields set, in whatever order."""
    mixer, ffn, weights = BASE.mixer, BASE.ffn, {}
    assert mixer is not None
    gone = {path for path, (_, action) in claims.items() if action.startswith("drop")}
    for path, (_, action) in claims.items():
        if action == "swa(window=64)":
            mixer = with_fields(mixer, window=(64, 0))
        elif action == "test_kv_heads(1)":
            mixer = with_fields(mixer, kv_heads=1)
        elif action == "test_width(64)":
            ffn = 64
        elif action in STORAGE:
            weights[path.removeprefix("weights.")] = STORAGE[action]
    held = {"mixer": "self_attn.", "ffn": "mlp."}
    weights = {module: how for module, how in weights.items() if not any(module.startswith(held[path]) for path in gone)}
    return Layer(None if "mixer" in gone else mixer, None if "ffn" in gone else ffn, weights)


def shapes(layer: Layer) -> dict[str, tuple[int, int]]:
    """Rows and columns of the linear maps."""
    found = {}
    if layer.mixer is not None:
        queries, keys = layer.mixer.heads * layer.mixer.head_dim, layer.mixer.kv_heads * layer.mixer.head_dim
        found |= {"self_attn.q_proj": (queries, HIDDEN), "self_attn.o_proj": (HIDDEN, queries)}
        found |= {"self_attn.k_proj": (keys, HIDDEN), "self_attn.v_proj": (keys, HIDDEN)}
    if layer.ffn is not None:
        found |= {"mlp.gate_proj": (layer.ffn, HIDDEN), "mlp.up_proj": (layer.ffn, HIDDEN)}
        found |= {"mlp.down_proj": (HIDDEN, layer.ffn)}
    return found


def norms(layer: Layer) -> int:
    return HIDDEN * ((layer.mixer is not None) + (layer.ffn is not None))


def cost(kind: str, layers: Sequence[Layer], ctx: int = 0) -> int:
    """Of the whole model: bytes of cache, parameters, or bytes of weights."""
    others = VOCAB * HIDDEN + HIDDEN
    if kind == "kv":
        mixers = [layer.mixer for layer in layers if layer.mixer is not None]
        tokens = [ctx if mixer.window is None else min(ctx, sum(mixer.window)) for mixer in mixers]
        return sum(2 * mixer.kv_heads * mixer.head_dim * 2 * held for mixer, held in zip(mixers, tokens, strict=True))
    if kind == "params":
        return others + sum(
            norms(layer) + sum(rows * columns for rows, columns in shapes(layer).values()) for layer in layers
        )
    bits = 16 * (others + sum(norms(layer) for layer in layers))
    for layer in layers:
        for module, (rows, columns) in shapes(layer).items():
            if module in layer.weights:
                each, group = layer.weights[module]
                bits += rows * columns * each + rows * -(-columns // group) * 16 + 2 * 64  # and two numbers, the shape
            else:
                bits += rows * columns * 16
    assert bits % 8 == 0
    return bits // 8


def met(until: tuple[Any, ...], layers: Sequence[Layer]) -> bool:
    """Of a share, `"50%"`: 100 * cost <= percent * base, in whole numbers. Or of a number of bytes, or of parameters."""
    kind, *args = until
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(met(part, layers) for part in args)
    op, limit, ctx = args
    now = cost(kind, layers, ctx)
    if isinstance(limit, str):
        now, then = 100 * now, int(limit[:-1]) * cost(kind, [BASE] * len(layers), ctx)
    else:
        then = limit
    return now <= then if op == "<=" else now < then


# Selectors -------------------------------------------------------------------------------------------------------------


def size(amount: int | str, count: int) -> int:
    """A percentage is of all layers, rounded down."""
    return int(amount[:-1]) * count // 100 if isinstance(amount, str) else amount


def ranked(among: Sequence[int], direction: str, values: Sequence[float]) -> list[int]:
    return sorted(among, key=lambda i: (values[i] if direction == "lowest" else -values[i], i))


def true(condition: tuple[Any, ...], scores: Scores, i: int) -> bool:
    kind, *args = condition
    if kind == "<":
        return scores[args[0]][i] < args[1]
    if kind == "between":
        return args[0] <= scores[args[1]][i] < args[2]
    parts = [true(part, scores, i) for part in args]
    return not parts[0] if kind == "not" else all(parts) if kind == "and" else any(parts)


def members(chosen: tuple[Any, ...], scores: Scores) -> set[int]:
    count = len(scores["nll"])
    kind, *args = chosen
    if kind in ("or", "and", "except"):
        one, other = (members(part, scores) for part in args)
        return one | other if kind == "or" else one & other if kind == "and" else one - other
    if kind == "not":
        return set(range(count)) - members(args[0], scores)
    if kind == "ranked":
        return set(ranked(range(count), args[0], scores[args[2]])[: size(args[1], count)])
    n = size(args[0], count) if kind in ("first", "last", "middle") else 0
    return set(
        {
            "all": lambda: range(count),
            "range": lambda: range(args[0], args[1] + 1),
            "first": lambda: range(n),
            "last": lambda: range(count - n, count),
            "every": lambda: range(args[1], count, args[0]),
            "middle": lambda: range((count - n) // 2, (count - n) // 2 + n),
        }[kind]()
    )


def may_match(rule: Rule, scores: Scores) -> list[int]:
    """The layers that a rule may match, whatever is claimed before it, in its order."""
    (kind, *args), _ = rule
    layers = range(len(scores["nll"]))
    if kind == "where":
        return [i for i in layers if true(args[0], scores, i)]
    if kind in ("layers", "modules"):
        chosen, condition = args[-2:]
        found = members(chosen, scores) if chosen else set(layers)
        return [i for i in sorted(found) if condition is None or true(condition, scores, i)]
    if kind == "rank":
        direction, amount, of_rest, metric, until = args
        order = ranked(layers, direction, scores[metric])
        return order if of_rest or until else order[: size(amount, len(layers))]
    return list(layers)


def independent(one: Rule, other: Rule, scores: Scores) -> bool:
    """No path of one touches a path of the other on any layer, and at most one of them has `until`."""
    if all(selector[0] == "rank" and selector[-1] for selector, _ in (one, other)):
        return False
    both = set(may_match(one, scores)) & set(may_match(other, scores))
    paths = lambda rule, i: [path for action in rule[1] for path in paths_of(rule[0], action, i)]  # noqa: E731
    return not any(touch(a, b) for i in both for a in paths(one, i) for b in paths(other, i))


# The oracle ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    claims: tuple[Claims, ...]
    """Of each layer."""
    counts: Mapping[int, int]
    """By a rule's number, how many layers its `until` took."""

    @property
    def layers(self) -> list[Layer]:
        return [become(claims) for claims in self.claims]

    @property
    def owners(self) -> dict[tuple[int, str], tuple[int, str]]:
        """By layer and leaf."""
        return {
            (i, leaf): owner
            for i, claims in enumerate(self.claims)
            for path, owner in claims.items()
            for leaf in leaves(path)
        }


def oracle(
    rules: Sequence[Rule], scores: Scores, claims: tuple[Claims, ...] | None = None, number: int = 1
) -> Outcome | None:
    """What the rules make of all layers; None when an `until` cannot be met."""
    count = len(scores["nll"])
    claims = ({},) * count if claims is None else claims
    if not rules:
        return Outcome(claims, {})
    (selector, actions), later = rules[0], rules[1:]

    def after(taken: Sequence[int]) -> Outcome | None:
        new = list(claims)
        for i in taken:
            for action in actions:
                paths = paths_of(selector, action, i)
                free = [path for path in paths if not any(touch(path, claimed) for claimed in new[i])]
                if action in DIVISIBLE or len(free) == len(paths):
                    new[i] = {**new[i], **dict.fromkeys(free, (number, action))}
        return oracle(later, scores, tuple(new), number + 1)

    may = may_match(rules[0], scores)
    if selector[0] != "rank":
        return after(may)
    _, _, amount, of_rest, _, until = selector
    if of_rest or until:
        may = [
            i
            for i in may
            if not any(
                touch(path, claimed)
                for action in actions
                for path in paths_of(selector, action, i)
                for claimed in claims[i]
            )
        ]
    most = len(may) if amount is None else min(len(may), size(amount, count))
    if until is None:
        return after(may[:most])
    for k in range(most + 1):
        outcome = after(may[:k])
        if outcome is not None and met(until, outcome.layers):
            return Outcome(outcome.claims, {number: k, **outcome.counts})
    return None


# The same as text ------------------------------------------------------------------------------------------------------


def set_text(chosen: tuple[Any, ...]) -> str:
    kind, *args = chosen
    match kind:
        case "all":
            return "all"
        case "range":
            return f"{args[0]}-{args[1]}" if args[0] < args[1] else f"{args[0]}"
        case "every":
            return f"every {args[0]} from {args[1]}"
        case "ranked":
            return f"{args[0]} {args[1]} by {args[2]}"
        case "not":
            return f"not ({set_text(args[0])})"
        case "or" | "and" | "except":
            return f"({set_text(args[0])}) {kind} ({set_text(args[1])})"
        case _:
            return f"{kind} {args[0]}"


def condition_text(condition: tuple[Any, ...]) -> str:
    kind, *args = condition
    if kind == "<":
        return f"{args[0]} < {args[1]}"
    if kind == "between":
        return f"{args[0]} <= {args[1]} < {args[2]}".replace("<= -", "<= 0 - ")
    return f"not ({condition_text(args[0])})" if kind == "not" else f" {kind} ".join(f"({condition_text(a)})" for a in args)


def until_text(until: tuple[Any, ...]) -> str:
    kind, *args = until
    if kind in ("and", "or"):
        return f" {kind} ".join(f"({until_text(part)})" for part in args)
    op, limit, ctx = args
    unit = "B" if isinstance(limit, int) and kind != "params" else ""
    return f"{f'kv({ctx})' if kind == 'kv' else kind} {op} {limit}{unit}"


def rule_text(rule: Rule) -> str:
    (kind, *args), actions = rule
    where = lambda condition: f" where {condition_text(condition)}" if condition else ""  # noqa: E731
    match kind:
        case "else":
            selector = "else"
        case "where":
            selector = where(args[0]).strip()
        case "layers":
            selector = f"layers {set_text(args[0])}{where(args[1])}"
        case "modules":
            patterns = ", ".join(f'~"{pattern[1:]}"' if pattern[0] == "~" else f'"{pattern}"' for pattern in args[0])
            inside = f" in layers {set_text(args[1])}" if args[1] else ""
            selector = f"modules {patterns}{inside}{where(args[2])}"
        case _:
            direction, amount, of_rest, metric, until = args
            selector = direction + (f" {amount}" if amount is not None else "") + (" of rest" if of_rest else "")
            selector += f" by {metric}" + (f" until {until_text(until)}" if until else "")
    return f"{selector} {' + '.join(actions)}"


def recipe_for(rules: Sequence[Rule]) -> Recipe:
    return recipe_from_text("".join(rule_text(rule) + "\n" for rule in rules)).unwrap()


CONTEXTS = st.sampled_from([32, 200, 512])


# Random recipes --------------------------------------------------------------------------------------------------------


def has_until(rule: Rule) -> bool:
    return rule[0][0] == "rank" and rule[0][-1] is not None


class Strategies(NamedTuple):
    """Selectors of layers without `until` and with it, the actions of a rule, and rules with these or on modules."""

    layers: st.SearchStrategy[Any]
    solved: st.SearchStrategy[Any]
    actions: st.SearchStrategy[Any]
    rule: st.SearchStrategy[Any]


@cache
def _strategies(count: int) -> Strategies:
    """For a model of so many layers; made once, because making them takes longer than drawing."""
    layer, metric, direction = st.integers(0, count - 1), st.sampled_from(METRICS), st.sampled_from(["lowest", "highest"])
    amount = st.one_of(st.integers(0, count), st.sampled_from(["0%", "10%", "25%", "50%", "70%", "100%"]))
    limit = st.sampled_from([0.0, 0.02, 0.06, 9.0])
    below = st.one_of(st.tuples(st.just("<"), metric, limit), st.tuples(st.just("between"), st.just(0.01), metric, limit))
    condition = st.recursive(
        below,
        lambda inner: st.one_of(st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)),
        max_leaves=3,
    )
    atom = st.one_of(
        st.just(("all",)),
        st.tuples(layer, layer).map(lambda pair: ("range", min(pair), max(pair))),
        st.tuples(st.sampled_from(["first", "last", "middle"]), amount),
        st.tuples(st.just("every"), st.integers(1, 5), layer),
        st.tuples(st.just("ranked"), direction, amount, metric),
    )
    chosen = st.recursive(
        atom,
        lambda inner: st.one_of(
            st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["or", "and", "except"]), inner, inner)
        ),
        max_leaves=3,
    )
    share = {"kv": (0, 25, 50, 75, 90, 100), "params": (25, 60, 75, 90, 95, 100), "weights": (25, 40, 60, 75, 90, 95, 100)}
    bound = st.sampled_from(sorted(share)).flatmap(
        lambda kind: st.tuples(
            st.just(kind), st.sampled_from(["<=", "<"]), st.sampled_from(share[kind]).map("{}%".format), CONTEXTS
        )
    )
    until = st.one_of(bound, st.tuples(st.sampled_from(["and", "or"]), bound, bound))
    maybe = lambda strategy: st.one_of(st.none(), strategy)  # noqa: E731
    rank = lambda amount, until: st.tuples(st.just("rank"), direction, amount, st.booleans(), metric, until)  # noqa: E731
    layers = st.one_of(
        st.tuples(st.just("layers"), chosen, maybe(condition)),
        st.tuples(st.just("where"), condition),
        rank(amount, st.none()),
    )
    solved = rank(maybe(amount), until)
    patterns = st.sampled_from(
        [
            ("*.q_proj",),
            ("*",),
            ("*.0.*",),
            ("*proj",),
            ("*.mlp.*",),
            ("*.o_proj", "*.?.mlp.up_proj"),
            (r"~.*\.(k|v)_proj",),
        ]
    )
    modules = st.tuples(st.just("modules"), patterns, maybe(chosen), maybe(condition))

    several = st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=4).map(_composed)
    changes = tuple(action for action in ACTIONS if not action.startswith("keep"))
    some = st.one_of(st.sampled_from(ACTIONS).map(lambda action: (action,)), several)
    rule = st.one_of(
        st.tuples(layers, some),
        st.tuples(layers, some),
        st.tuples(solved, st.one_of(st.sampled_from(changes).map(lambda action: (action,)), several)),
        st.tuples(modules, st.sampled_from([("keep",), (FOUR,), (EIGHT,)])),
    )
    return Strategies(layers, solved, some, rule)


@st.composite
def cases(
    draw: st.DrawFn, most_untils: int = 2, with_else: bool | None = None, neighbours: bool = False
) -> tuple[list[Rule], Scores]:
    """Rules and scores; few different scores, so that ties are common. With `neighbours` two rules that stand side by side
    have actions that do not touch, wherever both match."""
    count = draw(st.integers(1, 12))
    value = st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.5])
    scores = {metric: draw(st.lists(value, min_size=count, max_size=count)) for metric in METRICS}
    layers, solved, some, rule = _strategies(count)
    rules = draw(st.lists(rule, min_size=draw(st.sampled_from([0, 1, 3])), max_size=5))
    if neighbours:
        actions = draw(
            st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=6).map(_composed).filter(lambda a: len(a) > 1)
        )
        cut, place = draw(st.integers(1, len(actions) - 1)), draw(st.integers(0, len(rules)))
        pair = [(draw(layers), actions[:cut]), (draw(st.one_of(layers, solved)), actions[cut:])]
        rules[place:place] = draw(st.permutations(pair))
    while sum(map(has_until, rules)) > most_untils:
        rules.remove(next(filter(has_until, rules)))
    if draw(st.booleans()) if with_else is None else with_else:
        rules.append((("else",), draw(some)))
    return rules, scores


def _composed(actions: Sequence[str]) -> tuple[str, ...]:
    """As many of them as may stand in one rule."""
    found: tuple[str, ...] = ()
    for action in actions:
        if together((*found, action)):
            found = (*found, action)
    return found


def facts_for(scores: Scores) -> ModelFacts:
    return llama_facts(
        layers=len(scores["nll"]),
        hidden=HIDDEN,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate=WIDTH,
        vocab=VOCAB,
    )


_NAMED = dict(
    zip([("nll", "drop"), ("kl", "swa(window=64)"), ("influence", "block"), ("nll", "drop(mlp)")], METRICS, strict=True)
)


def measurements(needed: Sequence[Request], scores: Scores) -> dict[Request, Measurement]:
    """Only what is asked for: a request too few shows as an error of the planner."""
    return {
        request: Measurement(scores[_NAMED[request.metric, request.action]][request.layer], 0.0, "1", 8, 2)
        for request in needed
    }


# The planner's answer in these words ------------------------------------------------------------------------------------


def plain(spec: Any) -> Layer:
    """A LayerSpec in the oracle's own types."""
    mixer, ffn = spec.mixer, spec.ffn
    held = None
    if mixer is not None:
        window = None if mixer.window is None else (mixer.window.size, mixer.window.sink_tokens)
        held = Mixer(mixer.heads, mixer.kv_heads, mixer.head_dim, window)
    weights = {}
    for module, how in dict(spec.weights).items():
        assert how.activations == 16
        weights[module] = (how.bits, how.group)
    return Layer(held, None if ffn is None else ffn.width, weights)


def specs(selection: Any) -> list[Layer]:
    return [plain(layer.after) for layer in selection.layers]


def owners(selection: Any) -> dict[tuple[int, str], tuple[int, str]]:
    """Who took each leaf of each layer: the rule's number and the action's text. No leaf is taken twice."""
    found: dict[tuple[int, str], tuple[int, str]] = {}
    for index, layer in enumerate(selection.layers):
        for taken in layer.actions:
            for path in taken.paths:
                assert leaves(path), path
                for leaf in leaves(path):
                    assert (index, leaf) not in found
                    found[index, leaf] = (taken.rule, taken.action.text())
    return found


def errors(found: Diagnosed[Any]) -> list[str]:
    return [d.code for d in found.diagnostics if d.is_error]
