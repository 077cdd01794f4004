"""The planner on random recipes of every selector, from their text on, against an oracle that reads the semantics of the
language literally: brute force over layers, parts and counts."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from hypothesis import example, given
from hypothesis import strategies as st
from plan_cases import llama_facts

from lbdsl.core.measurement import Measurement
from lbdsl.plan.requests import requests_of
from lbdsl.plan.select import select
from lbdsl.recipe import recipe_from_text

CTX, WINDOW = 512, 64
MODULES = ("self_attn.q_proj", "mlp.up_proj")
METRICS = ("nll", "kl(swa(window=64))", "influence(block)", "nll(drop(mlp))")
ACTIONS = (
    "keep",
    "drop",
    "drop(mlp)",
    "drop(block)",
    "swa(window=64)",
    "quantize(bits=4)",
    "drop + drop(mlp)",
    "swa(window=64) + quantize(bits=4)",
    "drop(mlp) + quantize(bits=4)",
    "swa(window=64) + drop(mlp)",
)
FACTS = llama_facts(layers=1)
ATTENTION, MLP = FACTS.attention_params[0], FACTS.mlp_params[0]


# The oracle ------------------------------------------------------------------------------------------------------------


def oracle(rules, scores, claims=None, number=1):
    """The (rule, action) of each (layer, slot), None where nothing claims it; None when an `until` cannot be met."""
    count = len(scores["nll"])
    layers = range(count)
    if claims is None:
        weights = MODULES if any("quantize" in action or selector[0] == "modules" for selector, action in rules) else ()
        claims = {(i, slot): None for i in layers for slot in ("mixer", "ffn", *weights)}
    if not rules:
        return claims
    (kind, *args), action = rules[0]
    slots = tuple(dict.fromkeys(slot for _, slot in claims))

    def wanted(i):
        """Groups of slots that go together, one or more for each action."""
        parts = [
            slot
            for slot in slots
            if slot in MODULES and (kind != "modules" or fnmatchcase(f"model.layers.{i}.{slot}", args[0]))
        ]
        for one in action.split(" + "):
            name = one.split("(window")[0].split("(bits")[0]
            if name == "keep":
                own = () if kind == "modules" else ("mixer", "ffn")
                yield from ((one, (slot,)) for slot in (*own, *parts))
            elif name == "quantize":
                yield from ((one, (slot,)) for slot in parts)
            else:
                yield one, {"drop(mlp)": ("ffn",), "drop(block)": ("mixer", "ffn")}.get(name, ("mixer",))

    def after(taken):
        new = dict(claims)
        for i in taken:
            for one, group in wanted(i):
                if all(new[i, slot] is None for slot in group):
                    new |= {(i, slot): (number, one) for slot in group}
        return oracle(rules[1:], scores, new, number + 1)

    rest = [i for i in layers if all(claims[i, slot] is None for _, group in wanted(i) for slot in group)]
    if kind == "else":
        return after(layers)
    if kind == "where":
        return after(i for i in layers if true(args[0], scores, i))
    if kind in ("layers", "modules"):
        chosen, condition = args[-2:]
        found = members(chosen, scores) if chosen else set(layers)
        return after(i for i in sorted(found) if condition is None or true(condition, scores, i))
    direction, amount, of_rest, metric, until = args
    order = ranked(rest if of_rest or until else layers, direction, scores[metric])
    if until is None:
        return after(order[: size(amount, count)])
    for k in range((len(order) if amount is None else min(len(order), size(amount, count))) + 1):
        plan = after(order[:k])
        if plan is not None and met(until, plan, count):
            return plan
    return None


def size(amount, count):
    return int(amount[:-1]) * count // 100 if isinstance(amount, str) else amount


def ranked(among, direction, values):
    return sorted(among, key=lambda i: (values[i] if direction == "lowest" else -values[i], i))


def true(condition, scores, i):
    kind, *args = condition
    if kind == "<":
        return scores[args[0]][i] < args[1]
    if kind == "between":
        return args[0] <= scores[args[1]][i] < args[2]
    parts = [true(part, scores, i) for part in args]
    return not parts[0] if kind == "not" else all(parts) if kind == "and" else any(parts)


def members(chosen, scores):
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


def met(until, plan, count):
    """Shares are exact integers here: cost * 100 <= percent * base."""
    kind, *args = until
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(met(part, plan, count) for part in args)
    mixers, ffns = ([plan[i, slot][1] if plan[i, slot] else "keep" for i in range(count)] for slot in ("mixer", "ffn"))
    gone = ("drop", "drop(block)", "drop(mlp)")
    if kind == "kv":
        held = sum(0 if one in gone else WINDOW if one.startswith("swa") else CTX for one in mixers)
        return held * 100 <= args[0] * CTX * count
    other = FACTS.other_params
    left = other + sum(ATTENTION * (one not in gone) for one in mixers) + sum(MLP * (one not in gone) for one in ffns)
    return left * 100 <= args[0] * (other + (ATTENTION + MLP) * count)


# The same as text ------------------------------------------------------------------------------------------------------


def set_text(chosen):
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


def condition_text(condition):
    kind, *args = condition
    if kind == "<":
        return f"{args[0]} < {args[1]}"
    if kind == "between":
        return f"{args[0]} <= {args[1]} < {args[2]}".replace("<= -", "<= 0 - ")
    return f"not ({condition_text(args[0])})" if kind == "not" else f" {kind} ".join(f"({condition_text(a)})" for a in args)


def until_text(until):
    kind, *args = until
    if kind in ("and", "or"):
        return f" {kind} ".join(f"({until_text(part)})" for part in args)
    return f"kv({CTX}) <= {args[0]}%" if kind == "kv" else f"params <= {args[0]}%"


def rule_text(rule):
    (kind, *args), action = rule
    where = lambda condition: f" where {condition_text(condition)}" if condition else ""  # noqa: E731
    match kind:
        case "else":
            selector = "else"
        case "where":
            selector = where(args[0]).strip()
        case "layers":
            selector = f"layers {set_text(args[0])}{where(args[1])}"
        case "modules":
            inside = f" in layers {set_text(args[1])}" if args[1] else ""
            selector = f'modules "{args[0]}"{inside}{where(args[2])}'
        case _:
            direction, amount, of_rest, metric, until = args
            selector = direction + (f" {amount}" if amount is not None else "") + (" of rest" if of_rest else "")
            selector += f" by {metric}" + (f" until {until_text(until)}" if until else "")
    return f"{selector} {action}"


# Random recipes --------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw, most_untils=2):
    count = draw(st.integers(1, 12))
    value = st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.5])
    scores = {metric: draw(st.lists(value, min_size=count, max_size=count)) for metric in METRICS}
    layer, metric, direction = st.integers(0, count - 1), st.sampled_from(METRICS), st.sampled_from(["lowest", "highest"])
    amount = st.one_of(st.integers(0, count), st.sampled_from(["0%", "10%", "25%", "50%", "100%"]))
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
    share = st.sampled_from([0, 10, 50, 80, 95, 100])
    bound = st.tuples(st.sampled_from(["kv", "params"]), share)
    until = st.one_of(bound, st.tuples(st.sampled_from(["and", "or"]), bound, bound))
    maybe = lambda strategy: st.one_of(st.none(), strategy)  # noqa: E731
    changing = st.sampled_from(ACTIONS)
    layers_rule = st.tuples(st.tuples(st.just("layers"), chosen, maybe(condition)), changing)
    rule = st.one_of(
        layers_rule,
        st.tuples(st.tuples(st.just("where"), condition), changing),
        st.tuples(st.tuples(st.just("rank"), direction, amount, st.booleans(), metric, st.none()), changing),
        st.tuples(st.tuples(st.just("rank"), direction, maybe(amount), st.booleans(), metric, until), changing),
        st.tuples(
            st.tuples(
                st.just("modules"), st.sampled_from(["*.q_proj", "*", "*.0.*", "*proj"]), maybe(chosen), maybe(condition)
            ),
            st.sampled_from(["keep", "quantize(bits=4)"]),
        ),
    )
    rules = draw(st.lists(rule, max_size=6))
    while sum(bool(r[0][0] == "rank" and r[0][-1]) for r in rules) > most_untils:
        rules.remove(next(r for r in rules if r[0][0] == "rank" and r[0][-1]))
    if draw(st.booleans()):
        rules.append((("else",), draw(changing)))
    return rules, scores


def facts_for(count):
    facts = llama_facts(layers=count)
    return replace(facts, modules=tuple(f"model.layers.{i}.{part}" for i in range(count) for part in MODULES))


def planned(rules, scores):
    """The selection of the recipe's text, with only those scores given that it asks for."""
    text = "".join(rule_text(rule) + "\n" for rule in rules)
    recipe = recipe_from_text(text).unwrap()
    facts = facts_for(len(scores["nll"]))
    needed, _ = requests_of(recipe, facts).unwrap()
    named = {
        ("nll", "drop"): "nll",
        ("kl", "swa(window=64)"): METRICS[1],
        ("influence", "block"): METRICS[2],
        ("nll", "drop(mlp)"): METRICS[3],
    }
    given_scores = {
        request: Measurement(scores[named[request.metric, request.action]][request.layer], 0.0, "1", 8, 2)
        for request in needed
    }
    return select(recipe, facts, given_scores)


