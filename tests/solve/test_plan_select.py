"""Which layer gets what: sets, conditions, rankings, `until`, and what is said when a recipe does not fit."""

from __future__ import annotations

import math

import pytest

from lbdsl.core.codes import code_for
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from lbdsl.solve.select import select
from tests.plan_cases import SMOLLM2_NLL, llama_facts, plan_of, recipe_of, scores_for, smollm2_facts

SMOL = smollm2_facts()


def chosen(text: str, facts=SMOL, nll=SMOLLM2_NLL):
    recipe = recipe_of(text)
    return select(Case(recipe, facts), scores_for(recipe, facts, nll))


def claims(text: str, facts=SMOL) -> list[tuple[int, ...]]:
    return [outcome.claims for outcome in chosen(text, facts).unwrap().rules]


def codes(found) -> list[str]:
    return [d.code for d in found.diagnostics]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("0-2, 5", (0, 1, 2, 5)),
        ("first 2, last 1", (0, 1, 29)),
        ("middle 4", (13, 14, 15, 16)),
        ("every 10 from 3", (3, 13, 23)),
        ("first 10%", (0, 1, 2)),
        ("0-9 except first 8", (8, 9)),
        ("all except 1-28", (0, 29)),
        ("0-9 and 5-12", (5, 6, 7, 8, 9)),
        ("not 1-29", (0,)),
        ("lowest 3 by nll", (5, 7, 8)),
        ("highest 2 by nll or 4", (0, 1, 4)),
        ("last 3%", ()),
    ],
)
def test_layer_sets(layers, expected):
    assert claims(f"layers {layers} drop\nelse keep")[0] == expected


SUMMED = {"kl": (0.1, 0.2, 0.3, 0.4), "recall": (1.0, 0.1, 0.6, 0.0)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("lowest 2 by kl(drop) drop", (0, 1)),
        ("lowest 2 by kl(drop) + 0.5 * recall(drop) drop", (1, 3)),
        ("highest 1 by 0.1 * recall(drop) + kl(drop) drop", (3,)),
        ("lowest 3 of rest by 2 * recall(drop) drop", (1, 2, 3)),
        ("layers lowest 2 by kl(drop) + 0.5 * recall(drop), 0 drop", (0, 1, 3)),
        ("lowest of rest by kl(drop) + 0.5 * recall(drop) until kv(1Ki) <= 75% drop", (1,)),
    ],
)
def test_layers_are_ranked_by_a_weighted_sum(rule: str, expected: tuple[int, ...]) -> None:
    facts = llama_facts(layers=4)
    case = Case(recipe_of(f"{rule}\nelse keep"), facts)
    values = {r: Measurement(SUMMED[r.metric][r.layer], 0.1, Unit.NATS, 10, 2) for r in case.requests}
    assert {r.metric for r in case.requests} <= SUMMED.keys()
    selection = select(case, values).unwrap()
    assert selection.rules[0].claims == expected
    if rule.startswith("lowest 2 by kl(drop) +"):
        assert selection.layers[1].reason == "kl(drop) + 0.5 * recall(drop) +0.25: 1st lowest of 4"


def test_first_match_wins_in_each_aspect():
    selection = chosen("layers 3 drop\nlayers 3-4 keep\nelse swa(window=64)").unwrap()
    third = {path.split(".")[0]: item.rule for item in selection.layers[3].actions for path in item.paths}
    assert third == {"mixer": 1, "ffn": 2, "weights": 2}
    assert selection.rules[1].claims == (4,)
    assert selection.rules[1].shadowed == (3,)
    assert selection.rules[2].claims == (0, 1, 2, *range(5, 30))


def test_the_quickstart_removes_21_attentions():
    selection = chosen("layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)").unwrap()
    assert len(selection.rules[1].claims) == 21
    assert selection.rules[1].claims == tuple(i for i in range(4, 30) if SMOLLM2_NLL[i] < 0.1)
    assert selection.rules[2].claims == (13, 16, 23, 24, 28)


