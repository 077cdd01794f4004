"""The planner on random recipes of every selector, from their text on, against `claims_oracle`, and the laws that the
description of claims by path states or implies."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise

import pytest
from claims_oracle import (
    ACTIONS,
    BASE,
    CONTEXTS,
    DIVISIBLE,
    EIGHT,
    FOUR,
    METRICS,
    PATHS,
    Layer,
    Mixer,
    Outcome,
    Rule,
    Scores,
    cases,
    cost,
    errors,
    facts_for,
    has_until,
    independent,
    leaves,
    measurements,
    members,
    met,
    oracle,
    owners,
    paths_of,
    recipe_for,
    size,
    specs,
    together,
    touch,
)
from hypothesis import example, given
from hypothesis import strategies as st

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.solve.case import Case
from lbdsl.solve.select import Selection, select

pytestmark = pytest.mark.usefixtures("more_actions")


# The planner's answer in the oracle's words ----------------------------------------------------------------------------


def planned(rules: Sequence[Rule], scores: Scores) -> Diagnosed[Selection]:
    """The selection of the recipe's text."""
    recipe, facts = recipe_for(rules), facts_for(scores)
    needed = Case(recipe, facts).measurable().unwrap().requests
    return select(Case(recipe, facts), measurements(needed, scores))


def in_words_of(outcome: Outcome, rules: Sequence[Rule]) -> dict[tuple[int, str], tuple[int, str]]:
    """The oracle's owners with the canonical texts of the actions that the recipe's text gives."""
    texts = {
        (rule.number, name): action.text()
        for rule, (_, names) in zip(recipe_for(rules).rules, rules, strict=True)
        for name, action in zip(names, rule.actions, strict=True)
    }
    return {key: (number, texts[number, name]) for key, (number, name) in outcome.owners.items()}


def agrees(found: Diagnosed[Selection], rules: Sequence[Rule], scores: Scores) -> None:
    expected = oracle(rules, scores)
    if expected is None:
        assert errors(found) == ["LB312"]
        return
    selection, base = found.unwrap(), facts_for(scores).layer_specs
    assert specs(selection) == expected.layers
    assert owners(selection) == in_words_of(expected, rules)
    assert tuple(selection.changed) == tuple(i for i, layer in enumerate(expected.layers) if layer != BASE)
    for index, layer in enumerate(selection.layers):
        assert (layer.after == base[index]) is (expected.layers[index] == BASE)
    for number, (rule, outcome) in enumerate(zip(rules, selection.rules, strict=True), start=1):
        took = [[name for owner, name in taken.values() if owner == number] for taken in expected.claims]
        changing = {i for i, names in enumerate(took) if any(not name.startswith("keep") for name in names)}
        # A `keep` that gets a part of a layer does not count it.
        assert changing <= set(outcome.claims) <= {i for i, names in enumerate(took) if names}
        assert not set(outcome.claims) & set(outcome.shadowed)
        if has_until(rule):
            assert outcome.taken == expected.counts[number]


# What an indivisible action lost is still free for the rules after it.
LOST: tuple[list[Rule], Scores] = (
    [
        (("layers", ("range", 0, 0), None), ("drop",)),
        (("layers", ("range", 0, 0), None), ("drop(block)",)),
        (("rank", "lowest", 1, True, "nll", None), ("drop(mlp)",)),
    ],
    {metric: [0.0, 0.1] for metric in METRICS},
)
# The third rule's rest depends on the one path that the first took; the modules kept are not in the rest of `quantize`.
PARTS: tuple[list[Rule], Scores] = (
    [
        (("layers", ("range", 0, 1), None), ("test_kv_heads(1)",)),
        (("modules", ("*.o_proj",), ("range", 2, 2), None), ("keep",)),
        (("rank", "lowest", None, True, "nll", ("kv", "<=", "50%", 512)), ("drop", FOUR)),
        (("rank", "lowest", "50%", True, "nll", None), (EIGHT, "swa(window=64)")),
        (("else",), ("keep(attention)", FOUR)),
    ],
    {metric: [0.0, 0.1, 0.0, 0.5, 0.02, 0.02] for metric in METRICS},
)
# Two counts, each found with the other's rule.
TWO: tuple[list[Rule], Scores] = (
    [
        (("rank", "lowest", None, False, "nll", ("weights", "<=", "75%", 512)), ("test_width(64)", FOUR)),
        (
            (
                "rank",
                "highest",
                None,
                False,
                "influence(block)",
                ("and", ("kv", "<", "60%", 200), ("params", "<=", "95%", 32)),
            ),
            ("drop",),
        ),
        (("else",), ("swa(window=64)",)),
    ],
    {metric: [0.1, 0.0, 0.05, 0.5] for metric in METRICS},
)
# Without `of rest`, too, `until` counts only layers that are left: one, and neither of the two that rank before it.
COUNTED: tuple[list[Rule], Scores] = (
    [
        (("layers", ("range", 0, 0), None), ("keep",)),
        (("layers", ("range", 1, 1), None), ("swa(window=64)",)),
        (("rank", "lowest", None, False, "nll", ("kv", "<=", "60%", 512)), ("drop",)),
    ],
    {metric: [0.0, 0.01, 0.02, 0.02] for metric in METRICS},
)
NOTHING: tuple[list[Rule], Scores] = ([], {metric: [0.1, 0.0] for metric in METRICS})


