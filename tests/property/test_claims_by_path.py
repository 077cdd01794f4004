"""The rules about claims, one by one, on small recipes worked out by hand: what layers become, and what is said.

The numbers are those of "Semantics" in the description of layers. Rule 7 is a property, in `test_planner_oracle.py`.
"""

from __future__ import annotations

from itertools import permutations

import pytest
from claims_oracle import BASE, MODULES, Layer, Mixer, errors, owners, specs

from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from lbdsl.solve.select import Selection, select
from tests.plan_cases import llama_facts, recipe_of, scores_for

pytestmark = pytest.mark.usefixtures("more_actions")

ATTENTION, MLP = MODULES[:4], MODULES[4:]
FOUR, EIGHT = (4, 64), (8, 32)
QUANTIZE, QUANTIZE_8 = "quantize(bits=4, group=64)", "quantize(bits=8, group=32)"
NLL = (0.1, 0.2, 0.3, 0.4)


def selected(*rules: str, nll: tuple[float, ...] = NLL) -> Diagnosed[Selection]:
    """Of a model with as many layers as there are scores, which rank the layers."""
    recipe, facts = recipe_of("".join(rule + "\n" for rule in rules)), llama_facts(layers=len(nll))
    return select(Case(recipe, facts), scores_for(recipe, facts, nll))


def layers(*rules: str, nll: tuple[float, ...] = NLL) -> list[Layer]:
    return specs(selected(*rules, nll=nll).unwrap())


def changed(*rules: str, nll: tuple[float, ...] = NLL) -> list[int]:
    return list(selected(*rules, nll=nll).unwrap().changed)


def said(d: Diagnostic) -> str:
    return " ".join((d.message, *d.help, *(label.text for label in d.labels)))


def with_code(found: Diagnosed[Selection], code: str) -> list[str]:
    return [said(d) for d in found.diagnostics if d.code == code]


def stored(how: tuple[int, int], *modules: str) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(modules, how)


WINDOWED, THIN = Layer(Mixer(window=(64, 0))), Layer(Mixer(kv_heads=1))
BOTH = Layer(Mixer(kv_heads=1, window=(64, 0)))
NEARER = Mixer(window=(32, 0))
NO_ATTENTION, NO_MLP, NARROW = Layer(None), Layer(ffn=None), Layer(ffn=64)


# Rule 1: an action takes a layer where none of its paths is touched; `keep` and `quantize` take what is free


@pytest.mark.parametrize("order", list(permutations(("swa(window=64)", "test_kv_heads(1)"))))
def test_a_window_and_fewer_heads_compose_in_either_order(order):
    assert layers(*(f"layers 0 {action}" for action in order))[0] == BOTH
    assert layers(f"layers 0 {' + '.join(order)}")[0] == BOTH


@pytest.mark.parametrize(
    ("first", "second", "layer"),
    [
        ("swa(window=64)", "drop", WINDOWED),
        ("test_kv_heads(1)", "drop", THIN),
        ("drop", "swa(window=64)", NO_ATTENTION),
        ("drop", "test_kv_heads(1)", NO_ATTENTION),
        ("test_width(64)", "drop(mlp)", NARROW),
        ("test_width(64)", "test_width(32)", NARROW),
        ("test_width(64)", "drop(block)", NARROW),
        ("swa(window=64)", "drop(block)", WINDOWED),
        ("swa(window=64)", "swa(window=32, sinks=4)", WINDOWED),
    ],
)
def test_what_is_taken_is_never_changed_by_a_later_rule(first, second, layer):
    found = selected(f"layers 0 {first}", f"layers 0-1 {second}").unwrap()
    assert specs(found)[0] == layer
    assert specs(found)[1] != BASE
    assert tuple(found.rules[1].claims) == (1,)


def test_an_action_that_lost_a_layer_claims_nothing_of_it():
    # The attention that `drop(block)` did not get is there for the rule after it.
    assert layers("layers 0 drop(mlp)", "layers 0 drop(block)", "layers 0 swa(window=64)")[0] == Layer(WINDOWED.mixer, None)