def test_ranking_floors_shares_and_breaks_ties_by_index():
    facts = llama_facts(layers=7)
    found = chosen("lowest 50% by nll drop\nelse keep", facts, [0.2] * 7)
    assert found.unwrap().rules[0].claims == (0, 1, 2)
    found = chosen("highest 2 by nll drop\nelse keep", facts, [0.1, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1])
    assert found.unwrap().rules[0].claims == (1, 2)


def test_ranking_claimed_layers_warns_and_of_rest_does_not():
    found = chosen("layers 5 keep\nlowest 2 by nll drop\nelse keep")
    assert codes(found) == ["LB308"]
    assert "1 of 2 claimed by rule 1" in found.diagnostics[0].message
    assert "of rest" in found.diagnostics[0].help[0]
    assert found.diagnostics[0].fix is None  # It would choose other layers.
    found = chosen("layers 5 keep\nlowest 2 of rest by nll drop\nelse keep")
    assert codes(found) == []
    assert found.unwrap().rules[1].claims == (7, 8)


def test_a_keep_of_what_is_left_of_a_layer_is_not_called_useless():
    """Without it the attentions of these layers would go, so nothing may say that it gets nothing."""
    selection = chosen("layers 0-3 drop(mlp)\nlayers 0-3 keep\nelse drop")
    assert codes(selection) == []
    assert [action.text() for action in selection.unwrap().layers[0].changing] == ["drop(mlp)"]
    assert codes(chosen("layers 0-3 keep\nlayers 0-3 drop + drop(mlp)\nlayers 0-3 keep\nelse drop")) == ["LB307", "LB307"]


def test_reasons_name_score_place_and_because():
    selection = chosen('layers 0 keep because "sinks form here"\nlowest 2 by nll drop\nwhere kl < 0.02 drop').unwrap()
    assert selection.layers[0].reason == "layers 0; sinks form here"
    assert selection.layers[7].reason == "nll(drop) +0.022: 2nd lowest of 30"
    assert selection.layers[9].reason == "kl(drop) +0.0175: kl < 0.02"
    assert selection.layers[1].reason == "no rule claims it"


def test_each_rule_that_acts_on_a_layer_gives_its_reason():
    selection = chosen('layers 0-3 swa(window=64) because "short"\nlayers 2-5 drop(mlp)\nlayers 3 keep\nelse keep').unwrap()
    assert selection.layers[2].reason == "layers 0-3; short; layers 2-5"
    assert selection.layers[3].reason == selection.layers[2].reason
    assert (selection.layers[1].reason, selection.layers[5].reason) == ("layers 0-3; short", "layers 2-5")


def test_comments_stay_out_of_reasons_and_messages():
    selection = chosen("where kl < 0.02 and # why\n  nll < 1 drop\nelse keep").unwrap()
    assert selection.layers[9].reason == "kl(drop) +0.0175, nll(drop) +0.035: kl < 0.02 and nll < 1"
    found = chosen("lowest of rest by nll until kv(1Ki) # cache\n  + kv(2Ki) <= 1% swa(window=512)\nelse keep")
    assert found.diagnostics[0].message.startswith("`kv(1Ki) + kv(2Ki) <= 1%` cannot be met")
    plan = plan_of("assert kv(1Ki) + # hm\n kv(2Ki) <= 10%\nelse keep", SMOL)
    assert plan.findings[0].message == (
        "`assert kv(1Ki) + kv(2Ki) <= 10%` fails: `kv(1Ki) + kv(2Ki)` is 100.0 % of the base model's"
    )


# Only what can matter is asked for -----------------------------------------------------------------------------------


