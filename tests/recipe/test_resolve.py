"""What a recipe's text becomes: the values that the planner reads."""

from __future__ import annotations

import pytest

from lbdsl.actions import actions
from lbdsl.core.digest import digest_text
from lbdsl.core.units import Unit
from lbdsl.language.tree import (
    AllLayers,
    Compare,
    Edge,
    ExceptSet,
    LayersSelector,
    Number,
    RankSelector,
    UnionSet,
    WhereSelector,
)
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.schema import CostOf, FullWeights, Lora, Phase, PostScore, Recipe, Score, ends, sum_text, terms_of

FULL = """lbr 1
recipe "half"
requires model.family in ["llama", "qwen3"] and model.layers >= 24
param $window: tokens in 64..8Ki = 256
group @core = first 2, last 1
measure { metric = kl; tokens = 4Ki }
layers @core keep because "sinks"
lowest 6 by sensitivity drop
lowest of rest by kl(swa(window=$window, sinks=4)) until kv(32Ki) <= 50% swa(window=$window, sinks=4)
else keep
heal { tokens = 100k; method = lora(rank=8); loss = 0.5 * kl + 0.1 * hidden }
eval { metrics = [kl, perplexity] }
assert kv(32Ki) <= 50%
assert nll < 0.5
assert ppl_increase < 5%
"""


def resolved(text: str, **params: str) -> Recipe:
    return recipe_from_text(text, "t.lbr", params).unwrap()