def test_quantize_takes_the_modules_that_are_left():
    found = selected('modules "*.q_proj", "*.down_proj" in layers 0 ' + QUANTIZE_8, f"layers 0-1 {QUANTIZE}").unwrap()
    eight = ("self_attn.q_proj", "mlp.down_proj")
    assert specs(found)[0].weights == stored(FOUR, *MODULES) | stored(EIGHT, *eight)
    assert specs(found)[1].weights == stored(FOUR, *MODULES)
    assert {module for module in MODULES if owners(found)[0, f"weights.{module}"][0] == 1} == set(eight)


def test_keep_takes_what_is_left_and_nothing_else():
    before = ("layers 0 test_kv_heads(1)", "layers 0 keep")
    for action in ("swa(window=64)", "drop", "drop(mlp)", "test_width(64)", QUANTIZE):
        found = selected(*before, f"layers 0 {action}").unwrap()
        assert specs(found)[0] == THIN
        assert tuple(found.rules[2].claims) == ()
    taken = owners(selected(*before).unwrap())
    assert taken[0, "mixer.kv_heads"] == (1, recipe_of(before[0]).rules[0].actions[0].text())
    assert {path for (_, path), owner in taken.items() if owner == (2, "keep")} == {
        "mixer.heads",
        "mixer.head_dim",
        "mixer.cache",
        "mixer.window",
        "ffn.width",
        *(f"weights.{module}" for module in MODULES),
    }


def test_keeping_a_part_leaves_weights_and_the_other_part_open():
    attention = layers("layers 0 keep(attention)", "layers 0 swa(window=64) + drop(mlp)", f"layers 0 {QUANTIZE}")[0]
    assert attention == Layer(BASE.mixer, None, stored(FOUR, *ATTENTION))
    mlp = layers("layers 0 keep(mlp)", "layers 0 drop(block)", "layers 0 test_width(64)", f"layers 0 drop + {QUANTIZE}")[0]
    assert mlp == Layer(None, BASE.ffn, stored(FOUR, *MLP))


def test_keeping_the_attention_after_its_window_keeps_the_rest_of_it():
    rules = ("layers 0 swa(window=64)", "layers 0 keep(attention)", "layers 0 test_kv_heads(1) + test_width(64)")
    assert layers(*rules)[0] == Layer(WINDOWED.mixer, 64)


def test_joined_actions_claim_one_by_one():
    assert layers("layers 0 drop", "layers 0 swa(window=64) + drop(mlp)")[0] == Layer(None, None)


def test_kept_modules_are_not_quantized_and_their_attention_is_open():
    rules = ('modules "*.self_attn.*" in layers 0 keep', f"layers 0 {QUANTIZE} + test_kv_heads(1)")
    assert layers(*rules)[0] == Layer(THIN.mixer, weights=stored(FOUR, *MLP))


# Rule 2: the rest of a rule


@pytest.mark.parametrize(
    ("action", "taken"),
    [
        ("swa(window=64)", 0),
        (QUANTIZE, 0),
        ("test_width(64)", 0),
        ("drop(mlp)", 0),
        ("keep(mlp)", 0),
        (f"swa(window=64) + {QUANTIZE}", 0),
        ("drop", 1),
        ("drop(block)", 1),
        ("test_kv_heads(2)", 1),
        ("keep(attention)", 1),
        ("keep", 1),
        (f"drop + {QUANTIZE}", 1),
    ],
)
def test_the_rest_after_fewer_heads(action, taken):
    found = selected("layers 0 test_kv_heads(1)", f"lowest 1 of rest by nll {action}").unwrap()
    assert tuple(found.rules[1].claims) == (taken,)


def test_a_layer_with_one_module_claimed_is_not_in_the_rest_of_quantize():
    found = selected('modules "*.q_proj" in layers 0 keep', f"lowest 1 of rest by nll {QUANTIZE}").unwrap()
    assert tuple(found.rules[1].claims) == (1,)
    found = selected('modules "*.q_proj" in layers 0 keep', "lowest 1 of rest by nll drop(block)").unwrap()
    assert tuple(found.rules[1].claims) == (0,)


def test_the_rest_after_a_dropped_attention_is_that_of_the_paths_that_are_left():
    found = selected("layers 0 drop", f"lowest 1 of rest by nll {QUANTIZE}").unwrap()
    assert tuple(found.rules[1].claims) == (0,)
    assert specs(found)[0] == Layer(None, weights=stored(FOUR, *MLP))