def requested(text: str, facts=SMOL) -> set[int]:
    return {request.layer for request in Case(recipe_of(text), facts).measurable().unwrap().requests}


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("layers 0-3 keep\nwhere nll < 0.1 drop", set(range(4, 30))),
        ("layers 0-3 keep\nlowest 2 of rest by nll drop", set(range(4, 30))),
        ("layers 0-3 keep\nlowest 2 by nll drop", set(range(30))),
        ("layers 0-3 keep\nlayers lowest 2 by nll drop", set(range(30))),
        ("layers 0-3 drop\nwhere nll < 0.1 keep", set(range(30))),
        ("layers 5-9 where nll < 0.1 drop", set(range(5, 10))),
        ("layers all keep\nwhere nll < 0.1 drop", set()),
    ],
)
def test_requests(text, layers):
    assert requested(text) == layers


def test_sensitivity_is_asked_as_the_metric_it_stands_for():
    case = Case(recipe_of("measure { metric = kl }\nwhere sensitivity < 1 drop"), SMOL).measurable().unwrap()
    assert case.requests[0] == Request("kl", "drop", 0)
    assert case.score_actions["drop"].kind == "drop"


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message", "help"),
    [
        ("layers 20-40 drop", "LB300", "layers 30-40 do not exist", "`20-29`"),
        ("layers 40 drop", "LB300", "layer 40 does not exist", "the model has 30 layers, 0-29"),
        ("layers first 31 drop", "LB302", "31 of 30 layers cannot be selected", "the model has 30 layers"),
        ("lowest 31 by nll drop", "LB302", "31 of 30 layers cannot be selected", "the model has 30 layers"),
        ("layers every 2 from 30 drop", "LB303", "`every 2 from 30` selects none of the 30 layers", "the layers are 0-29"),
        ("requires model.layers >= 99\nlayers 0 drop", "LB320", "the recipe requires `model.layers >= 99`", "30 layers"),
    ],
)
def test_a_recipe_that_does_not_fit(text, code, message, help):
    found = Case(recipe_of(text), SMOL).measurable()
    assert [(d.code, d.message) for d in found.diagnostics] == [(code, message)]
    assert help in found.diagnostics[0].help[0]
    assert found.diagnostics[0].span is not None
    assert codes(select(Case(recipe_of(text), SMOL), {})) == [code]


def test_every_misfit_is_found_in_one_run():
    text = "layers 20-40 drop\nlayers 50 keep\nlowest 99 by nll drop"
    assert codes(Case(recipe_of(text), SMOL).measurable()) == ["LB300", "LB300", "LB302"]


def test_a_range_too_long_is_not_cut_short():
    found = Case(recipe_of("layers 20-40 drop"), SMOL).measurable().diagnostics[0]
    assert found.fix is None
    assert found.help[0] == "`20-29`"


@pytest.mark.parametrize(("value", "code"), [(None, "LB304"), (math.nan, "LB306"), (math.inf, "LB306")])
@pytest.mark.parametrize(
    "text",
    [
        "where nll < 0.1 drop",
        "lowest 3 by nll drop",
        "layers lowest 3 by nll drop",
        "where nll < 0.1 or 1 < 2 drop",
        "where not nll < 0.1 drop",
    ],
)
def test_a_missing_or_nan_score_is_an_error(text, value, code):
    recipe = recipe_of(text)
    scores = scores_for(recipe, SMOL)
    request = Request("nll", "drop", 4)
    scores = {key: score for key, score in scores.items() if key != request}
    if value is not None:
        scores[request] = Measurement(value, 0.0, "nats/token", 8, 1)
    found = select(Case(recipe, SMOL), scores)
    assert found.value is None
    assert codes(found) == [code]
    assert "layer 4" in found.diagnostics[0].message


def test_division_by_zero_is_an_error():
    assert codes(chosen("where nll / (model.layers - 30) < 1 drop"))[0] == "LB317"


# Warnings ------------------------------------------------------------------------------------------------------------