@pytest.mark.parametrize(
    ("settings", "rest", "code", "said"),
    [
        ("", "minimizing kv(8Ki) subject to weights <= 90%", "LB152", "within what the plan may lose"),
        ("", "minimizing throughput(1Ki, 256, 50) subject to kl <= 1", "LB152", "is predicted"),
        ("", "minimizing kl subject to recall >= 0.1", "LB152", "`METRIC <= NUMBER`"),
        ("", "minimizing kl subject to kv(1Ki) <= 50% and recall <= 0.1", "LB152", "commas between them"),
        ("", "minimizing kv(1Ki) subject to kl <= -0.1", "LB152", "never negative"),
        ("", "minimizing kl subject to recall <= 10%", "LB107", "a number of nats/token"),
        ("", "minimizing kl subject to kl - nll <= 1", "LB152", "are added"),
        ("", "minimizing kl subject to recall(drop) <= 1", "LB104", "without an action"),
        ("", "minimizing kl subject to ppl_increase <= 5%", "LB108", "only after healing"),
        (
            "measure { strategy = greedy }",
            "minimizing kl subject to kv(1Ki) <= 50%, recall <= 1",
            "LB152",
            "measures plans",
        ),
        ("measure { tries = 0 }", "minimizing kv(1Ki) subject to recall <= 1", "LB152", "measures plans"),
    ],
)
def test_what_cannot_be_minimized_or_bounded_is_refused(settings: str, rest: str, code: str, said: str) -> None:
    text = f"lbr 1\n{settings}\nchoose for layers all among keep, drop {rest}\nelse keep"
    found = [d for d in recipe_from_text(text, "t.lbr", {}).diagnostics if d.is_error]
    assert [d.code for d in found] == [code]
    assert said in found[0].message
    assert found[0].help


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        ("lowest 2 by influence + kl(drop) drop", "LB107", "`influence` is no nats/token"),
        ("lowest 2 by kl(drop) + 0 * nll(drop) drop", "LB105", "over 0"),
        ("param $w: ratio = 20%\nlowest 2 by kl(drop) + $w * nll(drop) drop", "LB106", "a plain number"),
        ("lowest 2 by recall(drop) + ppl_increase drop", "LB108", "only after healing"),
        ("lowest 2 by kl(drop) - nll(drop) drop", "LB008", "unexpected `-`"),
        ("lowest 2 by kl(drop) * 2 drop", "LB011", "stands before"),
        ("choose for layers all among keep, drop minimizing kl + 2 * kl subject to weights <= 90%", "LB152", "added twice"),
        (
            'choose for layers all among keep, drop minimizing kl + task("x") subject to weights <= 90%',
            "LB107",
            "`task` is no",
        ),
        ("choose for layers all among keep, drop minimizing kl + 0 * nll subject to weights <= 90%", "LB105", "over 0"),
        (
            "measure { strategy = screen }\nchoose for layers all among keep, drop minimizing nll subject to kv(1Ki) <= 9%",
            "LB152",
            "nothing has one",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(rule: str, code: str, said: str) -> None:
    found = [d for d in recipe_from_text(f"lbr 1\n{rule}\nelse keep", "t.lbr", {}).diagnostics if d.is_error]
    assert [d.code for d in found] == [code]
    assert said in found[0].message


def test_a_sum_is_read_with_its_weights() -> None:
    text = "lbr 1\nparam $w: float = 0.2\nlowest 2 by sensitivity + $w * recall(drop) drop\nelse keep"
    selector = resolved(text).rules[0].selector
    assert isinstance(selector, RankSelector)
    assert [(weight, score.text) for weight, score in terms_of(selector.by)] == [(1.0, "nll(drop)"), (0.2, "recall(drop)")]
    assert sum_text(selector.by) == "nll(drop) + 0.2 * recall(drop)"


def test_an_unknown_type_is_said_once_whatever_is_given_for_it() -> None:
    found = recipe_from_text("param $w: token = 64\nelse keep\n", "t.lbr", {"w": "x=!!"})
    assert [d.code for d in found.diagnostics if d.is_error] == ["LB127"]


def test_full_recipe() -> None:
    recipe = resolved(FULL, window="512")
    assert (recipe.name, recipe.params, recipe.set_params) == ("half", {"window": 512}, ("window",))
    assert recipe.sha256 == digest_text(FULL)
    assert recipe.text == FULL
    first, second, third, last = recipe.rules
    assert isinstance(first.selector, LayersSelector)
    assert isinstance(first.selector.layers, UnionSet)
    assert [type(part) for part in first.selector.layers.sets] == [Edge, Edge]
    assert (first.because, first.text) == ("sinks", "layers @core keep")
    assert isinstance(second.selector, RankSelector)
    assert second.selector.by == Score(second.selector.by.span, "sensitivity", "kl", actions()["drop"](), False, None)
    assert isinstance(third.selector, RankSelector)
    assert third.selector.of_rest
    assert third.selector.amount is None
    assert third.selector.by.text == "kl(swa(window=512, sinks=4))"
    until = third.selector.until
    assert isinstance(until, Compare)
    assert isinstance(until.operands[0], CostOf)
    assert (until.operands[0].name, until.operands[0].ctx) == ("kv", 32768)
    assert isinstance(until.operands[1], Number)
    assert (until.operands[1].value, until.operands[1].unit) == (0.5, Unit.RATIO)
    assert last.actions[0].keeps
    assert [rule.number for rule in recipe.rules] == [1, 2, 3, 4]
    assert recipe.heal is not None
    assert (recipe.heal.kl_weight, recipe.heal.hidden_weight, recipe.heal.tokens) == (0.5, 0.1, 100_000)
    assert isinstance(recipe.heal.method, Lora)
    assert (recipe.heal.method.rank, recipe.heal.method.alpha) == (8, 32)
    assert recipe.eval is not None
    assert recipe.eval.metrics == ("kl", "perplexity")
    assert [a.phase for a in recipe.asserts] == [Phase.STATIC, Phase.MEASURED, Phase.POST]
    assert [a.phase for a in recipe.requires] == [Phase.STATIC]
    joint = recipe.asserts[1].expr.operands[0]  # type: ignore[union-attr]
    assert isinstance(joint, Score)
    assert joint.joint
    assert joint.action is None
    assert isinstance(recipe.asserts[2].expr.operands[0], PostScore)  # type: ignore[union-attr]


def test_nodes_know_their_place() -> None:
    recipe = resolved(FULL)
    span = recipe.rules[1].selector.by.span  # type: ignore[union-attr]
    assert span.text == "sensitivity"
    assert recipe.asserts[2].expr.span.text == "ppl_increase < 5%"  # type: ignore[union-attr]


def test_sets() -> None:
    recipe = resolved("let $a = 2\nlayers not $a-5, 9 keep\nlayers all except first 10% keep\nelse keep")
    first, second = (rule.selector.layers for rule in recipe.rules[:2])  # type: ignore[union-attr]
    assert isinstance(first, UnionSet)
    assert isinstance(first.sets[0], ExceptSet)
    assert isinstance(first.sets[0].base, AllLayers)
    assert ends(first.sets[0].removed) == (2, 5)  # type: ignore[arg-type]
    assert isinstance(second, ExceptSet)
    assert second.removed.amount.value == 0.1  # type: ignore[union-attr]


def test_default_action_of_a_bare_metric_and_metrics_without_one() -> None:
    recipe = resolved("where nll < 1 and influence < 0.1 and sensitivity < 2 keep\nelse keep")
    selector = recipe.rules[0].selector
    assert isinstance(selector, WhereSelector)
    scores = [part.operands[0] for part in selector.where.operands]  # type: ignore[union-attr]
    assert [score.text for score in scores] == ["nll(drop)", "influence", "nll(drop)"]


def test_sensitivity_is_the_measure_blocks_metric_wherever_it_stands() -> None:
    for text in (
        "measure { metric = influence }\nlowest 1 by sensitivity keep\nelse keep",
        "lowest 1 by sensitivity keep\nelse keep\nmeasure { metric = influence }",
        "let $n = 4Ki\nlowest 1 by sensitivity keep\nelse keep\nmeasure { metric = influence; tokens = $n }",
    ):
        by = resolved(text).rules[0].selector.by  # type: ignore[union-attr]
        assert (by.name, by.metric, by.action) == ("sensitivity", "influence", None)


@pytest.mark.parametrize(
    ("declared", "given", "value"),
    [
        ("tokens", "8Ki", 8192),
        ("tokens", "10 tokens", 10),
        ("int", "-3", -3),
        ("float", "1e-3", 1e-3),
        ("ratio", "5%", 0.05),
        ("ratio", "0.5", 0.5),
        ("bytes", "1GiB", 2**30),
        ("bool", "true", True),
        ("str", "a b = c", "a b = c"),
        ("str", '"a"', "a"),
        ("tokens", "2 * 128", 256),
    ],
)
def test_set_values_are_read_by_the_declared_type(declared: str, given: str, value: object) -> None:
    recipe = resolved(f"param $x: {declared}\nelse keep", x=given)
    assert recipe.params == {"x": value}
    assert type(recipe.params["x"]) is type(value)


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ("tokens", "0.5"),
        ("tokens", "1GiB"),
        ("int", "5%"),
        ("int", "true"),
        ("bool", "1"),
        ("int", ""),
        ("int", "1\nelse drop"),
        ("int", "$y"),
        ("float", "1e999"),
        ("int", "("),
        ("int", '"1"'),
        ("ratio", "2MB"),
        ("float", "5%"),
        ("str", "\udcff"),
        ("int", "\udcff"),
    ],
)
def test_set_values_of_another_type_are_refused(declared: str, given: str) -> None:
    found = recipe_from_text(f"param $x: {declared} = 1\nelse keep".replace(" = 1", ""), "t", {"x": given})
    assert found.value is None
    assert [d.code for d in found.diagnostics if d.is_error] == ["LB118"]