@example(LOST)
@example(PARTS)
@example(TWO)
@example(COUNTED)
@example(NOTHING)
@given(st.one_of(cases(), cases(most_untils=1, neighbours=True)))
def test_the_planner_agrees_with_the_oracle(case):
    rules, scores = case
    agrees(planned(rules, scores), rules, scores)


@given(cases(most_untils=1), st.data())
def test_until_at_the_very_value_of_a_count(case, data):
    """A limit that one count meets exactly, or misses by one: costs are right to the byte."""
    rules, scores = case
    if not any(map(has_until, rules)):
        changing = st.sampled_from([action for action in ACTIONS if not action.startswith("keep")])
        rules = [(("rank", "lowest", None, True, "nll", ("kv", "<=", 0, 32)), (data.draw(changing),)), *rules]
    index = next(i for i, rule in enumerate(rules) if has_until(rule))
    (kind, direction, amount, of_rest, metric, _), actions = rules[index]
    k = data.draw(st.integers(0, len(scores["nll"])))
    by_hand = oracle([*rules[:index], ((kind, direction, k, True, metric, None), actions), *rules[index + 1 :]], scores)
    what, op, ctx = data.draw(
        st.tuples(st.sampled_from(["kv", "params", "weights"]), st.sampled_from(["<=", "<"]), CONTEXTS)
    )
    limit = max(0, cost(what, by_hand.layers, ctx) + data.draw(st.integers(-1, 1)))
    rules[index] = (kind, direction, amount, of_rest, metric, (what, op, limit, ctx)), actions
    agrees(planned(rules, scores), rules, scores)


# Laws ------------------------------------------------------------------------------------------------------------------


@given(cases(most_untils=1), st.data())
def test_other_layers_have_another_digest(case, data):
    """As a plan has when one of its rules is left out, or has another action."""
    rules, scores = case
    if not rules:
        return
    index, action = data.draw(st.integers(0, len(rules) - 1)), data.draw(st.sampled_from([None, *ACTIONS]))
    selector = rules[index][0]
    if selector[0] == "modules" and action not in (FOUR, EIGHT, "keep"):
        action = None
    instead = [] if action is None else [(selector, (action,))]
    one, two = planned(rules, scores).value, planned([*rules[:index], *instead, *rules[index + 1 :]], scores).value
    if one is not None and two is not None:
        assert (one.digest == two.digest) is (
            [layer.after for layer in one.layers] == [layer.after for layer in two.layers]
        )


@given(cases(most_untils=1), st.data())
def test_a_rule_on_what_a_rule_before_is_sure_to_claim_changes_nothing(case, data):
    rules, scores = case
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
    blocked = [action for action in ACTIONS if any(surely_blocked(action, by) for by in rules[index][1])]
    action = data.draw(st.sampled_from([rules[index][1], *((one,) for one in blocked)]))
    again = (("layers", ("range", layer, layer), None), action)
    place = data.draw(st.integers(index + 1, len(rules) - (rules[-1][0][0] == "else")))
    more = planned([*rules[:place], again, *rules[place:]], scores).unwrap()

    def shifted(owner: tuple[int, str]) -> tuple[int, str]:
        return owner if owner[0] <= place else (owner[0] - 1, owner[1])

    assert {key: shifted(owner) for key, owner in owners(more).items()} == owners(without)
    assert specs(more) == specs(without)
    assert more.digest == without.digest
    assert tuple(more.rules[place].claims) == ()