def claims_of(selection):
    """As the oracle gives them; every part of a layer stands there exactly once."""
    found = {}
    for layer in selection.layers:
        for choice in layer.choices:
            value = None if choice.action is None else (choice.rule, choice.action.text())
            for slot in choice.modules or (choice.aspect.value,):
                assert (layer.index, slot) not in found
                found[layer.index, slot] = value
    return found


# What an indivisible action lost is still free for the rules after it.
LOST = (
    [
        (("layers", ("range", 0, 0), None), "drop"),
        (("layers", ("range", 0, 0), None), "drop(block)"),
        (("rank", "lowest", 1, True, "nll", None), "drop(mlp)"),
    ],
    {metric: [0.0, 0.1] for metric in METRICS},
)


@example(LOST)
@given(cases())
def test_the_planner_agrees_with_the_oracle(case):
    rules, scores = case
    expected, found = oracle(rules, scores), planned(rules, scores)
    if expected is None:
        assert [d.code for d in found.diagnostics if d.is_error] == ["LB312"]
    else:
        assert claims_of(found.unwrap()) == expected


@given(cases(most_untils=1), st.data())
def test_a_rule_on_what_a_rule_before_is_sure_to_claim_changes_nothing(case, data):
    rules, scores = case
    count = len(scores["nll"])
    fixed = [
        index
        for index, (selector, _) in enumerate(rules)
        if selector[0] == "layers" and selector[2] is None and "ranked" not in repr(selector)
    ]
    sure = [(index, i) for index in fixed for i in sorted(members(rules[index][0][1], scores))]
    without = planned(rules, scores).value
    if not sure or without is None:
        return
    index, layer = data.draw(st.sampled_from(sure))
    assert layer < count
    again = (("layers", ("range", layer, layer), None), rules[index][1])
    place = data.draw(st.integers(index + 1, len(rules) - (bool(rules) and rules[-1][0][0] == "else")))
    more = planned([*rules[:place], again, *rules[place:]], scores).unwrap()

    def shifted(claim):
        return claim if claim is None or claim[0] <= place else (claim[0] - 1, claim[1])

    assert {key: shifted(claim) for key, claim in claims_of(more).items()} == claims_of(without)
    assert more.digest == without.digest
    assert more.rules[place].claims == ()


