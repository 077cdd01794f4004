"""Rules on modules and weights: what they match, claim and show, and what a plan with them says."""

from __future__ import annotations

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import ModulesSelector
from lbdsl.parts.int_weights import Int
from lbdsl.recipe.patterns import matcher
from lbdsl.solve.case import Case
from lbdsl.solve.claims import layer_modules, matched
from lbdsl.solve.select import Selection, select
from tests.plan_cases import MODULES, llama_facts, plan_of, recipe_of, scores_for, windowed

FACTS = llama_facts(layers=6)
SCORES = (0.3, 0.02, 0.2, 0.05, 0.01, 0.4)


def selected(text: str, facts: ModelFacts = FACTS) -> Selection:
    recipe = recipe_of(text)
    return select(Case(recipe, facts), scores_for(recipe, facts, SCORES)).unwrap()


def owners(selection: Selection, action: str = "quantize") -> dict[str, int]:
    """Modules under an action, by their full name, and the rule that has each."""
    return {
        f"model.layers.{layer.index}.{path.removeprefix('weights.')}": item.rule
        for layer in selection.layers
        for item in layer.actions
        for path in item.paths
        if item.action.kind == action and path.startswith("weights.")
    }


def codes(text: str, facts: ModelFacts = FACTS) -> list[str]:
    return [d.code for d in select(Case(recipe_of(text), facts), {}).diagnostics if d.is_error]


def rule_matches(text: str, facts: ModelFacts = FACTS) -> list[str]:
    selector = recipe_of(text).rules[0].selector
    assert isinstance(selector, ModulesSelector)
    return [module.name for module in matched(selector.patterns, facts)]


@pytest.mark.parametrize(
    ("pattern", "glob", "name", "fits"),
    [
        ("*.k_proj", True, "model.layers.3.self_attn.k_proj", True),
        ("*.k_proj", True, "model.layers.3.k_projx", False),
        ("k_proj", True, "model.layers.3.self_attn.k_proj", False),
        ("*.layers.?.*", True, "model.layers.3.mlp.up_proj", True),
        ("*.layers.?.*", True, "model.layers.13.mlp.up_proj", False),
        ("a.b", True, "axb", False),
        ("(a)+", True, "(a)+", True),
        (r".*\.(k|v)_proj", False, "model.layers.3.self_attn.v_proj", True),
        (r"\.k_proj", False, "a.k_proj", False),
        (r"(?i).*K_PROJ", False, "a.k_proj", True),
    ],
)
def test_patterns_match_the_full_name(pattern: str, glob: bool, name: str, fits: bool) -> None:
    assert matcher(pattern, glob=glob)(name) is fits


def test_hostile_patterns_take_no_time() -> None:
    with pytest.raises(ValueError, match="repetition"):
        matcher("((a{1,1000}){1,1000}){1,1000}", glob=False)
    assert not matcher(r"(\w+\.?)+$!", glob=False)("a." * 5000)
    assert not matcher("*a" * 500, glob=True)("a" * 400)


def test_modules_of_layers() -> None:
    found = layer_modules(FACTS)
    assert tuple(module.name for module in found) == FACTS.modules
    assert found[8] == ("model.layers.1.self_attn.k_proj", 1, "self_attn.k_proj")


def test_what_patterns_of_a_rule_match() -> None:
    names = rule_matches('modules "*.k_proj", ~".*layers\\.1\\..*v_proj" quantize(bits=4)')
    assert names == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.self_attn.v_proj",
        *(f"model.layers.{i}.self_attn.k_proj" for i in range(2, 6)),
    ]


def test_layers_and_conditions_narrow_a_rule() -> None:
    selection = selected('modules "*.k_proj" in layers 1-4 where nll < 0.1 quantize(bits=4, group=64)\nelse keep')
    assert owners(selection) == {f"model.layers.{i}.self_attn.k_proj": 1 for i in (1, 3, 4)}
    assert selection.rules[0].claims == (1, 3, 4)
    recipe = recipe_of('modules "*.k_proj" in layers 1-4 where nll < 0.1 quantize(bits=4)\nelse keep')
    requests = Case(recipe, FACTS).measurable().unwrap().requests
    assert {request.layer for request in requests} == {1, 2, 3, 4}


def test_the_first_rule_that_matches_a_module_claims_it() -> None:
    text = (
        'layers 0 keep\nmodules "*.k_proj" quantize(bits=8, group=64)\nmodules "*.down_proj" keep\n'
        "layers 1-2 quantize(bits=4, group=64)\nelse drop"
    )
    selection = selected(text)
    rules = owners(selection)
    left = [part for part in MODULES if part not in ("self_attn.k_proj", "mlp.down_proj")]
    assert rules == {f"model.layers.{i}.self_attn.k_proj": 2 for i in range(1, 6)} | {
        f"model.layers.{i}.{part}": 4 for i in (1, 2) for part in left
    }
    # How weights are stored is claimed apart: the attention goes all the same.
    assert [layer.after.mixer is None for layer in selection.layers] == [False] + [True] * 5
    assert owners(selection, "keep") == {f"model.layers.0.{part}": 1 for part in MODULES} | {
        f"model.layers.{i}.mlp.down_proj": 3 for i in range(1, 6)
    }
    assert [rule.claims for rule in selection.rules] == [(0,), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 2), (1, 2, 3, 4, 5)]
    assert selection.rules[1].shadowed == (0,)