def test_until_ranks_the_rest_too():
    # Layer 0 holds half of its cache; of the rest layers 1 and 2 must go: 64 + 128 of 512 is the first share below 40 %.
    found = selected("layers 0 test_kv_heads(1)", "lowest by nll until kv(512) < 40% drop").unwrap()
    assert [layer.mixer is None for layer in specs(found)] == [False, True, True, False]
    assert found.rules[1].taken == 2


def test_too_few_layers_are_explained_by_the_path_in_the_way_and_its_rule():
    found = selected("layers 0-2 test_kv_heads(1)", "lowest 3 of rest by nll drop")
    (text,) = with_code(found, "LB309")
    assert "`mixer.kv_heads`" in text
    assert "rule 1" in text
    assert changed("layers 0-2 test_kv_heads(1)", "lowest 3 of rest by nll drop") == [0, 1, 2, 3]
    assert not with_code(selected("layers 0-2 test_kv_heads(1)", "lowest 3 of rest by nll swa(window=64)"), "LB309")


def test_a_ranking_of_all_layers_is_told_what_it_loses():
    rules = ("layers 0-1 test_kv_heads(1)", "lowest 3 by nll {}")
    lost = selected(rules[0], rules[1].format("drop"))
    assert len(with_code(lost, "LB308")) == 1
    assert tuple(lost.unwrap().rules[1].claims) == (2,)
    composed = selected(rules[0], rules[1].format("swa(window=64)"))
    assert not with_code(composed, "LB308")
    assert specs(composed.unwrap()) == [BOTH, BOTH, WINDOWED, BASE]


def test_only_a_rule_that_gets_nothing_is_said_to_be_shadowed():
    def codes(*rules: str) -> set[str]:
        text = "".join(rule + "\n" for rule in rules)
        found = (*recipe_from_text(text).diagnostics, *selected(*rules).diagnostics)
        return {d.code for d in found} & {"LB202", "LB307", "LB308"}

    assert "LB307" in codes("layers 0-2 test_kv_heads(1)", "layers 1-2 drop")
    assert not codes("layers 0-2 test_kv_heads(1)", "layers 1-2 swa(window=64)")


# Rule 3: `else` takes what is free


def test_else_keep_undoes_nothing():
    rules = (f"layers 1 {QUANTIZE}", "layers 2 swa(window=64)", "else keep")
    assert layers(*rules) == [BASE, Layer(weights=stored(FOUR, *MODULES)), WINDOWED, BASE]
    assert changed(*rules) == [1, 2]


def test_else_keep_takes_every_path_that_is_left():
    taken = owners(selected(f"layers 1 {QUANTIZE}", "else keep").unwrap())
    assert len(taken) == 4 * 13
    assert {path for (layer, path), owner in taken.items() if layer == 1 and owner == (2, "keep")} == {
        *("mixer.heads", "mixer.kv_heads", "mixer.head_dim", "mixer.window", "mixer.cache", "ffn.width")
    }


def test_else_quantizes_what_is_left():
    rules = ('modules "*.o_proj" keep', "layers 0 keep", "layers 1 drop", f"else {QUANTIZE}")
    others = [module for module in MODULES if module != "self_attn.o_proj"]
    left = Layer(weights=stored(FOUR, *others))
    assert layers(*rules) == [BASE, Layer(None, weights=stored(FOUR, *MLP)), left, left]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("drop", [WINDOWED, Layer(None, 64), NO_ATTENTION, BASE]),
        ("drop(mlp)", [Layer(WINDOWED.mixer, None), NARROW, NO_MLP, BASE]),
        ("drop(block)", [WINDOWED, NARROW, Layer(None, None), BASE]),
        ("swa(window=32) + drop(mlp)", [Layer(WINDOWED.mixer, None), Layer(NEARER, 64), Layer(NEARER, None), BASE]),
    ],
)
def test_else_takes_all_or_nothing_of_what_is_not_divisible(action, expected):
    assert layers("layers 0 swa(window=64)", "layers 1 test_width(64)", "layers 3 keep", f"else {action}") == expected