@given(cases(most_untils=1))
def test_until_takes_the_smallest_count_that_works(case):
    """Each count given in place of the `until`, by hand: none below the one taken satisfies it."""
    rules, scores = case
    index = next((i for i, (selector, _) in enumerate(rules) if selector[0] == "rank" and selector[-1]), None)
    if index is None:
        return
    (kind, direction, amount, _, metric, until), action = rules[index]
    count = len(scores["nll"])

    def fits(k):
        instead = ((kind, direction, k, True, metric, None), action)
        plan = claims_of(planned([*rules[:index], instead, *rules[index + 1 :]], scores).unwrap())
        return met(until, plan, count)

    found = planned(rules, scores)
    most = count if amount is None else size(amount, count)
    works = [k for k in range(most + 1) if fits(k)]
    if not works:
        assert [d.code for d in found.diagnostics if d.is_error] == ["LB312"]
    else:
        assert found.unwrap().rules[index].taken == works[0]


def test_the_oracle_on_a_case_done_by_hand():
    scores = {metric: [0.3, 0.1, 0.2] for metric in METRICS}
    rules = [
        (("layers", ("range", 0, 0), None), "keep"),
        (("modules", "*.q_proj", None, None), "quantize(bits=4)"),
        (("rank", "lowest", None, True, "nll", ("kv", 70)), "drop(block)"),
        (("else",), "swa(window=64)"),
    ]
    # With k = 0 layers 1 and 2 are windowed: 512 + 64 + 64 of 1536 tokens is 42 %.
    assert oracle(rules, scores)[1, "mixer"] == (4, "swa(window=64)")
    rules[3] = (("else",), "keep")
    plan = oracle(rules, scores)
    assert plan[1, "mixer"] == plan[1, "ffn"] == (3, "drop(block)")
    assert plan[1, "self_attn.q_proj"] == (2, "quantize(bits=4)")
    assert plan[1, "mlp.up_proj"] == plan[2, "mixer"] == (4, "keep")
    assert plan[0, "self_attn.q_proj"] == (1, "keep")