def test_claims_partition_the_modules() -> None:
    selection = selected('modules "*.k_proj" quantize(bits=8)\nlowest 2 of rest by nll quantize(bits=4)\nlayers 5 keep')
    for layer in selection.layers:
        paths = [path for item in layer.actions for path in item.paths]
        assert len(paths) == len(set(paths))
        if layer.index == 5:
            assert {path for path in paths if path.startswith("weights.")} == {f"weights.{name}" for name in MODULES}


def test_a_ranking_of_the_rest_looks_at_the_weights() -> None:
    selection = selected('modules "*.k_proj" in layers 3-4 quantize(bits=8)\nlowest 2 of rest by nll quantize(bits=4)')
    assert selection.rules[1].claims == (1, 2)  # 4 and 3 are lower, and have something claimed


def test_layers_need_not_have_the_same_modules() -> None:
    facts = windowed(llama_facts(layers=2), (None, 0))
    selection = selected('modules "*.up_proj", "*.q_proj" quantize(bits=4)\nelse keep', facts)
    assert owners(selection) == {
        "model.layers.0.self_attn.q_proj": 1,
        "model.layers.0.mlp.up_proj": 1,
        "model.layers.1.mlp.up_proj": 1,
    }


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("*.kproj", "*.k_proj"),
        ("*.self_atn.q_proj", "*.self_attn.q_proj"),
        ("model.layers.0.mlp.upproj", "model.layers.0.mlp.up_proj"),
    ],
)
def test_a_pattern_that_matches_nothing(pattern: str, near: str) -> None:
    recipe = recipe_of(f'modules "*.k_proj", "{pattern}" quantize(bits=4)')
    problem = select(Case(recipe, FACTS), {}).diagnostics[0]
    assert problem.code == "LB218"
    assert problem.message == f"`{pattern}` matches 0 of 42 modules"
    assert problem.span is not None
    assert problem.span.text == f'"{pattern}"'
    assert problem.help[0] == f"nearest `{near}`"
    assert problem.fix is not None
    assert problem.fix.edits[0].text == f'"{near}"'


def test_embeddings_and_the_head_are_never_quantized() -> None:
    for name in ("lm_head", "*embed_tokens", "model.embed_tokens"):
        assert codes(f'modules "{name}" quantize(bits=8)') == ["LB218"]


def test_layers_that_are_not_there() -> None:
    assert codes('modules "*.k_proj" in layers 4-9 quantize(bits=4)') == ["LB300"]


def test_a_plan_shows_what_is_matched() -> None:
    text = (
        'layers 3 drop\nmodules "*.k_proj", "*.up_proj" in layers 2-3 quantize(bits=4, group=64)\nelse keep\n'
        "heal { tokens = 10k }\nassert kl_healed < 1\n"
    )
    plan = plan_of(text, FACTS, SCORES)
    # The key projection of layer 3 goes with its attention.
    assert [dict(plan.layers[i].after.weights) for i in (2, 3)] == [
        {"self_attn.k_proj": Int(bits=4, group=64), "mlp.up_proj": Int(bits=4, group=64)},
        {"mlp.up_proj": Int(bits=4, group=64)},
    ]
    assert plan.rules[1].modules == 3
    shown = plan.to_json()["layers"][3]
    assert {
        "action": "quantize(bits=4, group=64)",
        "rule": 2,
        "paths": ["weights.mlp.up_proj", "weights.self_attn.k_proj"],
    } in (shown["actions"])
    elements = 64 * 128
    assert shown["weights_before"] - shown["weights_after"] == 2 * (
        shown["params_before"] - shown["params_after"]
    ) + elements * 2 - (elements // 2 + 2 * elements // 64 + 16)


def test_groups_that_do_not_divide_the_width() -> None:
    found = select(Case(recipe_of("else quantize(bits=4, group=96)"), FACTS), {}).diagnostics
    refused = next(d for d in found if d.code == "LB217")
    assert refused.is_error
    assert refused.message.startswith("rows of 64 weights do not divide into groups of 96: `self_attn.q_proj`, ")
    assert refused.help == ("write `group=64`",)


def test_auto_is_one_group_for_the_model() -> None:
    selection = select(Case(recipe_of('modules "*.down_proj" quantize(bits=4)\nelse quantize(bits=8)'), FACTS), {}).unwrap()
    assert {part.group for spec in selection.specs for _, part in spec.weights} == {64}


def test_eight_bit_activations_have_eight_bit_weights_and_one_scale_for_each_row() -> None:
    for arguments, said in (("bits=4", "8-bit weights"), ("bits=8, group=64", "one scale for each row")):
        with pytest.raises(LbdslError, match=said) as refused:
            recipe_of(f"else quantize({arguments}, activations=8)")
        assert [d.code for d in refused.value.diagnostics] == ["LB105"]
    assert {
        part.group
        for _, part in select(Case(recipe_of("else quantize(bits=8, activations=8)"), FACTS), {}).unwrap().specs[0].weights
    } == {"row"}