def surely_blocked(action: str, by: str) -> bool:
    """Whether `action` gets nothing of a layer on which `by` had its turn, also where `by` itself got nothing.

    After its turn every leaf of a divisible `by` is touched, and of another one at least one path."""
    under = lambda path, other: path == other or path.startswith(f"{other}.")  # noqa: E731
    if by in DIVISIBLE:
        wanted = all if action in DIVISIBLE else any
        return wanted(any(under(leaf, path) for leaf in PATHS[by]) for path in PATHS[action])
    if action in DIVISIBLE:
        return len(PATHS[by]) == 1 and all(path == PATHS[by][0] for path in PATHS[action])
    return all(any(under(path, own) for own in PATHS[action]) for path in PATHS[by])


@example(TWO)
@given(cases(most_untils=1))
def test_until_takes_the_smallest_count_that_works(case):
    """Each count given in place of the first `until`, by hand: none below the one taken satisfies it."""
    rules, scores = case
    index = next((i for i, rule in enumerate(rules) if has_until(rule)), None)
    if index is None:
        return
    (kind, direction, amount, _, metric, until), actions = rules[index]
    count = len(scores["nll"])

    def works(k: int) -> bool:
        instead = ((kind, direction, k, True, metric, None), actions)
        found = planned([*rules[:index], instead, *rules[index + 1 :]], scores)
        return found.value is not None and met(until, specs(found.value))

    found = planned(rules, scores)
    most = count if amount is None else size(amount, count)
    first = next((k for k in range(most + 1) if works(k)), None)
    if first is None:
        assert errors(found) == ["LB312"]
    else:
        assert found.unwrap().rules[index].taken == first


@given(cases(most_untils=1, with_else=False))
def test_else_keep_undoes_nothing(case):
    rules, scores = case
    without, kept = planned(rules, scores), planned([*rules, (("else",), ("keep",))], scores)
    assert errors(kept) == errors(without)
    if without.value is not None:
        assert [layer.after for layer in kept.unwrap().layers] == [layer.after for layer in without.value.layers]
        assert kept.unwrap().changed == without.value.changed
        assert kept.unwrap().digest == without.value.digest


@given(cases(most_untils=1), st.data())
def test_joined_actions_are_one_rule_each(case, data):
    """`layers S a + b` is `layers S a` and `layers S b`, where what a rule matches does not depend on claims."""
    rules, scores = case
    free = [
        index
        for index, (selector, actions) in enumerate(rules)
        if len(actions) > 1 and selector[0] != "else" and not (selector[0] == "rank" and (selector[3] or selector[5]))
    ]
    if not free:
        return
    index = data.draw(st.sampled_from(free))
    selector, actions = rules[index]
    apart = [(selector, (action,)) for action in data.draw(st.permutations(actions))]
    one, two = planned(rules, scores), planned([*rules[:index], *apart, *rules[index + 1 :]], scores)
    assert errors(one) == errors(two)
    if one.value is not None:
        assert [layer.after for layer in two.unwrap().layers] == [layer.after for layer in one.value.layers]
        assert two.unwrap().digest == one.value.digest


@given(cases(), st.randoms(use_true_random=False))
def test_planning_twice_gives_one_selection_and_changes_no_input(case, random):
    """Whatever the order in which measurements are given."""
    rules, scores = case
    recipe, facts = recipe_for(rules), facts_for(scores)
    needed = Case(recipe, facts).measurable().unwrap().requests
    measured = measurements(needed, scores)
    turned = dict(random.sample(sorted(measured.items(), key=repr), len(measured)))
    before = pickle.dumps((repr(recipe), facts, measured))
    first, second = select(Case(recipe, facts), measured), select(Case(recipe, facts), turned)
    assert pickle.dumps((repr(recipe), facts, measured)) == before
    assert errors(first) == errors(second)
    if first.value is not None:
        assert first.value == second.unwrap()
        assert first.value.digest == second.unwrap().digest


def test_the_law_needs_what_a_ranking_of_the_rest_may_match():
    """Here the two rules take other layers, and touch nowhere; in the other order the ranking takes another layer."""
    scores = {metric: [0.0, 0.1, 0.2] for metric in METRICS}
    first = (("layers", ("range", 0, 0), None), ("swa(window=64)",))
    second = (("rank", "lowest", 1, True, "nll", None), ("drop",))
    assert not independent(first, second, scores)
    for rules, gone in (([first, second], 1), ([second, first], 0)):
        agrees(planned(rules, scores), rules, scores)
        assert [i for i, layer in enumerate(specs(planned(rules, scores).unwrap())) if layer.mixer is None] == [gone]


# The oracle itself -----------------------------------------------------------------------------------------------------