# Rule 4: what a layer becomes does not depend on the order of rules


@pytest.mark.parametrize(
    "rules",
    [
        ("layers 0 drop", f"layers 0 {QUANTIZE}"),
        (f"layers 0 {QUANTIZE}", "layers 0 drop"),
        (f"layers 0 drop + {QUANTIZE}",),
        (f"layers 0 {QUANTIZE} + drop",),
        ('modules "*.mlp.*" in layers 0 ' + QUANTIZE, "layers 0 drop"),
    ],
)
def test_storage_of_a_part_that_is_gone_means_nothing(rules):
    found = selected(*rules).unwrap()
    assert specs(found)[0] == Layer(None, weights=stored(FOUR, *MLP))
    assert set(dict(found.layers[0].after.weights)) == set(MLP)


def test_storage_of_a_part_that_is_gone_is_in_no_digest():
    one = selected("layers 0 drop").unwrap()
    other = selected("layers 0 drop", 'modules "*.self_attn.*" in layers 0 ' + QUANTIZE).unwrap()
    assert other.layers[0].after == one.layers[0].after
    assert other.digest == one.digest
    assert layers(f"layers 0 drop(block) + {QUANTIZE}")[0] == Layer(None, None)


def test_storage_of_a_part_that_is_gone_is_not_counted():
    # Four layers of 36,992 parameters and 16,448 others, of 2 bytes: 328,832 bytes. An attention is 24,576 of them, and
    # 128 of its norm; in 4 bits it is 6,144, 384 scales of 2 bytes and four shapes of 16.
    rules = ('modules "*.self_attn.*" ' + QUANTIZE, "lowest by nll until weights <= {} drop")
    for dropped in range(5):
        limit = 328_832 - (24_576 + 128) * dropped - (24_576 - 6_976) * (4 - dropped)
        assert selected(rules[0], rules[1].format(limit)).unwrap().rules[1].taken == dropped


def test_four_changes_of_one_layer_in_any_order():
    actions = ("swa(window=64)", "test_kv_heads(1)", "test_width(64)", QUANTIZE)
    expected = Layer(BOTH.mixer, 64, stored(FOUR, *MODULES))
    digests = set()
    for order in permutations(actions):
        found = selected(*(f"layers 1-2 {action}" for action in order)).unwrap()
        assert specs(found) == [BASE, expected, expected, BASE]
        digests.add(found.digest)
    assert len(digests) == 1


def test_modules_make_digests():
    """Plans that quantize other modules are other plans, and so are those in other bits."""
    rules = [f'modules "*.{name}" {how}' for name in ("k_proj", "down_proj") for how in (QUANTIZE, QUANTIZE_8)]
    assert len({selected(rule).unwrap().digest for rule in rules}) == 4


# Rule 5: what percentages are of


def test_a_percentage_of_layers_is_of_all_layers_rounded_down():
    nll = (0.1, 0.2, 0.3, 0.4, 0.5)
    assert changed("lowest 50% by nll drop", nll=nll) == [0, 1]
    assert changed("layers last 59% drop", nll=nll) == [3, 4]
    # Half of the three that are left would be one.
    assert changed("layers 0-1 keep", "lowest 50% of rest by nll drop", nll=nll) == [2, 3]
    assert changed("layers 0-1 keep", "lowest 19% of rest by nll drop", nll=nll) == []


@pytest.mark.parametrize("percent", [7, 14, 28, 29, 55, 56, 57, 58])
def test_a_percentage_is_exact(percent):
    """In binary fractions 0.29 * 100 is less than 29."""
    nll = tuple(i / 100 for i in range(100))
    assert changed(f"lowest {percent}% by nll drop", nll=nll) == list(range(percent))
    assert changed(f"lowest {percent}% of rest by nll drop", nll=nll) == list(range(percent))


def test_a_percentage_compared_with_a_value_is_of_the_base_s_value():
    # One of four layers is gone before: half of the base's cache is one more, half of what was left would be two.
    found = selected("layers 0 drop", "lowest of rest by nll until kv(512) <= 50% drop").unwrap()
    assert found.rules[1].taken == 1
    # A layer's half cache: 1.5 of 4 is the first share below 40 %.
    found = selected("layers 3 test_kv_heads(1)", "lowest of rest by nll until kv(512) < 40% drop").unwrap()
    assert found.rules[1].taken == 2