def test_full_weights_and_parameters_in_settings() -> None:
    recipe = resolved("param $lr: float = 1e-4\nheal { method = full; lr = $lr; loss = kl; seed = 3 }\nelse keep")
    assert recipe.heal is not None
    assert isinstance(recipe.heal.method, FullWeights)
    assert (recipe.heal.lr, recipe.heal.hidden_weight, recipe.heal.seed) == (1e-4, 0.0, 3)


def test_comments_stay_out_of_a_rules_text() -> None:
    recipe = resolved("layers 1, # one\n  2 keep # two\nelse keep")
    assert recipe.rules[0].text == "layers 1, 2 keep"
    asserted = resolved('else keep\nassert nll + # sum\n  kl < 1 and\n  model.family == "a#b" # b\n').asserts
    assert asserted[0].text == 'nll + kl < 1 and model.family == "a#b"'


def test_load_recipe_refuses_what_cannot_be_read(tmp_path) -> None:
    good = tmp_path / "good.lbr"
    good.write_bytes(b"\xef\xbb\xbfelse keep\r\nassert nll < 1\r\n")
    recipe = load_recipe(good).unwrap()
    assert recipe.path == str(good)
    assert recipe.text == "else keep\nassert nll < 1\n"
    latin = tmp_path / "latin.lbr"
    latin.write_bytes(b"else keep\n# \xe9")
    large = tmp_path / "large.lbr"
    large.write_bytes(b"#" * (2**21 + 1))
    for path, code in (
        (latin, "LB020"),
        (large, "LB019"),
        (tmp_path, "LB020"),
        (tmp_path / "none.lbr", "LB020"),
        ("a\0b", "LB020"),
    ):
        found = load_recipe(path)
        assert found.value is None
        assert [d.code for d in found.diagnostics] == [code]