def test_paths_touch():
    assert touch("mixer", "mixer.window")
    assert touch("weights.mlp.up_proj", "weights")
    assert not touch("mixer.window", "mixer.kv_heads")
    assert not touch("mixer", "mixers.window")
    assert leaves("ffn") == ("ffn.width",)
    assert paths_of(("modules", ("*.mlp.up*", r"~.*\.1\..*v_proj"), None, None), FOUR, 1) == (
        "weights.self_attn.v_proj",
        "weights.mlp.up_proj",
    )
    assert together(("drop", FOUR, "test_width(64)"))
    assert not together(("keep(attention)", "swa(window=64)"))


def test_costs_by_hand():
    assert cost("kv", [BASE], 512) == 512 * 128
    assert cost("kv", [Layer(Mixer(kv_heads=1, window=(64, 0)))], 512) == 64 * 64
    assert cost("kv", [Layer(Mixer(window=(64, 0))), Layer(None)], 32) == 32 * 128
    norm, attention, mlp, others = 64, 64 * 16 * 12, 3 * 64 * 128, 256 * 64 + 64
    assert cost("params", [BASE]) == others + attention + mlp + 2 * norm == facts_for({"nll": [0.0]}).params
    assert cost("params", [Layer(None, 64)]) == others + mlp // 2 + norm
    assert cost("params", []) == others
    assert cost("weights", [BASE]) == 2 * cost("params", [BASE])
    up, down = {"mlp.up_proj": (4, 64)}, {"mlp.down_proj": (8, 32)}
    # 128 rows of 64 columns in 4 bits, one scale a row; 64 rows of 128 columns in 8 bits, four scales a row.
    assert cost("weights", [Layer(weights=up)]) == 2 * (cost("params", [BASE]) - 8192) + 8192 // 2 + 128 * 2 + 16
    assert cost("weights", [Layer(weights=down)]) == 2 * (cost("params", [BASE]) - 8192) + 8192 + 64 * 4 * 2 + 16


def test_the_oracle_on_a_case_done_by_hand():
    scores = {metric: [0.3, 0.1, 0.2] for metric in METRICS}
    rules = [
        (("layers", ("range", 0, 0), None), ("keep",)),
        (("modules", ("*.q_proj",), None, None), (FOUR,)),
        (("layers", ("range", 1, 1), None), ("test_kv_heads(1)",)),
        (("rank", "lowest", None, False, "nll", ("kv", "<=", "60%", 512)), ("drop(block)",)),
        (("else",), ("swa(window=64)", "test_width(64)")),
    ]
    # With k = 0 layers hold 512, 64 half as wide, and 64 of 1536 tokens: 39.6 %.
    plan = oracle(rules, scores)
    assert plan.counts == {4: 0}
    assert plan.layers[0] == BASE
    assert plan.layers[1] == Layer(Mixer(kv_heads=1, window=(64, 0)), 64, {"self_attn.q_proj": (4, 64)})
    assert plan.owners[1, "mixer.window"] == (5, "swa(window=64)")
    rules[4] = (("else",), ("keep",))
    # Now they hold 512, 256 and 512: 83.3 %. Layer 1 is not in the rest of `drop(block)`; without layer 2 it is 50 %.
    plan = oracle(rules, scores)
    assert plan.counts == {4: 1}
    assert plan.layers == [BASE, Layer(Mixer(kv_heads=1), weights={"self_attn.q_proj": (4, 64)}), Layer(None, None)]
    assert plan.owners[2, "mixer.heads"] == (4, "drop(block)")
    assert plan.owners[2, "weights.self_attn.q_proj"] == (2, FOUR)
    assert plan.owners[1, "mixer.window"] == plan.owners[2, "weights.mlp.up_proj"] == (5, "keep")
    assert plan.owners[0, "weights.self_attn.q_proj"] == (1, "keep")
    rules[3] = (("rank", "lowest", None, False, "nll", ("kv", "<=", "40%", 512)), ("drop(block)",))
    assert oracle(rules, scores) is None


@given(cases(most_untils=1, neighbours=True))
def test_the_law_of_neighbours_holds_of_the_oracle(case):
    rules, scores = case
    before = oracle(rules, scores)
    for place, pair in enumerate(pairwise(rules)):
        if pair[1][0][0] != "else" and independent(*pair, scores):
            after = oracle([*rules[:place], pair[1], pair[0], *rules[place + 2 :]], scores)
            assert (before is None) == (after is None)
            assert before is None or before.layers == after.layers