# Rule 6: two actions of one rule whose paths touch


def recipe_errors(rule: str) -> list[str]:
    return [d.code for d in recipe_from_text(f"{rule}\n").diagnostics if d.is_error]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "pair",
    [
        ("drop", "swa(window=64)"),
        ("drop", "test_kv_heads(1)"),
        ("drop(mlp)", "test_width(64)"),
        ("drop(block)", "drop(mlp)"),
        ("drop(block)", "test_width(64)"),
        ("swa(window=64)", "swa(window=32)"),
        ("test_kv_heads(1)", "test_kv_heads(2)"),
        (QUANTIZE, QUANTIZE_8),
        ("keep(attention)", "swa(window=64)"),
        ("keep(attention)", "drop"),
        ("keep(mlp)", "test_width(64)"),
    ],
)
def test_two_actions_that_touch_are_an_error(pair, order):
    assert recipe_errors(f"layers 0 {' + '.join(pair[::order])}") == ["LB203"]


@pytest.mark.parametrize("action", ["drop", "test_width(64)", QUANTIZE, "keep(mlp)"])
def test_keep_touches_every_action(action):
    """The older table says that `keep` combines with nothing, and had a code for it."""
    (code,) = recipe_errors(f"layers 0 keep + {action}")
    assert code in ("LB203", "LB204")


@pytest.mark.parametrize(
    ("actions", "layer"),
    [
        ("swa(window=64) + test_kv_heads(1)", BOTH),
        ("test_kv_heads(1) + test_width(64)", Layer(THIN.mixer, 64)),
        ("drop + drop(mlp)", Layer(None, None)),
        ("drop + test_width(64)", Layer(None, 64)),
        (f"drop + {QUANTIZE}", Layer(None, weights=stored(FOUR, *MLP))),
        (f"drop(block) + {QUANTIZE}", Layer(None, None)),
        ("keep(attention) + drop(mlp)", NO_MLP),
        ("keep(mlp) + swa(window=64)", WINDOWED),
        ("keep(attention) + keep(mlp)", BASE),
        (f"keep(attention) + keep(mlp) + {QUANTIZE}", Layer(weights=stored(FOUR, *MODULES))),
        (f"{QUANTIZE} + swa(window=64) + test_kv_heads(1) + drop(mlp)", Layer(BOTH.mixer, None, stored(FOUR, *ATTENTION))),
    ],
)
def test_actions_that_do_not_touch_go_together(actions, layer):
    assert recipe_errors(f"layers 0 {actions}") == []
    found = selected(f"layers 0 {actions}")
    assert errors(found) == []
    assert specs(found.unwrap())[0] == layer


# Rule 8: what no rule claims


def test_what_no_rule_claims_is_the_base_s():
    found = selected("layers 1 swa(window=64)", 'modules "*.up_proj" in layers 2 ' + QUANTIZE).unwrap()
    assert specs(found) == [BASE, WINDOWED, Layer(weights=stored(FOUR, "mlp.up_proj")), BASE]
    base = llama_facts(layers=4).layer_specs
    assert [found.layers[i].after == base[i] for i in range(4)] == [True, False, False, True]
    assert sorted(owners(found)) == [(1, "mixer.window"), (2, "weights.mlp.up_proj")]
    assert list(found.changed) == [1, 2]


def test_a_layer_can_be_claimed_and_unchanged():
    found = selected("layers 0 test_kv_heads(2)", "layers 0 test_kv_heads(1)").unwrap()
    assert specs(found)[0] == BASE
    assert list(found.changed) == []
    assert tuple(found.rules[0].claims) == (0,)


def test_a_note_names_the_layers_of_which_nothing_is_claimed():
    (text,) = with_code(selected("layers 0 swa(window=64)", 'modules "*.up_proj" in layers 1 keep'), "LB311")
    assert "layers 2-3" in text
    assert not with_code(selected("layers 0-1 keep(mlp)", "layers 2-3 test_kv_heads(1)"), "LB311")
    assert not with_code(selected("layers 0 swa(window=64)", "else keep"), "LB311")