def test_half_a_character_is_refused() -> None:
    assert [d.code for d in recipe_from_text("else keep # \ud800").diagnostics] == ["LB020"]


def test_one_mistake_gives_one_error() -> None:
    """A definition or rule that does not parse makes no other error."""
    text = "param $w tokens = 3\ngroup @g = 3-\nlayers @g keep\nelse swa(window=$w)\nheal { tokens == 3 }"
    assert [d.code for d in recipe_from_text(text).diagnostics] == ["LB008", "LB009", "LB011"]


@pytest.mark.large
def test_named_expressions_have_limits() -> None:
    def chain(length: int) -> str:
        names = "".join(f"let $a{i} = not $a{i - 1}\n" for i in range(1, length))
        return f"let $a0 = nll < 1\n{names}where $a{length - 1} drop\nelse keep"

    assert recipe_from_text(chain(50)).ok
    deep = [d for d in recipe_from_text(chain(51)).diagnostics if d.is_error]
    assert [d.code for d in deep] == ["LB212"]
    assert "deeper than 50" in deep[0].message
    hostile = "".join(f"let ${name} = {'not ' * 45}{of}\n" for name, of in (("a", "nll < 1"), ("b", "$a"), ("c", "$b")))
    assert [d.code for d in recipe_from_text(hostile + "else keep").diagnostics if d.is_error] == ["LB212"]
    often = "let $a = nll < 1" + " and nll < 1" * 100 + "\nwhere " + " and ".join(["$a"] * 1000) + " drop\nelse keep"
    assert [d.code for d in recipe_from_text(often).diagnostics if d.is_error] == ["LB212"]
    names = "".join(f"let $a{i + 1} = $a{i}\n" for i in range(400))
    for first in ("nll < 1", "nll"):
        aliases = f"let $a0 = {first}\n{names}where " + "not " * 60 + "($a400 < 1) drop\nelse keep\nassert $a0"
        found = [d.code for d in recipe_from_text(aliases).diagnostics if d.is_error]
        assert found[0] == "LB212"
    wide = "let $a = nll < 1\nlet $b = " + " and ".join(["$a"] * 400) + "\nwhere $b drop\nelse keep"
    assert [d.code for d in recipe_from_text(wide).diagnostics if d.is_error] == ["LB212"]
    assert recipe_from_text(wide.replace("$a and " * 100, "", 1)).ok


def test_a_named_expression_is_read_where_its_name_stands() -> None:
    recipe = resolved("let $half = kv(32Ki) <= 50%\nlowest of rest by nll until $half drop\nelse keep\nassert $half")
    written = resolved("lowest of rest by nll until kv(32Ki) <= 50% drop\nelse keep\nassert kv(32Ki) <= 50%")
    selector = recipe.rules[0].selector
    assert isinstance(selector, RankSelector)
    assert selector.until == written.rules[0].selector.until  # type: ignore[union-attr]
    assert recipe.asserts == written.asserts
    span = selector.until.span  # type: ignore[arg-type]
    assert span is not None
    assert span.start_line_column == (1, 13)


def test_a_share_above_1_is_given_as_a_number_or_with_its_sign() -> None:
    for given in (1.6, "160%"):
        assert resolved("param $x: ratio = 150%\nelse keep", x=given).params == {"x": 1.6}
    found = recipe_from_text("param $x: ratio = 150%\nelse keep", "t", {"x": "1.6"})
    assert [problem.code for problem in found.diagnostics] == ["LB118"]


def test_a_decimal_with_a_prefix_is_whole_where_it_is() -> None:
    recipe = resolved("eval { tokens = 16.1k }\nassert weights <= 64.6M\nelse keep")
    assert recipe.eval.tokens == 16_100