def test_a_shadowed_rule_names_who_claimed():
    found = chosen("layers 0-9 keep\nlayers 2-4 drop\nelse keep")
    assert codes(found) == ["LB307"]
    assert "shadowed: 3 of 3 claimed by rule 1" in found.diagnostics[0].message
    assert found.diagnostics[0].labels[0].text == "claims layers 2-4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where nll < 0 drop\nelse keep", ["LB310"]),
        ("lowest 1% by nll drop\nelse keep", ["LB310"]),
        ("layers 0-27 keep\nlowest 5 of rest by nll drop", ["LB309"]),
        ("layers 0-27 keep", ["LB311"]),
        ("layers all keep\nlowest of rest by nll until kv(8Ki) <= 100% drop", ["LB313"]),
        ("choose for layers all among keep, drop minimizing nll subject to kv(8Ki) <= 100%", ["LB313"]),
    ],
)
def test_findings(text, expected):
    assert codes(chosen(text)) == expected


def test_unclaimed_layers_are_named_and_kept():
    found = chosen("layers 1-4, 6 drop")
    assert found.diagnostics[0].message == "no rule claims layers 0, 5, 7-29, kept as they are"
    assert found.unwrap().layers[5].changing == ()


# until ---------------------------------------------------------------------------------------------------------------


def test_until_takes_the_smallest_count():
    selection = chosen("layers 0-1 keep\nlowest of rest by nll until kv(32Ki) <= 50% drop\nelse keep").unwrap()
    assert selection.rules[1].taken == 15
    assert selection.rules[1].claims == tuple(sorted(sorted(range(2, 30), key=lambda i: SMOLLM2_NLL[i])[:15]))


def test_until_sees_the_later_rules():
    text = "lowest of rest by nll until kv(32Ki) <= 50% drop\nlayers 0-9 swa(window=64)\nelse keep"
    # The windows leave a little more than nothing of layers 0-9, so six of the twenty others must go; the twelve with
    # the lowest scores are the first that hold six of them.
    selection = chosen(text).unwrap()
    assert selection.rules[0].taken == 12
    assert len([layer for layer in selection.layers if not layer.changing]) == 14


def test_until_need_not_be_monotone():
    # Later layers are dropped only while this rule leaves them: a bound from below holds at k = 0 or never again.
    text = "lowest of rest by nll until kv(8Ki) >= 40% keep\nelse drop"
    assert chosen(text).unwrap().rules[0].taken == 12


def test_two_untils():
    text = (
        "lowest of rest by nll until kv(32Ki) <= 80% swa(window=64)\n"
        "lowest of rest by nll until params <= 97% drop\nelse keep"
    )
    selection = chosen(text).unwrap()
    sizes = [outcome.taken for outcome in selection.rules]
    assert sizes[1] == 5  # 3 % of 134.5 M over 0.885 M a layer
    assert sizes[0] == 2  # five of six fifths are already gone


def test_until_unmet_says_best_and_binding():
    found = chosen("layers first 3 keep\nlowest of rest by nll until kv(32Ki) <= 1% drop\nelse keep")
    assert codes(found) == ["LB312"]
    assert code_for("LB312").exit_code == 5
    problem = found.diagnostics[0]
    assert problem.message == "`kv(32Ki) <= 1%` cannot be met with any number of layers up to 27"
    assert problem.help == (
        "the best is 10.0 %, with 27 layers",
        "rule 1, `layers first 3 keep`, has 100 % of the remaining `kv`, in 3 layers",
    )
    assert problem.labels[0].span.text.startswith("layers first 3")


def test_until_unmet_where_the_action_cannot_do_it():
    found = chosen("lowest by nll until kv(32Ki) <= 30% kv_heads(1)\nelse keep")
    assert found.diagnostics[0].help == (
        "the best is 33.3 %, with 30 layers",
        "all layers have this action: choose one that saves more, or another bound",
    )
    found = chosen("lowest by nll until kv(32Ki) <= 30% width(50%)\nelse keep")
    assert (
        found.diagnostics[0].help[0] == "`width(channels=50%)` does not change it: it is 100.0 % with any number of layers"
    )


def test_until_unmet_with_an_amount_is_bound_by_it():
    found = chosen("layers first 3 keep\nlowest 2 of rest by nll until kv(32Ki) <= 1% drop\nelse keep")
    assert found.diagnostics[0].help == (
        "the best is 93.3 %, with 2 layers",
        "the rule's own amount allows at most 2 layers",
    )


@pytest.mark.parametrize(
    ("rule", "help"),
    [
        ("layers last 1% drop", "the set is empty"),
        ("layers 0-3 and 5-9 drop", "the set is empty"),
        ("layers 0-3 where model.layers > 99 drop", "its condition asks for no score: it is the same for every layer"),
        ("layers lowest 0 by nll drop", "look at the scores: `lbdsl plan` prints them"),
        ("where nll < 0 drop", "look at the scores: `lbdsl plan` prints them"),
    ],
)
def test_help_of_a_rule_that_matches_nothing(rule, help):
    found = chosen(f"{rule}\nelse keep")
    assert [(d.code, d.help) for d in found.diagnostics] == [("LB310", (help,))]


@pytest.mark.parametrize(("window", "expected"), [("4Ki", []), ("4097", ["LB326"]), ("8Ki", ["LB326"])])
def test_a_window_of_more_than_half_the_positions(window, expected):
    recipe = recipe_from_text(f"else swa(window={window})").unwrap()
    found = select(Case(recipe, SMOL), {})
    assert codes(found) == expected
    if expected:
        assert "wider than half of the model's 8Ki positions" in found.diagnostics[0].message


@pytest.mark.parametrize("condition", ["nll < 0.5", "kv(8Ki) <= 50% and kl < 1"])
def test_until_on_a_measured_value(condition):
    """Without a model already."""
    found = recipe_from_text(f"lowest of rest by nll until {condition} drop\nelse keep")
    assert codes(found) == ["LB315"]
    assert "assert" in found.diagnostics[0].help[1]


def test_too_many_untils():
    rule = "lowest of rest by nll until kv(8Ki) <= 50% drop\n"
    found = chosen(rule * 4)
    assert codes(found) == ["LB314"]


def test_two_untils_on_forty_layers_try_eight_hundred_plans():
    facts = llama_facts(layers=40)
    text = (
        "layers 0 keep\nlowest of rest by nll until kv(512) <= 95% swa(window=64)\n"
        "lowest of rest by nll until kv(512) <= 1% drop\nelse keep"
    )
    assert codes(chosen(text, facts, [1 / (i + 1) for i in range(40)])) == ["LB312"]


def test_digest_is_of_what_changes_only():
    one = chosen("layers 3 drop\nelse keep").unwrap()
    other = chosen("layers 0-2 keep\nlayers 3, 3 drop").unwrap()
    assert one.digest == other.digest
    assert {i: change.spec for i, change in one.changes.items()} == {3: SMOL.layer_specs[3].replace(mixer=None)}
    assert one.digest != chosen("layers 4 drop\nelse keep").unwrap().digest


def test_a_score_of_a_part_needs_no_statistics():
    case = Case(recipe_of("where influence(block) < 0.3 drop\nelse keep"), SMOL)
    assert {request.action for request in case.requests} == {"block"}
    assert case.statistics() == {}


def test_a_window_lies_on_what_an_earlier_rule_took_or_is_taken_now():
    """So the layers of a rule that surely windows them need no score of a later ranking of the rest by a window."""
    swa = "swa(window=64)"
    text = f"lowest 2 by nll drop\nlayers 0-3 {swa}\nlowest 1 of rest by kl({swa}) {swa}\nelse keep"
    ((_, dropped), (_, windowed)) = Case(recipe_of(text), SMOL).scores
    assert dropped == tuple(range(SMOL.layers))
    assert windowed == tuple(range(4, SMOL.layers))
